"""Comfort: NAVSIM's limits on what passengers feel, on the drive as driven and on plans as planned.

Limits are those of NAVSIM's history comfort (`docs/metrics.md` there; they come from nuPlan), with derivatives by local
least-squares parabolas (Savitzky and Golay 1964) as in both.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64, NS, TICK_NS, EgoState

MAX_LATERAL = 4.89  # m/s^2
MAX_FORWARD = 2.40  # m/s^2
MAX_BRAKING = 4.05  # m/s^2
MAX_JERK = 8.37  # m/s^3, of the acceleration vector
MAX_LONGITUDINAL_JERK = 4.13  # m/s^3
MAX_YAW_RATE = 0.95  # rad/s
MAX_YAW_ACCELERATION = 1.93  # rad/s^2
ACCELERATION_WINDOW = 7  # ticks of 0.1 s
JERK_WINDOW = 15
TICK_S = TICK_NS / NS


@dataclass(frozen=True)
class Comfort:
    """Share of ticks within all limits, and the largest value of each."""

    share: float
    max_forward: float
    max_braking: float
    max_lateral: float
    max_jerk: float
    max_longitudinal_jerk: float
    max_yaw_rate: float
    max_yaw_acceleration: float


def comfort(egos: Sequence[EgoState]) -> Comfort:
    """Comfort of a drive whose states are one tick (0.1 s) apart (NAVSIM HC, here as a share of ticks).

    Longitudinal acceleration is smoothed over 0.7 s; lateral acceleration is speed times yaw rate; jerk and yaw
    acceleration are derivatives over 1.5 s, as NAVSIM's.
    """
    felt = _felt(*np.array([(ego.speed, ego.acceleration, ego.yaw_rate) for ego in egos], np.float64).T)
    return Comfort(
        share=float(_within(felt).mean()),
        max_forward=max(0.0, float(felt.along.max())),
        max_braking=max(0.0, float(-felt.along.min())),
        max_lateral=float(np.abs(felt.lateral).max()),
        max_jerk=float(felt.jerk.max()),
        max_longitudinal_jerk=float(np.abs(felt.jerk_along).max()),
        max_yaw_rate=float(np.abs(felt.yaw_rate).max()),
        max_yaw_acceleration=float(np.abs(felt.yaw_acceleration).max()),
    )


def motion_is_comfortable(speed: F64, acceleration: F64, yaw_rate: F64) -> bool:
    """Whether every tick of a motion, (K,) each at 0.1 s, stays within all limits, by the filters of `comfort`."""
    return bool(_within(_felt(speed, acceleration, yaw_rate)).all())


@dataclass(frozen=True)
class _Felt:
    """What passengers feel, filtered, (K,) each."""

    along: F64
    lateral: F64
    jerk: F64
    jerk_along: F64
    yaw_rate: F64
    yaw_acceleration: F64


def _felt(speed: F64, acceleration: F64, yaw_rate: F64) -> _Felt:
    jerk_along = fitted(acceleration, JERK_WINDOW, derivative=1)
    return _Felt(
        along=fitted(acceleration, ACCELERATION_WINDOW),
        lateral=fitted(speed * yaw_rate, ACCELERATION_WINDOW),
        jerk=np.hypot(jerk_along, fitted(speed * yaw_rate, JERK_WINDOW, derivative=1)),
        jerk_along=jerk_along,
        yaw_rate=yaw_rate,
        yaw_acceleration=fitted(yaw_rate, JERK_WINDOW, derivative=1),
    )


def _within(felt: _Felt) -> np.ndarray:
    return np.asarray(
        (felt.along <= MAX_FORWARD)
        & (felt.along >= -MAX_BRAKING)
        & (np.abs(felt.lateral) <= MAX_LATERAL)
        & (felt.jerk <= MAX_JERK)
        & (np.abs(felt.jerk_along) <= MAX_LONGITUDINAL_JERK)
        & (np.abs(felt.yaw_rate) <= MAX_YAW_RATE)
        & (np.abs(felt.yaw_acceleration) <= MAX_YAW_ACCELERATION)
    )


def plan_is_comfortable(path: F64, dt: float) -> bool:
    """Whether a planned path, poses (K, 3) of x, y, yaw at equal steps of `dt` s, stays within all limits.

    HUGSIM's C: plain differences, longitudinal jerk up to 8.37; its constant for forward acceleration is applied here
    as named (its code compares with the lateral one), and lateral acceleration is speed times yaw rate (it has none).
    """
    speed = np.hypot(*np.diff(path[:, :2], axis=0).T) / dt
    yaw_rate = np.diff(np.unwrap(path[:, 2])) / dt
    acceleration = np.diff(speed) / dt
    return bool(
        (acceleration <= MAX_FORWARD).all()
        and (acceleration >= -MAX_BRAKING).all()
        and (np.abs(speed * yaw_rate) <= MAX_LATERAL).all()
        and (np.abs(np.diff(acceleration) / dt) <= MAX_JERK).all()
        and (np.abs(yaw_rate) <= MAX_YAW_RATE).all()
        and (np.abs(np.diff(yaw_rate) / dt) <= MAX_YAW_ACCELERATION).all()
    )


def fitted(values: F64, window: int, derivative: int = 0) -> F64:
    """Each value (or its time derivative) from the parabola that fits the `window` ticks around it best: (N,).

    Near the ends, and in short series, the window keeps within the series and the parabola is read off its middle.
    """
    n = len(values)
    window = min(window, n)
    if window < 3:
        return np.zeros(n) if derivative else np.asarray(values, np.float64)
    t = np.arange(window) * TICK_S
    solve = np.linalg.pinv(np.stack([np.ones(window), t, t * t], 1))  # (3, window)
    start = np.clip(np.arange(n) - window // 2, 0, n - window)
    c = np.lib.stride_tricks.sliding_window_view(np.asarray(values, np.float64), window)[start] @ solve.T  # (N, 3)
    at = (np.arange(n) - start) * TICK_S
    return c[:, 1] + 2 * c[:, 2] * at if derivative else c[:, 0] + c[:, 1] * at + c[:, 2] * at * at
