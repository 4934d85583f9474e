"""Log replay drives as it was driven, whatever happens around it."""

from __future__ import annotations

import numpy as np
import pytest

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.replay import record_expert
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.types import NS, Command, EgoHistory, EgoState, Observation
from efficientgen.planning.load import UnknownPlannerError, load_planner
from efficientgen.planning.log_replay import EmptyRecordingError, LogReplay
from tests.eval.synthetic import FakeOracle, scenario


def line(speed: float = 8.0, seconds: int = 20, stands_from: float = 99.0) -> list[EgoState]:
    """Recorded along +x, one state a tick."""
    out = []
    for k in range(10 * seconds):
        t = 0.1 * k
        moving = t < stands_from
        out.append(EgoState(k * NS // 10, speed * min(t, stands_from), 0.0, 0.0, speed * moving, 0.0, 0.0, 0.0))
    return out


def seen(t: float, x: float, y: float = 0.0, yaw: float = 0.0, speed: float = 8.0) -> Observation:
    state = EgoState(round(t * NS), x, y, yaw, speed, 0.0, 0.0, 0.0)
    return Observation(state.stamp_ns, {}, EgoHistory((state,)), Command.GO_STRAIGHT)


def test_plans_are_the_recorded_poses_ahead_in_the_ego_frame():
    planner = LogReplay(line())
    plan = planner.plan(seen(4.0, 32.0))
    assert plan.waypoints == pytest.approx(np.stack([8.0 * plan.times_s, 0 * plan.times_s], 1))
    # 0.5 m off to the left and turned by 90 degrees, the same places lie elsewhere from the car.
    plan = planner.plan(seen(4.4, 35.2, 0.5, np.pi / 2))
    assert plan.waypoints == pytest.approx(np.stack([0 * plan.times_s - 0.5, -8.0 * plan.times_s], 1), abs=1e-9)


def test_it_enters_where_the_car_is_and_time_runs_on_from_there():
    """The car is where the recorded one was 1.5 s later."""
    planner = LogReplay(line())
    assert planner.plan(seen(4.0, 44.0)).waypoints[0, 0] == pytest.approx(4.0)
    assert planner.plan(seen(4.4, 44.0)).waypoints[0, 0] == pytest.approx(4.0 + 3.2), "it does not wait for the car"
    planner.reset(0)
    assert planner.plan(seen(4.4, 44.0)).waypoints[0, 0] == pytest.approx(4.0)


def test_at_a_place_where_it_stood_it_enters_at_the_nearest_time():
    planner = LogReplay(line(stands_from=3.0, seconds=30))
    plan = planner.plan(seen(12.0, 24.0, speed=0.0))
    assert plan.sections["recorded_stamp_s"] == pytest.approx(12.0) and not plan.waypoints.any()


def test_beyond_its_end_it_goes_straight_on():
    planner = LogReplay(line(seconds=5))
    assert planner.plan(seen(4.0, 32.0)).waypoints[-1, 0] == pytest.approx(24.0)


def test_a_recording_needs_two_states_in_order():
    for bad in ([], line()[:1], list(reversed(line()))):
        with pytest.raises(EmptyRecordingError):
            LogReplay(bad)


def test_it_repeats_the_experts_drive_and_is_blind_to_other_traffic():
    states = record_expert(scenario(14.0), 0, FakeOracle(lead_speed=9.0))
    same = drive(scenario(14.0), 0, LogReplay(states), oracle=FakeOracle(lead_speed=9.0))
    there = np.array([(t.ego.x, t.ego.y) for t in all_ticks(same)])
    assert np.hypot(*(there - [(s.x, s.y) for s in states][: len(there)]).T).max() < 0.6, "but for the tracker"
    other = drive(scenario(14.0), 0, LogReplay(states), oracle=FakeOracle(lead_gap=40.0, lead_speed=3.0))
    assert other.end_reason == "collision", "it does not see that this lead car is slow"
    again = drive(scenario(14.0), 0, LogReplay(states), oracle=FakeOracle(lead_speed=9.0))
    assert pose_sha256(same) == pose_sha256(again)


def test_without_a_recording_it_is_refused_with_the_reason():
    with pytest.raises(UnknownPlannerError, match="recorded drive"):
        load_planner("log-replay")
