"""NAVSIM's tracker on the bicycle: it goes where it is told, and each command is the best one by its own cost."""

from __future__ import annotations

import math

import numpy as np
import pytest

from efficientgen.eval.pdm_rollout import _bicycle, _commands, follow_plans
from efficientgen.perception.types import EgoState, Trajectory, VehicleParams

CAR = VehicleParams()


def ego(speed: float, y: float = 0.0, curvature: float = 0.0) -> EgoState:
    return EgoState(0, 0.0, y, 0.0, speed, 0.0, speed * curvature, math.atan(CAR.wheelbase * curvature))


def arc(speed: float, curvature: float, seconds: float = 4.0, rate: float = 0.0) -> Trajectory:
    """From the origin along +x, at a speed that grows by `rate` m/s^2 until it would reverse."""
    t = np.append(np.arange(0.0, seconds - 1e-6, 0.1), seconds)
    stop = t if rate >= 0 else np.minimum(t, -speed / rate)
    s = speed * stop + 0.5 * rate * stop**2
    if curvature == 0.0:
        return Trajectory(0, np.stack([s, 0 * s], 1), t)
    return Trajectory(0, np.stack([np.sin(curvature * s), 1 - np.cos(curvature * s)], 1) / curvature, t)


def test_straight_on_it_stays_on_the_line():
    got = follow_plans([arc(8.0, 0.0)], [ego(8.0)])
    assert got.pose.shape == (1, 41, 3) and got.reach.tolist() == [40]
    assert np.abs(got.pose[0, :, 1:]).max() < 1e-9
    assert got.pose[0, -1, 0] == pytest.approx(32.0, abs=0.05)


@pytest.mark.parametrize("curvature", [0.05, -0.05, 0.1])
def test_round_a_bend_it_ends_near_the_plan(curvature: float):
    plan = arc(6.0, curvature)
    got = follow_plans([plan], [ego(6.0, curvature=curvature)])
    assert np.hypot(*(got.pose[0, -1, :2] - plan.points[-1])) < 0.8
    assert got.yaw_rate[0, 20:].mean() == pytest.approx(6.0 * curvature, rel=0.15)


def test_it_comes_back_to_the_line():
    got = follow_plans([arc(8.0, 0.0)], [ego(8.0, y=0.5)])
    assert abs(got.pose[0, -1, 1]) < 0.1 and np.abs(got.pose[0, :, 1]).max() <= 0.5 + 1e-9


def test_braking_it_stops_and_never_reverses():
    got = follow_plans([arc(6.0, 0.0, rate=-3.0)], [ego(6.0)])
    assert got.speed[0, -1] < 0.3 and got.speed.min() >= 0.0 and (np.diff(got.pose[0, :, 0]) >= 0).all()


def test_left_and_right_are_alike_and_plans_do_not_mind_each_other():
    both = follow_plans([arc(7.0, 0.06), arc(7.0, -0.06)], [ego(7.0), ego(7.0)])
    left, right = both.pose
    assert np.allclose(left, right * [1, -1, -1], atol=1e-9)
    assert np.allclose(follow_plans([arc(7.0, 0.06)], [ego(7.0)]).pose[0], left, atol=1e-9)


def test_a_plan_of_three_seconds_is_judged_for_three_and_goes_on_as_it_ended():
    got = follow_plans([arc(6.0, 0.05, 3.0), arc(6.0, 0.05)], [ego(6.0), ego(6.0)])
    assert got.reach.tolist() == [30, 40]
    assert np.hypot(*(got.pose[0, 30, :2] - got.pose[1, 30, :2])) < 0.02


def test_the_steering_rate_minimises_the_cost_that_it_claims_to():
    """Against brute force: simulate the linearised error for many constant rates and take the cheapest."""
    state = np.array([[0.0, 0.4, -0.1, 6.0, 0.0, 0.05]])
    wanted, goal, curvature = np.zeros((1, 3)), np.array([7.0]), np.full((1, 10), 0.02)
    acceleration, rate = _commands(state, wanted, goal, curvature, CAR)
    assert acceleration[0] == pytest.approx(10 / 11 * (7.0 - 6.0))

    def cost(u: float) -> float:
        e, psi, delta = 0.4, -0.1, 0.05
        for i in range(10):
            v = 6.0 + acceleration[0] * 0.1 * i
            e, psi, delta = e + 0.1 * v * psi, psi + 0.1 * v * (delta / CAR.wheelbase - 0.02), delta + 0.1 * u
        return e**2 + 10 * psi**2 + u**2

    rates = np.linspace(-2, 2, 4001)
    assert rate[0] == pytest.approx(rates[np.argmin([cost(u) for u in rates])], abs=1e-3)


def test_pedals_and_wheels_lag():
    after = _bicycle(np.array([[0.0, 0.0, 0.0, 5.0, 0.0, 0.0]]), np.array([3.0]), np.array([0.6]), CAR)[0]
    assert after[4] == pytest.approx(3.0 * 0.1 / 0.3) and after[5] == pytest.approx(0.06 * 0.1 / 0.15)
    assert after[3] == pytest.approx(5.1) and after[0] == pytest.approx(0.5) and math.isclose(after[2], 0.0)
