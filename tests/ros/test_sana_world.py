"""SANA-WM in the world node: the pictures of the drive in process, what they cost on /diagnostics, typed errors."""

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")
pytest.importorskip("panda3d")
pytest.importorskip("diffusers")

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.runner import drive
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, NS, CameraFrame, Command, Observation
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.worlds import cameras_of, load_world
from efficientgen_ros.bringup import drive_ros
from efficientgen_ros.intake import Intake
from efficientgen_ros.messages import image_message, info_message, mount_message
from efficientgen_ros.session import CommandAt, Session
from tests.eval.synthetic import road
from tests.ros.test_faults import states
from tests.worldsim.sana_files import write_release, write_transformer

SHORT = Scenario(
    name="sana-short", family="free_road", description="A few seconds of road", town="cedar", split="train",
    edges=("n0-n13", "n13-n5"), start_pos=10.0, duration_s=4.4, start_speed=4.0, vehicles=4, pedestrians=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("release")
    write_release(path)
    return path


def told(bag: Path, node: str) -> list[dict[str, str]]:
    """The figures of a node's diagnostics in a bag."""
    from mcap_ros2.reader import read_ros2_messages

    messages = [m.ros_msg.status[0] for m in read_ros2_messages(str(bag), topics=["/diagnostics"])]
    return [{value.key: value.value for value in m.values} | {"said": m.message} for m in messages if m.name == node]


def test_the_world_node_imagines_what_a_drive_in_process_does(tmp_path: Path, release: Path):
    where = {"world_dir": str(release), "world_device": "cpu"}
    ros = drive_ros(SHORT, 3, "expert", world="sana-wm", record_dir=tmp_path, keep_frames=True, **where)
    world = load_world("sana-wm", release, "cpu")
    here = drive(SHORT, 3, "expert", world, keep_frames=True)
    world.close()
    assert pose_sha256(ros) == pose_sha256(here) and ros.deterministic and ros.world == "sana-wm"
    for mine, theirs in zip(ros.steps, here.steps, strict=True):
        assert set(mine.frames.cameras) == {"FRONT"}
        for a, b in zip(mine.frames.cameras["FRONT"], theirs.frames.cameras["FRONT"], strict=True):
            assert a.stamp_ns == b.stamp_ns
            alike = np.corrcoef(a.image.ravel(), b.image.ravel())[0, 1]
            assert alike > 0.9, "the same but for JPEG, in which logs keep pictures"
    assert ros.notes["world"]["chunks"] == len(ros.steps) - 1
    figures = told(tmp_path / "drive.mcap", "world")
    assert len(figures) == len(ros.steps) and int(figures[-1]["chunks"]) == len(ros.steps) - 1
    assert 0.0 < float(figures[-1]["chunk_p50_s"]) <= float(figures[-1]["chunk_p99_s"])
    assert float(figures[-1]["real_time_factor"]) > 0.0 and int(figures[-1]["state_bytes"]) > 0


def test_a_world_that_diverges_ends_the_drive_in_words(tmp_path: Path):
    """Finite weights whose products are not: the recording is drawn, the first imagined chunk is not."""
    model = write_release(tmp_path / "release")
    shutil.rmtree(tmp_path / "release" / "sana_dit")
    with torch.no_grad():
        model.final_layer.linear.weight.fill_(1e38)
    write_transformer(model, tmp_path / "release")
    where = {"world_dir": str(tmp_path / "release"), "world_device": "cpu"}
    log = drive_ros(SHORT, 3, "expert", world="sana-wm", record_dir=tmp_path, keep_frames=True, **where)
    assert log.end_reason == "interrupted" and len(log.steps) == 1
    assert "DivergedError" in log.notes["world_error"] and "reset the world" in log.notes["world_error"]
    assert "DivergedError" in told(tmp_path / "drive.mcap", "world")[-1]["said"]


def test_a_planner_waits_for_the_cameras_that_the_world_draws():
    intake = Intake(2, 600.0, lambda words: None)
    intake.add_session(
        Session("s", "t", 0, "p", "sana-wm", "sync", 4 * NS, CHUNK_NS, road(), {}, cameras=cameras_of("sana-wm"))
    )
    intake.add_command(CommandAt(4 * NS, Command.GO_STRAIGHT))
    camera = next(camera for camera in NANO_RIG if camera.name == "FRONT")
    intake.add_camera(camera.name, info_message(camera, 0))
    intake.add_camera(camera.name, mount_message(camera))
    states(intake, 0, 40)
    for stamp in (4 * NS - CHUNK_NS, 4 * NS):
        picture = np.zeros((camera.height, camera.width, 3), np.uint8)
        frame = CameraFrame(camera.name, stamp, picture, camera.intrinsics, camera.camera_to_ego)
        intake.add_image(camera.name, image_message(frame))
    found = intake.wait()
    assert isinstance(found, Observation) and list(found.cameras) == ["FRONT"]
