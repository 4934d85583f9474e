"""Antialiased shapes on Pillow images, fast enough for video: each shape is drawn four times finer in its own small
mask, shrunk, and blended.  Also the colours and fonts that the drive video and the report page share.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

from PIL import Image, ImageDraw, ImageFont

from efficientgen.perception.types import ActorKind, Source

Colour = tuple[int, int, int]
Points = Sequence[tuple[float, float]]
Box = tuple[int, int, int, int]  # left, top, right, bottom

INK: Colour = (232, 237, 243)
MUTED: Colour = (142, 154, 169)
NIGHT: Colour = (15, 19, 25)  # behind everything in the video
PANEL: Colour = (22, 28, 36)
ROLLOUT: Colour = (255, 236, 196)  # tells rollouts from the path that is followed

SOURCE_COLOUR: dict[Source, Colour] = {
    Source.EXPERT: (106, 156, 255),
    Source.NOMINAL: (46, 211, 162),
    Source.SHIFTED: (245, 196, 66),
    Source.BRAKE: (255, 140, 66),
    Source.STOP: (243, 84, 97),
}
ACTOR_COLOUR: dict[ActorKind, Colour] = {
    ActorKind.CAR: (150, 170, 196),
    ActorKind.TRUCK: (201, 160, 108),
    ActorKind.BUS: (226, 190, 92),
    ActorKind.BICYCLE: (92, 205, 222),
    ActorKind.PEDESTRIAN: (246, 114, 156),
}
_FINE = 4


def fill(image: Image.Image, points: Points, colour: Colour, opacity: float = 1.0) -> None:
    """Blend a filled polygon into an RGB image, in place."""
    mask, box = _mask(image, points, 1.0)
    if mask is None:
        return
    ImageDraw.Draw(mask).polygon(_fine(points, box), fill=255)
    _blend(image, mask, box, colour, opacity)


def stroke(image: Image.Image, points: Points, width: float, colour: Colour, opacity: float = 1.0) -> None:
    """Blend an open polyline of `width` px with round joints into an RGB image, in place."""
    mask, box = _mask(image, points, width / 2 + 1.0)
    if mask is None or len(points) < 2:
        return
    ImageDraw.Draw(mask).line(_fine(points, box), fill=255, width=max(1, round(width * _FINE)), joint="curve")
    _blend(image, mask, box, colour, opacity)


def disc(image: Image.Image, x: float, y: float, radius: float, colour: Colour, opacity: float = 1.0) -> None:
    """Blend a filled circle into an RGB image, in place."""
    mask, box = _mask(image, [(x, y)], radius + 1.0)
    if mask is None:
        return
    ((cx, cy),) = _fine([(x, y)], box)
    r = radius * _FINE
    ImageDraw.Draw(mask).ellipse((cx - r, cy - r, cx + r, cy + r), fill=255)
    _blend(image, mask, box, colour, opacity)


@cache
def font(size: int) -> Any:
    """The scalable font that ships inside Pillow, so pictures look the same everywhere."""
    return ImageFont.load_default(size)


def wrap(text: str, size: int, width: int, lines: int) -> list[str]:
    """Break `text` into at most `lines` lines of `width` px; what does not fit ends in "..."."""
    out, line = [], ""
    words = text.split()
    for k, word in enumerate(words):
        tried = f"{line} {word}".strip()
        if line and font(size).getlength(tried) > width:
            out.append(line)
            if len(out) == lines:
                out[-1] = out[-1][: max(len(out[-1]) - 3, 0)] + "..."
                return out
            line = word
        else:
            line = tried
        if k == len(words) - 1:
            out.append(line)
    return out


def css(colour: Colour) -> str:
    """The colour as #rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


@cache
def _fade(opacity: float) -> list[int]:
    return [round(v * opacity) for v in range(256)]


def _mask(image: Image.Image, points: Points, grow: float) -> tuple[Image.Image | None, Box]:
    """An empty fine mask over the part of the shape's bounding box that lies in the image, and that box."""
    xs, ys = [p[0] for p in points], [p[1] for p in points]
    if not xs or not all(map(math.isfinite, xs)) or not all(map(math.isfinite, ys)):
        return None, (0, 0, 0, 0)
    box = (
        max(0, math.floor(min(xs) - grow)),
        max(0, math.floor(min(ys) - grow)),
        min(image.width, math.ceil(max(xs) + grow) + 1),
        min(image.height, math.ceil(max(ys) + grow) + 1),
    )
    if box[0] >= box[2] or box[1] >= box[3]:
        return None, box
    return Image.new("L", ((box[2] - box[0]) * _FINE, (box[3] - box[1]) * _FINE)), box


def _fine(points: Points, box: Box) -> list[tuple[float, float]]:
    return [((x - box[0]) * _FINE, (y - box[1]) * _FINE) for x, y in points]


def _blend(image: Image.Image, mask: Image.Image, box: Box, colour: Colour, opacity: float) -> None:
    small = mask.reduce(_FINE)
    if opacity < 1.0:
        small = small.point(_fade(opacity))
    image.paste(colour, box, small)
