"""Images to patch vectors, in the order that the Qwen2.5-VL vision tower expects.

A camera gives two frames in time (`temporal_patch_size`): a planner that sees one frame passes it twice, one that sees
motion passes the frame before as well.  Patches of one image are ordered by 2x2 merge groups, row-major over groups,
and each patch vector is (channel, time, row, column) flattened, after CLIP normalisation (Qwen2.5-VL report, 2.1.1).
"""

from __future__ import annotations

import torch
from torch import Tensor

PATCH = 14
TEMPORAL_PATCH = 2
MERGE = 2
MEAN = (0.48145466, 0.4578275, 0.40821073)
STD = (0.26862954, 0.26130258, 0.27577711)


class ImageSizeError(ValueError):
    """An image whose height or width is not a multiple of 28 px (patch 14 times merge 2)."""


def grid_of(height: int, width: int) -> tuple[int, int, int]:
    """Patch grid (t, h, w) of one image pair.

    Raises:
        ImageSizeError: a side is not a positive multiple of 28 px.
    """
    cell = PATCH * MERGE
    if height <= 0 or width <= 0 or height % cell or width % cell:
        raise ImageSizeError(
            f"image is {width}x{height} px; both sides must be multiples of {cell} px: resize it first"
        )
    return 1, height // PATCH, width // PATCH


def patchify(images: Tensor) -> Tensor:
    """uint8 (B, 2, H, W, 3) RGB, oldest frame first, to float32 patch vectors (B, h*w, 1176)."""
    batch, frames, height, width, _ = images.shape
    _, rows, columns = grid_of(height, width)
    mean = torch.tensor(MEAN, device=images.device) * 255.0
    std = torch.tensor(STD, device=images.device) * 255.0
    x = (images.float() - mean) / std  # (B, T, H, W, C)
    x = x.view(batch, frames, rows // MERGE, MERGE, PATCH, columns // MERGE, MERGE, PATCH, 3)
    x = x.permute(0, 2, 5, 3, 6, 8, 1, 4, 7)  # (B, h/2, w/2, 2, 2, C, T, 14, 14)
    return x.reshape(batch, rows * columns, 3 * frames * PATCH * PATCH)
