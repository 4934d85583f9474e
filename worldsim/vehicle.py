"""The ego vehicle: a kinematic bicycle about the rear axle (Rajamani, Vehicle Dynamics and Control, section 2.2).

Slip-free and therefore good for town speeds.  Acceleration, steering angle and steering rate are limited, the car never
reverses, and every number of the state is rounded to 1e-9 so that a message round trip restores it bit by bit.
"""

from __future__ import annotations

import math

from efficientgen.perception.types import EgoState, VehicleParams

SUBSTEP_NS = 10_000_000
_DIGITS = 9


def advance(
    state: EgoState, acceleration: float, steering: float, dt_ns: int, params: VehicleParams | None = None
) -> EgoState:
    """The state `dt_ns` later under constant commands.

    Args:
        acceleration: asked for, m/s^2; clipped to the car's limits.  At standstill braking does nothing.
        steering: road-wheel angle to turn to, rad; approached at the car's steering rate.

    Raises:
        ValueError: a command that is not finite, or a negative `dt_ns`.
    """
    if not (math.isfinite(acceleration) and math.isfinite(steering)) or dt_ns < 0:
        raise ValueError(f"cannot advance by {dt_ns} ns with acceleration {acceleration}, steering {steering}")
    p = params or VehicleParams()
    wanted = min(max(acceleration, -p.max_braking), p.max_acceleration)
    target = min(max(steering, -p.max_steering), p.max_steering)
    x, y, yaw, v, delta = state.x, state.y, state.yaw, state.speed, state.steering
    left, actual = dt_ns, state.acceleration
    while left > 0:
        dt = min(left, SUBSTEP_NS) * 1e-9
        left -= SUBSTEP_NS
        reach = p.max_steering_rate * dt
        delta += min(max(target - delta, -reach), reach)
        moved = max(0.0, v + wanted * dt)
        actual = (moved - v) / dt
        mean = 0.5 * (v + moved)
        turn = mean * math.tan(delta) / p.wheelbase * dt
        x += mean * math.cos(yaw + 0.5 * turn) * dt
        y += mean * math.sin(yaw + 0.5 * turn) * dt
        yaw += turn
        v = moved
    return EgoState(
        stamp_ns=state.stamp_ns + dt_ns,
        x=_rounded(x),
        y=_rounded(y),
        yaw=wrapped(yaw),
        speed=_rounded(v),
        acceleration=_rounded(actual),
        yaw_rate=_rounded(v * math.tan(delta) / p.wheelbase),
        steering=_rounded(delta),
    )


def wrapped(yaw: float) -> float:
    """An angle in (-pi, pi), rounded as the state is; never +-pi itself, whose sign a quaternion forgets."""
    out = _rounded(math.remainder(yaw, math.tau))
    return out if abs(out) <= 3.141592653 else math.copysign(3.141592653, out)


def _rounded(value: float) -> float:
    return round(value, _DIGITS) + 0.0  # no negative zero
