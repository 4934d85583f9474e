"""The ladder never follows a stale, invalid or missing plan, and brings the car to rest on its path."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.perception.types import CHUNK_NS, NS, EgoState, Plan, Source, Trajectory
from efficientgen.planning.safety import SafetyParams, SafetyState, judge, remember, validate

TIMES = np.arange(1, 7) * 0.5


def ego(stamp_ns: int = 0, speed: float = 8.0, x: float = 0.0, y: float = 0.0, yaw: float = 0.0) -> EgoState:
    return EgoState(stamp_ns, x, y, yaw, speed, 0.0, 0.0, 0.0)


def straight(stamp_ns: int = 0, speed: float = 8.0) -> Plan:
    return Plan(stamp_ns, np.stack([speed * TIMES, 0 * TIMES], 1), TIMES)


def circle(stamp_ns: int = 0, speed: float = 6.0, radius: float = 20.0) -> Plan:
    a = speed * TIMES / radius
    return Plan(stamp_ns, np.stack([radius * np.sin(a), radius * (1 - np.cos(a))], 1), TIMES)


def bent(plan: Plan, k: int, x: float, y: float) -> Plan:
    way = plan.waypoints.copy()
    way[k] = (x, y)
    return replace(plan, waypoints=way)


@pytest.mark.parametrize(
    ("plan", "complaint"),
    [
        (bent(straight(), 2, math.nan, 0), "NaN"),
        (bent(straight(), 2, math.inf, 0), "NaN or infinity"),
        (replace(straight(), waypoints=np.zeros((6, 3))), "shape"),
        (replace(straight(), waypoints=np.zeros((0, 2)), times_s=np.zeros(0)), "shape"),
        (replace(straight(), times_s=np.ones(4)), "shape"),
        (replace(straight(), times_s=TIMES[::-1].copy()), "increase"),
        (replace(straight(), times_s=TIMES - 0.5), "increase"),
        (straight(-NS), "stale"),
        (straight(CHUNK_NS), "future"),
        (replace(straight(), times_s=TIMES / 3.0), "ends after"),
        (bent(straight(), 0, 12.0, 0.0), "out of reach"),
        (bent(straight(), 0, 4.0, 6.0), "out of reach"),
        (bent(straight(), 0, -2.0, 0.0), "out of reach"),
        (straight(speed=0.0), "slow down"),
        (bent(straight(), 5, 50.0, 0.0), "m/s"),
        (bent(bent(straight(), 4, 14.0, 0.0), 5, 12.0, 0.0), "backward"),
        (circle(speed=8.0, radius=4.0), "lateral"),
    ],
)
def test_impossible_plans_are_refused_with_the_reason(plan: Plan, complaint: str):
    assert complaint in validate(plan, ego(), 0)


def test_sound_plans_pass_also_noisy_ones():
    rng = np.random.default_rng(0)
    for speed in (0.0, 0.5, 3.0, 8.0, 14.0):
        for make in (straight, circle):
            if make is circle and speed > 9.0:
                continue  # 20 m radius
            plan = make(speed=speed)
            assert validate(plan, ego(speed=speed), 0) == ""
            for _ in range(30):
                noisy = replace(plan, waypoints=plan.waypoints + rng.normal(0.0, 0.08, plan.waypoints.shape))
                assert validate(noisy, ego(speed=speed), 0) == "", f"{make.__name__} at {speed} m/s"
    braking = 8.0 * np.minimum(TIMES, 1.6) - 2.5 * np.minimum(TIMES, 1.6) ** 2
    assert validate(Plan(0, np.stack([braking, 0 * TIMES], 1), TIMES), ego(), 0) == "", "5 m/s^2 to standstill"
    starting = 0.75 * TIMES**2
    assert validate(Plan(0, np.stack([starting, 0 * TIMES], 1), TIMES), ego(speed=0.0), 0) == ""


def test_ladder_from_top_to_bottom_and_back():
    """Plans stop coming: the last is held up to 1.2 s, then comfortable braking, then standing; a new plan ends it."""
    state, verdict = judge(SafetyState(), straight(), ego(), 0)
    assert verdict.source is Source.NOMINAL and verdict.reason == "" and verdict.plan_age_s == 0.0
    car, seen = ego(), []
    for k in range(1, 16):
        now = k * CHUNK_NS
        car = drive_on(car, verdict.trajectory, now)
        state, verdict = judge(state, None, car, now)
        seen.append(verdict.source)
        assert verdict.stamp_ns == now
        assert verdict.source is not Source.SHIFTED or verdict.plan_age_s < 1.2
        assert abs(car.y) < 0.05, "it stays on the path of the last valid plan"
        assert verdict.reason == "no plan"
    assert seen[:2] == [Source.SHIFTED, Source.SHIFTED]
    assert seen[2] is Source.BRAKE
    assert seen == sorted(seen, key=[Source.SHIFTED, Source.BRAKE, Source.STOP].index) and seen[-1] is Source.STOP
    assert car.speed < 0.1
    now += CHUNK_NS
    state, verdict = judge(state, straight(now, 0.0), replace(car, stamp_ns=now), now)
    assert verdict.source is Source.NOMINAL


def test_an_invalid_plan_is_not_followed_but_the_last_valid_one():
    state, first = judge(SafetyState(), straight(), ego(), 0)
    car = drive_on(ego(), first.trajectory, CHUNK_NS)
    state, verdict = judge(state, bent(straight(CHUNK_NS), 1, math.nan, 0), car, CHUNK_NS)
    assert verdict.source is Source.SHIFTED and "NaN" in verdict.reason
    assert verdict.trajectory is first.trajectory


def test_one_plan_is_fresh_only_once():
    state, _ = judge(SafetyState(), straight(), ego(), 0)
    state, verdict = judge(state, straight(), ego(CHUNK_NS, x=3.2), CHUNK_NS)
    assert verdict.source is Source.SHIFTED and verdict.reason == "no new plan"


def test_a_late_plan_is_anchored_where_the_car_was_when_it_looked():
    state = remember(SafetyState(), ego(0))
    _, verdict = judge(state, straight(0), ego(CHUNK_NS, x=3.2), CHUNK_NS)
    assert verdict.source is Source.NOMINAL and verdict.plan_age_s == pytest.approx(0.4)
    assert verdict.trajectory.stamp_ns == 0
    assert verdict.trajectory.points[0] == pytest.approx((0.0, 0.0))
    _, verdict = judge(SafetyState(), straight(0), ego(CHUNK_NS, x=3.2), CHUNK_NS)
    assert verdict.source.fallback and "no ego state" in verdict.reason


def test_expert_is_marked():
    _, verdict = judge(SafetyState(), straight(), ego(), 0, expert=True)
    assert verdict.source is Source.EXPERT


def test_no_plan_ever_stops_the_car_straight_ahead():
    _, verdict = judge(SafetyState(), None, ego(speed=9.0), 0)
    assert verdict.source is Source.STOP
    points = verdict.trajectory.points
    assert points[-1, 0] == pytest.approx(9.0**2 / (2 * SafetyParams().firm_braking), abs=0.2)
    assert np.abs(points[:, 1]).max() < 1e-9
    _, verdict = judge(SafetyState(), None, ego(speed=0.0), 0)
    assert verdict.source is Source.STOP and np.ptp(verdict.trajectory.points) == 0.0


def test_braking_follows_the_bend_beyond_the_end_of_the_plan():
    """Too fast to stop within the last plan's end, the car goes on round the same circle while the bend decays."""
    params = SafetyParams(comfortable_braking=1.0)
    state, verdict = judge(SafetyState(), circle(speed=6.0, radius=40.0), ego(speed=6.0), 0, params)
    a = 6.0 * 1.6 / 40.0
    car = ego(4 * CHUNK_NS, 6.0, 40 * math.sin(a), 40 * (1 - math.cos(a)), a)
    _, verdict = judge(state, None, car, car.stamp_ns, params)
    assert verdict.source is Source.BRAKE
    points = verdict.trajectory.points
    assert verdict.trajectory.points[0] == pytest.approx((car.x, car.y), abs=1e-6)
    off = np.abs(np.hypot(points[:, 0], points[:, 1] - 40.0) - 40.0)
    assert off[:20].max() < 0.1 and off.max() < 1.75, "inside its lane all the way to standstill"
    speeds = np.hypot(*np.diff(points, axis=0).T)[:-2] / np.diff(verdict.trajectory.times_s)[:-2]
    assert np.diff(speeds) == pytest.approx(-0.1, abs=0.03)


def test_braking_stops_where_a_stopping_plan_would_have():
    """The last plan meant to stop 8 m ahead (a red light): comfortable braking would run past it."""
    t = np.minimum(TIMES, 2.0)
    s = 8.0 * t - 2.0 * t**2
    state, _ = judge(SafetyState(), Plan(0, np.stack([s, 0 * TIMES], 1), TIMES), ego(), 0, SafetyParams())
    _, verdict = judge(state, None, ego(3 * CHUNK_NS, 3.2, 6.72), 3 * CHUNK_NS)
    assert verdict.source is Source.BRAKE
    assert verdict.trajectory.points[-1, 0] == pytest.approx(8.0, abs=0.1)


def drive_on(car: EgoState, trajectory: Trajectory, now_ns: int) -> EgoState:
    """A car that follows its trajectory exactly."""
    t = (now_ns - trajectory.stamp_ns) / NS
    here, before = (
        np.array([np.interp(at, trajectory.times_s, trajectory.points[:, k]) for k in (0, 1)]) for at in (t, t - 0.02)
    )
    return EgoState(now_ns, *here.tolist(), car.yaw, float(np.hypot(*(here - before))) / 0.02, 0.0, 0.0, 0.0)
