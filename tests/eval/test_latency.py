"""Latency mode: a plan takes effect when it is said to, the busy planner is left alone, and nothing else changes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from efficientgen.eval.latency import Desk, Latency, LatencyError, latency_profiles, median_latency, resolve
from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.runner import drive, follow, measure_latency
from efficientgen.eval.step_log import StepLog, scored_steps
from efficientgen.eval.store import load, save
from efficientgen.perception.types import CHUNK_NS, NS, TICK_NS, Source
from tests.eval.synthetic import FakeOracle, FakePlanner, scenario
from tests.eval.test_store import assert_same


def late(latency: float, seconds: float = 12.0, **planner: float) -> StepLog:
    oracle = FakeOracle()
    driver = FakePlanner(oracle.route, **planner)
    return drive(scenario(seconds), 0, driver, oracle=oracle, mode="latency", latency=latency)


def seconds_after_handover(log: StepLog, stamps_ns: list[int]) -> list[float]:
    return [round((stamp - log.handover_ns) / NS, 2) for stamp in stamps_ns]


def test_no_latency_is_the_sync_drive_bit_for_bit(log: StepLog):
    got = late(0.0)
    assert pose_sha256(got) == pose_sha256(log) and got.mode == "latency"
    for a, b in zip(got.steps, log.steps, strict=True):
        assert_same(replace(a, plan_wall_s=0.0, frames=None), replace(b, plan_wall_s=0.0, frames=None))


@pytest.mark.parametrize(
    ("latency", "asked", "effective"),
    [
        (0.1, [0.0, 0.4, 0.8, 1.2], [0.1, 0.5, 0.9, 1.3]),
        (0.3, [0.0, 0.4, 0.8, 1.2], [0.3, 0.7, 1.1, 1.5]),
        (0.301, [0.0, 0.4, 0.8, 1.2], [0.31, 0.71, 1.11, 1.51]),  # rounded up to the sub-step
        (0.4, [0.0, 0.4, 0.8, 1.2], [0.4, 0.8, 1.2, 1.6]),
        (0.5, [0.0, 0.8, 1.6], [0.5, 1.3, 2.1]),
        (1.0, [0.0, 1.2, 2.4], [1.0, 2.2, 3.4]),
    ],
)
def test_when_plans_are_asked_for_and_take_effect(latency: float, asked: list[float], effective: list[float]):
    log = late(latency)
    steps = scored_steps(log)
    assert seconds_after_handover(log, [s.stamp_ns for s in steps if s.asked])[: len(asked)] == asked
    took = [s.stamp_ns + s.effective_ns for s in steps if s.due]
    assert seconds_after_handover(log, took)[: len(effective)] == effective
    for step in steps:
        assert step.asked == (step.plan is not None) and (step.plan is None or step.plan.stamp_ns == step.stamp_ns)
        assert step.stamp_ns == step.verdict.stamp_ns, "one verdict per stamp"
        assert (step.bridge is not None) == (step.effective_ns > 0)
    stamps = [tick.stamp_ns for step in log.steps for tick in step.ticks]
    assert stamps == list(range(TICK_NS, stamps[-1] + 1, TICK_NS)), "no tick is lost where the trajectory changes"


def test_until_a_plan_takes_effect_the_car_follows_the_one_before():
    steps = scored_steps(late(0.3))
    for before, step in zip(steps, steps[1:], strict=False):
        assert step.bridge is not None and step.bridge.stamp_ns == before.verdict.trajectory.stamp_ns
        assert step.verdict.trajectory.stamp_ns == step.stamp_ns and step.verdict.plan_age_s == pytest.approx(0.3)
        on_the_old_plan = follow(replace(before.verdict, trajectory=step.bridge), step.ego)
        assert tuple(tick.ego for tick in step.ticks[:3]) == on_the_old_plan[:3]
        assert step.ticks[3].ego != on_the_old_plan[3], "0.3 s in, another plan is followed"


def test_a_busy_planner_is_shown_as_held_and_is_no_fallback():
    steps = scored_steps(late(0.6))
    assert [s.held for s in steps[:6]] == [True, False, True, False, True, False]
    held = [s for s in steps if s.held]
    assert all(s.verdict.source is Source.SHIFTED and "busy" in s.verdict.reason for s in held)
    assert not any(s.fallback for s in held)


def test_the_ladder_brakes_where_the_plan_in_force_grows_too_old():
    """L = 0.7: the plan of t is in force until t + 1.5, but safety trusts none for longer than 1.2 s."""
    steps = scored_steps(late(0.7))
    braking = [s for s in steps if s.bridge is not None and s.bridge.stamp_ns == s.stamp_ns]
    assert braking and all(s.fallback and s.verdict.source is Source.NOMINAL for s in braking)
    for step in braking:
        assert step.ticks[1].ego.speed < step.ego.speed - 0.3, "0.2 s of comfortable braking"


def test_plans_older_than_the_ladder_allows_are_refused():
    log = late(1.0, 20.0)
    due = [s for s in scored_steps(log) if s.due]
    assert due and all("stale plan, 1.00 s old" in s.verdict.reason and s.fallback for s in due)
    assert log.end_reason == "stopped"


def test_a_planner_that_dies_while_slow_is_a_fallback_not_a_hold():
    steps = scored_steps(late(0.3, dies_at_s=6.0))
    dead = [s for s in steps if s.stamp_ns >= 6 * NS]
    assert all(s.asked and s.due and s.plan is None and s.fallback and not s.held for s in dead)


def test_latency_mode_is_deterministic_and_is_in_the_log(tmp_path: Path):
    one, two = late(0.3), late(0.3)
    assert pose_sha256(one) == pose_sha256(two) != pose_sha256(late(0.1))
    assert one.notes["latency"]["seconds"] == 0.3 and one.deterministic
    for each in (one, late(0.7)):
        assert_same(each, load(save(each, tmp_path / "drive")))


def test_the_expert_can_be_slow_too():
    oracle = FakeOracle()
    log = drive(scenario(8.0), 0, "expert", oracle=oracle, mode="latency", latency=0.2)
    assert {s.effective_ns for s in scored_steps(log)} == {NS // 5}


def test_sync_mode_takes_no_latency():
    oracle = FakeOracle()
    with pytest.raises(LatencyError, match="mode='latency'"):
        drive(scenario(), 0, FakePlanner(oracle.route), oracle=oracle, latency=0.3)


def test_the_desk_holds_one_observation():
    desk = Desk(CHUNK_NS + 1)
    assert desk.free(0) and desk.take(10 * NS) is None
    desk.put(0, None)
    assert not desk.free(CHUNK_NS) and desk.free(CHUNK_NS + 1)
    assert desk.take(CHUNK_NS + 1) is None, "not out before it is out"
    assert desk.take(CHUNK_NS + 2) == (CHUNK_NS + 1, None) and desk.take(10 * NS) is None


def test_what_a_latency_may_be(tmp_path: Path):
    assert resolve("0.3") == Latency(0.3) and Latency(0.3).delay_ns == 300_000_000
    assert Latency(0.3001).delay_ns == 310_000_000 and Latency(0.0).delay_ns == 0
    profiles = latency_profiles()
    assert resolve("fast-ddrive-3b-h100") == profiles["fast-ddrive-3b-h100"] and profiles["fast-ddrive-3b-h100"].seconds
    assert all(p.source and p.name == name and p.seconds > 0 for name, p in profiles.items())
    assert resolve("measured", lambda: Latency(0.2, "measured")).seconds == 0.2
    for bad in ("-1", "nan", "1e9", "soon", "measured"):
        with pytest.raises(LatencyError):
            resolve(bad)
    (tmp_path / "odd.yaml").write_text("chip: 3\n")
    with pytest.raises(LatencyError, match="plan_latency_s"):
        latency_profiles(tmp_path / "odd.yaml")


def test_measured_latency_is_the_median_without_the_first():
    assert median_latency([0.3, 0.1, 0.2, 9.0]).seconds == 0.25

    class Timed(FakePlanner):
        pass

    oracle = FakeOracle()
    planner = Timed(oracle.route)
    got = measure_latency(planner, scenario(), oracle=oracle)
    assert got.name == "measured" and 0.0 < got.seconds < 1.0 and "8 plans" in got.source
    assert len(planner.seen) == 9
    with pytest.raises(LatencyError):
        measure_latency(FakePlanner(oracle.route, dies_at_s=0.0), scenario(), oracle=FakeOracle())


def test_each_period_starts_where_the_last_one_ended():
    log = late(0.25)
    for before, after in zip(log.steps, log.steps[1:], strict=False):
        assert before.ticks[-1].ego == after.ego
    assert np.isfinite([t.ego.speed for s in log.steps for t in s.ticks]).all()
