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


def positions(rays: Rays, first_frame: int | Tensor, grid: tuple[int, int], head_dim: int, theta: float) -> Positions:
    """Of the frames from `first_frame` (absolute) on; `grid` is (rows, columns) of tokens."""
    transform = rays.ray_from_world
    frames, device = transform.shape[1], transform.device
    full, half = _shares(head_dim), _shares(head_dim // 2)
    places = [torch.arange(span, device=device) for span in (frames, *grid)]
    places[0] = places[0] + first_frame
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
