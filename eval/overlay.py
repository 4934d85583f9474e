"""The followed trajectory as a ribbon on the road of each camera picture."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from efficientgen.eval.canvas import ROLLOUT, Colour, fill, stroke
from efficientgen.perception.rig import project
from efficientgen.perception.types import F64, CameraFrame, EgoState, Trajectory

BUMPER_M = 4.0  # the ribbon starts ahead of the car's nose
HALF_WIDTH_M = 0.85
_NEAR_M = 0.4  # in front of the camera


def remaining(trajectory: Trajectory, stamp_ns: int) -> F64:
    """The part of a trajectory after `stamp_ns`: (M, 2) m in `map`, M >= 1."""
    now = (stamp_ns - trajectory.stamp_ns) * 1e-9
    here = [np.interp(now, trajectory.times_s, trajectory.points[:, k]) for k in (0, 1)]
    return np.vstack([here, trajectory.points[trajectory.times_s > now + 1e-9]])


def to_ego(points: F64, ego: EgoState) -> F64:
    """Map points (N, 2) m in the ego frame."""
    c, s = math.cos(ego.yaw), math.sin(ego.yaw)
    return (np.asarray(points, np.float64) - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]])


def to_map(points: F64, ego: EgoState) -> F64:
    """Ego-frame points (N, 2) m in `map`."""
    c, s = math.cos(ego.yaw), math.sin(ego.yaw)
    return np.asarray(points, np.float64) @ np.array([[c, s], [-s, c]]) + (ego.x, ego.y)


def draw_path(
    image: Image.Image, camera: CameraFrame, path: F64, ego: EgoState, colour: Colour, rollouts: Sequence[F64] = ()
) -> None:
    """Blend a path (M, 2) m of `map` into `image`, the picture of `camera` at any magnification, in place."""
    zoom = image.width / camera.image.shape[1]
    line = _even(to_ego(path, ego))
    if line is not None:
        _draw_ribbon(image, camera, line, zoom, colour)
    for rollout in rollouts:
        for piece in _visible(_even(to_ego(rollout, ego)), camera):
            stroke(image, _scaled(np.clip(piece * zoom, -400.0, 2.0 * max(image.size)), 1.0), 1.3, ROLLOUT, 0.75)


def _draw_ribbon(image: Image.Image, camera: CameraFrame, line: F64, zoom: float, colour: Colour) -> None:
    left, right = _ribbon_line(line, HALF_WIDTH_M), _ribbon_line(line, -HALF_WIDTH_M)
    pl, dl = _project(left, camera)
    pr, dr = _project(right, camera)
    good = (dl > _NEAR_M) & (dr > _NEAR_M)
    for run in _runs(good):
        outline = np.vstack([pl[run], pr[run][::-1]]) * zoom
        if outline[:, 0].max() < 0 or outline[:, 0].min() > image.width:
            continue
        outline = np.clip(outline, -400.0, 2.0 * max(image.size) + 400.0)
        fill(image, _scaled(outline, 1.0), colour, 0.42)
        for edge in (pl[run], pr[run]):
            stroke(image, _scaled(np.clip(edge * zoom, -400.0, 2.0 * max(image.size)), 1.0), 2.0, colour, 0.95)


def _even(line: F64) -> F64 | None:
    """Resampled every 0.5 m from the bumper on; None when nothing lies ahead of it."""
    steps = np.hypot(*np.diff(line, axis=0).T)
    keep = np.concatenate([[True], steps > 1e-3])
    line = line[keep]
    if len(line) < 2:
        return None
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(line, axis=0).T))])
    at = np.arange(BUMPER_M, arc[-1], 0.5)
    if len(at) < 2:
        return None
    return np.stack([np.interp(at, arc, line[:, k]) for k in (0, 1)], 1)


def _ribbon_line(line: F64, offset: float) -> F64:
    tangent = np.gradient(line, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    return line + offset * np.stack([-tangent[:, 1], tangent[:, 0]], 1)


def _project(line: F64, camera: CameraFrame) -> tuple[F64, F64]:
    ground = np.concatenate([line, np.zeros((len(line), 1))], axis=1)
    return project(ground, camera.intrinsics, camera.camera_to_ego)


def _visible(line: F64 | None, camera: CameraFrame) -> list[F64]:
    if line is None:
        return []
    pixels, depth = _project(line, camera)
    return [pixels[run] for run in _runs(depth > _NEAR_M)]


def _runs(good: np.ndarray) -> list[slice]:
    """Maximal runs of True with at least two members."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True) if b - a >= 2]


def _scaled(points: F64, zoom: float) -> list[tuple[float, float]]:
    scaled = points * zoom
    return list(zip(scaled[:, 0].tolist(), scaled[:, 1].tolist(), strict=True))
