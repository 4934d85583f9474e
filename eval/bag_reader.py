"""Recordings of other cars: rosbag2 (MCAP or SQLite) and ROS 1 bags, read by the `rosbags` library without any ROS.

`survey` goes through the small topics once: calibrations, transforms, route commands, and the whole driven path (a few
dozen bytes a message).  `play` then streams poses and pictures in the order in which they were recorded; pictures are
not decoded unless a plan stamp takes them, so memory does not grow with the recording.
"""

from __future__ import annotations

import bisect
import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.typesys import Stores, get_typestore

from efficientgen.perception.foreign_feed import ForeignFeed
from efficientgen.perception.foreign_messages import (
    PoseSample,
    UnreadablePictureError,
    chain,
    command_of,
    header_stamp,
    lens_of,
    picture_of,
    pose_sample,
    transforms_of,
)
from efficientgen.perception.odometry import DrivenPath, at_rear_axle
from efficientgen.perception.rectify import Lens, LensError, Rectifier
from efficientgen.perception.rig_file import ForeignCamera, RigFile, from_optical
from efficientgen.perception.types import F64, U8, Command

TF_STATIC = "/tf_static"
TURN_AHEAD_M, TURN_RAD = 40.0, 0.45  # a command derived from the driven path: so far ahead, so much of a turn
_DAMAGED = (AnyReaderError, AssertionError, EOFError, ValueError, KeyError, OSError, sqlite3.Error, zlib.error)


class BagError(ValueError):
    """A recording that is not there, is damaged, or is none."""


class BagTopicError(ValueError):
    """A topic of rig.yaml that the recording does not hold, or holds as another type."""


@dataclass
class Survey:
    """The small topics of a recording."""

    topics: dict[str, tuple[str, int]]  # name -> (type, messages)
    path: DrivenPath
    poses: int = 0
    lenses: dict[str, Lens] = field(default_factory=dict)
    lens_errors: dict[str, str] = field(default_factory=dict)
    transforms: dict[str, tuple[str, F64]] = field(default_factory=dict)
    frames: dict[str, str] = field(default_factory=dict)  # camera -> frame_id of its pictures
    commands: list[tuple[int, Command]] = field(default_factory=list)
    silent: tuple[str, ...] = ()  # cameras of rig.yaml whose topic the recording does not hold


class Bag:
    """An open recording."""

    def __init__(self, reader: AnyReader, path: Path) -> None:
        self._reader, self.path = reader, path
        self.topics = {name: (str(info.msgtype or "several types"), info.msgcount)
                       for name, info in reader.topics.items()}  # fmt: skip

    def messages(self, topics: set[str]) -> Iterator[tuple[str, int, Callable[[], Any]]]:
        """(topic, time of recording in ns, a function that deserialises the message), in order of recording.

        Raises:
            BagError: the recording is damaged.
        """
        wanted = [c for c in self._reader.connections if c.topic in topics]
        if not wanted:
            return
        stream = self._reader.messages(connections=wanted)
        while True:
            try:
                connection, stamp, data = next(stream)
            except StopIteration:
                return
            except _DAMAGED as error:
                raise BagError(
                    f"{self.path} is damaged: {_words(error)}; what was recorded cannot be trusted"
                ) from error
            yield connection.topic, stamp, partial(self._message, data, connection.msgtype)

    def _message(self, data: bytes, kind: str) -> Any:
        try:
            return self._reader.deserialize(data, kind)
        except _DAMAGED as error:
            raise BagError(f"{self.path}: a {kind} does not deserialise: {_words(error)}") from error


@contextmanager
def open_bag(path: Path | str) -> Iterator[Bag]:
    """Open a rosbag2 directory, a bare .mcap or .db3 file, or a ROS 1 .bag.

    Raises:
        BagError: it is not there, is damaged, or is no recording.
    """
    path = Path(path)
    if not path.exists():
        raise BagError(f"there is no recording at {path}: give a rosbag2 directory, an .mcap or a .bag file")
    try:
        reader = AnyReader([path], default_typestore=get_typestore(Stores.ROS2_HUMBLE))
        reader.open()
    except _DAMAGED as error:
        raise BagError(
            f"{path} cannot be read ({_words(error)}); a recorder that was killed leaves a bag that "
            "`ros2 bag reindex` or `mcap recover` mends"
        ) from error
    try:
        yield Bag(reader, path)
    finally:
        reader.close()


