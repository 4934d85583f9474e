"""A recording as another car's software would make it: other topics, lenses, clocks and mounts than ours.

It is how `efficientgen replay` is tried without a car.  A drive of the expert through the reference world is looked at
by three distorted 1280x720 cameras that nobody synchronised (28 ms early, 30 ms late), JPEG-compressed, with odometry
of the car's middle at 50 Hz, mounts in /tf_static and the route command in words; all of it written by the `rosbags`
library with stock message definitions.  It is no real driving: what it proves is the way in, not the planner.
"""

from __future__ import annotations

import io
import math
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from PIL import Image
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore

from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.observation import interpolate
from efficientgen.perception.rectify import OPTICAL_FROM_CAMERA, Lens, Remap
from efficientgen.perception.rig import Camera
from efficientgen.perception.route import command_at, locate
from efficientgen.perception.types import F64, NS, U8, Command, EgoState, OracleFrame
from efficientgen.worldsim.scenario import Scenario

EPOCH_NS = 1_700_000_000 * NS + 123_456_789  # the car's clock at the start of the drive
ODOMETRY_NS, ODOMETRY_PHASE_NS = 20_000_000, 7_000_000
PICTURE_NS = 100_000_000
DELAY_NS = 45_000_000  # a picture is recorded so long after it was taken
MIDDLE_M = 1.35  # the car's base frame stands so far ahead of its rear axle
JPEG_QUALITY = 92
WORDS = {Command.GO_LEFT: "left", Command.GO_STRAIGHT: "straight", Command.GO_RIGHT: "right"}
ODOMETRY, TURN, TF_STATIC = "/vehicle/odometry", "/navigation/turn", "/tf_static"
RENDERED = (1680, 960, 720.0)  # px and focal length: a pinhole that sees more than each of the lenses


@dataclass(frozen=True)
class CameraSpec:
    """One of the car's cameras: `early_ns` before the tick, looking `yaw_deg` to the left from `mount` (rear axle)."""

    planner_name: str
    topic: str
    frame: str
    lens: Lens
    mount: tuple[float, float, float]
    yaw_deg: float
    pitch_deg: float
    early_ns: int


def _lens(model: str, coefficients: tuple[float, ...]) -> Lens:
    return Lens(1280, 720, 800.0, 802.0, 644.3, 355.2, model, coefficients)


CAR: tuple[CameraSpec, ...] = (
    CameraSpec("FRONT_LEFT", "/cam/left", "cam_left_optical", _lens("equidistant", (0.02, -0.008, 0.003, -0.0005)),
               (1.52, 0.34, 1.50), 51.0, -1.0, 28_000_000),
    CameraSpec("FRONT", "/cam/centre", "cam_centre_optical", _lens("plumb_bob", (-0.18, 0.04, 0.0006, -0.0004, 0.0)),
               (1.64, 0.02, 1.46), 0.6, -1.5, 0),
    CameraSpec("FRONT_RIGHT", "/cam/right", "cam_right_optical",
               _lens("rational_polynomial", (0.12, 0.03, 0.0003, 0.0005, 0.004, 0.30, 0.05, 0.006)),
               (1.52, -0.34, 1.50), -51.0, -1.0, -30_000_000),
)  # fmt: skip


