"""From a plan to pedals and wheel: anchor the plan's waypoints in the map, then track them at 100 Hz.

Both are pure functions.  `anchor` runs once per plan: it lays a smooth path through the waypoints, tangent to the car,
and times it by monotone cubic interpolation that starts at the car's speed (Fritsch and Carlson 1980).  `track` runs
every 10 ms: pure pursuit on that path (Coulter 1992) and, lengthwise, the constant acceleration that puts the car where
the trajectory is a preview time later.  Waypoints that collapse to a point mean: stop and hold.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64, EgoState, Plan, Trajectory, VehicleParams

ANCHOR_STEP_S = 0.1
MIN_STEP_M = 0.6  # waypoints closer than this to the last one give no direction
HOLD_M = 0.2  # less way to go than this at walking pace: stand still
HOLD_BRAKING = 3.0


@dataclass(frozen=True)
class TrackerParams:
    """Gains of `track`; lengths in m, times in s."""

    vehicle: VehicleParams = VehicleParams()
    preview_s: float = 0.7  # lengthwise
    lookahead_base: float = 1.3  # m + s * speed, clipped
    lookahead_s: float = 0.4
    lookahead_min: float = 2.4
    lookahead_max: float = 7.0


def anchor(plan: Plan, ego_at_stamp: EgoState) -> Trajectory:
    """The plan as a dense trajectory in `map`, one point per `ANCHOR_STEP_S`, the first at the rear axle.

    Args:
        plan: waypoints (T, 2) m in the ego frame at `plan.stamp_ns`.
        ego_at_stamp: the ego at `plan.stamp_ns`.

    Raises:
        ValueError: shapes that disagree, times that do not increase from above 0, or numbers that are not finite.
    """
    waypoints, times = np.asarray(plan.waypoints, np.float64), np.asarray(plan.times_s, np.float64)
    if waypoints.ndim != 2 or waypoints.shape[1:] != (2,) or times.shape != waypoints.shape[:1] or not len(times):
        raise ValueError(f"a plan needs waypoints (T, 2) and times (T,), got {waypoints.shape} and {times.shape}")
    if not (np.isfinite(waypoints).all() and np.isfinite(times).all() and (np.diff(times, prepend=0.0) > 0).all()):
        raise ValueError("a plan's waypoints must be finite and its times finite, increasing and above 0")
    path, s_knots = _path(waypoints)
    t_knots = np.concatenate([[0.0], times])
    t = np.append(np.arange(0.0, times[-1] - 1e-6, ANCHOR_STEP_S), times[-1])
    s = _monotone(t_knots, s_knots, max(0.0, ego_at_stamp.speed), t)
    local = path(s)  # (M, 2)
    cos, sin = math.cos(ego_at_stamp.yaw), math.sin(ego_at_stamp.yaw)
    points = local @ np.array([[cos, sin], [-sin, cos]]) + [ego_at_stamp.x, ego_at_stamp.y]
    return Trajectory(plan.stamp_ns, points, t)


def track(trajectory: Trajectory, ego: EgoState, params: TrackerParams | None = None) -> tuple[float, float]:
    """(acceleration m/s^2, steering rad) for the next 10 ms; the vehicle's own limits are left to the vehicle."""
    p = params or TrackerParams()
    points, times = trajectory.points, trajectory.times_s
    steps = np.diff(points, axis=0)
    lengths = np.sqrt((steps**2).sum(1))
    s_points = np.concatenate([[0.0], np.cumsum(lengths)])
    s_ego = _project(points, steps, lengths, s_points, ego)
    now = (ego.stamp_ns - trajectory.stamp_ns) * 1e-9
    acceleration = _lengthwise(times, s_points, now, s_ego, ego.speed, p)
    return acceleration, _steering(points, steps, lengths, s_points, s_ego, ego, p)


# --- anchor's helpers -------------------------------------------------------------------------------------------------


def _path(waypoints: F64) -> tuple[Callable[[F64], F64], F64]:
    """A C1 path from the origin along +x through the waypoints, and the arc length (T + 1,) of every waypoint on it.

    Waypoints that give no direction (closer than `MIN_STEP_M` to the last used one, or behind it) only slow it down.
    """
    knots, s_knots, s_way = [np.zeros(2)], [0.0], [0.0]
    direction = np.array([1.0, 0.0])
    for waypoint in waypoints:
        step = waypoint - knots[-1]
        ahead = float(step @ direction)
        if ahead > 0 and float(step @ step) >= MIN_STEP_M**2:
            size = float(np.hypot(*step))
            direction = step / size
            knots.append(waypoint)
            s_knots.append(s_knots[-1] + size)
            s_way.append(s_knots[-1])
        else:
            s_way.append(max(s_way[-1], s_knots[-1] + max(0.0, ahead)))
    xy, s = np.array(knots), np.array(s_knots)
    if len(xy) == 1:
        tangents = np.array([[1.0, 0.0]])
    else:
        chords = np.diff(xy, axis=0) / np.diff(s)[:, None]
        ds = np.diff(s)[:, None]
        inner = (chords[:-1] * ds[1:] + chords[1:] * ds[:-1]) / (ds[1:] + ds[:-1])
        tangents = np.vstack([[[1.0, 0.0]], inner, 2 * chords[-1:] - (inner[-1:] if len(inner) else [[1.0, 0.0]])])

    def at(where: F64) -> F64:
        """Cubic Hermite between the knots, straight on after the last."""
        k = np.clip(np.searchsorted(s, where, "right") - 1, 0, max(0, len(s) - 2))
        if len(s) == 1:
            return where[:, None] * tangents[0]
        h = (s[k + 1] - s[k])[:, None]
        u = np.minimum((where[:, None] - s[k][:, None]) / h, 1.0)
        out = (
            (2 * u**3 - 3 * u**2 + 1) * xy[k]
            + (u**3 - 2 * u**2 + u) * h * tangents[k]
            + (3 * u**2 - 2 * u**3) * xy[k + 1]
            + (u**3 - u**2) * h * tangents[k + 1]
        )
        end = tangents[-1] / np.hypot(*tangents[-1])
        return out + np.maximum(where - s[-1], 0.0)[:, None] * end

    return at, np.array(s_way)


