"""What training does to pictures so that the model learns what they show rather than which pictures they are.

Per camera the two frames of a sample are moved together by a pixel or two, drowned in a little noise, and change gain
and offset as a whole and per colour.  Geometry stays: nothing is flipped or scaled.
"""

from __future__ import annotations

import torch
from torch import Tensor

SHIFT = (1, 2)  # px, rows and columns
NOISE = 5.0  # standard deviation, grey levels


def augment_pixels(images: Tensor, generator: torch.Generator) -> Tensor:
    """uint8 (B, C, 2, H, W, 3) -> the same shape and type: moved by up to `SHIFT` px, borders repeated, plus noise."""
    batch, cameras, frames, height, width, _ = images.shape
    x, device = images.flatten(0, 1), images.device  # (B C, 2, H, W, 3)
    count = len(x)

    def places(size: int, most: int) -> Tensor:
        move = torch.randint(-most, most + 1, (count, 1), device=device, generator=generator)
        return (torch.arange(size, device=device) + move).clamp_(0, size - 1)  # (B C, size)

    rows, columns = places(height, SHIFT[0]), places(width, SHIFT[1])
    each = torch.arange(count, device=device)[:, None, None, None]
    moved = x[each, torch.arange(frames, device=device)[:, None, None], rows[:, None, :, None], columns[:, None, None]]
    noise = torch.randn(moved.shape, device=device, generator=generator, dtype=torch.float16 if x.is_cuda else None)
    return (moved + NOISE * noise).round_().clamp_(0, 255).to(torch.uint8).unflatten(0, (batch, cameras))


def augment_patches(patches: Tensor, generator: torch.Generator) -> Tensor:
    """Normalised patch vectors (B, N, 1176) with a gain and an offset for the sample and for each colour channel."""
    count, device = len(patches), patches.device
    own = [torch.randn((count, 1, 3, 1), device=device, generator=generator) for _ in range(2)]
    common = [torch.randn((count, 1, 1, 1), device=device, generator=generator) for _ in range(2)]
    gain = 1 + 0.04 * own[0] + 0.10 * common[0]
    offset = 0.04 * own[1] + 0.12 * common[1]
    return (patches.unflatten(2, (3, -1)) * gain + offset).flatten(2)
