"""Plans as NAVSIM drives them: an LQR tracker on a kinematic bicycle for 4 s, all plans of a drive in one batch.

Our own tracker (`planning/tracker.py`) drives the car; this one only judges, so that PDMS means what NAVSIM means by it
(`docs/metrics.md` there; the controller is nuPlan's: Karnchanachari et al. 2024, towards learning-based planning).
Lengthwise the acceleration, held for 1 s, that best reaches the speed wanted then (weights 10 on speed, 1 on effort).
Sideways the steering rate, held for 1 s, that best brings lateral error and heading error to 0 (weights 1 and 10, 1 on
effort), linearised about the wanted speed and curvature.  Speeds and curvatures come from the waypoints by least
squares that punish jerk and jumps of curvature.  Acceleration follows its command with 0.2 s of lag, the wheels with
0.05 s.

NAVSIM's plans all reach 4 s.  One that ends before is judged as far as it goes (`Motion.reach`); that the tracker has
somewhere to look, it is taken to go on at its last speed and curvature.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from efficientgen.eval.plan_deviation import place_at
from efficientgen.perception.types import F64, NS, TICK_NS, EgoState, Trajectory, VehicleParams

TICK_S = TICK_NS / NS
HORIZON_TICKS = 40
LOOK_TICKS = 10  # the tracker looks 1 s ahead
SPEED_WEIGHT, EFFORT_WEIGHT = 10.0, 1.0
LATERAL_WEIGHT, HEADING_WEIGHT = 1.0, 10.0
JERK_PENALTY, CURVATURE_RATE_PENALTY = 1e-4, 1e-2
STOP_SPEED, STOP_GAIN = 0.2, 0.5  # below it a proportional brake; the wheels stay as they are
ACCELERATION_LAG_S, STEERING_LAG_S = 0.2, 0.05
LAST_S = 0.5  # a short plan's last speed and curvature are those over its last half second


@dataclass(frozen=True)
class Motion:
    """How P cars move over K ticks of 0.1 s: rear-axle `pose` (P, K, 3), the rest (P, K), SI units.

    `reach` (P,): the last tick that is judged, at most K - 1.
    """

    pose: F64
    speed: F64
    acceleration: F64
    yaw_rate: F64
    reach: NDArray[np.int64]


def follow_plans(paths: Sequence[Trajectory], egos: Sequence[EgoState], vehicle: VehicleParams | None = None) -> Motion:
    """Each path driven for 4 s from its ego's state: K = 41, the present included.

    Args:
        paths: plans as they would be followed (`plan_deviation.planned_path`), P of them.
        egos: the state that each begins from.
    """
    vehicle = vehicle or VehicleParams()
    wanted = np.stack([_reference(path, ego) for path, ego in zip(paths, egos, strict=True)])  # (P, 41, 3)
    speed, curvature = _profiles(wanted)  # (P, 40) each, of the ticks between
    states = [np.array([(e.x, e.y, e.yaw, e.speed, e.acceleration, e.steering) for e in egos])]  # (P, 6)
    for k in range(HORIZON_TICKS):
        ahead = np.minimum(np.arange(k, k + LOOK_TICKS), HORIZON_TICKS - 1)
        goal = speed[:, min(k + LOOK_TICKS, HORIZON_TICKS - 1)]
        command = _commands(states[-1], wanted[:, k], goal, curvature[:, ahead], vehicle)
        states.append(_bicycle(states[-1], *command, vehicle))
    x, y, yaw, v, a, delta = np.stack(states, 1).transpose(2, 0, 1)  # (6, P, 41)
    reach = np.array([min(HORIZON_TICKS, int(path.times_s[-1] / TICK_S + 1e-6)) for path in paths])
    return Motion(np.stack([x, y, yaw], 2), v, a, v * np.tan(delta) / vehicle.wheelbase, reach)


def _reference(path: Trajectory, ego: EgoState) -> F64:
    """(41, 3) poses of the path at every tick, on a circle after its end; headings along the way, held at rest."""
    t: F64 = np.arange(HORIZON_TICKS + 1, dtype=np.float64) * TICK_S
    points = place_at(path, t)
    inside = int(np.searchsorted(t, float(path.times_s[-1]) + 1e-9))  # ticks that the plan covers
    held = max(1, min(round(LAST_S / TICK_S), (inside - 1) // 2))
    if inside < len(t) and inside > 2 * held:
        one, two = (
            points[inside - 1] - points[inside - 1 - held],
            points[inside - 1 - held] - points[inside - 1 - 2 * held],
        )
        turn = (
            np.arctan2(two[0] * one[1] - two[1] * one[0], two @ one) / held if min(one @ one, two @ two) > 0.01 else 0.0
        )
        k = np.arange(1, len(t) - inside + 1)
        angle = np.arctan2(one[1], one[0]) + turn * (0.5 * (held - 1) + k)
        step = np.hypot(*one) / held * np.stack([np.cos(angle), np.sin(angle)], 1)
        points[inside:] = points[inside - 1] + np.cumsum(step, 0)
    way = np.gradient(points, axis=0)
    yaw, last = np.empty(len(t)), ego.yaw
    for i, (dx, dy) in enumerate(way):
        last = float(np.arctan2(dy, dx)) if np.hypot(dx, dy) > 0.01 else last
        yaw[i] = last
    return np.column_stack([points, np.unwrap(yaw)])


def _profiles(wanted: F64) -> tuple[F64, F64]:
    """Speed and curvature (P, 40) of poses (P, 41, 3): the smoothest that explain the steps between them."""
    step = np.diff(wanted, axis=1)
    along = step[..., 0] * np.cos(wanted[:, :-1, 2]) + step[..., 1] * np.sin(wanted[:, :-1, 2])  # (P, 40)
    n = along.shape[1]
    first = np.diff(np.eye(n), axis=0) / TICK_S  # (39, 40)
    second = np.diff(first, axis=0) / TICK_S  # (38, 40)
    speed = np.linalg.solve(np.eye(n) * TICK_S**2 + JERK_PENALTY * second.T @ second, TICK_S * along.T).T
    swept = speed * TICK_S
    square = np.einsum("pk,kl->pkl", swept**2 + 1e-6, np.eye(n))  # the small term: no curvature where nothing moves
    normal = square + CURVATURE_RATE_PENALTY * first.T @ first
    curvature = np.linalg.solve(normal, (swept * step[..., 2])[..., None])[..., 0]
    return np.asarray(speed, np.float64), np.asarray(curvature, np.float64)


def _commands(state: F64, wanted: F64, goal: F64, curvature: F64, vehicle: VehicleParams) -> tuple[F64, F64]:
    """(acceleration, steering rate), (P,) each, for the next tick."""
    x, y, yaw, v, _, delta = state.T
    look_s = LOOK_TICKS * TICK_S
    acceleration = SPEED_WEIGHT * look_s * (goal - v) / (SPEED_WEIGHT * look_s**2 + EFFORT_WEIGHT)
    standing = (goal <= STOP_SPEED) & (v <= STOP_SPEED)
    acceleration = np.where(standing, STOP_GAIN * (goal - v), acceleration)
    off = np.stack([x, y], 1) - wanted[:, :2]
    e = -off[:, 0] * np.sin(wanted[:, 2]) + off[:, 1] * np.cos(wanted[:, 2])
    psi = np.arctan2(np.sin(yaw - wanted[:, 2]), np.cos(yaw - wanted[:, 2]))
    # The error after 1 s is affine in the constant steering rate u: (e, psi) = free + gain u, by Euler steps.
    gain_e, gain_psi, gain_delta = np.zeros_like(e), np.zeros_like(e), np.zeros_like(e)
    steer = delta.copy()
    for i in range(LOOK_TICKS):
        speed = np.maximum(v + acceleration * i * TICK_S, 0.0)
        e, gain_e = e + TICK_S * speed * psi, gain_e + TICK_S * speed * gain_psi
        psi = psi + TICK_S * speed * (steer / vehicle.wheelbase - curvature[:, i])
        gain_psi = gain_psi + TICK_S * speed * gain_delta / vehicle.wheelbase
        gain_delta = gain_delta + TICK_S
    weight = LATERAL_WEIGHT * gain_e**2 + HEADING_WEIGHT * gain_psi**2 + EFFORT_WEIGHT
    rate = -(LATERAL_WEIGHT * gain_e * e + HEADING_WEIGHT * gain_psi * psi) / weight
    return acceleration, np.where(standing, 0.0, rate)


def _bicycle(state: F64, acceleration: F64, rate: F64, vehicle: VehicleParams) -> F64:
    """One tick of the kinematic bicycle with lagging pedals and wheels; the car does not reverse."""
    x, y, yaw, v, a, delta = state.T
    a = a + TICK_S / (TICK_S + ACCELERATION_LAG_S) * (acceleration - a)
    turn = TICK_S / (TICK_S + STEERING_LAG_S) * rate * TICK_S
    steer = np.clip(delta + turn, -vehicle.max_steering, vehicle.max_steering)
    return np.stack(
        [
            x + TICK_S * v * np.cos(yaw),
            y + TICK_S * v * np.sin(yaw),
            yaw + TICK_S * v * np.tan(delta) / vehicle.wheelbase,
            np.maximum(v + TICK_S * a, 0.0),
            a,
            steer,
        ],
        1,
    )
