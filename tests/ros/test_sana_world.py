"""SANA-WM in the world node: the pictures of the drive in process, what they cost on /diagnostics, typed errors."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")
pytest.importorskip("panda3d")
pytest.importorskip("diffusers")

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.runner import drive
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.worlds import load_world
from efficientgen_ros.bringup import BringupError, drive_ros
from tests.worldsim.sana_files import write_release

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
    ros = drive_ros(SHORT, 3, "constant-velocity", world="sana-wm", record_dir=tmp_path, keep_frames=True, **where)
    world = load_world("sana-wm", release, "cpu")
    here = drive(SHORT, 3, ConstantVelocity(), world, keep_frames=True)
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


def test_a_directory_that_is_none_ends_the_bringup_with_the_remedy(tmp_path: Path):
    where = {"world_dir": str(tmp_path / "nowhere"), "world_device": "cpu"}
    with pytest.raises(BringupError, match=r"(?s)MissingWorldError: .*nowhere is no directory"):
        drive_ros(SHORT, 3, "constant-velocity", world="sana-wm", record_dir=tmp_path / "run", **where)