def survey(bag: Bag, rig: RigFile) -> Survey:
    """Read what is small: calibrations, transforms, commands, the driven path.

    Raises:
        BagTopicError: no odometry or command topic of this name, or an unusable type.
        MessageError: odometry without the speed that rig.yaml wants, a command that means nothing.
    """
    _require(bag, rig.odometry, "odometry.topic", "Odometry")
    if rig.command.topic:
        _require(bag, rig.command.topic, "command.topic", "String")
    for name, camera in rig.cameras.items():
        _require_type(bag, camera.topic, f"cameras.{name}.topic", ("Image", "CompressedImage"))
        _require_type(bag, camera.info, f"cameras.{name}.info", ("CameraInfo",))
    infos = {camera.info: name for name, camera in rig.cameras.items() if camera.info}
    wanted = {rig.odometry, TF_STATIC, rig.command.topic, *infos} - {""}
    out = Survey(bag.topics, DrivenPath([], rig.gap_ns))
    samples: list[PoseSample] = []
    for topic, received, message in bag.messages(wanted):
        if topic == rig.odometry:
            sample = _pose(message(), received, rig)
            if not samples or sample.stamp_ns > samples[-1].stamp_ns:
                samples.append(at_rear_axle(sample, rig.rear_axle[:2]))
        elif topic == TF_STATIC:
            out.transforms |= {child: (parent, matrix) for parent, child, matrix in transforms_of(message())}
        elif topic == rig.command.topic:
            heard_ns = samples[-1].stamp_ns if samples else 0  # it has no header: the car's own time then
            out.commands.append((heard_ns, command_of(message(), rig.command.values or {})))
        elif infos[topic] not in out.lenses and infos[topic] not in out.lens_errors:
            try:
                out.lenses[infos[topic]] = lens_of(message(), rig.pixel_centre)
            except LensError as error:
                out.lens_errors[infos[topic]] = str(error)
    out.path, out.poses = DrivenPath(samples, rig.gap_ns), len(samples)
    out.silent = tuple(name for name, camera in rig.cameras.items() if not bag.topics.get(camera.topic, ("", 0))[1])
    for camera in rig.cameras.values():
        if camera.mount is None and not camera.frame and camera.name not in out.silent:
            out.frames[camera.name] = _first_frame(bag, camera)
    return out


def rectifiers(rig: RigFile, found: Survey, needed: tuple[str, ...]) -> dict[str, Rectifier]:
    """The rectifier of each needed camera that the recording holds.

    Raises:
        LensError: no usable calibration.
        ExtrinsicsError: no chain of transforms to the camera.
    """
    out = {}
    for name in needed:
        camera = rig.cameras.get(name)
        if camera is None or name in found.silent:
            continue
        lens = camera.lens or found.lenses.get(name)
        if lens is None:
            why = found.lens_errors.get(name) or f"no message on {camera.info}"
            raise LensError(f"{name} has no calibration: {why}; give intrinsics and distortion in rig.yaml")
        mount = camera.mount
        if mount is None:
            frame = (camera.frame or found.frames[name]).lstrip("/")
            mount = from_optical(chain(found.transforms, frame, rig.base_frame))
        out[name] = Rectifier(lens, rig.in_ego(mount), camera.pinhole)
    return out


def play(bag: Bag, rig: RigFile, needed: tuple[str, ...], feed: ForeignFeed) -> Iterator[None]:
    """Stream poses and pictures into `feed`; yields after each message.

    Raises:
        BagError: the recording is damaged.
    """
    cameras = {rig.cameras[name].topic: name for name in needed if name in rig.cameras}
    for topic, received, message in bag.messages({rig.odometry, *cameras}):
        if topic == rig.odometry:
            feed.add_pose(_pose(message(), received, rig))
        else:
            stamp, decode = _picture(message, received, rig)
            feed.add_picture(cameras[topic], stamp, decode)
        yield


def commands(rig: RigFile, found: Survey) -> Callable[[int], Command | None]:
    """The route command at an absolute stamp, from the source that rig.yaml names."""
    source = rig.command
    if source.constant is not None:
        return lambda stamp: source.constant
    if source.driven_path:
        return lambda stamp: _turn(found.path.turn_ahead(stamp, TURN_AHEAD_M))
    stamps = [stamp for stamp, _ in found.commands]

    def heard(stamp: int) -> Command | None:
        k = bisect.bisect_right(stamps, stamp)
        return found.commands[k - 1][1] if k else None

    return heard


def _turn(angle: float | None) -> Command | None:
    if angle is None:
        return None
    return Command.GO_LEFT if angle > TURN_RAD else Command.GO_RIGHT if angle < -TURN_RAD else Command.GO_STRAIGHT


def _pose(message: Any, received: int, rig: RigFile) -> PoseSample:
    return pose_sample(message, _stamp(message, received, rig), rig.speed == "twist")


def _picture(message: Callable[[], Any], received: int, rig: RigFile) -> tuple[int, Callable[[], U8]]:
    """The stamp of a picture, and how to decode it; one that does not deserialise is unreadable, no more."""
    try:
        held = message()
    except BagError as error:
        words = str(error)

        def refuse() -> U8:
            raise UnreadablePictureError(words)

        return received, refuse
    return _stamp(held, received, rig), lambda: picture_of(held)


def _stamp(message: Any, received: int, rig: RigFile) -> int:
    return received if rig.stamps == "received" else header_stamp(message) or received


def _first_frame(bag: Bag, camera: ForeignCamera) -> str:
    for _, _, message in bag.messages({camera.topic}):
        return str(message().header.frame_id)
    return ""


def _require(bag: Bag, topic: str, where: str, like: str) -> None:
    if topic in bag.topics and bag.topics[topic][1]:
        return
    near = [name for name, (kind, _) in bag.topics.items() if like in kind or "Pose" in kind and like == "Odometry"]
    raise BagTopicError(
        f"{bag.path} holds no messages on {topic} ({where} in rig.yaml); "
        + (f"it has {', '.join(sorted(near))}" if near else f"its topics: {', '.join(sorted(bag.topics)) or 'none'}")
    )


def _require_type(bag: Bag, topic: str, where: str, kinds: tuple[str, ...]) -> None:
    if topic in bag.topics and bag.topics[topic][0].rsplit("/", 1)[-1] not in kinds:
        raise BagTopicError(f"{topic} is a {bag.topics[topic][0]} ({where} in rig.yaml), not a {' or '.join(kinds)}")


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
