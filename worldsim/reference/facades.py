"""The atlas of everything built: ten facades, ground floors, roofs and plain spots in one 1024 x 1024 texture.

One texture for all houses means one draw call per tile of town.  A facade cell (256 px) shows four bays by four floors
of 3.2 m each; a ground-floor strip (256 x 64 px) shows four bays of a street front.  A second atlas of the same layout
holds what glows at night.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
from panda3d.core import Texture
from PIL import Image, ImageDraw

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.noise import keyed, value_noise
from efficientgen.worldsim.reference.textures import to_texture

SIZE = 1024
CELL = 256
BAY_M = 3.2  # width of a bay and height of a floor
FACADES = 10  # cells 0..9
STRIPS = 8  # cells 10 and 11, four each
SHOPS = (0, 1, 2, 3)  # strips with shop windows; the others belong to dwellings and offices
RED_TILES, SLATE, GRAVEL, MISC = 12, 13, 14, 15
HOUSES = (1, 3, 4, 7, 9)  # facades that suit detached houses
OFFICES = (6, 8)


@dataclass(frozen=True)
class _Style:
    wall: tuple[int, int, int]
    kind: str  # brick | stucco | panel | glass
    window: tuple[float, float, float, float]  # left, top, right, bottom in parts of the bay
    frame: tuple[int, int, int] = (232, 230, 224)
    panes: int = 2
    shutters: tuple[int, int, int] | None = None
    lintel: bool = True


_STYLES = (
    _Style((150, 84, 66), "brick", (0.30, 0.22, 0.70, 0.78)),
    _Style((222, 212, 190), "stucco", (0.28, 0.22, 0.72, 0.80), shutters=(86, 104, 92)),
    _Style((172, 148, 112), "brick", (0.24, 0.20, 0.76, 0.78), frame=(245, 243, 238)),
    _Style((236, 233, 226), "stucco", (0.30, 0.20, 0.70, 0.80), frame=(90, 92, 96), lintel=False),
    _Style((196, 160, 112), "stucco", (0.30, 0.20, 0.70, 0.80), shutters=(120, 66, 50)),
    _Style((118, 92, 82), "brick", (0.20, 0.20, 0.80, 0.76), panes=3),
    _Style((168, 168, 164), "panel", (0.10, 0.26, 0.90, 0.80), frame=(96, 100, 104), panes=3, lintel=False),
    _Style((158, 172, 180), "stucco", (0.28, 0.20, 0.72, 0.80)),
    _Style((96, 108, 116), "glass", (0.04, 0.10, 0.96, 0.92), frame=(70, 76, 82), panes=3, lintel=False),
    _Style((206, 186, 168), "panel", (0.26, 0.20, 0.74, 0.80), frame=(240, 238, 232)),
)
assert len(_STYLES) == FACADES


@lru_cache(maxsize=512)
def cell_uv(cell: int, left: float = 0.0, bottom: float = 0.0, right: float = 1.0, top: float = 1.0) -> F64:
    """(4, 2) texture corners (lower left, lower right, upper right, upper left) of part of a cell."""
    inset = 0.75 / CELL
    u0, u1 = (cell % 4 + np.clip([left, right], inset, 1 - inset)) / 4
    v0, v1 = (3 - cell // 4 + np.clip([bottom, top], inset, 1 - inset)) / 4
    corners = np.array([[u0, v0], [u1, v0], [u1, v1], [u0, v1]])
    corners.setflags(write=False)  # shared by all callers
    return corners


@lru_cache(maxsize=256)
def strip_uv(strip: int, first: int, bays: int) -> F64:
    """(4, 2) corners of `bays` bays of a ground-floor strip."""
    low = 0.75 - 0.25 * (strip % 4)
    margin = 1.0 / CELL
    return cell_uv(10 + strip // 4, first / 4, low + margin, (first + bays) / 4, low + 0.25 - margin)


WHITE = tuple(cell_uv(MISC, 0.0, 0.5, 0.5, 1.0).mean(0))  # the middle of a plain white quarter
HEDGE_UV = cell_uv(MISC, 0.5, 0.5, 1.0, 1.0)
WOOD_UV = cell_uv(MISC, 0.0, 0.0, 0.5, 0.5)
STONE_UV = cell_uv(MISC, 0.5, 0.0, 1.0, 0.5)


@cache
def atlas() -> tuple[Texture, Texture]:
    """The atlas by daylight and what glows in it when lamps are on."""
    day = np.full((SIZE, SIZE, 3), 255.0)
    glow = np.zeros((SIZE, SIZE, 3))
    for k, style in enumerate(_STYLES):
        _put(day, glow, k, *_facade(style, k))
    for cell in (10, 11):
        strips = [_ground_floor(4 * (cell - 10) + k) for k in range(4)]
        _put(day, glow, cell, np.concatenate([s[0] for s in strips]), np.concatenate([s[1] for s in strips]))
    _put(day, glow, RED_TILES, _tiles((158, 88, 66), "red"))
    _put(day, glow, SLATE, _tiles((104, 106, 112), "slate"))
    _put(day, glow, GRAVEL, _gravel())
    _put(day, glow, MISC, _misc())
    return to_texture(day, wrap=False), to_texture(glow, wrap=False)


def _put(day: F64, glow: F64, cell: int, image: F64, light: F64 | None = None) -> None:
    at = slice(CELL * (cell // 4), CELL * (cell // 4 + 1)), slice(CELL * (cell % 4), CELL * (cell % 4 + 1))
    day[at] = image
    if light is not None:
        glow[at] = light


def _wall(style: _Style, height: int, rng: np.random.Generator) -> F64:
    stains = value_noise(CELL, ((4, 1.0), (16, 0.6), (128, 0.5)), rng)[:height]
    image = np.array(style.wall, np.float64) * (0.92 + 0.16 * stains)[..., None]
    if style.kind == "brick":
        courses = np.ones((height, CELL))
        courses[::4] = 0.86
        for row in range(0, height, 4):
            courses[row : row + 4, (4 if row % 8 else 0) :: 8] *= 0.88
        image *= (
            courses[..., None]
            * (0.93 + 0.14 * rng.random((height // 4, CELL // 8)).repeat(4, 0).repeat(8, 1))[..., None]
        )
    elif style.kind == "panel":
        image[::64] *= 0.72
        image[:, ::64] *= 0.78
    return image


def _facade(style: _Style, which: int) -> tuple[F64, F64]:
    """Four bays by four floors: (256, 256, 3) by day and its lights."""
    rng = keyed("facade", which)
    image = _wall(style, CELL, rng)
    light = np.zeros_like(image)
    if style.kind != "panel" and style.kind != "glass":
        image[60:64] *= 1.06  # string course under each floor
        for floor in range(4):
            image[64 * floor : 64 * floor + 2] *= 0.9
    for floor in range(4):
        for bay in range(4):
            _window(image, light, style, 64 * bay, 64 * floor, rng)
    if style.kind == "stucco" and which in (3, 7):  # balconies on every second bay
        for floor in range(4):
            for bay in (1, 2):
                x, y = 64 * bay, 64 * floor
                image[y + 40 : y + 54, x + 8 : x + 56] = image[y + 40 : y + 54, x + 8 : x + 56] * 0.45 + 45
                image[y + 40 : y + 42, x + 6 : x + 58] = 70
                image[y + 54 : y + 57, x + 6 : x + 58] = np.array(style.wall) * 0.6
    return image, light


def _window(image: F64, light: F64, style: _Style, x: int, y: int, rng: np.random.Generator) -> None:
    left, top, right, bottom = (round(64 * part) for part in style.window)
    x0, x1, y0, y1 = x + left, x + right, y + top, y + bottom
    if style.lintel:
        image[y0 - 6 : y0 - 2, x0 - 3 : x1 + 3] = np.array(style.wall) * 1.12
    image[y0 - 2 : y1 + 2, x0 - 2 : x1 + 2] = style.frame
    height = np.linspace(0, 1, y1 - y0)[:, None, None]
    sky = np.array([120.0, 142, 164]) * rng.uniform(0.75, 1.1)
    glass = sky * (1 - height) ** 1.3 + np.array([36.0, 44, 52]) * (1 - (1 - height) ** 1.3)
    image[y0:y1, x0:x1] = glass
    blind = rng.random()
    if blind < 0.3 and style.kind != "glass":  # curtains
        width = (x1 - x0) // 4
        cloth = np.array([205.0, 198, 184]) * rng.uniform(0.7, 1.0)
        image[y0:y1, x0 : x0 + width] = image[y0:y1, x1 - width : x1] = cloth
    elif blind < 0.5:  # a blind half drawn
        image[y0 : y0 + int((y1 - y0) * rng.uniform(0.2, 0.6)), x0:x1] = np.array([188.0, 186, 178])
    for pane in range(1, style.panes):
        at = x0 + (x1 - x0) * pane // style.panes
        image[y0:y1, at - 1 : at + 1] = style.frame
    if style.panes == 2:
        image[y0 + (y1 - y0) // 3 : y0 + (y1 - y0) // 3 + 2, x0:x1] = style.frame
    if style.kind != "glass":
        image[y1 + 2 : y1 + 5, x0 - 4 : x1 + 4] = np.array(style.frame) * 0.92  # sill ...
        image[y1 + 5 : y1 + 8, x0 - 4 : x1 + 4] *= 0.7  # ... and its shadow
    image[y0 : y0 + 2, x0:x1] *= 0.55  # the reveal's shadow
    if style.shutters is not None:
        for edge in (x0 - 13, x1 + 3):
            image[y0 - 2 : y1 + 2, edge : edge + 10] = style.shutters
            image[y0 - 2 : y1 + 2 : 3, edge : edge + 10] *= 0.85
    if rng.random() < 0.42:
        warm = np.array([255.0, 214, 140]) if rng.random() < 0.75 else np.array([225.0, 230, 235])
        light[y0:y1, x0:x1] = warm * rng.uniform(0.35, 0.95) * (0.75 + 0.25 * height)


_GROUND_WALLS = (
    (92, 88, 84), (128, 116, 100), (70, 74, 80), (150, 140, 128),
    (190, 180, 166), (142, 88, 72), (206, 202, 194), (150, 150, 148),
)  # fmt: skip


def _ground_floor(which: int) -> tuple[F64, F64]:
    """Four bays of a street front, 3.2 m high: (64, 256, 3) by day and its lights."""
    rng = keyed("ground floor", which)
    shop = which in SHOPS
    wall = _GROUND_WALLS[which]
    style = _Style(wall, "brick" if which == 5 else "stucco", (0.25, 0.2, 0.75, 0.7))
    image = _wall(style, 64, rng)
    light = np.zeros_like(image)
    canvas = Image.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    draw = ImageDraw.Draw(canvas)
    for bay in range(4):
        x = 64 * bay
        if shop:
            sign = tuple(int(c) for c in rng.integers(40, 150, 3))
            draw.rectangle((x + 2, 4, x + 61, 14), fill=sign)
            for word in range(int(rng.integers(5, 9))):
                draw.rectangle((x + 12 + 5 * word, 7, x + 14 + 5 * word, 11), fill=(230, 226, 214))
            door = bay == int(which) % 4
            draw.rectangle((x + 4, 18, x + 60, 63 if door else 56), fill=(48, 50, 54))
            for row in range(19, 55):
                tone = 1.25 - (row - 19) / 50
                draw.line((x + 6, row, x + 58, row), fill=(int(92 * tone), int(106 * tone), int(118 * tone)))
            for item in range(7):
                left = x + 8 + 7 * item
                high = int(rng.integers(8, 20))
                draw.rectangle((left, 54 - high, left + 4, 54), fill=tuple(int(c) for c in rng.integers(60, 200, 3)))
            if door:
                draw.rectangle((x + 24, 20, x + 40, 63), fill=(40, 42, 46))
                draw.rectangle((x + 26, 22, x + 38, 61), fill=(96, 108, 116))
            if rng.random() < 0.6:
                light[20:55, x + 6 : x + 58] = np.array([255.0, 232, 190]) * rng.uniform(0.5, 0.9)
        elif bay in (0, 2):
            colour = [(96, 52, 40), (44, 66, 58), (52, 60, 84), (110, 92, 70)][int(rng.integers(4))]
            draw.rectangle((x + 18, 10, x + 46, 63), fill=(228, 224, 216))
            draw.rectangle((x + 21, 22, x + 43, 63), fill=colour)
            draw.rectangle((x + 21, 12, x + 43, 20), fill=(72, 84, 94))
            draw.rectangle((x + 24, 26, x + 40, 40), fill=tuple(int(c * 0.8) for c in colour))
            light[12:21, x + 21 : x + 44] = (255, 222, 160)
    image = np.asarray(canvas, np.float64).copy()
    if not shop:
        for bay in (1, 3):
            _window(image, light, style, 64 * bay, 0, rng)
    image[60:] *= 0.7  # plinth
    return image, light


def _tiles(colour: tuple[int, int, int], name: str) -> F64:
    rng = keyed("roof", name)
    image = np.array(colour, np.float64) * (0.86 + 0.28 * rng.random((32, 32)).repeat(8, 0).repeat(8, 1))[..., None]
    image *= (0.9 + 0.2 * value_noise(CELL, ((4, 1.0), (8, 0.6)), rng))[..., None]
    image[::8] *= 0.72
    image[:, ::8] *= 0.86
    return image


def _gravel() -> F64:
    rng = keyed("gravel")
    return (
        np.array([150.0, 147, 141]) * (0.8 + 0.4 * value_noise(CELL, ((4, 1.0), (32, 0.5), (256, 0.8)), rng))[..., None]
    )


def _misc() -> F64:
    """Quarters: white, hedge leaves (top), planks, stone (bottom)."""
    rng = keyed("misc")
    image = np.full((CELL, CELL, 3), 255.0)
    leaves = value_noise(128, ((16, 0.5), (32, 0.9), (64, 1.0), (128, 0.6)), rng)
    image[:128, 128:] = (90 + 190 * leaves)[..., None] * np.array([1.0, 1.0, 0.85])
    planks = 200 + 40 * rng.random(16).repeat(8) + 30 * (value_noise(128, ((64, 1.0),), rng) - 0.5)
    image[128:, :128] = planks[..., None] * np.array([1.0, 0.96, 0.9])
    image[128:, 0:128:8] *= 0.6
    stone = 190 + 70 * (value_noise(128, ((8, 0.6), (16, 1.0), (64, 0.5)), rng) - 0.5)
    image[128:, 128:] = stone[..., None]
    image[128::16, 128:] *= 0.75
    return image
