"""A chunk of video by few-step flow matching (SANA-WM, arXiv 2605.15178, the streaming student).

Euler along x_s = (1 - s) latent + s noise, whose velocity is noise - latent, over the student's four noise levels; then
one clean pass at level 0 writes the chunk into the stream's state.  Noise is keyed per latent frame, so the same seed
gives the same stream however it is cut into chunks.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from efficientgen.worldsim.reference.noise import keyed
from efficientgen.worldsim.sana.camera import Rays
from efficientgen.worldsim.sana.model import Prepared, Read, SanaTransformer, Text
from efficientgen.worldsim.sana.state import StreamState

LEVELS = (1000, 960, 889, 727)  # of the student: a uniform grid of four steps under flow shift 8


class DivergedError(RuntimeError):
    """The model's latents are NaN or infinite."""


class Passes(Protocol):
    """`SanaTransformer`, or what stands between it and a sampler."""

    def forward_chunk(
        self, x: Tensor, t: Tensor, text: Text | Read, rays: Rays | Prepared, state: StreamState | None, save: bool
    ) -> tuple[Tensor, StreamState | None]: ...


def sample_chunk(
    model: Passes,
    noise: Tensor,
    text: Text | Read,
    rays: Rays | Prepared,
    state: StreamState | None,
    clean: Tensor | None = None,
    levels: tuple[int, ...] = LEVELS,
) -> tuple[Tensor, StreamState]:
    """The next chunk's latents (B, C, T, H, W) in the noise's dtype, and the stream's state after it.

    Args:
        noise: (B, C, T, H, W) standard normal.
        text: what the model is told, best as it reads it (`SanaTransformer.read`), once for many chunks.
        clean: (B, C, n, H, W) first frames that are given, as the opening picture's latent; they stay what they are.
        levels: noise levels, falling, of 1000.

    Raises:
        DivergedError: the result is not finite; `state` is untouched.
    """
    given = 0 if clean is None else clean.shape[2]
    if isinstance(model, SanaTransformer) and isinstance(rays, Rays):
        read = model.read(text) if isinstance(text, Text) else text
        rays = model.prepare(read, rays, 0 if state is None else state.frames, (noise.shape[3], noise.shape[4]))
    x = noise if clean is None else torch.cat([clean.to(noise), noise[:, :, given:]], 2)
    for level, following in zip(levels, (*levels[1:], 0), strict=True):
        t = torch.full((x.shape[0], x.shape[2]), float(level), device=x.device)
        t[:, :given] = 0.0
        velocity, _ = model.forward_chunk(x, t, text, rays, state, save=False)
        x = x + (following - level) / 1000.0 * velocity.to(x) * (t > 0)[:, None, :, None, None]
    _, after = model.forward_chunk(x, torch.zeros_like(t), text, rays, state, save=True)
    require_finite(x)
    assert after is not None
    return x, after


def require_finite(latents: Tensor) -> None:
    """Raises:
    DivergedError: they are not.
    """
    if not bool(torch.isfinite(latents).all()):
        raise DivergedError("the world model's latents are NaN or infinite; reset the world, and check its weights")


def frame_noise(seed: int, first: int, frames: int, shape: tuple[int, int, int], stage: str = "sana") -> Tensor:
    """Noise (1, C, frames, H, W) fp32 of latent frames `first`, ..., each keyed by (seed, frame); `shape`: C, H, W."""
    drawn = [keyed(stage, seed, frame).standard_normal(shape, np.float32) for frame in range(first, first + frames)]
    return torch.from_numpy(np.stack(drawn, 1)[None])
