"""A plan at other times than the planner answered: the published quintic between its way-points.

Fast-dDrive answers five points, 1 s apart, and its WOD-E2E numbers are computed on 20 points at 4 Hz that a piecewise
quintic lays through them (2605.23163, released scorer): position, velocity and acceleration at each way-point come from
finite differences, the origin included.  The scorer's acceleration at the start has the sign of the first slope minus
the second; it is kept here, because comparable numbers need the same curve.  The curve is linear in the way-points, so
averaging rollouts before or after gives the same.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from efficientgen.perception.types import F64

_SAME_S = 1e-6


class HorizonError(ValueError):
    """A plan that ends before the times that are asked of it."""


class WaypointError(ValueError):
    """Way-points that are not (T, 2) finite numbers at increasing times."""


def resample(
    times_s: ArrayLike, waypoints: ArrayLike, wanted_s: ArrayLike, extrapolate: bool = False
) -> tuple[F64, str]:
    """Way-points at the wanted times, and how they came about: "as answered", "quintic", or that and "last velocity".

    Args:
        times_s: (T,) s, increasing, first > 0.
        waypoints: (T, 2) m in the ego frame at time 0.
        wanted_s: (N,) s.
        extrapolate: past the last way-point go on at the velocity of the last interval.

    Raises:
        HorizonError: the plan ends too early and `extrapolate` is off.
        WaypointError: no proper trajectory.
    """
    times, points = np.asarray(times_s, np.float64), np.asarray(waypoints, np.float64)
    wanted = np.asarray(wanted_s, np.float64)
    if points.ndim != 2 or points.shape[1] != 2 or times.shape != points.shape[:1] or not len(points):
        raise WaypointError(f"a plan is (T, 2) way-points at (T,) times, got {points.shape} at {times.shape}")
    if not np.isfinite(points).all() or not np.isfinite(times).all() or (np.diff(times, prepend=0.0) <= 0).any():
        raise WaypointError("a plan's way-points must be finite, at times that increase from 0")
    late = wanted > times[-1] + _SAME_S
    if late.any() and not extrapolate:
        raise HorizonError(
            f"the plan ends at {times[-1]:g} s, {wanted.max():g} s are asked: allow it to go on at its last velocity "
            "(--extrapolate), or take a planner with that horizon"
        )
    nearest = np.abs(wanted[:, None] - times).argmin(1)
    given = np.abs(wanted - times[nearest]) <= _SAME_S
    out = points[nearest]
    words = ["as answered"]
    between = ~given & ~late
    if between.any():
        out[between] = quintic(times, points, wanted[between])
        words = ["quintic"]
    if late.any():
        before = points[-2] if len(points) > 1 else np.zeros(2)
        since = times[-2] if len(points) > 1 else 0.0
        velocity = (points[-1] - before) / (times[-1] - since)
        out[late] = points[-1] + (wanted[late] - times[-1])[:, None] * velocity
        words.append(f"last velocity after {times[-1]:g} s")
    return out, ", ".join(words)


def quintic(times: F64, points: F64, wanted: F64) -> F64:
    """The curve (N, 2) at `wanted` s within [0, last time]; `points` (T, 2) at `times` (T,) follow the origin."""
    t = np.concatenate([[0.0], times])
    p = np.concatenate([np.zeros((1, 2)), points])
    dt = np.diff(t)[:, None]
    slope = np.diff(p, axis=0) / dt  # (T, 2)
    velocity = np.empty_like(p)
    velocity[0], velocity[-1] = slope[0], slope[-1]
    velocity[1:-1] = (p[2:] - p[:-2]) / (dt[1:] + dt[:-1])
    acceleration = np.zeros_like(p)
    if len(p) > 2:
        bend = 2.0 * np.diff(slope, axis=0) / (dt[1:] + dt[:-1])
        acceleration[1:-1] = bend
        acceleration[0], acceleration[-1] = -bend[0], bend[-1]
    i = np.clip(np.searchsorted(t, wanted, side="right") - 1, 0, len(dt) - 1)
    h, tau = dt[i], (wanted - t[i])[:, None]
    a0, a1, a2 = p[i], velocity[i], acceleration[i] / 2.0
    # What is left of end position, velocity and acceleration, each in units of the interval.
    x = p[i + 1] - (a0 + a1 * h + a2 * h**2)
    v = (velocity[i + 1] - (a1 + 2.0 * a2 * h)) * h
    a = (acceleration[i + 1] - 2.0 * a2) * h**2
    u = tau / h
    rest = (10.0 * x - 4.0 * v + 0.5 * a) + u * ((-15.0 * x + 7.0 * v - a) + u * (6.0 * x - 3.0 * v + 0.5 * a))
    return np.asarray(a0 + a1 * tau + a2 * tau**2 + rest * u**3)
