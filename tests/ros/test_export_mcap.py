"""A drive of this process as a recording: `rosbags` reads it, and it says what the step log says."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")

from rosbags.highlevel import AnyReader

from efficientgen.eval.export_scene import Drive
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.rig import NUSCENES_RIG, scaled
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.worldsim.scenario import load_scenario
from efficientgen_ros.export_mcap import export_mcap
from efficientgen_ros.messages import plan_message
from efficientgen_ros.sensors import POINT

RIG = scaled(NUSCENES_RIG, 64)


@pytest.fixture(scope="module")
def log():
    whole = drive(replace(load_scenario("birch_people"), duration_s=5.0), 0, ConstantVelocity())
    return replace(whole, steps=whole.steps[9:11], start=whole.steps[8].ticks[-1])  # 0.8 s around the hand-over


@pytest.fixture(scope="module")
def said(log, tmp_path_factory):
    """Topic -> (log time, message), of a bag with everything."""
    sensors = ("depth", "labels", "instances", "lidar")
    out = export_mcap([Drive(Path("run"), log)], tmp_path_factory.mktemp("mcap") / "out", RIG, sensors)
    return read(out)


def read(out: Path) -> dict[str, list]:
    held: dict[str, list] = {}
    with AnyReader(sorted(out.iterdir())) as reader:
        for connection, stamp, raw in reader.messages():
            held.setdefault(connection.topic, []).append((stamp, reader.deserialize(raw, connection.msgtype)))
    return held


def test_poses_come_back_exactly_and_in_time(said, log):
    ticks = all_ticks(log)
    poses = said["/localization/kinematic_state"]
    assert [stamp for stamp, _ in poses] == [tick.stamp_ns for tick in ticks]
    for (_, message), tick in zip(poses, ticks, strict=True):
        place = message.pose.pose.position
        assert (place.x, place.y, message.twist.twist.linear.x) == (tick.ego.x, tick.ego.y, tick.ego.speed)


def test_plans_and_verdicts_are_those_of_the_log(said, log):
    plans = [m for topic in ("/planning/expert/trajectory", "/planning/planner/trajectory") for _, m in said[topic]]
    assert len(plans) == len(log.steps) == len(said["/planning/safety/verdict"])
    for step, message in zip(log.steps, plans, strict=True):
        ours = plan_message(step.plan)
        assert [p.transforms[0].translation.x for p in message.points] == [
            p.transforms[0].translation.x for p in ours.points
        ]


def test_every_camera_and_sensor_speaks_at_every_tick(said, log):
    count = len(all_ticks(log))
    for camera in RIG:
        base = f"/sensing/camera/{camera.name.lower()}"
        for kind, encoding, dtype in (("image_raw", "rgb8", np.uint8), ("depth", "32FC1", np.float32),
                                      ("labels", "mono8", np.uint8), ("instances", "16UC1", np.uint16)):  # fmt: skip
            messages = said[f"{base}/{kind}"]
            assert len(messages) == count
            message = messages[-1][1]
            assert (message.encoding, message.width, message.height) == (encoding, 64, 36)
            size = 3 if kind == "image_raw" else 1
            assert len(np.frombuffer(message.data.tobytes(), dtype)) == 64 * 36 * size
    (_, cloud) = said["/sensing/lidar/top/points"][0]
    rows = np.frombuffer(cloud.data.tobytes(), POINT)
    assert len(rows) == cloud.width > 10_000 and cloud.header.frame_id == "lidar_top"
    assert np.isfinite(rows["x"]).all() and rows["ring"].max() == 31
    by_name = {field.name: field.offset for field in cloud.fields}
    assert by_name == {"x": 0, "y": 4, "z": 8, "intensity": 12, "ring": 16, "label": 18}
    frames = {t.child_frame_id for t in said["/tf_static"][0][1].transforms}
    assert "lidar_top" in frames and {f"{c.name.lower()}_optical_frame" for c in RIG} <= frames


def test_the_same_drive_gives_the_same_messages_and_pictures_can_be_left_out(log, tmp_path):
    bags = [export_mcap([Drive(Path("run"), log)], tmp_path / name, pictures=False) for name in "ab"]
    raw = []
    for bag in bags:
        with AnyReader(sorted(bag.iterdir())) as reader:
            raw.append([(connection.topic, stamp, data) for connection, stamp, data in reader.messages()])
    assert raw[0] == raw[1] and len(raw[0]) > 50
    assert not any("image_raw" in topic for topic, _, _ in raw[0])
