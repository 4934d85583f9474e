"""Pillow's bicubic resampling as two matrix products, for pictures that lie on a GPU: the same bytes, bit for bit.

A camera's picture is ten times as large as what the vision tower sees of it, and one CPU thread takes longer to shrink
three of them than a GPU takes for vision.  Pillow resamples rows, then columns, each time with weights rounded to
2^-22 and sums rounded to bytes.  All of that is integers below 2^53, so float64 products give the same sums in any
order, and nothing that was trained or scored on a CPU's pictures changes on a GPU.
"""

from __future__ import annotations

import math
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

PRECISION = 22  # bits of a weight behind the point, as Pillow keeps them for 8-bit channels
SUPPORT, SHARPNESS = 2.0, -0.5  # of the bicubic kernel


def resampled(images: Tensor, height: int, width: int) -> Tensor:
    """uint8 (n, H, W, 3) to (n, height, width, 3) on their device; `resize.resize` gives each the same bytes.

    Floor at three pictures of 1,079 x 972 px: 28 MB up, 12 GFLOP in float64, 0.3 ms on an H100.
    """
    planes = images.permute(0, 3, 1, 2).double()  # (n, 3, H, W)
    if images.shape[2] != width:
        planes = _rounded(planes.flatten(0, 2) @ _weights(images.shape[2], width, images.device).t()).view(
            *planes.shape[:3], width
        )
    if images.shape[1] != height:
        planes = _rounded(_weights(images.shape[1], height, images.device) @ planes)
    return planes.to(torch.uint8).permute(0, 2, 3, 1)


def weights(old: int, new: int) -> np.ndarray[tuple[int, int], np.dtype[np.float64]]:
    """(new, old) integers: 2^22 times what each old pixel gives to each new one, antialiased where that is smaller."""
    scale = old / new
    wide = max(scale, 1.0)
    reach = SUPPORT * wide
    out = np.zeros((new, old))
    for i in range(new):
        centre = (i + 0.5) * scale
        low, high = max(0, int(centre - reach + 0.5)), min(old, int(centre + reach + 0.5))
        row = [_bicubic((x - centre + 0.5) / wide) for x in range(low, high)]
        total = sum(row)
        out[i, low:high] = [math.trunc(w / total * 2**PRECISION + math.copysign(0.5, w / total)) for w in row]
    return out


@lru_cache(maxsize=32)
@torch.inference_mode(False)  # kept: the first caller may be a planner, the next a training step
def _weights(old: int, new: int, device: torch.device) -> Tensor:
    return torch.from_numpy(weights(old, new)).to(device)


def _rounded(sums: Tensor) -> Tensor:
    return torch.floor((sums + 2 ** (PRECISION - 1)) * 2.0**-PRECISION).clamp_(0, 255)


def _bicubic(x: float) -> float:
    x = abs(x)
    if x < 1.0:
        return ((SHARPNESS + 2.0) * x - (SHARPNESS + 3.0)) * x * x + 1
    return (((x - 5) * x + 8) * x - 4) * SHARPNESS if x < SUPPORT else 0.0
