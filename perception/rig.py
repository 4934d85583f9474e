"""The camera rig: where the cameras sit and how they project.

A rig is data: one `Camera` per view with pinhole intrinsics (pixel centres at +0.5, origin top left) and a mount in
the ego frame.  A camera frame looks along x, y left, z up; optical frames are converted where data enters the stack.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

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


def project(points_ego: F64, intrinsics: F64, camera_to_ego: F64) -> tuple[F64, F64]:
    """Ego-frame points (N, 3) m to pixels (N, 2) and depths (N,) m along the optical axis (<= 0: behind the camera)."""
    rotation, origin = camera_to_ego[:3, :3], camera_to_ego[:3, 3]
    cam = (np.asarray(points_ego, np.float64) - origin) @ rotation  # (N, 3), x forward, y left, z up
    depth = cam[:, 0]
    safe = np.where(np.abs(depth) < 1e-9, 1e-9, depth)
    u = intrinsics[0, 2] - intrinsics[0, 0] * cam[:, 1] / safe
    v = intrinsics[1, 2] - intrinsics[1, 1] * cam[:, 2] / safe
    return np.stack([u, v], 1), depth
