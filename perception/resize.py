"""Pictures of any size to the size that a Qwen2-VL processor gives them (2409.12191, dynamic resolution).

Sides become multiples of 28 px (patch 14 times merge 2), the aspect ratio is kept as well as that allows, and the area
is brought between two limits.  The released planners fix the area at 200 704 px (448 x 448): about 240 to 276 tokens a
picture, whatever the camera.
"""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from efficientgen.perception.patches import MERGE, PATCH, ImageSizeError
from efficientgen.perception.types import U8

CELL = PATCH * MERGE
RELEASED_PIXELS = 200_704
LONGEST_RATIO = 200.0


def smart_size(height: int, width: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) px, multiples of 28, of a picture of `height` x `width` px.

    Rounded to the nearest multiples; where their area is above `max_pixels` both sides shrink by one factor and are
    rounded down, where it is below `min_pixels` they grow and are rounded up (so the area may exceed both limits).

    Raises:
        ImageSizeError: an empty picture, or one side more than 200 times the other.
    """
    if height <= 0 or width <= 0:
        raise ImageSizeError(f"a picture of {width}x{height} px has nothing to see: check the camera driver")
    if max(height, width) > LONGEST_RATIO * min(height, width):
        raise ImageSizeError(f"a picture of {width}x{height} px is too long and thin: at most {LONGEST_RATIO:.0f} to 1")
    rows, columns = CELL * round(height / CELL), CELL * round(width / CELL)
    if rows * columns > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows, columns = (max(CELL, CELL * math.floor(side / scale / CELL)) for side in (height, width))
    elif rows * columns < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows, columns = (CELL * math.ceil(side * scale / CELL) for side in (height, width))
    return rows, columns


def resize(image: U8, height: int, width: int) -> U8:
    """uint8 (H, W, 3) to (height, width, 3), bicubic with antialiasing."""
    if image.shape[:2] == (height, width):
        return image
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.BICUBIC))
