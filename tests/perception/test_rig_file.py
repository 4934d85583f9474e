"""rig.yaml says what a car is, or what is wrong with it and where."""

from __future__ import annotations

import copy
from pathlib import Path
from types import SimpleNamespace as Made
from typing import Any

import numpy as np
import pytest
import yaml

from efficientgen import share
from efficientgen.eval.foreign_bag import RIG_YAML, quaternion
from efficientgen.perception.foreign_messages import (
    ExtrinsicsError,
    UnreadablePictureError,
    chain,
    command_of,
    lens_of,
    picture_of,
    rotation_of,
)
from efficientgen.perception.rectify import LensError
from efficientgen.perception.rig import NANO_RIG, Camera, project
from efficientgen.perception.rig_file import RigFileError, from_optical, load_rig, mount_of, parse_rig
from efficientgen.perception.types import Command

GOOD: dict[str, Any] = {
    "cameras": {
        "FRONT": {
            "topic": "/cam/image_raw",
            "intrinsics": {"width": 1280, "height": 720, "fx": 800.0, "fy": 801.0, "cx": 640.0, "cy": 360.0},
            "distortion": {"model": "plumb_bob", "coefficients": [-0.2, 0.04, 0.001, 0.0, 0.0]},
            "mount": {"position": [1.5, 0.0, 1.4], "yaw_deg": 2.0},
        },
        "FRONT_LEFT": {"topic": "/left/compressed", "info": "/left/camera_info"},
    },
    "odometry": {"topic": "/odom"},
    "command": {"constant": "GO_STRAIGHT"},
}


def test_what_a_good_file_means():
    rig = parse_rig(GOOD)
    front, left = rig.cameras["FRONT"], rig.cameras["FRONT_LEFT"]
    assert rig.reference == "FRONT" and left.topic == "/left/compressed"
    assert front.lens is not None and front.lens.coefficients[0] == -0.2 and front.pinhole == NANO_RIG[1]
    assert left.lens is None and left.mount is None and left.frame == ""
    assert rig.tolerance_ns == 50_000_000 and rig.missing == "skip" and rig.command.constant is Command.GO_STRAIGHT
    assert parse_rig(GOOD | {"pixel_centre": 0.5}).cameras["FRONT"].lens.cx == 639.5


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        (("cameras", "FRONT", "distorsion"), {}, r"cameras\.FRONT\.distorsion: unknown; there are .*distortion"),
        (("cameras", "FRONT", "topic"), None, r"cameras\.FRONT\.topic: a name is wanted, not None"),
        (("cameras", "FRONT", "intrinsics", "fx"), "wide", r"cameras\.FRONT\.intrinsics\.fx: a number"),
        (("cameras", "FRONT", "intrinsics", "fx"), 0, "focal lengths are positive"),
        (("cameras", "FRONT", "distortion", "model"), "funny", "no lens model 'funny'"),
        (("cameras", "FRONT", "distortion", "coefficients"), [1, 2], "takes 4 or 5 coefficients, got 2"),
        (("cameras", "FRONT", "info"), "/info", "exactly one of info"),
        (("cameras", "FRONT", "mount"), {"yaw_deg": 3}, r"mount: position \[x, y, z\] is missing"),
        (("cameras", "FRONT", "mount", "position"), [1, 2], r"position: \[x, y, z\] in m"),
        (("cameras", "REAR"), {"topic": "/r", "info": "/i"}, "give width, height and focal"),
        (("cameras", "FRONT_LEFT", "topic"), "/cam/image_raw", "another camera's too"),
        (("cameras",), ["FRONT"], "cameras: a mapping"),
        (("odometry",), {}, r"odometry\.topic: is missing"),
        (("odometry", "speed"), "guess", "one of twist, derived"),
        (("command",), {"topic": "/c", "constant": "GO_LEFT"}, "exactly one of topic, constant and from"),
        (("command",), {"constant": "LEFT"}, "one of GO_STRAIGHT, GO_LEFT, GO_RIGHT, not 'LEFT'"),
        (("command",), {"from": "stars"}, "one of driven_path"),
        (("sync",), {"tolerance_ms": 900}, "tolerance_ms: 0 to 150 ms"),
        (("missing",), "invent", "one of skip, black, absent"),
        (("rear_axle",), "there", "rear_axle"),
        (("wheelbase",), -1, "above 0"),
    ],
)
def test_what_is_wrong_and_where(path: tuple[str, ...], value: Any, words: str):
    held = copy.deepcopy(GOOD)
    place = held
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(RigFileError, match=words):
        parse_rig(held)


def test_files(tmp_path: Path):
    file = tmp_path / "rig.yaml"
    for text, words in (("a: [", "is not YAML"), ("- 1", "a mapping with cameras"), (None, "cannot read")):
        if text is not None:
            file.write_text(text)
        with pytest.raises(RigFileError, match=words):
            load_rig(file if text is not None else tmp_path / "no.yaml")
    file.write_text(RIG_YAML)
    assert set(load_rig(file).cameras) == {camera.name for camera in NANO_RIG}


