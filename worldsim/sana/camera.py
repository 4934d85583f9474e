"""Cameras as the model sees them: one ray per token (SANA-WM, arXiv 2605.15178, dual-branch camera control).

A token's ray is a frame of its own, `z` along the viewing direction, and the Pluecker coordinates (direction, moment)
of the pictures that its latent frame stands for.  Poses are camera-to-world in OpenCV axes (x right, y down, z
forward), metres, relative to the first frame's camera.  Several cameras share one token grid side by side: nothing
after `token_rays` knows how many there are.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import normalize

FLU_FROM_RDF = torch.tensor(
    [[0.0, 0.0, 1.0, 0.0], [-1.0, 0.0, 0.0, 0.0], [0.0, -1.0, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0]], dtype=torch.float64
)  # optical axes (right, down, forward) into the house's camera axes (forward, left, up)


@dataclass(frozen=True)
class Rays:
    """`ray_from_world` (B, T, S, 4, 4) fp32 and `plucker` (B, T, S, 6 * stride) of every token."""

    ray_from_world: Tensor
    plucker: Tensor

    def __getitem__(self, frames: slice) -> Rays:
        return Rays(self.ray_from_world[:, frames], self.plucker[:, frames])

    def to(self, device: torch.device) -> Rays:
        return Rays(self.ray_from_world.to(device), self.plucker.to(device))


def token_rays(
    c2w: Tensor, intrinsics: Tensor, size: tuple[int, int], grid: tuple[int, int], stride: int, opening: bool
) -> Rays:
    """Rays of every token of a chunk, from one pose and K per picture and camera.

    Args:
        c2w: (N, F, 4, 4) camera-to-world of N cameras at F pictures, relative to the session's first camera pose.
        intrinsics: (N, 3, 3) or (N, F, 3, 3), px of the picture.
        size: (height, width) of the picture, px.
        grid: (rows, columns) of tokens per camera.
        stride: pictures per latent frame.
        opening: the chunk begins with the single picture of the first latent frame (F = 1 + stride * n), else every
            latent frame has its `stride` pictures (F = stride * n).

    Returns:
        Rays (1, T, rows * N * columns, ...): the cameras side by side in each row.  A latent frame's ray transform is
        its last picture's; its Pluecker block holds all of its pictures; the opening frame, which has but one, looks
        ahead to the `stride` first pictures, as the release was trained.
    """
    cameras, pictures = c2w.shape[:2]
    k = intrinsics if intrinsics.ndim == 4 else intrinsics[:, None].expand(cameras, pictures, 3, 3)
    first = [0] if opening else []
    lasts = first + list(range(len(first) + stride - 1, pictures, stride))
    if not lasts or lasts[-1] != pictures - 1:
        raise ValueError(f"{pictures} pictures are no whole number of latent frames of {stride}")
    blocks = [[min(max(0, last - stride + 1) + i, pictures - 1) for i in range(stride)] for last in lasts]
    directions = _directions(k.double(), size, grid)  # (N, F, R, C, 3), camera frame
    world = torch.einsum("nfij,nfrcj->nfrci", c2w[..., :3, :3].double(), directions)
    origin = c2w[..., None, None, :3, 3].double().expand_as(world)
    plucker = torch.cat([world, torch.linalg.cross(origin, world)], -1)  # (N, F, R, C, 6)
    plucker = plucker[:, blocks].permute(1, 3, 0, 4, 2, 5).flatten(4)  # (T, R, N, C, stride * 6)
    transforms = _ray_from_world(world[:, lasts], c2w[:, lasts].double()).permute(
        1, 2, 0, 3, 4, 5
    )  # (T, R, N, C, 4, 4)
    return Rays(transforms.flatten(1, 3)[None].float(), plucker.flatten(1, 3)[None].float())


def _directions(k: Tensor, size: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """Unit viewing directions (N, F, R, C, 3) at the tokens: integer positions of the grid that K is scaled to."""
    (height, width), (rows, columns) = size, grid
    y, x = torch.meshgrid(torch.arange(rows).double(), torch.arange(columns).double(), indexing="ij")
    across, down = columns / width, rows / height

    def entry(i: int, j: int) -> Tensor:
        return k[..., i, j, None, None].to(x)

    right = (x - entry(0, 2) * across) / (entry(0, 0) * across)
    below = (y - entry(1, 2) * down) / (entry(1, 1) * down)
    return normalize(torch.stack([right, below, torch.ones_like(right)], -1), dim=-1)


def _ray_from_world(direction: Tensor, c2w: Tensor) -> Tensor:
    """(N, T, R, C, 4, 4): z along the ray, x across the camera's y axis and the ray, at the camera's centre."""
    camera_y = c2w[..., None, None, :3, 1].expand_as(direction)
    x = normalize(torch.linalg.cross(camera_y, direction), dim=-1)
    y = torch.linalg.cross(direction, x)
    rotation = torch.stack([x, y, direction], -2)  # rows: world to ray
    out = torch.zeros(*direction.shape[:-1], 4, 4, dtype=direction.dtype)
    out[..., :3, :3] = rotation
    out[..., :3, 3] = -torch.einsum("...ij,...j->...i", rotation, c2w[..., None, None, :3, 3].expand_as(direction))
    out[..., 3, 3] = 1.0
    return out


def rigid_inverse(transform: Tensor) -> Tensor:
    """The inverse of (..., 4, 4) rotations with translations."""
    back = transform[..., :3, :3].transpose(-1, -2)
    out = torch.zeros_like(transform)
    out[..., :3, :3] = back
    out[..., :3, 3] = -torch.einsum("...ij,...j->...i", back, transform[..., :3, 3])
    out[..., 3, 3].fill_(1.0)  # in place, or a captured step would make a tensor on the host
    return out
