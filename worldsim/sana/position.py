"""Where a token is: rotary positions over (time, row, column), and rays for the camera branch.

Rotary embedding as in Wan: the D/2 complex pairs of a head are shared out over the three axes, D//6 to each spatial one
and the rest to time.  The camera branch (UCPE, SANA-WM arXiv 2605.15178) splits a head in halves: the first, in groups
of four channels, is taken through the token's 4x4 ray transform, the second is rotated with the first frequencies of
each axis.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efficientgen.worldsim.sana.camera import Rays, rigid_inverse


@dataclass(frozen=True)
class Positions:
    """Complex rotations (T, S, 1, D/2) of the main branch and (T, S, 1, D/4) of the camera branch's second half.

    The camera branch's first half is taken through the 4x4 transforms (B, T, S, 4, 4).
    """

    main: Tensor
    camera: Tensor
    ray_from_world: Tensor
    world_from_ray: Tensor


def positions(rays: Rays, first_frame: int, grid: tuple[int, int], head_dim: int, theta: float) -> Positions:
    """Of the frames from `first_frame` (absolute) on; `grid` is (rows, columns) of tokens."""
    transform = rays.ray_from_world
    frames, device = transform.shape[1], transform.device
    full, half = _shares(head_dim), _shares(head_dim // 2)
    spans = ((first_frame, first_frame + frames), (0, grid[0]), (0, grid[1]))
    places = [torch.arange(*span, device=device) for span in spans]
    angles = []
    for axis, place in enumerate(places):
        width = 2 * full[axis]
        frequency = 1.0 / theta ** (torch.arange(0, width, 2, device=device).float() / width)
        angle = place.float()[:, None] * frequency  # (positions, pairs)
        shape = [1, 1, 1, full[axis]]
        shape[axis] = len(place)
        angles.append(angle.view(shape).expand(frames, *grid, -1))

    def rotation(shares: tuple[int, int, int]) -> Tensor:
        angle = torch.cat([a[..., :n] for a, n in zip(angles, shares, strict=True)], -1)
        return torch.polar(torch.ones_like(angle), angle).flatten(1, 2)[:, :, None]  # (T, S, 1, pairs)

    return Positions(rotation(full), rotation(half), transform, rigid_inverse(transform))


def _shares(dim: int) -> tuple[int, int, int]:
    """Complex pairs of a head of `dim` channels for time, rows, columns."""
    return dim // 2 - 2 * (dim // 6), dim // 6, dim // 6


def rotate(x: Tensor, rotation: Tensor, back: bool = False) -> Tensor:
    """(B, T, S, H, D) with each pair of channels turned by its angle, in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * (rotation.conj() if back else rotation)).flatten(-2).type_as(x)


def transform(x: Tensor, matrix: Tensor, rotation: Tensor, back: bool = False) -> Tensor:
    """(B, T, S, H, D): first half through `matrix` (B, T, S, 4, 4), second half turned; in fp32, as metres need it."""
    half = x.shape[-1] // 2
    moved = torch.einsum("btsij,btshkj->btshki", matrix, x[..., :half].float().unflatten(-1, (-1, 4))).flatten(-2)
    return torch.cat([moved.type_as(x), rotate(x[..., half:], rotation, back)], -1)


def capped(x: Tensor, reference: Tensor) -> Tensor:
    """`x` scaled down per token and head where its RMS exceeds the reference's: translations are far longer than 1."""

    def rms(y: Tensor) -> Tensor:
        return y.square().mean(-1, keepdim=True).add(1e-6).sqrt()

    return x * (rms(reference) / rms(x)).clamp(max=1.0)