def _monotone(t_knots: F64, s_knots: F64, speed: float, t: F64) -> F64:
    """Monotone cubic interpolation of s(t) that starts with `speed` where the waypoints allow."""
    h, slope = np.diff(t_knots), np.diff(s_knots) / np.diff(t_knots)
    rate = np.zeros(len(t_knots))
    both = slope[:-1] * slope[1:] > 0
    mean = (slope[:-1] * h[1:] + slope[1:] * h[:-1]) / (h[1:] + h[:-1])
    rate[1:-1] = np.where(both, np.minimum(mean, 3 * np.minimum(slope[:-1], slope[1:])), 0.0)
    rate[0] = min(speed, 3 * slope[0])
    rate[-1] = min(max(0.0, 1.5 * slope[-1] - 0.5 * rate[-2]), 3 * slope[-1])
    k = np.clip(np.searchsorted(t_knots, t, "right") - 1, 0, len(h) - 1)
    u = (t - t_knots[k]) / h[k]
    return (
        (2 * u**3 - 3 * u**2 + 1) * s_knots[k]
        + (u**3 - 2 * u**2 + u) * h[k] * rate[k]
        + (3 * u**2 - 2 * u**3) * s_knots[k + 1]
        + (u**3 - u**2) * h[k] * rate[k + 1]
    )


# --- track's helpers --------------------------------------------------------------------------------------------------


def _project(points: F64, steps: F64, lengths: F64, s_points: F64, ego: EgoState) -> float:
    """Arc length of the place on the path nearest to the rear axle (may exceed the end while rolling past it)."""
    offset = np.array([ego.x, ego.y]) - points[:-1]
    squared = np.maximum(lengths**2, 1e-12)
    share = (offset * steps).sum(1) / squared
    clipped = np.clip(share, 0.0, 1.0)
    k = int(((offset - clipped[:, None] * steps) ** 2).sum(1).argmin())
    return float(s_points[k] + clipped[k] * lengths[k])


def _lengthwise(times: F64, s_points: F64, now: float, s_ego: float, speed: float, p: TrackerParams) -> float:
    end = float(s_points[-1])
    to_go = end - s_ego
    resting = float(np.interp(now + p.preview_s, times, s_points)) >= end - 0.02
    if to_go < HOLD_M and (speed < 1.5 or resting):
        return -max(HOLD_BRAKING, speed**2 / (2 * max(to_go, 0.3)))
    if resting and speed**2 > 0.6 * to_go:  # the trajectory comes to rest: stop exactly at its end
        return -(speed**2) / (2 * to_go)
    ahead = float(np.interp(now + p.preview_s, times, s_points)) - s_ego
    return 2 * (ahead - speed * p.preview_s) / p.preview_s**2


def _steering(
    points: F64, steps: F64, lengths: F64, s_points: F64, s_ego: float, ego: EgoState, p: TrackerParams
) -> float:
    reach = min(max(p.lookahead_base + p.lookahead_s * ego.speed, p.lookahead_min), p.lookahead_max)
    wanted = s_ego + reach
    target = np.array([np.interp(wanted, s_points, points[:, i]) for i in (0, 1)])
    if wanted > s_points[-1]:  # straight on beyond the end
        behind = max(0.0, float(s_points[-1]) - 1.0)
        chord = points[-1] - [np.interp(behind, s_points, points[:, i]) for i in (0, 1)]
        size = float(np.hypot(*chord))
        heading = chord / size if size > 0.1 else np.array([math.cos(ego.yaw), math.sin(ego.yaw)])
        target = points[-1] + (wanted - s_points[-1]) * heading
    dx, dy = target - [ego.x, ego.y]
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    forward, left = cos * dx + sin * dy, -sin * dx + cos * dy
    curvature = 2 * left / max(forward**2 + left**2, 0.25)
    # A path of decimetres says little about direction: trust the wheel as it stands.
    trust = min(1.0, float(s_points[-1] - s_ego) / p.lookahead_min) ** 3
    held = math.tan(ego.steering) / p.vehicle.wheelbase
    return math.atan(p.vehicle.wheelbase * (trust * curvature + (1 - trust) * held))
