"""Training of the block-diffusion planners: AR warm-up, then SASD."""
