"""Planners: the block-diffusion vision-language-action models and their decoders, rule planners, tracker and safety."""