def test_the_example_of_the_documentation_is_a_rig():
    text = (share("launch").parent / "docs" / "replay.md").read_text()
    example = text.split("```yaml\n")[1].split("```")[0]
    assert parse_rig(yaml.safe_load(example)).cameras


def test_a_mount_in_angles_is_the_one_through_tf():
    position, yaw, pitch, roll = (1.4, 0.3, 1.6), 40.0, -3.0, 1.0
    mount = mount_of(position, yaw, pitch, roll)
    flat = Camera("A", 10, 10, 10.0, position, yaw, pitch)
    assert np.allclose(mount_of(position, yaw, pitch, 0.0), flat.camera_to_ego)
    optical = mount.copy()
    optical[:3, :3] = mount[:3, :3] @ np.array([[0.0, 0.0, 1.0], [-1.0, 0.0, 0.0], [0.0, -1.0, 0.0]])
    q = quaternion(optical[:3, :3])
    assert np.allclose(rotation_of(*q), optical[:3, :3])
    mast = mount_of((0.2, 0.0, 1.0), 10.0, 0.0, 0.0)
    tree = {"mast": ("base", mast), "cam": ("mast", np.linalg.inv(mast) @ optical), "imu": ("base", np.eye(4))}
    assert np.allclose(from_optical(chain(tree, "cam", "base")), mount)
    assert np.allclose(chain(tree, "imu", "mast"), np.linalg.inv(mast)), "up one branch and down another"
    with pytest.raises(ExtrinsicsError, match="from 'cam' to 'body'"):
        chain(tree, "cam", "body")
    ahead = mount @ np.array([5.0, 0.0, 0.0, 1.0])
    pixels, depth = project(ahead[None, :3], flat.intrinsics, mount)
    assert pixels[0] == pytest.approx((5.0, 5.0)) and depth[0] == pytest.approx(5.0)


def info(**more: Any) -> Made:
    region = Made(width=0, height=0, x_offset=0, y_offset=0, do_rectify=False)
    k = [800.0, 0, 640.0, 0, 801.0, 360.0, 0, 0, 1]
    held = {"width": 1280, "height": 720, "k": k, "d": [-0.1, 0.01, 0, 0, 0], "distortion_model": "plumb_bob",
            "roi": region, "binning_x": 0, "binning_y": 0}  # fmt: skip
    return Made(**held | more)


def test_camera_info():
    assert lens_of(info()).model == "plumb_bob" and lens_of(info(), 0.5).cx == 639.5
    assert lens_of(info(d=[0.0] * 5)).model == "pinhole" and lens_of(info(d=[])).model == "pinhole"
    assert lens_of(info(d=[0.1, 0, 0, 0], distortion_model="fisheye")).model == "equidistant"
    assert len(lens_of(info(d=[0.1] * 8 + [0.0] * 6, distortion_model="rational_polynomial")).coefficients) == 8
    for more, words in (
        ({"binning_x": 2}, "binned"),
        ({"k": [0.0] * 9}, "uncalibrated"),
        ({"distortion_model": "mystery"}, "mystery"),
        ({"d": [0.1] * 14, "distortion_model": "rational_polynomial"}, "thin prism"),
    ):
        with pytest.raises(LensError, match=words):
            lens_of(info(**more))


def test_raw_pictures():
    rgb = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)
    alpha = np.full((4, 6, 1), 9, np.uint8)
    padded = np.concatenate([rgb.reshape(4, 18), np.zeros((4, 5), np.uint8)], 1)
    cases = {
        "rgb8": (padded, 23),
        "bgr8": (rgb[..., ::-1], 18),
        "rgba8": (np.concatenate([rgb, alpha], 2), 24),
        "bgra8": (np.concatenate([rgb[..., ::-1], alpha], 2), 24),
    }
    for encoding, (data, step) in cases.items():
        message = Made(encoding=encoding, height=4, width=6, step=step, data=np.ascontiguousarray(data).tobytes())
        assert (picture_of(message) == rgb).all(), encoding
    grey = Made(encoding="mono8", height=4, width=6, step=6, data=rgb[..., 0].tobytes())
    assert (picture_of(grey) == rgb[..., :1]).all()
    for bad in (Made(encoding="bayer_rggb8", height=4, width=6, step=6, data=b""),
                Made(encoding="rgb8", height=4, width=6, step=18, data=b"123"),
                Made(format="jpeg", data=b"\xff\xd8 no picture")):  # fmt: skip
        with pytest.raises(UnreadablePictureError):
            picture_of(bad)


def test_commands():
    values = {"1": Command.GO_LEFT, "left": Command.GO_LEFT}
    assert command_of(Made(data=1), values) is command_of(Made(data="left"), values) is Command.GO_LEFT
