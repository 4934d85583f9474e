"""Metrics on drives whose truth is known by construction."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import asdict, replace

import numpy as np
import pytest

from efficientgen.eval.boxes import boxes_overlap, first_contact
from efficientgen.eval.metrics import Metrics, aggregate, metrics_from, pose_sha256, score
from efficientgen.eval.route_score import off_road_ticks, red_light_violations, wrong_lane_share
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.route import point_at
from efficientgen.perception.types import NS, Actor, ActorKind, EgoState, OracleFrame, Source
from tests.eval.synthetic import SIGNAL_S, FakeOracle, ego_at


def edited(log: StepLog, change: Callable[[OracleFrame], OracleFrame]) -> StepLog:
    steps = tuple(replace(step, ticks=tuple(change(tick) for tick in step.ticks)) for step in log.steps)
    return replace(log, steps=steps)


def test_a_clean_drive(log: StepLog, oracle: FakeOracle):
    m = score(log, oracle.town)
    assert not (m.collision or m.off_road or m.red_lights or m.success), "the route is longer than the time"
    assert m.fallback_share == m.wrong_lane_share == m.off_road_share == 0.0
    assert m.seconds == pytest.approx(8.0) and m.mean_speed == pytest.approx(7.0, abs=0.1)
    start = log.steps[10].ego
    driven = 7.0 * 8.0 / (log.route.length - 5.0 - (start.x if start.x < 40 else 32.0))
    assert m.route_completion == pytest.approx(driven, abs=0.02)
    assert m.driving_score == pytest.approx(100 * m.route_completion)
    assert m.plans == 20 and m.missing_plans == 0
    assert m.forwards_per_plan == pytest.approx(16.0, abs=1.0) and m.value_tokens_per_cycle == pytest.approx(48 / 9)
    assert m.ms_per_forward == pytest.approx(1e3 * 0.3 / m.forwards_per_plan), "decode time alone is spent in forwards"
    assert m.chunk_s == 0.4


def test_completion_and_success(log: StepLog, oracle: FakeOracle):
    m = score(replace(log, end_reason="completed"), oracle.town)
    assert m.success and m.route_completion == 1.0 and m.driving_score == 100.0


def place_actor(log: StepLog, kind: ActorKind, ahead: float, left: float, from_s: float) -> StepLog:
    """An actor that appears beside the ego at `from_s`: in the ego's body frame from its rear axle."""

    def change(tick: OracleFrame) -> OracleFrame:
        if tick.stamp_ns < from_s * NS:
            return tick
        e = tick.ego
        x = e.x + ahead * math.cos(e.yaw) - left * math.sin(e.yaw)
        y = e.y + ahead * math.sin(e.yaw) + left * math.cos(e.yaw)
        size = (0.5, 0.5, 1.7) if kind is ActorKind.PEDESTRIAN else (4.6, 1.8, 1.5)
        return replace(tick, actors=(*tick.actors, Actor("new", kind, x, y, e.yaw, 0.0, *size)))

    return edited(log, change)


@pytest.mark.parametrize(
    ("kind", "ahead", "left", "side", "factor"),
    [
        (ActorKind.CAR, 1.35 + 4.5, 0.3, "front", 0.6),
        (ActorKind.CAR, 1.35 - 4.5, 0.3, "rear", 0.6),
        (ActorKind.BUS, 1.35 + 0.5, 1.7, "lateral", 0.6),
        (ActorKind.PEDESTRIAN, 1.35 + 2.4, -0.5, "front", 0.5),
        (ActorKind.PEDESTRIAN, 1.35, -1.0, "lateral", 0.5),
    ],
)
def test_contacts(
    log: StepLog, oracle: FakeOracle, kind: ActorKind, ahead: float, left: float, side: str, factor: float
):
    m = score(place_actor(log, kind, ahead, left, 8.0), oracle.town)
    assert m.collision and m.collision_side == side and m.collision_kind == kind.value
    assert m.collision_at_fault == (side != "rear")
    assert m.driving_score == pytest.approx(100 * m.route_completion * factor)


def test_contacts_before_the_handover_are_the_experts(log: StepLog, oracle: FakeOracle):
    def early(tick: OracleFrame) -> OracleFrame:
        return tick if tick.stamp_ns < 3 * NS else replace(tick, actors=tick.actors[:-1])

    broken = edited(place_actor(log, ActorKind.CAR, 3.0, 0.0, 2.0), early)
    assert first_contact(all_ticks(broken)) is not None and not score(broken, oracle.town).collision


