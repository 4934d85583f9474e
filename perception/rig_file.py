"""rig.yaml: which topics of a foreign car are its cameras, its odometry and its route command, and how it is built.

One file describes a car for `efficientgen replay` and for `planner.launch.py` alike; docs/replay.md explains every
key.  It is read strictly: an unknown key, a wrong type or a camera that nothing can be rectified to is an error that
names the place in the file, because a rig that is almost right gives plans that are quietly wrong.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from efficientgen.perception.rectify import OPTICAL_FROM_CAMERA, Lens, LensError
from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import F64, Command

MISSING = ("skip", "black", "absent")
SPEEDS = ("twist", "derived")
STAMPS = ("header", "received")
DRIVEN_PATH = "driven_path"
LARGEST_TOLERANCE_MS = 150.0


class RigFileError(ValueError):
    """A rig.yaml that does not describe a car; the message names the place and what belongs there."""


@dataclass(frozen=True)
class ForeignCamera:
    """One camera of the car.  What is None or "" comes from the recording: `info`, and `frame` through /tf_static."""

    name: str  # what the planner calls it
    topic: str  # sensor_msgs/Image or CompressedImage
    info: str  # topic of its sensor_msgs/CameraInfo; "": `lens` is given
    lens: Lens | None
    mount: F64 | None  # (4, 4) x-forward camera frame to base frame; None: from /tf_static
    frame: str  # optical frame to look up there; "": the one that its pictures name
    pinhole: Camera  # what its pictures are rectified to


@dataclass(frozen=True)
class CommandSource:
    """Where the route command comes from: exactly one of a topic, a constant, or the driven path itself."""

    topic: str = ""  # std_msgs/String, or a message with a whole number in `data`
    values: Mapping[str, Command] | None = None  # what is heard -> what it means
    constant: Command | None = None
    driven_path: bool = False  # derived from where the car went afterwards: a look into the future


@dataclass(frozen=True)
class RigFile:
    """A car as the planner needs to know it.  Lengths in m, in the frame that the odometry moves (`base_frame`)."""

    cameras: Mapping[str, ForeignCamera]
    odometry: str  # topic: Odometry, PoseStamped, PoseWithCovarianceStamped or TransformStamped
    speed: str  # "twist" | "derived"
    command: CommandSource
    base_frame: str = "base_link"
    rear_axle: tuple[float, float, float] = (0.0, 0.0, 0.0)  # middle of the rear axle, on the ground
    wheelbase: float = 2.8
    tolerance_ns: int = 50_000_000
    patience_ns: int = 300_000_000
    gap_ns: int = 250_000_000  # odometry further apart is not bridged
    stamps: str = "header"
    missing: str = "skip"
    pixel_centre: float = 0.0

    @property
    def reference(self) -> str:
        """The camera whose pictures the plan stamps follow: FRONT, or else the first in the file."""
        return "FRONT" if "FRONT" in self.cameras else next(iter(self.cameras), "")

    def in_ego(self, mount: F64) -> F64:
        """A pose in the base frame as one in the ego frame, which sits on the ground below the rear axle."""
        out = mount.copy()
        out[:3, 3] -= self.rear_axle
        return out


def load_rig(path: Path | str) -> RigFile:
    """Read and check a rig.yaml.

    Raises:
        RigFileError: there is none, it is not YAML, or it does not describe a car.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise RigFileError(f"cannot read {path} ({error}); docs/replay.md says what a rig.yaml holds") from error
    try:
        held = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise RigFileError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    try:
        return parse_rig(held)
    except RigFileError as error:
        raise RigFileError(f"{path}: {error}") from error


def parse_rig(held: Any) -> RigFile:
    """The rig that a rig.yaml's content describes.

    Raises:
        RigFileError: it does not describe one.
    """
    top = _Keys(held, "", ("cameras", "odometry", "command", "base_frame", "rear_axle", "wheelbase", "sync", "missing",
                           "pixel_centre"))  # fmt: skip
    odometry = _Keys(top.needed("odometry"), "odometry", ("topic", "speed", "largest_gap_ms"))
    sync = _Keys(top.get("sync", {}), "sync", ("tolerance_ms", "patience_ms", "stamps"))
    cameras = top.needed("cameras")
    if not isinstance(cameras, dict):
        raise RigFileError("cameras: a mapping from the planner's camera names to cameras, {} for none")
    centre = top.number("pixel_centre", 0.0)
    if centre not in (0.0, 0.5):
        raise RigFileError(f"pixel_centre: 0 (OpenCV, ROS) or 0.5, not {centre:g}")
    seen = {str(name): _camera(str(name), value, centre) for name, value in cameras.items()}
    topics = [camera.topic for camera in seen.values()]
    for name, camera in seen.items():
        if topics.count(camera.topic) > 1:
            raise RigFileError(f"cameras.{name}.topic: {camera.topic} is another camera's too")
    return RigFile(
        cameras=seen,
        odometry=odometry.text("topic"),
        speed=odometry.choice("speed", SPEEDS, "twist"),
        gap_ns=_ms(odometry, "largest_gap_ms", 250.0, 10.0, 2000.0),
        command=_command(top.needed("command")),
        base_frame=top.text("base_frame", "base_link"),
        rear_axle=_three(top.get("rear_axle", (0.0, 0.0, 0.0)), "rear_axle"),
        wheelbase=_positive(top.number("wheelbase", 2.8), "wheelbase"),
        tolerance_ns=_ms(sync, "tolerance_ms", 50.0, 0.0, LARGEST_TOLERANCE_MS),
        patience_ns=_ms(sync, "patience_ms", 300.0, 0.0, 10_000.0),
        stamps=sync.choice("stamps", STAMPS, "header"),
        missing=top.choice("missing", MISSING, "skip"),
        pixel_centre=centre,
    )


