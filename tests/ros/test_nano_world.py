"""The nano world in the world node: the pictures of the drive in process, what they cost on /diagnostics."""

from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")
pytest.importorskip("panda3d")

from efficientgen.eval.metrics import pose_sha256
from efficientgen.eval.runner import drive
from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.nano.checkpoint import save_nano
from efficientgen.worldsim.worlds import load_world
from efficientgen_ros.bringup import drive_ros
from tests.ros.test_sana_world import SHORT, told
from tests.worldsim.nano_models import small


def test_the_world_node_dreams_what_a_drive_in_process_does(tmp_path: Path):
    save_nano(tmp_path / "nano", *small())
    where = {"world_dir": str(tmp_path / "nano"), "world_device": "cpu"}
    ros = drive_ros(SHORT, 3, "expert", world="nano", record_dir=tmp_path / "run", keep_frames=True, **where)
    world = load_world("nano", tmp_path / "nano", "cpu")
    here = drive(SHORT, 3, "expert", world, keep_frames=True)
    world.close()
    assert pose_sha256(ros) == pose_sha256(here) and ros.deterministic and ros.world == "nano"
    for mine, theirs in zip(ros.steps, here.steps, strict=True):
        assert set(mine.frames.cameras) == {camera.name for camera in NANO_RIG}
        for name, (a,) in mine.frames.cameras.items():
            (b,) = theirs.frames.cameras[name]
            assert a.stamp_ns == b.stamp_ns == mine.ticks[-1].stamp_ns
            off = np.abs(a.image.astype(int) - b.image.astype(int)).mean()
            assert off < 8, "the same but for JPEG, in which logs keep pictures"
    figures = told(tmp_path / "run" / "drive.mcap", "world")
    assert ros.notes["world"]["chunks"] == len(ros.steps) - 1 == int(figures[-1]["chunks"])
    assert 0.0 < float(figures[-1]["chunk_p50_s"]) <= float(figures[-1]["chunk_p99_s"])
    assert float(figures[-1]["real_time_factor"]) > 0.0 and int(figures[-1]["state_bytes"]) > 0
