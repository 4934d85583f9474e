"""The camera rig: where the cameras sit and how they project.

A rig is data: one `Camera` per view with pinhole intrinsics (pixel centres at +0.5, origin top left) and a mount in
the ego frame.  A camera frame looks along x, y left, z up; optical frames are converted where data enters the stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from efficientgen.perception.types import F64


@dataclass(frozen=True)
class Camera:
    """One pinhole camera.  `yaw_deg`/`pitch_deg` turn it left/up from straight ahead; `mount` is (x, y, z) m."""

    name: str
    width: int
    height: int
    focal: float  # px
    mount: tuple[float, float, float]
    yaw_deg: float
    pitch_deg: float = 0.0

    @property
    def intrinsics(self) -> F64:
        """(3, 3) px, principal point in the middle."""
        return np.array([[self.focal, 0, self.width / 2], [0, self.focal, self.height / 2], [0, 0, 1]], np.float64)

    @property
    def camera_to_ego(self) -> F64:
        """(4, 4) homogeneous transform."""
        yaw, pitch = math.radians(self.yaw_deg), -math.radians(self.pitch_deg)
        cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
        out = np.eye(4)
        out[:3, :3] = [[cy * cp, -sy, cy * sp], [sy * cp, cy, sy * sp], [-sp, 0, cp]]
        out[:3, 3] = self.mount
        return out


NANO_RIG: tuple[Camera, ...] = tuple(
    Camera(name, width=224, height=112, focal=160.0, mount=(1.7, 0.0, 1.55), yaw_deg=yaw)
    for name, yaw in (("FRONT_LEFT", 55.0), ("FRONT", 0.0), ("FRONT_RIGHT", -55.0))
)


# Six cameras as on the nuScenes car (Caesar et al. 2020): 1600 x 900 px, 70 degrees wide, the rear one 110.
NUSCENES_RIG: tuple[Camera, ...] = tuple(
    Camera(name, 1600, 900, focal, mount, yaw)
    for name, focal, mount, yaw in (
        ("CAM_FRONT", 1266.0, (1.70, 0.0, 1.51), 0.0),
        ("CAM_FRONT_RIGHT", 1266.0, (1.55, -0.49, 1.51), -55.0),
        ("CAM_BACK_RIGHT", 1266.0, (1.05, -0.48, 1.56), -110.0),
        ("CAM_BACK", 809.0, (0.05, 0.0, 1.57), 180.0),
        ("CAM_BACK_LEFT", 1266.0, (1.05, 0.48, 1.56), 110.0),
        ("CAM_FRONT_LEFT", 1266.0, (1.55, 0.49, 1.51), 55.0),
    )
)

# Eight cameras all around, as WOD-E2E names them; 1920 x 1280 px, 50.4 degrees wide, 45 degrees apart.
WOD_RIG: tuple[Camera, ...] = tuple(
    Camera(name, 1920, 1280, 2040.0, mount, yaw)
    for name, mount, yaw in (
        ("FRONT", (1.54, 0.0, 2.1), 0.0),
        ("FRONT_LEFT", (1.49, 0.1, 2.1), 45.0),
        ("FRONT_RIGHT", (1.49, -0.1, 2.1), -45.0),
        ("SIDE_LEFT", (1.43, 0.12, 2.1), 90.0),
        ("SIDE_RIGHT", (1.43, -0.12, 2.1), -90.0),
        ("REAR_LEFT", (1.2, 0.1, 2.1), 135.0),
        ("REAR", (1.15, 0.0, 2.1), 180.0),
        ("REAR_RIGHT", (1.2, -0.1, 2.1), -135.0),
    )
)

RIGS = {"nano": NANO_RIG, "nuscenes": NUSCENES_RIG, "wod": WOD_RIG}


def scaled(rig: tuple[Camera, ...], width: int) -> tuple[Camera, ...]:
    """The same cameras with pictures `width` px wide: same views, fewer or more pixels.

    Raises:
        ValueError: a width at which the height would not be a whole number of pixels.
    """
    for camera in rig:
        if width <= 0 or camera.height * width % camera.width:
            step = camera.width // math.gcd(camera.width, camera.height)
            raise ValueError(f"pictures {width} px wide would not be a whole number high; take a multiple of {step}")
    return tuple(replace(c, width=width, height=c.height * width // c.width, focal=c.focal * width / c.width)
                 for c in rig)  # fmt: skip


@dataclass(frozen=True)
class Lidar:
    """A spinning lidar.  Its frame is the mount turned left by `yaw_deg`; beams are named by azimuth and elevation.

    `rings` beams lie between the elevations `lowest_deg` and `highest_deg`, ring 0 lowest; a turn has `steps` azimuths.
    """

    name: str
    mount: tuple[float, float, float]
    yaw_deg: float
    rings: int
    lowest_deg: float
    highest_deg: float
    steps: int
    range_m: float

    @property
    def lidar_to_ego(self) -> F64:
        """(4, 4) homogeneous transform."""
        return Camera(self.name, 1, 1, 1.0, self.mount, self.yaw_deg).camera_to_ego


# The nuScenes roof lidar: 32 rings, frame x right, y forward, z up.
LIDAR_TOP = Lidar("LIDAR_TOP", (0.94, 0.0, 1.84), -90.0, 32, -30.67, 10.67, 1080, 80.0)


def project(points_ego: F64, intrinsics: F64, camera_to_ego: F64) -> tuple[F64, F64]:
    """Ego-frame points (N, 3) m to pixels (N, 2) and depths (N,) m along the optical axis (<= 0: behind the camera)."""
    rotation, origin = camera_to_ego[:3, :3], camera_to_ego[:3, 3]
    cam = (np.asarray(points_ego, np.float64) - origin) @ rotation  # (N, 3), x forward, y left, z up
    depth = cam[:, 0]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    u = intrinsics[0, 2] - intrinsics[0, 0] * cam[:, 1] / safe
    v = intrinsics[1, 2] - intrinsics[1, 1] * cam[:, 2] / safe
    return np.stack([u, v], 1), depth
