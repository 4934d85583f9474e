"""The sensors beyond cameras as standard messages: depth, semantic and instance images, and the lidar's point cloud.

They are off unless asked for (`sensors` of the world node, `--sensors` of the MCAP export), and nobody in the drive
reads them.  Depth is 32FC1 in metres, inf where there is nothing (REP 118); labels are mono8 (`reference.labels`);
instances are 16UC1, 0 or 1 + the index of the road user in the oracle frame.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from geometry_msgs.msg import TransformStamped
from sensor_msgs.msg import Image, PointCloud2, PointField

from efficientgen.perception.rig import LIDAR_TOP, Camera
from efficientgen.perception.types import OracleFrame
from efficientgen_ros.interfaces import Topic
from efficientgen_ros.messages import mount_message, optical_frame, time_of
from efficientgen_ros.parameters import ParameterError

IMAGES = {"depth": "32FC1", "labels": "mono8", "instances": "16UC1"}
SENSORS = (*IMAGES, "lidar")
_OFFSETS = {"x": 0, "y": 4, "z": 8, "intensity": 12, "ring": 16, "label": 18}
POINT = np.dtype({
    "names": list(_OFFSETS),
    "formats": ["<f4", "<f4", "<f4", "<f4", "<u2", "u1"],
    "offsets": list(_OFFSETS.values()),
    "itemsize": 20,
})  # fmt: skip
_FIELD = {"<f4": PointField.FLOAT32, "<u2": PointField.UINT16, "|u1": PointField.UINT8}


def sensors_named(text: str, world: str = "reference") -> tuple[str, ...]:
    """The sensors in a comma-separated list, "" for none.

    Raises:
        ParameterError: an unknown one, or a world that does not draw.
    """
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    for name in names:
        if name not in SENSORS:
            raise ParameterError(f"parameter 'sensors' lists any of {', '.join(SENSORS)}, got {name!r}")
    if names and world != "reference":
        raise ParameterError(f"parameter 'sensors' needs world 'reference', got {world!r}: leave it empty")
    return names


def sensor_topics(sensors: Sequence[str], cameras: Sequence[Camera]) -> dict[str, Topic]:
    """Key -> topic: `depth/<CAMERA>`, `labels/<CAMERA>`, `instances/<CAMERA>`, `lidar/points`, `lidar/mount`."""
    topics = {
        f"{kind}/{camera.name}": Topic(
            f"/sensing/camera/{camera.name.lower()}/{kind}", "sensor_msgs/msg/Image", "world"
        )
        for kind in IMAGES
        if kind in sensors
        for camera in cameras
    }
    if "lidar" in sensors:
        topics["lidar/points"] = Topic("/sensing/lidar/top/points", "sensor_msgs/msg/PointCloud2", "world")
        mount = Topic("/sensing/lidar/top/mount", "geometry_msgs/msg/TransformStamped", "world", depth=1, latched=True)
        topics["lidar/mount"] = mount
    return topics


def sensor_messages(
    sensors: Sequence[str], world: Any, frame: OracleFrame, cameras: Sequence[Camera]
) -> Iterator[tuple[str, Any]]:
    """(key, message) of one tick of a `ReferenceWorld`.

    Raises:
        DepthUnsupportedError: its renderer cannot measure.
    """
    if set(sensors) & IMAGES.keys():
        images = world.measure(frame)
        planes = {"depth": images.depth, "labels": images.labels, "instances": images.instances}
        for kind, encoding in IMAGES.items():
            for k, camera in enumerate(cameras) if kind in sensors else ():
                yield f"{kind}/{camera.name}", _plane_message(planes[kind][k], encoding, camera, frame.stamp_ns)
    if "lidar" in sensors:
        yield "lidar/points", cloud_message(world.scan(frame))


def cloud_message(scan: Any) -> PointCloud2:
    """A `LidarScan` as an unordered cloud in the lidar's frame."""
    rows = np.zeros(len(scan.points), POINT)
    rows["x"], rows["y"], rows["z"] = scan.points.T
    rows["intensity"], rows["ring"], rows["label"] = scan.intensity, scan.ring, scan.labels
    message = PointCloud2(height=1, width=len(rows), is_bigendian=False, is_dense=True, point_step=POINT.itemsize)
    message.header.stamp, message.header.frame_id = time_of(scan.stamp_ns), scan.lidar.name.lower()
    message.row_step = POINT.itemsize * len(rows)
    message.fields = [
        PointField(name=name, offset=offset, datatype=_FIELD[POINT[name].str], count=1)
        for name, offset in _OFFSETS.items()
    ]
    message.data = rows.tobytes()
    return message


def lidar_mount_message() -> TransformStamped:
    """Where the lidar sits in `base_link`."""
    message = mount_message(Camera(LIDAR_TOP.name, 1, 1, 1.0, LIDAR_TOP.mount, LIDAR_TOP.yaw_deg))
    message.child_frame_id = LIDAR_TOP.name.lower()
    return message


def _plane_message(plane: np.ndarray, encoding: str, camera: Camera, stamp_ns: int) -> Image:
    height, width = plane.shape
    message = Image(height=height, width=width, encoding=encoding, step=plane.itemsize * width)
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), optical_frame(camera.name)
    message.data = np.ascontiguousarray(plane).tobytes()
    return message