class ForeignWriter:
    """A rosbag2 being written with `rosbags`; messages are put in order by their time of recording on leaving.

    Args:
        path: the bag's directory; replaced if it is a bag.
        storage: of the bag.
    """

    def __init__(self, path: Path, storage: Literal["mcap", "sqlite3"] = "mcap") -> None:
        self._store = get_typestore(Stores.ROS2_HUMBLE)
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._scratch = path, Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
        plugin = StoragePlugin.MCAP if storage == "mcap" else StoragePlugin.SQLITE3
        self._writer = Writer(self._scratch / path.name, version=9, storage_plugin=plugin)
        self._connections: dict[str, Any] = {}
        self._waiting: list[tuple[int, int, str, str, Any]] = []
        self._count = 0

    def __enter__(self) -> ForeignWriter:
        self._writer.open()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        try:
            if kind is None:
                self.flush(None)
            self._writer.close()
            if kind is None:
                shutil.rmtree(self._path, ignore_errors=True)
                (self._scratch / self._path.name).rename(self._path)
        finally:
            shutil.rmtree(self._scratch)

    def make(self, kind: str, *args: Any, **fields: Any) -> Any:
        """A message, or part of one, of type `package/msg/Name`."""
        return self._store.types[kind](*args, **fields)

    def header(self, stamp_ns: int, frame: str) -> Any:
        """A `std_msgs/Header`."""
        stamp = self.make("builtin_interfaces/msg/Time", stamp_ns // NS, stamp_ns % NS)
        return self.make("std_msgs/msg/Header", stamp, frame)

    def write(self, topic: str, received_ns: int, message: Any) -> None:
        """Take a message that was recorded at `received_ns`."""
        self._count += 1
        self._waiting.append((received_ns, self._count, topic, message.__msgtype__, message))

    def flush(self, before_ns: int | None) -> None:
        """Write what was recorded before a time (None: everything)."""
        self._waiting.sort(key=lambda held: held[:2])
        while self._waiting and (before_ns is None or self._waiting[0][0] < before_ns):
            received, _, topic, kind, message = self._waiting.pop(0)
            if topic not in self._connections:
                self._connections[topic] = self._writer.add_connection(topic, kind, typestore=self._store)
            self._writer.write(self._connections[topic], received, self._store.serialize_cdr(message, kind))

    # --- messages ---

    def odometry(self, topic: str, ego: EgoState, stamp_ns: int, ahead_m: float = MIDDLE_M) -> None:
        """`nav_msgs/Odometry` of a base frame `ahead_m` before the rear axle of `ego`."""
        c, s = math.cos(ego.yaw), math.sin(ego.yaw)
        vector, zeros = "geometry_msgs/msg/Vector3", np.zeros(36)
        turn = self.make("geometry_msgs/msg/Quaternion", 0.0, 0.0, math.sin(0.5 * ego.yaw), math.cos(0.5 * ego.yaw))
        place = self.make("geometry_msgs/msg/Point", ego.x + ahead_m * c, ego.y + ahead_m * s, 0.0)
        linear = self.make(vector, ego.speed, ahead_m * ego.yaw_rate, 0.0)
        twist = self.make("geometry_msgs/msg/Twist", linear, self.make(vector, 0.0, 0.0, ego.yaw_rate))
        message = self.make(
            "nav_msgs/msg/Odometry",
            header=self.header(stamp_ns, "odom"),
            child_frame_id="base_link",
            pose=self.make(
                "geometry_msgs/msg/PoseWithCovariance", self.make("geometry_msgs/msg/Pose", place, turn), zeros
            ),
            twist=self.make("geometry_msgs/msg/TwistWithCovariance", twist, zeros),
        )
        self.write(topic, stamp_ns + 4_000_000, message)

    def picture(self, topic: str, image: U8, stamp_ns: int, frame: str, kind: str = "jpeg") -> None:
        """`sensor_msgs/CompressedImage`, JPEG or PNG; or a raw bgr8 `Image` with `kind="raw"`."""
        header = self.header(stamp_ns, frame)
        if kind == "raw":
            data = np.ascontiguousarray(image[..., ::-1]).ravel()
            h, w, _ = image.shape
            message = self.make("sensor_msgs/msg/Image", header, h, w, "bgr8", 0, 3 * w, data)
        else:
            buffer = io.BytesIO()
            Image.fromarray(image).save(buffer, kind.upper(), quality=JPEG_QUALITY, compress_level=1)
            words = f"bgr8; {kind} compressed bgr8"
            data = np.frombuffer(buffer.getvalue(), np.uint8)
            message = self.make("sensor_msgs/msg/CompressedImage", header, words, data)
        self.write(topic, stamp_ns + DELAY_NS, message)

    def camera_info(self, topic: str, lens: Lens, stamp_ns: int, frame: str) -> None:
        """`sensor_msgs/CameraInfo` with K and D."""
        k = np.array([lens.fx, 0, lens.cx, 0, lens.fy, lens.cy, 0, 0, 1.0])
        message = self.make(
            "sensor_msgs/msg/CameraInfo",
            header=self.header(stamp_ns, frame),
            height=lens.height,
            width=lens.width,
            distortion_model="plumb_bob" if lens.model == "pinhole" else lens.model,
            d=np.array(lens.coefficients or (0.0,) * 5),
            k=k,
            r=np.eye(3).ravel(),
            p=np.hstack([k.reshape(3, 3), np.zeros((3, 1))]).ravel(),
            binning_x=0,
            binning_y=0,
            roi=self.make("sensor_msgs/msg/RegionOfInterest", 0, 0, 0, 0, False),
        )
        self.write(topic, stamp_ns + DELAY_NS, message)

    def mounts(self, poses: Iterable[tuple[str, str, F64]], stamp_ns: int) -> None:
        """/tf_static with (parent, child, (4, 4) child to parent)."""
        held = []
        for parent, child, matrix in poses:
            turn = self.make("geometry_msgs/msg/Quaternion", *quaternion(matrix[:3, :3]))
            place = self.make("geometry_msgs/msg/Vector3", *map(float, matrix[:3, 3]))
            transform = self.make("geometry_msgs/msg/Transform", place, turn)
            stamped = "geometry_msgs/msg/TransformStamped"
            held.append(self.make(stamped, self.header(stamp_ns, parent), child, transform))
        self.write(TF_STATIC, stamp_ns, self.make("tf2_msgs/msg/TFMessage", held))

    def word(self, topic: str, data: str, stamp_ns: int) -> None:
        """`std_msgs/String`."""
        self.write(topic, stamp_ns, self.make("std_msgs/msg/String", data))


def make_foreign_bag(
    out: Path | str,
    scenario: Scenario,
    seed: int = 0,
    storage: Literal["mcap", "sqlite3"] = "mcap",
    progress: Callable[[float], None] | None = None,
) -> tuple[Path, Path]:
    """Drive, look, and write `<out>/recording` (a rosbag2) and `<out>/rig.yaml`; their paths.

    Args:
        progress: called with the share that is done.
    """
    from efficientgen.worldsim.reference.world import ReferenceWorld  # the renderer

    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    log = drive(scenario, seed, "expert")
    ticks = all_ticks(log)
    width, height, focal = RENDERED
    pinholes = tuple(Camera(c.planner_name, width, height, focal, c.mount, c.yaw_deg, c.pitch_deg) for c in CAR)
    worlds = [ReferenceWorld((pinhole,)) for pinhole in pinholes]  # each camera has its own moments
    try:
        for world in worlds:
            world.reset(log.start.town, log.start.weather, seed)
        bent = [_through(camera.lens) for camera in CAR]
        with ForeignWriter(out / "recording", storage) as writer:
            writer.mounts(_mounts(pinholes), EPOCH_NS)
            for ego in _odometry(ticks):
                writer.odometry(ODOMETRY, ego, EPOCH_NS + ego.stamp_ns)
            s = 0.0
            for k, tick in enumerate(ticks[1:-1], 1):
                s = locate(log.route, tick.ego.x, tick.ego.y, s if k > 1 else None)[0]
                writer.word(TURN, WORDS[command_at(log.route, s)], EPOCH_NS + tick.stamp_ns)
                for i, camera in enumerate(CAR):
                    stamp = tick.stamp_ns - camera.early_ns
                    seen = worlds[i].render(frame_at(ticks, stamp))[0]
                    picture = bent[i](seen).reshape(camera.lens.height, camera.lens.width, 3)
                    writer.picture(f"{camera.topic}/image/compressed", picture, EPOCH_NS + stamp, camera.frame)
                    if k % 10 == 1:
                        writer.camera_info(f"{camera.topic}/camera_info", camera.lens, EPOCH_NS + stamp, camera.frame)
                writer.flush(EPOCH_NS + tick.stamp_ns - PICTURE_NS)
                if progress is not None:
                    progress(k / (len(ticks) - 2))
    finally:
        for world in worlds:
            world.close()
    rig = out / "rig.yaml"
    rig.write_text(RIG_YAML, encoding="utf-8")
    return out / "recording", rig


def frame_at(ticks: list[OracleFrame], stamp_ns: int) -> OracleFrame:
    """The truth between two ticks: everything that both hold moves evenly."""
    k = min(max(int(stamp_ns // PICTURE_NS), 0), len(ticks) - 2)
    before, after = ticks[k], ticks[k + 1]
    a = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)
    later = {actor.id: actor for actor in after.actors}
    actors = tuple(
        replace(
            actor,
            x=actor.x + a * (then.x - actor.x),
            y=actor.y + a * (then.y - actor.y),
            yaw=actor.yaw + a * math.remainder(then.yaw - actor.yaw, math.tau),
        )
        for actor in before.actors
        if (then := later.get(actor.id)) is not None
    )
    return replace(before, stamp_ns=stamp_ns, ego=interpolate(before.ego, after.ego, stamp_ns), actors=actors)


def quaternion(rotation: F64) -> tuple[float, float, float, float]:
    """(x, y, z, w) of a rotation (3, 3): the eigenvector of Bar-Itzhack (2000) for the largest eigenvalue."""
    r = rotation
    k = np.array(
        [
            [r[0, 0] - r[1, 1] - r[2, 2], r[1, 0] + r[0, 1], r[2, 0] + r[0, 2], r[2, 1] - r[1, 2]],
            [r[1, 0] + r[0, 1], r[1, 1] - r[0, 0] - r[2, 2], r[2, 1] + r[1, 2], r[0, 2] - r[2, 0]],
            [r[2, 0] + r[0, 2], r[2, 1] + r[1, 2], r[2, 2] - r[0, 0] - r[1, 1], r[1, 0] - r[0, 1]],
            [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
        ]
    )
    x, y, z, w = np.linalg.eigh(k)[1][:, -1].tolist()
    return x, y, z, w


def _mounts(pinholes: tuple[Camera, ...]) -> Iterator[tuple[str, str, F64]]:
    """Through a mast, so that there is a chain to follow; optical frames, seen from the middle of the car."""
    mast = np.eye(4)
    mast[:3, 3] = 0.2, 0.0, 1.4
    yield "base_link", "mast", mast
    for spec, camera in zip(CAR, pinholes, strict=True):
        pose = camera.camera_to_ego
        pose[:3, 3] -= (MIDDLE_M, 0.0, 0.0)
        pose[:3, :3] = pose[:3, :3] @ OPTICAL_FROM_CAMERA.T
        yield "mast", spec.frame, np.linalg.inv(mast) @ pose


def _through(lens: Lens) -> Remap:
    """From the rendered pinhole to what `lens` makes of the same view."""
    width, height, focal = RENDERED
    v, u = np.mgrid[: lens.height, : lens.width].astype(np.float64)
    rays = lens.unproject(np.stack([u.ravel(), v.ravel()], 1))
    at = rays[:, :2] / rays[:, 2:] * focal + (width / 2 - 0.5, height / 2 - 0.5)
    seen = (at > -0.5).all(1) & (at < np.array([width - 0.5, height - 0.5])).all(1)
    return Remap(at, np.asarray(seen), width, height)


def _odometry(ticks: list[OracleFrame]) -> Iterator[EgoState]:
    k = 0
    for stamp in range(ODOMETRY_PHASE_NS, ticks[-1].stamp_ns, ODOMETRY_NS):
        while ticks[k + 1].stamp_ns < stamp:
            k += 1
        yield interpolate(ticks[k].ego, ticks[k + 1].ego, stamp)


RIG_YAML = """\
# The car of `efficientgen data foreign-bag`.  Every key: docs/replay.md.
cameras:
  FRONT_LEFT:
    topic: /cam/left/image/compressed
    info: /cam/left/camera_info
  FRONT:
    topic: /cam/centre/image/compressed
    info: /cam/centre/camera_info
  FRONT_RIGHT:
    topic: /cam/right/image/compressed
    info: /cam/right/camera_info
odometry:
  topic: /vehicle/odometry
base_frame: base_link
rear_axle: [-1.35, 0.0, 0.0] # the odometry moves the middle of the car
command:
  topic: /navigation/turn
  values: {left: GO_LEFT, straight: GO_STRAIGHT, right: GO_RIGHT}
sync:
  tolerance_ms: 50
"""
