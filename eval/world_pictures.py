"""How alike, how moved and how consistent pictures are: the measures behind the gates of a world model.

All take uint8 pictures (..., H, W, 3) as torch tensors and compute where those are.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

from efficientgen.perception.rig import Camera

SHIFT_PX = 44  # the largest horizontal motion that is looked for
STRIP = (18, 62)  # rows of a 112 px picture around the horizon: far things, which turning moves alike
PEAK = 255.0


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio per picture, dB; 60 at most."""
    error = (a.float() - b.float()).square().flatten(-3).mean(-1)
    return 10.0 * torch.log10(PEAK**2 / error.clamp_min(PEAK**2 * 1e-6))


def ssim(a: Tensor, b: Tensor) -> Tensor:
    """Structural similarity per picture of the luminance, Gaussian window of 11 px (Wang et al. 2004)."""
    x, y = (_grey(p).flatten(0, -3)[:, None] for p in (a, b))  # (N, 1, H, W)
    axis = torch.arange(11, device=a.device).float() - 5
    bell = torch.exp(-axis.square() / (2 * 1.5**2))
    window = (bell[:, None] * bell / bell.sum() ** 2)[None, None]
    mx, my = F.conv2d(x, window), F.conv2d(y, window)
    xx, yy, xy = F.conv2d(x * x, window) - mx * mx, F.conv2d(y * y, window) - my * my, F.conv2d(x * y, window) - mx * my
    c1, c2 = (0.01 * PEAK) ** 2, (0.03 * PEAK) ** 2
    like = (2 * mx * my + c1) * (2 * xy + c2) / ((mx * mx + my * my + c1) * (xx + yy + c2))
    return like.mean((1, 2, 3)).view(a.shape[:-3])


def turn_px(before: Tensor, after: Tensor) -> Tensor:
    """By how many px (N,) pictures (N, H, W, 3) moved to the right, sub-pixel, where the horizon is.

    The shift with the least mean squared difference of what overlaps, each row less its mean; a parabola through its
    neighbours gives the fraction.
    """
    a, b = (_grey(p)[:, STRIP[0] : STRIP[1]] for p in (before, after))
    width = a.shape[-1]
    costs = []
    for shift in range(-SHIFT_PX, SHIFT_PX + 1):
        left, right = (a[..., : width - shift], b[..., shift:]) if shift >= 0 else (a[..., -shift:], b[..., :shift])
        off = left - right
        costs.append((off - off.mean((-2, -1), keepdim=True)).square().mean((-2, -1)))
    cost = torch.stack(costs, -1)  # (N, shifts)
    best = cost.argmin(-1).clamp(1, 2 * SHIFT_PX - 1)
    low, mid, high = (cost.gather(-1, (best + d)[:, None])[:, 0] for d in (-1, 0, 1))
    part = 0.5 * (low - high) / (low - 2 * mid + high).clamp_min(1e-6)
    return best - SHIFT_PX + part.clamp(-0.5, 0.5)


def spearman(a: Tensor, b: Tensor) -> float:
    """Rank correlation; ties get their order's ranks."""
    x, y = (v.argsort().argsort().double() for v in (a, b))
    x, y = x - x.mean(), y - y.mean()
    return float((x * y).sum() / (x.norm() * y.norm()).clamp_min(1e-12))


def overlap_psnr(pictures: Tensor, rig: tuple[Camera, ...]) -> Tensor:
    """How well neighbouring cameras of one place agree where both look, dB per picture pair (N, n_cams - 1).

    `pictures` (N, n_cams, H, W, 3); the left camera's picture is turned into the right one's view.
    """
    out = []
    for k, (left, right) in enumerate(zip(rig, rig[1:], strict=False)):
        grid, inside = _into_view(left, right)
        source = pictures[:, k].permute(0, 3, 1, 2).float()
        seen = F.grid_sample(source, grid.to(source)[None].expand(len(source), -1, -1, -1), align_corners=False)
        off = (seen - pictures[:, k + 1].permute(0, 3, 1, 2).float()).square()
        where = inside.to(source)
        error = (off * where).sum((1, 2, 3)) / (3 * where.sum())
        out.append(10.0 * torch.log10(PEAK**2 / error.clamp_min(1e-2)))
    return torch.stack(out, 1)


def _into_view(left: Camera, right: Camera) -> tuple[Tensor, Tensor]:
    """Where the right camera's pixels lie in the left one's picture, (H, W, 2) in [-1, 1], and which are inside it."""
    turn = math.radians(right.yaw_deg - left.yaw_deg)
    y, x = torch.meshgrid(torch.arange(right.height) + 0.5, torch.arange(right.width) + 0.5, indexing="ij")
    across, up = (right.width / 2 - x) / right.focal, (right.height / 2 - y) / right.focal
    ahead = math.cos(turn) - math.sin(turn) * across
    side = math.sin(turn) + math.cos(turn) * across
    safe = ahead.clamp_min(1e-3)
    u, v = left.width / 2 - left.focal * side / safe, left.height / 2 - left.focal * up / safe
    inside = (ahead > 1e-2) & (u > 1) & (u < left.width - 1) & (v > 1) & (v < left.height - 1)
    return torch.stack([2 * u / left.width - 1, 2 * v / left.height - 1], -1), inside


def _grey(pictures: Tensor) -> Tensor:
    return pictures.float() @ torch.tensor([0.299, 0.587, 0.114], device=pictures.device)
