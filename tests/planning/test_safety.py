"""The ladder never follows a stale, invalid or missing plan, and brings the car to rest on its path."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.perception.types import CHUNK_NS, NS, EgoState, Plan, Source, Trajectory
from efficientgen.planning.safety import Reason, SafetyParams, SafetyState, judge, remember, validate

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
    ("plan", "reason"),
    [
        (bent(straight(), 2, math.nan, 0), Reason.NOT_FINITE),
        (bent(straight(), 2, math.inf, 0), Reason.NOT_FINITE),
        (replace(straight(), waypoints=np.zeros((6, 3))), Reason.MALFORMED),
        (replace(straight(), waypoints=np.zeros((0, 2)), times_s=np.zeros(0)), Reason.MALFORMED),
        (replace(straight(), times_s=np.ones(4)), Reason.MALFORMED),
        (replace(straight(), times_s=TIMES[::-1].copy()), Reason.MALFORMED),
        (replace(straight(), times_s=TIMES - 0.5), Reason.MALFORMED),
        (straight(-NS), Reason.STALE),
        (straight(CHUNK_NS), Reason.FUTURE),
        (replace(straight(), times_s=TIMES / 3.0), Reason.SHORT),
        (bent(straight(), 0, 12.0, 0.0), Reason.UNREACHABLE),
        (bent(straight(), 0, 4.0, 6.0), Reason.UNREACHABLE),
        (bent(straight(), 0, -2.0, 0.0), Reason.UNREACHABLE),
        (replace(straight(), waypoints=straight().waypoints + (0.0, 2.5)), Reason.UNREACHABLE),
        (straight(speed=0.0), Reason.UNREACHABLE),
        (bent(straight(), 5, 50.0, 0.0), Reason.SPEED),
        (bent(bent(straight(), 4, 14.0, 0.0), 5, 12.0, 0.0), Reason.BACKWARD),
        (bent(bent(bent(bent(straight(), 2, 8.0, 4.0), 3, 8.0, 8.0), 4, 8.0, 12.0), 5, 8.0, 16.0), Reason.LATERAL),
        (bent(straight(speed=7.0), 5, 28.0, 0.0), Reason.ACCELERATION),
    ],
)
def test_impossible_plans_are_refused_with_the_reason(plan: Plan, reason: Reason):
    assert Reason.of(validate(plan, ego(), 0)) is reason


def test_a_starting_car_cannot_go_sideways():
    """At standstill there is no speed to judge a bend by: the turning circle does it (a plan in the wrong axes)."""
    ahead = Plan(0, np.stack([0.9 * TIMES**2, 0.0 * TIMES], 1), TIMES)
    assert validate(ahead, ego(speed=0.0), 0) == ""
    tight = circle(speed=1.5, radius=4.2)
    assert validate(tight, ego(speed=1.5), 0) == "", "full lock is allowed"
    turned = replace(ahead, waypoints=ahead.waypoints @ np.array([[0.0, 1.0], [-1.0, 0.0]]))
    assert Reason.of(validate(turned, ego(speed=0.0), 0)) is Reason.UNREACHABLE


def test_a_plan_refused_before_judging_is_told():
    state, _ = judge(SafetyState(), straight(), ego(), 0)
    _, verdict = judge(state, None, ego(CHUNK_NS, x=3.2), CHUNK_NS, refused=f"{Reason.WRONG_FRAME.value}: 'map'")
    assert verdict.source is Source.SHIFTED and Reason.of(verdict.reason) is Reason.WRONG_FRAME
    assert Reason.of("") is None and Reason.of("no new plan") is Reason.NO_NEW_PLAN


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
    """Plans stop coming: the first one missing is bridged, then braking, then standing; a new plan ends it."""
    state, verdict = judge(SafetyState(), straight(), ego(), 0)
    assert verdict.source is Source.NOMINAL and verdict.reason == "" and verdict.plan_age_s == 0.0
    car, seen = ego(), []
    for k in range(1, 16):
        now = k * CHUNK_NS
        car = drive_on(car, verdict.trajectory, now)
        state, verdict = judge(state, None, car, now)
        seen.append(verdict.source)
        assert verdict.stamp_ns == now
        assert abs(car.y) < 0.05, "it stays on the path of the last valid plan"
        assert verdict.reason == "no plan"
    assert seen[:2] == [Source.SHIFTED, Source.BRAKE]
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


def test_one_late_plan_is_bridged_also_when_plans_are_a_period_old():
    """Real time: a plan takes effect 0.4 s after its stamp; the first missing one is still no reason to brake."""
    state, verdict = judge(remember(SafetyState(), ego(0)), straight(0), ego(CHUNK_NS, x=3.2), CHUNK_NS)
    assert verdict.source is Source.NOMINAL
    state, verdict = judge(state, straight(0), ego(2 * CHUNK_NS, x=6.4), 2 * CHUNK_NS)
    assert verdict.source is Source.SHIFTED and verdict.plan_age_s == pytest.approx(0.8)
    state, verdict = judge(state, straight(0), ego(3 * CHUNK_NS, x=9.6), 3 * CHUNK_NS)
    assert verdict.source is Source.BRAKE


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


@pytest.mark.parametrize("speed", [5.0, 8.0, 12.0])
@pytest.mark.parametrize("side", [1.0, -1.0])
@pytest.mark.parametrize("horizon_s", [3.0, 2.0])
def test_a_dead_planner_leaves_the_car_in_its_lane_in_a_bend(speed: float, side: float, horizon_s: float):
    """In a true bend of at most 2 m/s^2 the car comes to rest inside its lane, also beyond the end of a short plan."""
    from efficientgen.eval.runner import follow

    for lateral_acceleration in (0.5, 1.0, 2.0):
        radius = speed**2 / lateral_acceleration
        times = np.arange(1, round(horizon_s / 0.5) + 1) * 0.5
        a = speed * times / radius
        plan = Plan(0, np.stack([radius * np.sin(a), side * radius * (1 - np.cos(a))], 1), times)
        steering = side * math.atan(2.8 / radius)
        car = EgoState(0, 0.0, 0.0, 0.0, speed, 0.0, side * speed / radius, steering)
        state, verdict = judge(SafetyState(), plan, car, 0)
        assert verdict.source is Source.NOMINAL
        sources = []
        for _ in range(20):
            states = follow(verdict, car)
            off = max(abs(math.hypot(s.x, s.y - side * radius) - radius) for s in states)
            assert off + 1.85 / 2 < 1.75, f"{off:.2f} m off its circle of {radius:.0f} m at {speed} m/s"
            car = states[-1]
            state, verdict = judge(state, None, car, car.stamp_ns)
            sources.append(verdict.source)
        assert sources[0] is Source.SHIFTED and sources[1] is Source.BRAKE and sources[-1] is Source.STOP
        assert car.speed < 0.1


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
