"""The closed loop keeps its order of things: who drives when, what a planner sees, how a drive ends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.referee import Referee
from efficientgen.eval.runner import WorldNeededError, drive, follow, handover_stamp, name_of
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.types import CHUNK_NS, NS, TICK_NS, Observation, OracleFrame, Source
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.planning.safety import SafetyParams
from tests.eval.synthetic import FakeOracle, FakePlanner, FakeWorld, ego_at, scenario


class Looking(FakePlanner):
    frames_per_camera = 2


def test_steps_follow_each_other_without_gaps(log: StepLog):
    stamp = 0
    for step in log.steps:
        assert step.stamp_ns == step.verdict.stamp_ns == step.ego.stamp_ns == stamp
        assert [tick.stamp_ns for tick in step.ticks] == [stamp + k * TICK_NS for k in range(1, 5)]
        assert [tick.ego.stamp_ns for tick in step.ticks] == [tick.stamp_ns for tick in step.ticks]
        stamp += CHUNK_NS
    assert log.end_reason == "timeout" and stamp == 12 * NS


def test_expert_until_handover_then_the_planner(log: StepLog):
    assert log.handover_ns == 4 * NS
    for step in log.steps:
        assert step.verdict.source is (Source.EXPERT if step.stamp_ns < log.handover_ns else Source.NOMINAL)
        said = step.plan is not None and "explanation" in step.plan.sections
        assert said == (step.stamp_ns >= log.handover_ns)


def test_handover_is_a_plan_stamp_with_a_whole_history():
    assert handover_stamp(replace(scenario(), handover_s=5.0)) == 13 * CHUNK_NS
    assert handover_stamp(replace(scenario(), handover_s=0.0)) == 10 * CHUNK_NS


def test_planner_sees_two_frames_and_the_cars_own_past():
    oracle, world = FakeOracle(), FakeWorld()
    planner = Looking(oracle.route)
    log = drive(scenario(6.0), 0, planner, world, oracle=oracle)
    assert [o.stamp_ns for o in planner.seen] == [s.stamp_ns for s in log.steps if s.stamp_ns >= log.handover_ns]
    for seen in planner.seen:
        assert seen.history.states[-1] == next(s.ego for s in log.steps if s.stamp_ns == seen.stamp_ns)
        assert [f.stamp_ns for f in seen.cameras["FRONT"]] == [seen.stamp_ns - CHUNK_NS, seen.stamp_ns]
    assert world.asked == [k * CHUNK_NS for k in range(9, 16)], "a memoryless world draws what is looked at, no more"
    assert all(step.frames is None for step in log.steps)


def test_a_world_with_memory_draws_every_tick():
    class Remembering(FakeWorld):
        memoryless = False

    oracle, world = FakeOracle(), Remembering()
    drive(scenario(4.8), 0, Looking(oracle.route), world, oracle=oracle)
    assert world.asked == [k * TICK_NS for k in range(1, 49)]


def test_keeping_pictures_changes_no_pose_and_keeps_every_tick(log: StepLog):
    oracle = FakeOracle()
    again = drive(scenario(12.0), 0, FakePlanner(oracle.route), oracle=oracle)
    assert pose_sha256(again) == pose_sha256(log)
    for step in log.steps:
        assert step.frames is not None and step.frames.stamps_ns == tuple(tick.stamp_ns for tick in step.ticks)


def test_planner_death_is_logged_and_the_ladder_stops_the_car_in_its_lane(dead_log: StepLog):
    assert dead_log.end_reason == "stopped"
    assert dead_log.notes["events"][0] == {
        "stamp_ns": 6 * NS,
        "kind": "planner_error",
        "text": "RuntimeError: the planner is dead",
    }
    order = [Source.EXPERT, Source.NOMINAL, Source.SHIFTED, Source.BRAKE, Source.STOP]
    sources = [step.verdict.source for step in dead_log.steps]
    assert sources == sorted(sources, key=order.index) and set(sources) == set(order)
    ego = dead_log.steps[-1].ego
    assert ego.speed < 0.1
    nearest = np.hypot(dead_log.route.points[:, 0] - ego.x, dead_log.route.points[:, 1] - ego.y).min()
    assert nearest < 0.3
    brakes = [t.ego.acceleration for s in dead_log.steps for t in s.ticks if s.verdict.source is Source.BRAKE]
    assert min(brakes) > -SafetyParams().braking - 0.1, "no harder than the ladder says"


def test_a_planner_that_looks_needs_a_world():
    oracle = FakeOracle()
    with pytest.raises(WorldNeededError, match="2 frames"):
        drive(scenario(), 0, Looking(oracle.route), oracle=oracle)


def test_the_observation_can_be_swapped_and_steps_are_reported():
    oracle = FakeOracle()
    planner, steps = FakePlanner(oracle.route), []

    def slower(observation: Observation) -> Observation:
        return replace(observation, cameras={"SWAPPED": ()})

    drive(scenario(6.0), 0, planner, oracle=oracle, transform_observation=slower, on_step=steps.append)
    assert planner.seen and all(set(o.cameras) == {"SWAPPED"} for o in planner.seen)
    assert len(steps) == 15 and all(isinstance(step, Step) for step in steps)


def test_driving_into_the_lead_car_ends_the_drive():
    oracle = FakeOracle(lead_gap=40.0, lead_speed=2.0)
    log = drive(scenario(20.0), 0, FakePlanner(oracle.route, speed=9.0), oracle=oracle)
    assert log.end_reason == "collision" and log.steps[-1].stamp_ns < 15 * NS


def test_the_expert_may_drive_alone():
    oracle = FakeOracle()
    log = drive(scenario(6.0), 0, "expert", oracle=oracle)
    assert log.planner == "expert" and log.world == "none"
    assert [s.verdict.source for s in log.steps if s.stamp_ns >= 4 * NS] == [Source.NOMINAL] * 5


def test_names():
    assert name_of(ConstantVelocity()) == "constant-velocity"
    assert name_of(FakeWorld()) == "fake-world"
    assert name_of("expert") == "expert"


def ticks(oracle: FakeOracle, places: list[tuple[float, float, float]], start: int = 1) -> tuple[OracleFrame, ...]:
    """Ticks with the ego at (s, lateral, heading offset), actors removed."""
    out = []
    for k, (s, left, turned) in enumerate(places):
        ego = ego_at(oracle.route, s, 5.0, (start + k) * TICK_NS)
        ego = replace(ego, x=ego.x - left * np.sin(ego.yaw), y=ego.y + left * np.cos(ego.yaw), yaw=ego.yaw + turned)
        out.append(OracleFrame(ego.stamp_ns, "testville", ego, (), {}, "day"))
    return tuple(out)


@pytest.mark.parametrize(
    ("places", "reason"),
    [
        ([(250.0 + k, 0.0, 0.0) for k in range(8)], "completed"),
        ([(30.0, 0.2 * k, 0.0) for k in range(35)], "off_route"),
        ([(30.0, -5.5, 0.0)] * 22, "off_route"),  # on the sidewalk for more than 2 s
        ([(30.0, -5.5, 0.0)] * 18, ""),
        ([(30.0, 0.0, 2.5)] * 12, "off_route"),
        ([(30.0, 0.0, 2.5)] * 9, ""),
        ([(30.0, 0.0, 0.0)] * 40, ""),
    ],
)
def test_referee(oracle: FakeOracle, places: list[tuple[float, float, float]], reason: str):
    referee = Referee(oracle.route, oracle.town, 60 * NS)
    assert referee.observe(ticks(oracle, places), Source.NOMINAL) == reason


def test_time_up_standing_under_stop_is_called_stopped(oracle: FakeOracle):
    for source, speed, reason in ((Source.STOP, 0.0, "stopped"), (Source.NOMINAL, 0.0, "timeout")):
        referee = Referee(oracle.route, oracle.town, 10 * NS)
        still = [replace(t, ego=replace(t.ego, speed=speed)) for t in ticks(oracle, [(30.0, 0.0, 0.0)] * 100)]
        assert referee.observe(tuple(still), source) == reason


def test_follow_gives_one_state_per_tick_and_is_deterministic(log: StepLog):
    step = log.steps[12]
    states = follow(step.verdict, step.ego)
    assert states == tuple(tick.ego for tick in step.ticks)
