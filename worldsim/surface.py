"""The drivable surface of a town: lane ribbons and junction areas, indexed so that a few points cost microseconds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientgen.perception.types import F64

REACH_M = 15.0  # distances are exact up to this far outside the surface
_CELL_M = 10.0
_SEAM_M = 0.02  # ribbons are this much wider, which closes the seam between neighbours


@dataclass(frozen=True)
class Surface:
    """Ribbons as capsules (segments with a half width) and areas as outlines, in square buckets.

    `starts`, `ends` (M, 2) m, `halves` (M,) m; `ribbon` (M,) says which of the given ribbons a segment belongs to.
    """

    starts: F64
    ends: F64
    halves: F64
    ribbon: NDArray[np.int64]
    near_segments: dict[tuple[int, int], NDArray[np.int64]]
    near_areas: dict[tuple[int, int], list[F64]]
    near_holes: dict[tuple[int, int], list[F64]]

    @staticmethod
    def of(ribbons: Sequence[tuple[F64, float]], areas: Sequence[F64], holes: Sequence[F64]) -> Surface:
        """The union of `ribbons` (centreline (N, 2), width) with `areas` (outlines) less their `holes`."""
        starts = np.concatenate([line[:-1] for line, _ in ribbons])
        ends = np.concatenate([line[1:] for line, _ in ribbons])
        counts = [len(line) - 1 for line, _ in ribbons]
        halves = np.repeat([width / 2 + _SEAM_M for _, width in ribbons], counts)
        buckets: dict[tuple[int, int], list[int]] = {}
        for k, (a, b) in enumerate(zip(starts, ends, strict=True)):
            for key in _cells(np.stack([a, b])):
                buckets.setdefault(key, []).append(k)
        return Surface(
            starts,
            ends,
            halves,
            np.repeat(np.arange(len(ribbons)), counts),
            {key: np.array(value) for key, value in buckets.items()},
            _bucketed(areas),
            _bucketed(holes),
        )

    def depth(self, points: F64) -> F64:
        """Signed distance (N,) m of points (N, 2) to the edge, positive inside; see `TownMap.drivable_depth`."""
        points = np.asarray(points, np.float64)
        out = np.full(len(points), -REACH_M)
        cells = np.floor(points / _CELL_M).astype(int)
        for key in sorted({(int(i), int(j)) for i, j in cells}):
            here = np.flatnonzero((cells == key).all(1))
            out[here] = np.maximum(out[here], self._depth_in(key, points[here]))
        return out

    def ribbons_at(self, x: float, y: float) -> tuple[NDArray[np.int64], F64, F64]:
        """Of every ribbon segment over a point: (ribbon (K,), signed offset from its centre (K,) m, heading (K,))."""
        near = self.near_segments.get((math.floor(x / _CELL_M), math.floor(y / _CELL_M)))
        if near is None:
            return np.zeros(0, np.int64), np.zeros(0), np.zeros(0)
        distance = _to_segments(np.array([[x, y]]), self.starts[near], self.ends[near])[0]
        over = near[distance <= self.halves[near]]
        along = self.ends[over] - self.starts[over]
        cross = along[:, 0] * (y - self.starts[over, 1]) - along[:, 1] * (x - self.starts[over, 0])
        offset = np.copysign(distance[distance <= self.halves[near]], cross)
        return self.ribbon[over], offset, np.arctan2(along[:, 1], along[:, 0])

    def _depth_in(self, key: tuple[int, int], points: F64) -> F64:
        out = np.full(len(points), -np.inf)
        near = self.near_segments.get(key)
        if near is not None:
            out = (self.halves[near] - _to_segments(points, self.starts[near], self.ends[near])).max(1)
        for outline in self.near_areas.get(key, ()):
            inside = _polygon_depth(points, outline)
            for hole in self.near_holes.get(key, ()):
                inside = np.minimum(inside, -_polygon_depth(points, hole))
            out = np.maximum(out, inside)
        return out


def _bucketed(outlines: Sequence[F64]) -> dict[tuple[int, int], list[F64]]:
    table: dict[tuple[int, int], list[F64]] = {}
    for outline in outlines:
        for key in _cells(outline):
            table.setdefault(key, []).append(outline)
    return table


def _cells(shape: F64) -> list[tuple[int, int]]:
    low = np.floor((shape.min(0) - REACH_M) / _CELL_M).astype(int)
    high = np.floor((shape.max(0) + REACH_M) / _CELL_M).astype(int)
    return [(int(i), int(j)) for i in range(low[0], high[0] + 1) for j in range(low[1], high[1] + 1)]


def _to_segments(points: F64, a: F64, b: F64) -> F64:
    """Distance (N, M) from points (N, 2) to segments (M, 2)."""
    along = b - a
    offset = points[:, None, :] - a[None]
    share = np.clip((offset * along).sum(2) / np.maximum((along**2).sum(1), 1e-12), 0.0, 1.0)
    return np.sqrt(((offset - share[..., None] * along) ** 2).sum(2))


def _polygon_depth(points: F64, outline: F64) -> F64:
    """Signed distance (N,) to a closed polygon's edge, positive inside (even-odd rule)."""
    a, b = outline, np.roll(outline, -1, axis=0)
    x, y = points[:, :1], points[:, 1:]
    rise = np.where(a[:, 1] == b[:, 1], 1e-12, b[:, 1] - a[:, 1])
    crosses = ((a[:, 1] > y) != (b[:, 1] > y)) & (x < (b[:, 0] - a[:, 0]) * (y - a[:, 1]) / rise + a[:, 0])
    return np.where(crosses.sum(1) % 2 == 1, 1.0, -1.0) * _to_segments(points, a, b).min(1)
