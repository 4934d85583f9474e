"""What foreign messages say, whoever decoded them: poses, pictures, calibrations, transforms, commands.

Functions of the standard messages' fields alone, so that they serve a recording read by `rosbags` (ROS 1 and 2) and a
live `rclpy` subscription alike.
"""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from efficientgen.perception.rectify import MODELS, Lens, LensError
from efficientgen.perception.types import F64, NS, U8, Command

_CHANNELS = {"rgb8": (0, 1, 2), "bgr8": (2, 1, 0), "8UC3": (2, 1, 0), "rgba8": (0, 1, 2), "bgra8": (2, 1, 0)}
_GREY = ("mono8", "8UC1")
_FISHEYE = ("fisheye", "kannala_brandt", "kannala_brandt4")


class UnreadablePictureError(ValueError):
    """A picture that cannot be decoded."""


class MessageError(ValueError):
    """A message of a kind that cannot serve where rig.yaml uses it."""


class ExtrinsicsError(ValueError):
    """No chain of transforms leads from a camera to the car."""


@dataclass(frozen=True)
class PoseSample:
    """One odometry message: pose in its fixed frame, and the motion, where the message tells it."""

    stamp_ns: int
    x: float
    y: float
    yaw: float
    speed: float | None = None
    yaw_rate: float | None = None


def header_stamp(message: Any) -> int:
    """ns of a message's header; 0 when it has none or was never stamped."""
    header = getattr(message, "header", None)
    return 0 if header is None else int(header.stamp.sec) * NS + int(header.stamp.nanosec)


def pose_sample(message: Any, stamp_ns: int, motion: bool) -> PoseSample:
    """Of a `nav_msgs/Odometry`, `PoseStamped`, `PoseWithCovarianceStamped` or `TransformStamped`.

    Args:
        motion: take speed and yaw rate from the twist.

    Raises:
        MessageError: another message, or one without a twist where one is wanted.
    """
    if hasattr(message, "transform"):
        place, turn = message.transform.translation, message.transform.rotation
    elif hasattr(message, "pose"):
        pose = getattr(message.pose, "pose", message.pose)
        place, turn = pose.position, pose.orientation
    else:
        raise MessageError(f"{type(message).__name__} holds no pose: name an Odometry or PoseStamped topic in odometry")
    yaw = math.atan2(2.0 * (turn.w * turn.z + turn.x * turn.y), 1.0 - 2.0 * (turn.y * turn.y + turn.z * turn.z))
    yaw = round(yaw, 9)  # what a quaternion forgets
    if not motion:
        return PoseSample(stamp_ns, float(place.x), float(place.y), yaw)
    if not hasattr(message, "twist"):
        raise MessageError(f"{type(message).__name__} tells no speed: set odometry.speed to derived in rig.yaml")
    twist = message.twist.twist
    return PoseSample(stamp_ns, float(place.x), float(place.y), yaw, float(twist.linear.x), float(twist.angular.z))


def picture_of(message: Any) -> U8:
    """uint8 (H, W, 3) RGB of a `sensor_msgs/Image` or `CompressedImage`.

    Raises:
        UnreadablePictureError: an encoding that is not known, or data that is damaged or too short.
    """
    if not hasattr(message, "encoding"):
        try:
            with Image.open(io.BytesIO(bytes(message.data))) as image:
                return np.array(image.convert("RGB"))
        except (UnidentifiedImageError, OSError, SyntaxError, ValueError) as error:
            raise UnreadablePictureError(f"a compressed picture ({message.format}) is damaged: {error}") from error
    channels = _CHANNELS.get(message.encoding)
    if channels is None and message.encoding not in _GREY:
        known = ", ".join([*_CHANNELS, *_GREY])
        raise UnreadablePictureError(f"encoding {message.encoding} is not known; {known} are, and compressed pictures")
    height, width, step = int(message.height), int(message.width), int(message.step)
    depth = 1 if channels is None else 4 if "a8" in message.encoding else 3
    data = np.frombuffer(message.data, np.uint8)
    if step < width * depth or len(data) < height * step or not height or not width:
        raise UnreadablePictureError(f"{len(data)} bytes are no {width}x{height} picture in {message.encoding}")
    pixels = data[: height * step].reshape(height, step)[:, : width * depth].reshape(height, width, depth)
    return np.ascontiguousarray(pixels[..., list(channels)] if channels else np.repeat(pixels, 3, 2))


