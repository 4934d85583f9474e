"""A foreign car live: the launch table of the planner-only graph, its topics, and what is known of the car so far.

`NODE` and `ARGUMENTS` are to `launch/planner.launch.py` what the tables of `bringup` are to `drive.launch.py`.  Topics
come from rig.yaml alone; ROS remappings apply on top of it as ever.  Importing this module needs no ROS.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from efficientgen.perception.foreign_messages import (
    ExtrinsicsError,
    MessageError,
    PoseSample,
    chain,
    command_of,
    header_stamp,
    lens_of,
    pose_sample,
    transforms_of,
)
from efficientgen.perception.rectify import Lens, LensError, Rectifier
from efficientgen.perception.rig_file import RigFile, from_optical
from efficientgen.perception.types import F64, Command
from efficientgen_ros.bringup import Argument, NodeSpec

CONFIG = "launch/config/planner.yaml"
NODE = NodeSpec("planner", "efficientgen_ros.foreign_planner_node", "foreign_planner_node", lifecycle=True)
ARGUMENTS: tuple[Argument, ...] = tuple(
    Argument(name, ("foreign_planner",))
    for name in ("rig", "planner", "checkpoint", "schema", "decoder", "device", "dtype", "rollouts")
)
TF_STATIC = "/tf_static"


def wanted_topics(rig: RigFile, needed: tuple[str, ...]) -> dict[str, tuple[str, str, int]]:
    """Topic -> (what it is, of which camera, queue depth): everything that the planner-only node listens to."""
    out = {rig.odometry: ("odometry", "", 200)}
    if rig.command.topic:
        out[rig.command.topic] = ("command", "", 10)
    for name in needed:
        camera = rig.cameras.get(name)
        if camera is None:
            continue
        out[camera.topic] = ("image", name, 8)
        if camera.info:
            out[camera.info] = ("camera_info", name, 2)
        if camera.mount is None:
            out[TF_STATIC] = ("tf_static", "", 100)
    return out


class Car:
    """What has been heard of the car beside pictures: calibrations, mounts, the command.

    Args:
        complain: told, in words and once each, what cannot be used.
    """

    def __init__(self, rig: RigFile, complain: Callable[[str], None]) -> None:
        self._rig, self._complain_of = rig, complain
        self._told: set[str] = set()
        self._lenses: dict[str, Lens] = {}
        self._transforms: dict[str, tuple[str, F64]] = {}
        self._rectifiers: dict[str, Rectifier] = {}
        self._command: Command | None = rig.command.constant
        self.frames: dict[str, str] = {}  # camera -> frame_id of its pictures

    def add(self, key: str, name: str, message: Any) -> None:
        """A calibration, the static transforms, or a command."""
        try:
            if key == "camera_info" and name not in self._lenses:
                self._lenses[name] = lens_of(message, self._rig.pixel_centre)
            elif key == "tf_static":
                held = transforms_of(message)
                self._transforms |= {child: (parent, matrix) for parent, child, matrix in held}
            elif key == "command":
                self._command = command_of(message, self._rig.command.values or {})
        except (LensError, ExtrinsicsError, MessageError) as error:
            self._complain(f"{name or key}: {error}")

    def pose(self, message: Any, received_ns: int) -> PoseSample | None:
        """An odometry message as a sample; None when it is none."""
        try:
            return pose_sample(message, self.stamp(message, received_ns), self._rig.speed == "twist")
        except MessageError as error:
            self._complain(str(error))
            return None

    def stamp(self, message: Any, received_ns: int) -> int:
        """The stamp of a message: its header's, or the time of its arrival where rig.yaml says so or it has none."""
        return received_ns if self._rig.stamps == "received" else header_stamp(message) or received_ns

    def command_at(self, stamp_ns: int) -> Command | None:
        """The command heard last."""
        return self._command

    def rectifier(self, name: str) -> Rectifier | None:
        """Of a camera whose calibration and mount are known; None until then."""
        camera = self._rig.cameras.get(name)
        if name in self._rectifiers or camera is None:
            return self._rectifiers.get(name)
        lens, mount = camera.lens or self._lenses.get(name), camera.mount
        if lens is None:
            return None
        if mount is None:
            try:
                frame = (camera.frame or self.frames.get(name, "")).lstrip("/")
                mount = from_optical(chain(self._transforms, frame, self._rig.base_frame))
            except ExtrinsicsError as error:
                self._complain(str(error))
                return None
        self._rectifiers[name] = Rectifier(lens, self._rig.in_ego(mount), camera.pinhole)
        return self._rectifiers[name]

    def _complain(self, words: str) -> None:
        if words not in self._told:
            self._told.add(words)
            self._complain_of(words)
