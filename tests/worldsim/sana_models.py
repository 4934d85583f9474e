"""Tiny SANA-WM models with random weights, diffusers' class with the same ones, and inputs for both."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch
from torch import Tensor

from efficientgen.worldsim.sana.camera import Rays, token_rays
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.model import SanaTransformer, Text

TINY = SanaConfig(
    in_channels=8, num_layers=4, hidden_size=48, linear_head_dim=16, num_attention_heads=3, softmax_every_n=2,
    mlp_ratio=2.0, caption_channels=12, picture_height=64, picture_width=96,
)  # fmt: skip
GRID, SIZE = (2, 3), (64, 96)
OURS = ("rope_theta", "picture_height", "picture_width", "chunk_size", "num_cached_blocks", "sink_token")


def tiny(seed: int = 0, dtype: torch.dtype = torch.float32, **changes: Any) -> SanaTransformer:
    """A model in which nothing is zero: gates, convolutions and the camera branch all matter."""
    torch.manual_seed(seed)
    model = SanaTransformer(replace(TINY, **changes))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(("A_log", "dt_bias")):
                fan_in = parameter[0].numel() if parameter.ndim > 1 else 0
                spread = fan_in**-0.5 if fan_in else 0.2
                parameter.normal_(1.0 if "norm" in name else 0.0, spread)
    return model.to(dtype).eval()


def stock(model: SanaTransformer) -> Any:
    """diffusers' class with the same weights."""
    from diffusers import SanaWMTransformer3DModel

    config = {k: v for k, v in asdict(model.config).items() if k not in OURS}
    other = SanaWMTransformer3DModel(**config, chunk_plucker_post_attn_blocks=model.config.num_layers)
    missing, unexpected = other.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected
    return other.eval()


def c2w(frames: int, seed: int = 0) -> Tensor:
    """A camera that drives on and turns: (frames, 4, 4), the first at the origin."""
    g = torch.Generator().manual_seed(seed)
    step, yaw = 0.3 * torch.rand(frames, generator=g).double(), 0.02 * torch.randn(frames, generator=g).double()
    out, at, heading = [], torch.zeros(3, dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    for i in range(frames):
        if i:
            heading = heading + yaw[i]
            at = at + step[i] * torch.stack([heading.sin(), torch.zeros_like(heading), heading.cos()])
        pose = torch.eye(4, dtype=torch.float64)
        pose[0, 0], pose[0, 2], pose[2, 0], pose[2, 2] = heading.cos(), heading.sin(), -heading.sin(), heading.cos()
        pose[:3, 3] = at
        out.append(pose)
    return torch.stack(out)


K = torch.tensor([[50.0, 0.0, 47.0], [0.0, 52.0, 30.0], [0.0, 0.0, 1.0]], dtype=torch.float64)


def clip(
    latents: int, seed: int = 0, grid: tuple[int, int] = GRID, channels: int = 8
) -> tuple[Tensor, Tensor, Text, Rays]:
    """Latents, noise levels, text with padding, and rays of `latents` latent frames."""
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(1, channels, latents, *grid, generator=g)
    t = torch.randint(0, 1000, (1, latents), generator=g).float()
    text = Text(torch.randn(1, 5, 12, generator=g), torch.tensor([[1, 1, 1, 0, 0]]))
    rays = token_rays(c2w(8 * (latents - 1) + 1, seed)[None], K[None], SIZE, grid, 8, opening=True)
    return x, t, text, rays
