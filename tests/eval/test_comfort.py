"""Comfort: limits on drives and on plans."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval import comfort as limits
from efficientgen.eval.comfort import comfort, fitted, plan_is_comfortable
from efficientgen.perception.types import EgoState


def states(
    acceleration: np.ndarray | float = 0.0, yaw_rate: np.ndarray | float = 0.0, speed: float = 5.0, n: int = 50
) -> list[EgoState]:
    a, w = np.broadcast_to(acceleration, n), np.broadcast_to(yaw_rate, n)
    return [EgoState(k, 0.0, 0.0, 0.0, speed, float(a[k]), float(w[k]), 0.0) for k in range(n)]


T = np.arange(50) * 0.1


@pytest.mark.parametrize(
    ("name", "limit", "make"),
    [
        ("max_forward", limits.MAX_FORWARD, lambda v: states(v)),
        ("max_braking", limits.MAX_BRAKING, lambda v: states(-v)),
        ("max_lateral", limits.MAX_LATERAL, lambda v: states(yaw_rate=v / 10.0, speed=10.0)),
        ("max_yaw_rate", limits.MAX_YAW_RATE, lambda v: states(yaw_rate=v, speed=1.0)),
    ],
)
def test_each_limit_is_met_just_below_and_missed_just_above(name, limit, make):
    assert getattr(comfort(make(1.0)), name) == pytest.approx(1.0)
    assert comfort(make(0.99 * limit)).share == 1.0 and comfort(make(1.01 * limit)).share == 0.0


def test_jerk_and_yaw_acceleration_limits():
    ramp = np.clip(T - 2.0, 0.0, 0.5)  # half a second of slope 1
    for share_of_limit, comfortable in ((0.9, True), (4.0, False)):
        assert (comfort(states(share_of_limit * limits.MAX_LONGITUDINAL_JERK * ramp)).share == 1.0) is comfortable
        yaw = comfort(states(yaw_rate=share_of_limit * limits.MAX_YAW_ACCELERATION * ramp, speed=0.0))
        assert (yaw.share == 1.0) is comfortable
    got = comfort(states(yaw_rate=0.3 * (T - 2.5), speed=20.0))
    assert got.max_jerk == pytest.approx(6.0) and got.max_yaw_acceleration == pytest.approx(0.3)


def test_the_share_counts_ticks():
    calm, harsh = states(0.0, n=40), states(-6.0, n=10)
    got = comfort(calm + harsh)
    assert 0.6 < got.share < 0.85 and 6.0 <= got.max_braking < 7.0


def test_a_short_drive_has_no_derivatives():
    got = comfort([replace(states()[0], acceleration=1.0)])
    assert got.share == 1.0 and got.max_forward == 1.0 and got.max_jerk == 0.0


def test_fitted_parabolas_are_exact_on_parabolas():
    values = 1.0 - 2.0 * T + 0.5 * T**2
    assert fitted(values, 15) == pytest.approx(values)
    assert fitted(values, 15, derivative=1) == pytest.approx(-2.0 + T)
    assert fitted(values[:4], 15, derivative=1) == pytest.approx(-2.0 + T[:4])


def test_plans():
    x = np.arange(7) * 4.0
    even = np.stack([x, 0 * x, 0 * x], 1)
    assert plan_is_comfortable(even, 0.5)
    for column, values in ((0, [0, 4, 8, 12, 12.5, 12.5, 12.5]), (2, [0, 0.5, 1.0, 1.5, 2.0, 2.5, 3.0])):
        harsh = even.copy()
        harsh[:, column] = values
        assert not plan_is_comfortable(harsh, 0.5)
