"""Plane polylines: the few operations that turn lane centrelines into ribbons, dashes and places beside a road."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from efficientgen.perception.types import F64


def ring(shape: ArrayLike) -> F64:
    """(N, 2) outline of a polygon without repeated points, first and last included."""
    points = clean(shape)
    return points[:-1] if len(points) > 1 and np.hypot(*(points[0] - points[-1])) < 1e-3 else points


def clean(shape: ArrayLike) -> F64:
    """(N, 2) without repeated points."""
    points = np.asarray(shape, np.float64)[:, :2]
    keep = np.r_[True, np.hypot(*np.diff(points, axis=0).T) > 1e-3]
    return points[keep]


def stations(points: F64) -> F64:
    """(N,) arc length of each point, m."""
    return np.r_[0.0, np.cumsum(np.hypot(*np.diff(points, axis=0).T))]


def normals(points: F64) -> F64:
    """(N, 2) left-hand mitre vectors: moving each point by d times its vector moves every segment sideways by d."""
    along = np.diff(points, axis=0)
    along /= np.hypot(*along.T)[:, None] + 1e-12
    left = np.stack([-along[:, 1], along[:, 0]], 1)
    mean = np.vstack([left[:1], (left[:-1] + left[1:]) / 2, left[-1:]])
    return mean / np.maximum((mean**2).sum(1, keepdims=True), 0.3)


def offset(points: F64, left: float) -> F64:
    """The polyline moved `left` m to its left."""
    return points + left * normals(points)


def at(points: F64, s: ArrayLike) -> tuple[F64, F64]:
    """Positions (M, 2) and unit directions (M, 2) at arc lengths `s`."""
    where = stations(points)
    query = np.atleast_1d(np.asarray(s, np.float64))
    i = np.minimum(np.maximum(np.searchsorted(where, query, side="right") - 1, 0), len(points) - 2)
    step = points[i + 1] - points[i]
    length = (where[i + 1] - where[i])[:, None]
    along = np.minimum(np.maximum(query, 0.0), where[-1]) - where[i]
    return points[i] + step * (along[:, None] / length), step / length


def cut(points: F64, begin: float, end: float) -> F64:
    """The piece between two arc lengths, with its inner corners."""
    where = stations(points)
    inner = points[(where > begin + 1e-3) & (where < end - 1e-3)]
    ends, _ = at(points, [begin, end])
    return np.vstack([ends[:1], inner, ends[1:]])


def dashes(points: F64, dash: float, gap: float, begin: float, end: float) -> list[F64]:
    """Dashes of length `dash` m between two arc lengths."""
    starts = np.arange(begin, end - dash, dash + gap)
    return [cut(points, float(s), float(s) + dash) for s in starts]


def simplify(points: F64, tolerance: float) -> F64:
    """The polyline with fewer points, nowhere further than `tolerance` m from the original (Douglas-Peucker)."""
    if len(points) < 3:
        return points
    chord = points[-1] - points[0]
    off = points - points[0]
    length = float(np.hypot(*chord))
    distance = np.abs(off[:, 0] * chord[1] - off[:, 1] * chord[0]) / length if length > 1e-6 else np.hypot(*off.T)
    k = int(np.argmax(distance))
    if distance[k] <= tolerance:
        return points[[0, -1]]
    return np.vstack([simplify(points[: k + 1], tolerance)[:-1], simplify(points[k:], tolerance)])