def mount_of(position: tuple[float, float, float], yaw: float, pitch: float, roll: float) -> F64:
    """(4, 4) pose of an x-forward camera: turned left by `yaw`, up by `pitch`, clockwise by `roll` (deg)."""
    out = Camera("", 1, 1, 1.0, position, yaw, pitch).camera_to_ego
    c, s = math.cos(math.radians(roll)), math.sin(math.radians(roll))
    out[:3, :3] = out[:3, :3] @ np.array([[1.0, 0.0, 0.0], [0.0, c, -s], [0.0, s, c]])
    return out


def from_optical(optical_to_base: F64) -> F64:
    """(4, 4) of an optical frame (z forward) as that of the x-forward camera frame at the same place."""
    out = np.array(optical_to_base, np.float64)
    out[:3, :3] = out[:3, :3] @ OPTICAL_FROM_CAMERA
    return out


def _camera(name: str, value: Any, centre: float) -> ForeignCamera:
    where = f"cameras.{name}"
    keys = _Keys(value, where, ("topic", "info", "intrinsics", "distortion", "mount", "pinhole"))
    topic = keys.text("topic")
    info, intrinsics = keys.text("info", ""), keys.get("intrinsics", None)
    if bool(info) == (intrinsics is not None):
        raise RigFileError(f"{where}: exactly one of info (a CameraInfo topic) and intrinsics is wanted")
    if info and keys.get("distortion", None) is not None:
        raise RigFileError(f"{where}.distortion: comes with info, or give intrinsics here too")
    lens = None if intrinsics is None else _lens(where, intrinsics, keys.get("distortion", {}), centre)
    mount, frame = _mount(f"{where}.mount", keys.get("mount", {"tf": ""}))
    return ForeignCamera(name, topic, info, lens, mount, frame, _pinhole(name, keys.get("pinhole", None)))


def _lens(where: str, intrinsics: Any, distortion: Any, centre: float) -> Lens:
    k = _Keys(intrinsics, f"{where}.intrinsics", ("width", "height", "fx", "fy", "cx", "cy"))
    d = _Keys(distortion, f"{where}.distortion", ("model", "coefficients"))
    numbers = d.get("coefficients", ())
    if not isinstance(numbers, (list, tuple)) or not all(isinstance(n, (int, float)) for n in numbers):
        raise RigFileError(f"{where}.distortion.coefficients: a list of numbers")
    model = d.text("model", "plumb_bob" if numbers else "pinhole")
    try:
        return Lens(
            width=int(k.number("width")),
            height=int(k.number("height")),
            fx=k.number("fx"),
            fy=k.number("fy"),
            cx=k.number("cx") - centre,
            cy=k.number("cy") - centre,
            model=model,
            coefficients=tuple(map(float, numbers)),
        )
    except LensError as error:
        raise RigFileError(f"{where}: {error}") from error


def _mount(where: str, value: Any) -> tuple[F64 | None, str]:
    keys = _Keys(value, where, ("position", "yaw_deg", "pitch_deg", "roll_deg", "tf"))
    if "position" not in keys.held:
        if set(keys.held) - {"tf"}:
            raise RigFileError(f"{where}: position [x, y, z] is missing")
        return None, keys.text("tf", "")
    if "tf" in keys.held:
        raise RigFileError(f"{where}: either position and angles, or tf (an optical frame of /tf_static)")
    angles = [keys.number(name, 0.0) for name in ("yaw_deg", "pitch_deg", "roll_deg")]
    return mount_of(_three(keys.get("position", None), f"{where}.position"), *angles), ""