def test_overlap_agrees_with_sampling():
    rng = np.random.default_rng(1)
    n = 300
    poses = rng.uniform((-4, -4, -3.2, 1, 0.5), (4, 4, 3.2, 6, 3), (2, n, 5))
    from efficientgen.eval.boxes import box_corners

    a, b = (box_corners(*pose.T) for pose in poses)
    got = boxes_overlap(a, b)
    grid = np.stack(np.meshgrid(np.linspace(-0.5, 0.5, 41), np.linspace(-0.5, 0.5, 41)), -1).reshape(-1, 2)
    for i in range(n):
        x, y, yaw, length, width = poses[0, i]
        local = grid * (length, width)
        points = local @ np.array([[math.cos(yaw), math.sin(yaw)], [-math.sin(yaw), math.cos(yaw)]]) + (x, y)
        x, y, yaw, length, width = poses[1, i]
        there = (points - (x, y)) @ np.array([[math.cos(yaw), -math.sin(yaw)], [math.sin(yaw), math.cos(yaw)]])
        inside = ((np.abs(there) <= (length / 2, width / 2)).all(1)).any()
        if inside:
            assert got[i], "a common point means overlap"
    assert 0.3 < got.mean() < 0.95


def test_red_light(log: StepLog, oracle: FakeOracle):
    assert red_light_violations(log) == 0
    for state, count in (("r", 1), ("u", 1), ("y", 0), ("G", 0)):
        painted = edited(log, lambda tick, state=state: replace(tick, lights={"J": state}))
        assert red_light_violations(painted) == count, state
    red = score(edited(log, lambda tick: replace(tick, lights={"J": "r"})), oracle.town)
    assert red.driving_score == pytest.approx(70 * red.route_completion) and not red.success


def test_red_light_counts_the_bumper_not_the_axle(log: StepLog):
    """Standing with the front 0.5 m before the line is fine; 0.5 m beyond it is not."""
    for gap, count in ((0.5, 0), (-0.5, 1)):
        s = SIGNAL_S - 3.65 - gap

        def held(tick: OracleFrame, s: float = s) -> OracleFrame:
            x, y, yaw = point_at(log.route, s)
            late = tick.stamp_ns > 8 * NS
            ego = (
                EgoState(tick.stamp_ns, x, y, yaw, 0, 0, 0, 0) if late else ego_at(log.route, 60.0, 5.0, tick.stamp_ns)
            )
            return replace(tick, ego=ego, lights={"J": "r"})

        assert red_light_violations(edited(log, held)) == count


def test_off_road_and_wrong_lane(oracle: FakeOracle):
    def at(left: float, turned: float = 0.0) -> EgoState:
        ego = ego_at(oracle.route, 20.0, 5.0)
        return replace(ego, y=ego.y + left, yaw=ego.yaw + turned)

    def off(left: float) -> bool:
        return bool(off_road_ticks([at(left)], oracle.town)[0])

    # The lane reaches 1.75 m to the right; the box is 0.925 m half wide; 0.3 m are allowed.
    assert not off(0.0) and not off(-1.05) and off(-1.25)
    assert not off(3.5), "the opposite lane is road"
    assert wrong_lane_share([at(0.0), at(3.5)], oracle.town) == 0.5
    assert wrong_lane_share([at(3.5, math.pi)], oracle.town) == 0.0


def test_fallback_share_and_missing_plans(dead_log: StepLog, oracle: FakeOracle):
    m = score(dead_log, oracle.town)
    scored = [step for step in dead_log.steps if step.stamp_ns >= dead_log.handover_ns]
    assert m.missing_plans == sum(step.plan is None for step in scored) == 35
    assert m.fallback_share == 35 / 40
    assert all(step.verdict.source.fallback for step in scored[5:]) and scored[4].verdict.source is Source.NOMINAL


def test_pose_hash_sees_the_last_bit(log: StepLog):
    one = replace(log.steps[-1].ticks[-1].ego, x=np.nextafter(log.steps[-1].ticks[-1].ego.x, 1e9))
    step = replace(log.steps[-1], ticks=(*log.steps[-1].ticks[:-1], replace(log.steps[-1].ticks[-1], ego=one)))
    changed = replace(log, steps=(*log.steps[:-1], step))
    assert pose_sha256(changed) != pose_sha256(log) == pose_sha256(replace(log, planner="other"))


def test_aggregate_resamples_scenarios_not_drives(log: StepLog, oracle: FakeOracle):
    base = score(log, oracle.town)

    def drive(scenario: str, seed: int, value: float) -> Metrics:
        return replace(base, scenario=scenario, seed=seed, driving_score=value)

    drives = [drive("a", k, 100.0) for k in range(9)] + [drive("b", 0, 0.0)]
    got = aggregate(drives)["driving_score"]
    assert got.mean == 50.0, "scenarios weigh the same"
    assert (got.low, got.high, got.count) == (0.0, 100.0, 10)
    assert aggregate(drives) == aggregate(drives)
    same = aggregate([drive(name, 0, 80.0) for name in "abc"])["driving_score"]
    assert same.low == same.high == 80.0
    blind = aggregate([replace(base, acceptance=None)])
    assert "acceptance" not in blind and "seed" not in blind and blind["success"].mean == 0.0


def test_metrics_are_json(log: StepLog, oracle: FakeOracle):
    m = score(log, oracle.town)
    flat = asdict(m)
    assert flat.pop("moves_off_delays_s") == () and flat.pop("answers")["pedestrian"]
    assert all(isinstance(v, str | bool | int | float | None) for v in flat.values())
    assert metrics_from(json.loads(json.dumps(asdict(m)))) == m