def lens_of(info: Any, pixel_centre: float = 0.0) -> Lens:
    """The lens that a `sensor_msgs/CameraInfo` describes (K and D; R and P are of pictures that are rectified already).

    Raises:
        LensError: uncalibrated, binned or cut, or a distortion model that is not known.
    """
    k = [float(v) for v in (info.k if hasattr(info, "k") else info.K)]
    d = tuple(float(v) for v in (info.d if hasattr(info, "d") else info.D))
    region = info.roi
    if max(info.binning_x, info.binning_y) > 1 or (region.width and region.width != info.width) or region.x_offset:
        raise LensError("CameraInfo of a binned or cut picture: give the intrinsics in rig.yaml instead")
    model = str(info.distortion_model) or "plumb_bob"
    model = "equidistant" if model in _FISHEYE else model
    if not any(d):
        model, d = "pinhole", ()
    if model == "rational_polynomial" and len(d) > 8:
        if any(d[8:]):
            raise LensError("thin prism or tilt coefficients of rational_polynomial are not known here")
        d = d[:8]
    if model not in MODELS:
        raise LensError(f"distortion model '{model}' is not known; {', '.join(MODELS)} are")
    return Lens(
        int(info.width), int(info.height), k[0], k[4], k[2] - pixel_centre, k[5] - pixel_centre, model, d
    )  # fmt: skip


def command_of(message: Any, values: Mapping[str, Command]) -> Command:
    """The route command of a `std_msgs/String` or whole number.

    Raises:
        MessageError: it says something that `command.values` in rig.yaml does not hold.
    """
    heard = str(getattr(message, "data", message))
    if heard not in values:
        raise MessageError(f"the route command '{heard}' means nothing: add it to command.values in rig.yaml")
    return values[heard]


def transforms_of(message: Any) -> Iterable[tuple[str, str, F64]]:
    """(parent, child, (4, 4) child to parent) of each transform in a `tf2_msgs/TFMessage`."""
    for stamped in message.transforms:
        place, q = stamped.transform.translation, stamped.transform.rotation
        matrix = np.eye(4)
        matrix[:3, :3] = rotation_of(q.x, q.y, q.z, q.w)
        matrix[:3, 3] = place.x, place.y, place.z
        yield stamped.header.frame_id.lstrip("/"), stamped.child_frame_id.lstrip("/"), matrix


def rotation_of(x: float, y: float, z: float, w: float) -> F64:
    """(3, 3) of a quaternion of any length but 0.

    Raises:
        ExtrinsicsError: a quaternion of zeros.
    """
    n = x * x + y * y + z * z + w * w
    if n < 1e-12:
        raise ExtrinsicsError("a transform with a rotation of zeros: no direction")
    s = 2.0 / n
    return np.array(
        [
            [1 - s * (y * y + z * z), s * (x * y - z * w), s * (x * z + y * w)],
            [s * (x * y + z * w), 1 - s * (x * x + z * z), s * (y * z - x * w)],
            [s * (x * z - y * w), s * (y * z + x * w), 1 - s * (x * x + y * y)],
        ]
    )


def chain(transforms: Mapping[str, tuple[str, F64]], frame: str, base: str) -> F64:
    """(4, 4) from `frame` to `base` through `transforms`: child -> (parent, child to parent).

    Raises:
        ExtrinsicsError: no such chain.
    """

    def to_root(name: str) -> list[tuple[str, F64]]:
        out, matrix, seen = [(name, np.eye(4))], np.eye(4), {name}
        while name in transforms:
            name, step = transforms[name]
            if name in seen:
                raise ExtrinsicsError(f"the transforms run in a circle at '{name}'")
            matrix = step @ matrix
            seen.add(name)
            out.append((name, matrix))
        return out

    up = dict(to_root(base))
    for name, matrix in to_root(frame):
        if name in up:
            return np.asarray(np.linalg.inv(up[name]) @ matrix, np.float64)
    known = ", ".join(sorted({*transforms, *(parent for parent, _ in transforms.values())})) or "none"
    raise ExtrinsicsError(
        f"/tf_static leads from '{frame}' to '{base}' by no chain (its frames: {known}); correct base_frame or the "
        "camera's mount in rig.yaml"
    )