def _pinhole(name: str, value: Any) -> Camera:
    where = f"cameras.{name}.pinhole"
    known = next((camera for camera in NANO_RIG if camera.name == name), None)
    if value is None:
        if known is None:
            names = ", ".join(camera.name for camera in NANO_RIG)
            raise RigFileError(f"{where}: what to rectify to is known for {names} only; give width, height and focal")
        return known
    keys = _Keys(value, where, ("width", "height", "focal", "yaw_deg", "pitch_deg"))
    return Camera(
        name=name,
        width=int(_positive(keys.number("width", known.width if known else None), f"{where}.width")),
        height=int(_positive(keys.number("height", known.height if known else None), f"{where}.height")),
        focal=_positive(keys.number("focal", known.focal if known else None), f"{where}.focal"),
        mount=(0.0, 0.0, 0.0),
        yaw_deg=keys.number("yaw_deg", known.yaw_deg if known else 0.0),
        pitch_deg=keys.number("pitch_deg", known.pitch_deg if known else 0.0),
    )


def _command(value: Any) -> CommandSource:
    keys = _Keys(value, "command", ("topic", "values", "constant", "from"))
    if len({"topic", "constant", "from"} & set(keys.held)) != 1:
        raise RigFileError("command: exactly one of topic, constant and from (driven_path) is wanted")
    if "values" in keys.held and "topic" not in keys.held:
        raise RigFileError("command.values: says what the words on a topic mean; there is no topic")
    if "constant" in keys.held:
        return CommandSource(constant=_meaning("command.constant", keys.get("constant", None)))
    if "from" in keys.held:
        keys.choice("from", (DRIVEN_PATH,), DRIVEN_PATH)
        return CommandSource(driven_path=True)
    values = keys.get("values", {command.value: command.value for command in Command})
    if not isinstance(values, dict) or not values:
        raise RigFileError("command.values: a mapping from what is heard to GO_LEFT, GO_STRAIGHT or GO_RIGHT")
    meanings = {str(heard): _meaning(f"command.values.{heard}", means) for heard, means in values.items()}
    return CommandSource(topic=keys.text("topic"), values=meanings)


def _meaning(where: str, value: Any) -> Command:
    try:
        return Command(value)
    except ValueError as error:
        raise RigFileError(f"{where}: one of {', '.join(c.value for c in Command)}, not {value!r}") from error


class _Keys:
    """A mapping of the file: its keys are checked at once, its values as they are asked for."""

    def __init__(self, held: Any, where: str, known: tuple[str, ...]) -> None:
        self._where = where
        if not isinstance(held, dict):
            raise RigFileError(f"{where or 'the file'}: a mapping with {', '.join(known)} is wanted")
        self.held: dict[str, Any] = {str(key): value for key, value in held.items()}
        for key in self.held:
            if key not in known:
                raise RigFileError(f"{self._at(key)}: unknown; there are {', '.join(known)}")

    def _at(self, key: str) -> str:
        return f"{self._where}.{key}" if self._where else key

    def get(self, key: str, default: Any) -> Any:
        return self.held.get(key, default)

    def needed(self, key: str) -> Any:
        if key not in self.held:
            raise RigFileError(f"{self._at(key)}: is missing")
        return self.held[key]

    def text(self, key: str, default: str | None = None) -> str:
        value = self.needed(key) if default is None else self.get(key, default)
        if not isinstance(value, str) or (default is None and not value):
            raise RigFileError(f"{self._at(key)}: a name is wanted, not {value!r}")
        return value

    def number(self, key: str, default: float | None = None) -> float:
        value = self.needed(key) if default is None else self.get(key, default)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
            raise RigFileError(f"{self._at(key)}: a number is wanted, not {value!r}")
        return float(value)

    def choice(self, key: str, choices: tuple[str, ...], default: str) -> str:
        value = self.get(key, default)
        if value not in choices:
            raise RigFileError(f"{self._at(key)}: one of {', '.join(choices)}, not {value!r}")
        return str(value)


def _three(value: Any, where: str) -> tuple[float, float, float]:
    good = isinstance(value, (list, tuple)) and len(value) == 3
    if not good or not all(isinstance(v, (int, float)) and math.isfinite(v) for v in value):
        raise RigFileError(f"{where}: [x, y, z] in m is wanted, not {value!r}")
    return float(value[0]), float(value[1]), float(value[2])


def _positive(value: float, where: str) -> float:
    if value <= 0:
        raise RigFileError(f"{where}: a number above 0 is wanted, not {value:g}")
    return value


def _ms(keys: _Keys, key: str, default: float, low: float, high: float) -> int:
    value = keys.number(key, default)
    if not low <= value <= high:
        raise RigFileError(f"{key}: {low:g} to {high:g} ms, not {value:g}")
    return round(value * 1e6)
