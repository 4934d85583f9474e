"""Where the frames of a drive are, as `tf2_msgs/msg/TFMessage` for recordings: map -> base_link -> cameras.

`tf2_msgs` exists as no wheel, but its message is a plain list of `geometry_msgs/TransformStamped`, so its bytes can be
written without the package: CDR, little endian, by `rosbags`, which knows the definition.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
from rosbags.typesys import Stores, get_typestore

from efficientgen.perception.types import NS

TF, TF_STATIC, TF_TYPE = "/tf", "/tf_static", "tf2_msgs/msg/TFMessage"
OPTICAL = (-0.5, 0.5, -0.5, 0.5)
"""Quaternion (x, y, z, w) from a camera's x-forward frame to its optical one: z forward, x right, y down (REP-103)."""

Transform = tuple[str, str, tuple[float, float, float], tuple[float, float, float, float]]
"""(parent, child, translation m, rotation as quaternion x, y, z, w): the child's pose in the parent."""


def from_odometry(message: Any) -> Transform:
    """`map` -> `base_link` as a `nav_msgs/Odometry` says it."""
    return message.header.frame_id, message.child_frame_id, *_pose(message.pose.pose.position,
                                                                   message.pose.pose.orientation)  # fmt: skip


def from_mount(message: Any, optical_frame: str) -> tuple[Transform, Transform]:
    """A camera's mount (`geometry_msgs/TransformStamped`), and its optical frame, in which pictures are stamped."""
    place = message.transform
    link = message.child_frame_id
    mount = (message.header.frame_id, link, *_pose(place.translation, place.rotation))
    return mount, (link, optical_frame, (0.0, 0.0, 0.0), OPTICAL)


def tf_bytes(transforms: Sequence[Transform], stamp_ns: int) -> bytes:
    """The CDR bytes of a `TFMessage` holding `transforms`, all of one stamp."""
    store = _store()
    stamp = store.types["builtin_interfaces/msg/Time"](sec=stamp_ns // NS, nanosec=stamp_ns % NS)
    header, vector, quaternion, transform, stamped = (
        store.types[name]
        for name in ("std_msgs/msg/Header", "geometry_msgs/msg/Vector3", "geometry_msgs/msg/Quaternion",
                     "geometry_msgs/msg/Transform", "geometry_msgs/msg/TransformStamped")
    )  # fmt: skip
    held = [
        stamped(
            header=header(stamp=stamp, frame_id=parent),
            child_frame_id=child,
            transform=transform(translation=vector(*place), rotation=quaternion(*rotation)),
        )
        for parent, child, place, rotation in transforms
    ]
    return bytes(np.asarray(store.serialize_cdr(store.types[TF_TYPE](transforms=held), TF_TYPE)))


@cache
def _store() -> Any:
    return get_typestore(Stores.ROS2_KILTED)


def _pose(place: Any, rotation: Any) -> tuple[tuple[float, float, float], tuple[float, float, float, float]]:
    return (place.x, place.y, place.z), (rotation.x, rotation.y, rotation.z, rotation.w)
