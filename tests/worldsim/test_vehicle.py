"""The bicycle model behaves like a car: circles, limits, no reversing, reproducible numbers."""

import math
from dataclasses import astuple

import pytest

from efficientgen.perception.types import EgoState, VehicleParams
from efficientgen.worldsim.vehicle import advance, wrapped

CAR = VehicleParams()


def state(speed: float = 0.0, steering: float = 0.0, yaw: float = 0.0) -> EgoState:
    return EgoState(0, 0.0, 0.0, yaw, speed, 0.0, 0.0, steering)


def test_constant_steering_drives_a_circle_of_the_bicycles_radius() -> None:
    steering = 0.3
    radius = CAR.wheelbase / math.tan(steering)
    ego = state(speed=5.0, steering=steering)
    for _ in range(800):
        ego = advance(ego, 0.0, steering, 10_000_000)
        assert math.hypot(ego.x, ego.y - radius) == pytest.approx(radius, rel=2e-4)
    assert ego.yaw_rate == pytest.approx(5.0 / radius, rel=1e-6)


def test_braking_stops_and_never_reverses() -> None:
    ego = state(speed=8.0)
    for _ in range(300):
        ego = advance(ego, -4.0, 0.0, 10_000_000)
        assert ego.speed >= 0.0
    assert ego.speed == 0.0 and ego.acceleration == 0.0
    assert ego.x == pytest.approx(8.0**2 / (2 * 4.0), rel=1e-2)


def test_limits_of_steering_rate_and_acceleration() -> None:
    ego = advance(state(speed=5.0), 100.0, 9.0, 100_000_000)
    assert ego.steering == pytest.approx(CAR.max_steering_rate * 0.1)
    assert ego.speed == pytest.approx(5.0 + CAR.max_acceleration * 0.1)
    for _ in range(20):
        ego = advance(ego, -100.0, 9.0, 100_000_000)
    assert ego.steering == pytest.approx(CAR.max_steering)


def test_one_long_step_equals_many_short_ones() -> None:
    long = advance(state(speed=6.0), 1.0, 0.2, 100_000_000)
    short = state(speed=6.0)
    for _ in range(10):
        short = advance(short, 1.0, 0.2, 10_000_000)
    assert astuple(long) == pytest.approx(astuple(short), abs=1e-7)
    assert long.stamp_ns == short.stamp_ns == 100_000_000


def test_state_survives_a_quaternion() -> None:
    """Yaw -> (z, w) of a quaternion -> yaw, rounded as the state is, is the same number, also next to +-pi."""
    for yaw in (0.0, 1.0, -2.5, math.pi, -math.pi, 3.141592653, 17.0, math.pi - 4e-10):
        kept = wrapped(yaw)
        assert -math.pi < kept < math.pi
        back = 2 * math.atan2(math.sin(kept / 2), math.cos(kept / 2))
        assert round(back, 9) == kept


def test_every_number_is_rounded() -> None:
    ego = advance(state(speed=7.123456789123, yaw=0.3), 1.23456789123, 0.111111111111, 100_000_000)
    assert all(value == round(value, 9) for value in astuple(ego))


def test_refuses_numbers_that_are_not_finite() -> None:
    with pytest.raises(ValueError, match="cannot advance"):
        advance(state(), math.nan, 0.0, 10_000_000)
