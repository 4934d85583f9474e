"""What the world benchmark measures: SANA-WM at a given size with random weights, its inputs, and diffusers' own class.

Latency does not depend on what the weights say, so nobody needs the released ones; they are random and not zero, as
zeros let a chip clock higher.  diffusers' class gets the same weights and what it cannot compute inside a CUDA graph
ready-made: its rotary table on the device, and the ray matrices.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from efficientgen.worldsim.sana.camera import Rays, rigid_inverse, token_rays
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.model import SanaTransformer, Text
from efficientgen.worldsim.sana.refiner import PROMPT_TOKENS, Refiner, RefinerText
from efficientgen.worldsim.sana.sampler import frame_noise

CELL = 32  # px to each side of a latent
METRES = 0.5  # driven per picture: 8 m/s at 16 pictures/s
TOKENS = 300  # of a prompt


@dataclass(frozen=True)
class Shape:
    """A model's size, and its autoencoder's and refiner's in diffusers' keys ({}: the release's)."""

    name: str
    config: SanaConfig
    autoencoder: dict[str, Any]
    refiner: dict[str, Any]
    latents: int = 3  # frames of a chunk

    @property
    def grid(self) -> tuple[int, int]:
        return self.config.picture_height // CELL, self.config.picture_width // CELL

    @property
    def pictures(self) -> int:
        """Of a chunk that does not open a stream."""
        return self.latents * self.config.temporal_stride


TINY_AUTOENCODER = {
    "latent_channels": 8, "block_out_channels": (8, 8, 16, 16), "decoder_block_out_channels": (8, 16, 32),
    "layers_per_block": (1, 1, 1, 1, 1), "decoder_layers_per_block": (1, 1, 1, 1), "decoder_causal": True,
}  # fmt: skip
TINY_REFINER = {
    "in_channels": 8, "out_channels": 8, "num_attention_heads": 2, "attention_head_dim": 16, "cross_attention_dim": 32,
    "audio_in_channels": 8, "audio_out_channels": 8, "audio_num_attention_heads": 2, "audio_attention_head_dim": 8,
    "audio_cross_attention_dim": 16, "num_layers": 2, "caption_channels": 16,
}  # fmt: skip
SHAPES = {
    "720p": Shape("720p", SanaConfig(), {"decoder_causal": True}, {}),
    "nano": Shape(
        "nano",
        SanaConfig(
            in_channels=8, num_layers=4, hidden_size=128, linear_head_dim=64, num_attention_heads=2, softmax_every_n=2,
            mlp_ratio=2.0, caption_channels=64, picture_height=64, picture_width=96,
        ),
        TINY_AUTOENCODER,
        TINY_REFINER,
    ),
}  # fmt: skip
OURS = ("rope_theta", "picture_height", "picture_width", "chunk_size", "num_cached_blocks", "sink_token")


def random_model(config: SanaConfig, device: str, dtype: torch.dtype, seed: int = 0) -> SanaTransformer:
    """In which nothing is zero; frozen and not fused."""
    torch.manual_seed(seed)
    with torch.device(device):
        model = SanaTransformer(config).to(dtype).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.ndim > 1 and not bool(parameter.any()):
            parameter.normal_(0.0, 0.01)
    return model


def random_autoencoder(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Any:
    """diffusers' LTX-2 video autoencoder."""
    from diffusers import AutoencoderKLLTX2Video

    torch.manual_seed(seed)
    with torch.device(device):
        vae: Any = AutoencoderKLLTX2Video(**shape.autoencoder)
    return vae.to(dtype).eval().requires_grad_(False)


def random_refiner(shape: Shape, device: str, dtype: torch.dtype, seed: int = 0) -> Refiner:
    """diffusers' LTX-2 refiner as a stream, under a random prompt called "day"."""
    from diffusers import SanaWMLTX2RefinerTransformer3DModel

    torch.manual_seed(seed)
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)  # 19 G parameters: in fp32 they would not fit
    try:
        with torch.device(device):
            model: Any = SanaWMLTX2RefinerTransformer3DModel(**shape.refiner)
    finally:
        torch.set_default_dtype(before)
    model = model.eval().requires_grad_(False)
    hidden = torch.randn(1, PROMPT_TOKENS, model.config.caption_channels).to(device, dtype)
    text = RefinerText(hidden, torch.ones(1, PROMPT_TOKENS, device=device))
    return Refiner(model, {"day": text}, 16.0)


def random_text(config: SanaConfig, device: str, dtype: torch.dtype) -> Text:
    """As long as a prompt can be."""
    g = torch.Generator().manual_seed(1)
    hidden = torch.randn(1, TOKENS, config.caption_channels, generator=g)
    return Text(hidden.to(device, dtype), torch.ones(1, TOKENS, device=device))


def chunk(shape: Shape, index: int, device: str) -> tuple[Tensor, Rays]:
    """Noise and rays of the stream's `index`-th chunk: a car that drives on and looks about."""
    config, n = shape.config, shape.pictures
    pose = torch.eye(4, dtype=torch.float64).repeat(n, 1, 1)
    at = torch.arange(index * n, index * n + n).double()
    yaw = 0.1 * torch.sin(0.02 * at)
    pose[:, 0, 0], pose[:, 0, 2], pose[:, 2, 0], pose[:, 2, 2] = yaw.cos(), yaw.sin(), -yaw.sin(), yaw.cos()
    pose[:, 2, 3] = METRES * at
    width, height = config.picture_width, config.picture_height
    focal = width / 2 / math.tan(math.radians(35.0))
    k = torch.tensor([[focal, 0.0, width / 2], [0.0, focal, height / 2], [0.0, 0.0, 1.0]], dtype=torch.float64)
    rays = token_rays(pose[None], k[None], (height, width), shape.grid, config.temporal_stride, opening=False)
    noise = frame_noise(0, shape.latents * index, shape.latents, (config.in_channels, *shape.grid))
    return noise.to(device), rays.to(torch.device(device))


def stock_pass(model: SanaTransformer, x: Tensor, t: Tensor, text: Text, rays: Rays) -> Callable[[], Tensor]:
    """diffusers' class with `model`'s weights, ready to compute the velocity of `x` (B, C, T, H, W) at levels `t`.

    Both are read anew at every call.
    """
    from diffusers import SanaWMTransformer3DModel

    config = {key: value for key, value in asdict(model.config).items() if key not in OURS}
    dtype = text.hidden.dtype
    with torch.device(x.device):
        stock: Any = SanaWMTransformer3DModel(**config, chunk_plucker_post_attn_blocks=model.config.num_layers)
    stock = stock.to(dtype).eval().requires_grad_(False)
    stock.load_state_dict(model.state_dict(), strict=False)
    stock.rope.freqs = stock.rope.freqs.to(x.device)
    matrices = rays.ray_from_world.flatten(1, 2)  # (B, T S, 4, 4)
    ready = {"P": matrices.to(dtype), "P_inv": rigid_inverse(matrices).to(dtype), "absmap": x[:, :3].to(dtype)}
    plucker = rays.plucker.transpose(2, 3).unflatten(3, x.shape[3:]).transpose(1, 2).to(dtype)  # (B, 48, T, H, W)
    more = {
        "mask": text.mask, "camera_conditions": torch.zeros(*t.shape, 20, device=x.device), "cam_pos_embeds": ready,
        "chunk_plucker": plucker.contiguous(),
    }  # fmt: skip
    hidden = text.hidden[:, None]

    def run() -> Tensor:
        out: Tensor = stock(x.to(dtype), t[:, None], hidden, return_dict=False, **more)[0]
        return out

    return run
