"""Whole drives on real graphs: the same poses as in process, and a planner that dies."""

import os
import signal
import threading
import time
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import Step
from efficientgen.perception.route import locate
from efficientgen.perception.types import CHUNK_NS, NS, Source
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.worldsim.scenario import Scenario
from efficientgen_ros.bringup import BringupError, Disturbance, drive_ros

STRAIGHT = Scenario(
    name="ros-straight",
    family="free_road",
    description="A straight road to start, drive and stop on",
    town="cedar",
    split="train",
    edges=("n0-n13", "n13-n5"),
    start_pos=10.0,
    duration_s=12.0,
    start_speed=4.0,
    vehicles=4,
    pedestrians=4,
)
LIVELY = replace(STRAIGHT, name="ros-lively", vehicles=20, pedestrians=20, duration_s=10.0)


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


def test_ros_and_in_process_drive_the_same_poses(tmp_path):
    steps: list[Step] = []
    ros = drive_ros(LIVELY, 3, "constant-velocity", world="none", record_dir=tmp_path, on_step=steps.append)
    here = drive(LIVELY, 3, ConstantVelocity())

    assert pose_sha256(ros) == pose_sha256(here) and ros.deterministic
    assert (ros.end_reason, ros.handover_ns, ros.start) == (here.end_reason, here.handover_ns, here.start)
    assert ros.transport == "ros2" and len(ros.steps) == len(here.steps) == len(steps)
    for mine, theirs, told in zip(ros.steps, here.steps, steps, strict=True):
        assert (mine.command, mine.ego, mine.ticks) == (theirs.command, theirs.ego, theirs.ticks)
        assert (mine.verdict.source, mine.verdict.reason) == (theirs.verdict.source, theirs.verdict.reason)
        np.testing.assert_array_equal(mine.verdict.trajectory.points, theirs.verdict.trajectory.points)
        np.testing.assert_array_equal(mine.plan.waypoints, theirs.plan.waypoints)
        assert mine.plan.sections == theirs.plan.sections
        assert told.stamp_ns == mine.stamp_ns and told.ticks == mine.ticks

    pids = ros.notes["pids"]
    assert set(pids) == {"world", "planner", "vehicle", "safety", "recorder"}
    assert len({*pids.values(), os.getpid()}) == 6
    assert set(ros.notes["exit_codes"].values()) == {0} and all(map(gone, pids.values()))

    from mcap.reader import make_reader

    with (tmp_path / "drive.mcap").open("rb") as file:
        summary = make_reader(file).get_summary()
    counts = {c.topic: summary.statistics.channel_message_counts.get(k, 0) for k, c in summary.channels.items()}
    ticks = 4 * len(ros.steps) + 1
    assert counts["/localization/kinematic_state"] == counts["/simulation/oracle"] == ticks
    assert counts["/planning/trajectory"] == len(ros.steps)


@pytest.mark.parametrize("mode", ["sync", "realtime"])
def test_a_killed_planner_leaves_the_car_standing_in_its_lane(tmp_path, mode):
    killed_s, scenario = 5.6, replace(STRAIGHT, duration_s=20.0 if mode == "sync" else 14.0)
    log = drive_ros(
        scenario,
        0,
        "constant-velocity",
        world="none",
        mode=mode,
        record_dir=tmp_path,
        chaos=(Disturbance(killed_s, "kill"),),
    )

    last = log.steps[-1].ticks[-1]
    _, lateral = locate(log.route, last.ego.x, last.ego.y)
    assert last.ego.speed == 0.0 and log.steps[-1].verdict.source is Source.STOP
    assert abs(lateral) + 0.5 * 1.85 < log.route.half_widths[0] + 0.3
    assert log.end_reason in ("timeout", "stopped") and last.stamp_ns >= scenario.duration_s * NS

    (death,) = [event for event in log.notes["events"] if event["kind"] == "node_exit"]
    assert death["text"] == f"planner (pid {log.notes['pids']['planner']}) killed by SIGKILL"
    late_s = death["stamp_ns"] / NS - killed_s
    assert late_s == 0.0 if mode == "sync" else 0.0 <= late_s < 3.0, "a sync drive waits for what is done to it"
    assert not log.deterministic and log.notes["exit_codes"]["planner"] == -signal.SIGKILL
    assert log.notes["deadline_misses" if mode == "realtime" else "timeouts"] > 0

    sources = [step.verdict.source for step in log.steps if step.stamp_ns >= log.handover_ns]
    rungs = [Source.NOMINAL, Source.SHIFTED, Source.BRAKE, Source.STOP]
    heights = [rungs.index(source) for source in sources]
    after = heights[max(i for i, rung in enumerate(heights) if rung == 0) :]
    assert after == sorted(after) and set(after) == {0, 1, 2, 3}  # rung by rung, each of them taken
    stamps = [step.stamp_ns for step in log.steps]
    assert stamps == [k * CHUNK_NS for k in range(len(stamps))]  # exactly one verdict per stamp


def test_a_checkpoint_that_is_none_stops_the_bringup_in_words(tmp_path):
    with pytest.raises(BringupError, match="planner refused to configure(.|\n)*config.json does not exist"):
        drive_ros(STRAIGHT, 0, "no-such-model", checkpoint=str(tmp_path / "x"), world="none", record_dir=tmp_path)


def test_termination_leaves_a_log_and_no_process(tmp_path):
    """What Ctrl-C and SIGTERM do to `efficientgen bringup`."""
    seen: list[Step] = []

    def stop_after_two(step: Step) -> None:
        seen.append(step)
        if len(seen) == 2:
            threading.Thread(target=lambda: (time.sleep(0.05), os.kill(os.getpid(), signal.SIGTERM))).start()

    log = drive_ros(STRAIGHT, 0, "expert", world="none", mode="realtime", record_dir=tmp_path, on_step=stop_after_two)
    assert log.end_reason == "interrupted" and not log.deterministic
    assert 2 <= len(log.steps) <= 15, "cut short: the whole drive has 30"
    assert all(map(gone, log.notes["pids"].values())) and "planner" not in log.notes["pids"]
    assert [event["kind"] for event in log.notes["events"]] == ["interrupted"]


def test_nano_ddrive_drives_the_same_poses_over_ros_from_pictures(tmp_path):
    """The learned planner in its own process, pictures through DDS: bit for bit the drive of the in-process loop."""
    pytest.importorskip("panda3d")
    from efficientgen.planning.load import load_planner
    from efficientgen.worldsim.reference.world import ReferenceWorld

    scenario = replace(LIVELY, duration_s=8.0)
    ros = drive_ros(scenario, 5, "nano-ddrive", record_dir=tmp_path)
    world = ReferenceWorld()
    here = drive(scenario, 5, load_planner("nano-ddrive"), world)
    world.close()

    assert pose_sha256(ros) == pose_sha256(here)
    assert [s.plan.text for s in ros.steps if s.plan] == [s.plan.text for s in here.steps if s.plan]
    assert len(set(ros.notes["pids"].values())) == len(ros.notes["pids"]) == 5
    assert ros.deterministic and not ros.notes["events"]
