"""A recorded drive taken up again goes on as it went, to the bit, and another planner takes over where it is told."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from efficientgen.eval import rerun as module
from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.rerun import NoRecordingError, StepRangeError, origin, read_recording, rerun
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.store import save
from efficientgen.perception.types import CHUNK_NS
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.worldsim.scenario import load_scenario
from tests.eval.synthetic import FakeOracle, FakePlanner, FakeWorld, scenario


@pytest.mark.parametrize("step", [0, 9, 14, 18, 29])
def test_the_same_planner_goes_on_to_the_bit(log: StepLog, step: int):
    oracle = FakeOracle()
    planner = FakePlanner(oracle.route)
    again = rerun(log, step, scenario(12.0), planner, FakeWorld(), oracle=oracle)
    assert pose_sha256(again) == pose_sha256(log) and again.end_reason == log.end_reason
    assert [s.verdict.source for s in again.steps] == [s.verdict.source for s in log.steps]
    assert again.notes["rerun"]["traffic_differs_s"] is None
    first = max(step, 10)  # the hand-over is at 4 s
    assert [o.stamp_ns for o in planner.seen] == [s.stamp_ns for s in log.steps[first:]], "nobody is asked before"


def test_the_ladder_goes_on_where_it_stood(dead_log: StepLog):
    oracle = FakeOracle()
    step = next(k for k, s in enumerate(dead_log.steps) if s.verdict.source.value == "brake") + 1
    again = rerun(dead_log, step, scenario(20.0), FakePlanner(oracle.route, dies_at_s=6.0), oracle=oracle)
    assert pose_sha256(again) == pose_sha256(dead_log)
    assert [s.verdict for s in again.steps[step:]][-1].source == dead_log.steps[-1].verdict.source


def test_a_planner_that_looks_gets_the_pictures_before_the_step():
    oracle = FakeOracle()
    looking = type("Looking", (FakePlanner,), {"frames_per_camera": 2})
    first = drive(scenario(8.0), 0, looking(oracle.route), FakeWorld(), oracle=oracle)
    oracle, world = FakeOracle(), FakeWorld()
    planner = looking(oracle.route)
    again = rerun(first, 14, scenario(8.0), planner, world, oracle=oracle)
    assert pose_sha256(again) == pose_sha256(first) and world.asked[0] == 13 * 400_000_000
    assert [f.stamp_ns for f in planner.seen[0].cameras["FRONT"]] == [13 * 400_000_000, 14 * 400_000_000]


def test_a_late_planner_stays_as_late():
    oracle = FakeOracle()
    first = drive(scenario(10.0), 0, FakePlanner(oracle.route), oracle=oracle, mode="latency", latency=0.73)
    for step in (13, 14, 15):
        oracle = FakeOracle()
        again = rerun(first, step, scenario(10.0), FakePlanner(oracle.route), oracle=oracle)
        assert again.mode == "latency" and pose_sha256(again) == pose_sha256(first)


def test_another_planner_changes_what_comes_and_nothing_before(log: StepLog):
    again = rerun(log, 15, scenario(12.0), ConstantVelocity(), oracle=FakeOracle())
    same = [a.ticks == b.ticks for a, b in zip(again.steps, log.steps, strict=False)]
    assert all(same[:15]) and not all(same[15:])
    assert again.handover_ns == 15 * CHUNK_NS, "only its own driving is scored"
    assert again.planner == "constant-velocity" and again.notes["rerun"]["planner"] == "fake"


def test_other_traffic_is_told(log: StepLog):
    again = rerun(log, 15, scenario(12.0), ConstantVelocity(), oracle=FakeOracle(lead_gap=31.0))
    assert again.notes["rerun"]["traffic_differs_s"] == 0.0


def test_real_traffic_comes_back_after_the_step():
    pytest.importorskip("libsumo")
    short = replace(load_scenario("birch_people"), duration_s=7.2)
    first = drive(short, 5, ConstantVelocity())
    again = rerun(first, 13, short, ConstantVelocity())
    assert [s.ticks for s in again.steps] == [s.ticks for s in first.steps], "actors, lights and poses, to the bit"
    assert again.notes["rerun"]["traffic_differs_s"] is None


def test_steps_and_recordings_that_are_not_there(log: StepLog, tmp_path: Path):
    with pytest.raises(StepRangeError, match="0 to 29"):
        rerun(log, 30, scenario(12.0), ConstantVelocity(), oracle=FakeOracle())
    with pytest.raises(NoRecordingError, match="no drive"):
        read_recording(tmp_path)
    bare = replace(log, steps=tuple(replace(s, frames=None) for s in log.steps))
    save(bare, tmp_path / "bend-fake-0" / "log")
    held = read_recording(tmp_path)
    assert held.log.steps[3].ticks == log.steps[3].ticks and "does not say" in held.warnings[0]
    save(bare, tmp_path / "bend-expert-0" / "log")
    assert read_recording(tmp_path).directory == held.directory, "baselines stand back"
    save(bare, tmp_path / "other-fake-0" / "log")
    with pytest.raises(NoRecordingError, match="several"):
        read_recording(tmp_path)


def test_other_code_is_a_warning(log: StepLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    bare = replace(log, steps=tuple(replace(s, frames=None) for s in log.steps), notes=origin(log.scenario))
    save(bare, tmp_path / "log")
    assert read_recording(tmp_path).warnings == ()
    monkeypatch.setattr(module, "code_sha256", lambda: "0" * 64)
    assert "other code" in read_recording(tmp_path).warnings[0]
