"""A raster of ground that is taken: asks "is this spot free?" thousands of times while a town is planned.

Roads are drawn first, then lines of sight to traffic lights; every house and tree that is placed takes its ground.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.streets import Streets

CELL_M = 0.5


class Occupancy:
    """Boolean raster over a rectangle of `map` (x0, y0, x1, y1); everything outside counts as taken."""

    def __init__(self, bounds: tuple[float, float, float, float]) -> None:
        self.x0, self.y0, x1, y1 = bounds
        self._taken = np.zeros((math.ceil((y1 - self.y0) / CELL_M), math.ceil((x1 - self.x0) / CELL_M)), bool)

    def take_line(self, points: F64, width: float) -> None:
        """A band of `width` m along a polyline."""
        self._stamp(points, width / 2, lambda draw, at: draw.line(at, 1, max(1, round(width / CELL_M)), joint="curve"))

    def take_polygon(self, points: F64, margin: float = 0.0) -> None:
        """A polygon, with a band of `margin` m around it."""

        def paint(draw: ImageDraw.ImageDraw, at: list[tuple[float, float]]) -> None:
            draw.polygon(at, fill=1)
            if margin:
                draw.line([*at, at[0]], fill=1, width=max(1, round(2 * margin / CELL_M)), joint="curve")

        self._stamp(points, margin, paint)

    def take_disc(self, x: float, y: float, radius: float) -> None:
        """A disc."""
        r = radius / CELL_M
        self._stamp(np.array([[x, y]]), radius, lambda draw, at: draw.ellipse(
            (at[0][0] - r, at[0][1] - r, at[0][0] + r, at[0][1] + r), fill=1))  # fmt: skip

    def _stamp(
        self, points: F64, margin: float, paint: Callable[[ImageDraw.ImageDraw, list[tuple[float, float]]], None]
    ) -> None:
        cells = ((np.asarray(points) - [self.x0, self.y0]) / CELL_M).tolist()
        pad = margin / CELL_M + 2
        us, vs = [u for u, _ in cells], [v for _, v in cells]
        height, width = self._taken.shape
        u0, v0 = max(int(min(us) - pad), 0), max(int(min(vs) - pad), 0)
        u1, v1 = min(int(max(us) + pad) + 1, width), min(int(max(vs) + pad) + 1, height)
        if u1 <= u0 or v1 <= v0:
            return
        stamp = Image.new("L", (u1 - u0, v1 - v0), 0)
        paint(ImageDraw.Draw(stamp), [(u - u0, v - v0) for u, v in cells])
        self._taken[v0:v1, u0:u1] |= np.asarray(stamp, bool)

    def free(self, points: F64) -> bool:
        """True where no point (N, 2) lies on taken ground."""
        cells = ((np.asarray(points) - (self.x0, self.y0)) / CELL_M).astype(int)
        height, width = self._taken.shape
        u, v = cells[:, 0], cells[:, 1]
        if u.min() < 0 or v.min() < 0 or u.max() >= width or v.max() >= height:
            return False
        return not self._taken[v, u].any()

    def free_disc(self, x: float, y: float, radius: float) -> bool:
        """True where a disc is free."""
        return self.free(_disc_grid(math.ceil(10 * radius)) + (x, y))

    def free_rectangle(self, x: float, y: float, yaw: float, length: float, width: float) -> bool:
        """True where a turned rectangle is free."""
        cos, sin = math.cos(yaw), math.sin(yaw)
        u, v = _spread(length)[:, None], _spread(width)[None, :]
        return self.free(np.stack([x + cos * u - sin * v, y + sin * u + cos * v], -1).reshape(-1, 2))


def _spread(length: float) -> F64:
    return np.linspace(-length / 2, length / 2, max(2, math.ceil(length / 0.7)))


@lru_cache(maxsize=256)
def _disc_grid(tenths: int) -> F64:
    radius = tenths / 10
    axis = np.linspace(-radius, radius, 2 * math.ceil(radius / 0.7) + 1)
    grid = np.stack(np.meshgrid(axis, axis), -1).reshape(-1, 2)
    return grid[np.hypot(*grid.T) <= radius + 1e-9]


def rectangle(x: float, y: float, yaw: float, length: float, width: float) -> F64:
    """(4, 2) corners, counter-clockwise from the rear right."""
    cos, sin = math.cos(yaw), math.sin(yaw)
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [length / 2, width / 2]
    return corners @ np.array([[cos, sin], [-sin, cos]]) + [x, y]


def roads_taken(streets: Streets, margin: float, bounds: tuple[float, float, float, float], walks: bool) -> Occupancy:
    """Roads and junctions (and sidewalks, if `walks`) with a margin of `margin` m to each side."""
    ground = Occupancy(bounds)
    for lane in streets.lanes:
        if walks or lane.use != "walk":
            ground.take_line(lane.shape, lane.width + 2 * margin)
    for shape, width in streets.inner_lanes:
        ground.take_line(shape, width + 2 * margin)
    for shape, width in streets.crossings:
        ground.take_line(shape, width + 2 * margin)
    if walks:
        for polygon in (*streets.junctions, *streets.corners, *streets.walked_road):
            ground.take_polygon(polygon, margin)
    return ground


def widen(bounds: tuple[float, float, float, float], by: float) -> tuple[float, float, float, float]:
    """The rectangle grown by `by` m to each side."""
    return bounds[0] - by, bounds[1] - by, bounds[2] + by, bounds[3] + by
