"""From ego poses at the oracle's ticks to one camera pose per picture of the video model."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import F64, NS, TICK_NS, EgoState
from efficientgen.worldsim.sana.camera import FLU_FROM_RDF

LEAP_M = 1.0  # a pose may lie so much further away than its speed explains
LEAP_RAD = 0.2  # ... and be turned so much further than its yaw rate does


class PoseJumpError(ValueError):
    """The ego does not move as a car does: poses leap, are not finite, or ticks are left out."""


def require_motion(before: EgoState, after: EgoState) -> None:
    """Does `after` follow `before` by one tick of driving?

    Raises:
        PoseJumpError: no; the message says how.
    """
    at = after.stamp_ns / NS
    if after.stamp_ns - before.stamp_ns != TICK_NS:
        gap = (after.stamp_ns - before.stamp_ns) / NS
        raise PoseJumpError(f"{gap:.2f} s between two poses at {at:.2f} s: a world with memory needs every tick")
    if not all(map(math.isfinite, (after.x, after.y, after.yaw, after.speed, after.yaw_rate))):
        raise PoseJumpError(f"the ego pose at {at:.2f} s is not finite")
    dt = TICK_NS / NS
    moved = math.hypot(after.x - before.x, after.y - before.y)
    turned = abs(math.remainder(after.yaw - before.yaw, 2.0 * math.pi))
    allowed_m = dt * max(abs(before.speed), abs(after.speed)) + LEAP_M
    allowed_rad = dt * max(abs(before.yaw_rate), abs(after.yaw_rate)) + LEAP_RAD
    if moved > allowed_m or turned > allowed_rad:
        raise PoseJumpError(
            f"the ego leaps {moved:.1f} m and {math.degrees(turned):.0f} degrees within a tick at {at:.2f} s; reset "
            "the world to begin somewhere else"
        )


def between(before: EgoState, after: EgoState, parts: int) -> F64:
    """(parts, 3) x, y, yaw of equal steps from `before` (left out) to `after`."""
    share = np.arange(1, parts + 1) / parts
    turn = math.remainder(after.yaw - before.yaw, 2.0 * math.pi)
    return np.stack(
        [
            before.x + share * (after.x - before.x),
            before.y + share * (after.y - before.y),
            before.yaw + share * turn,
        ],
        1,
    )


def camera_to_map(poses: F64, camera: Camera) -> Tensor:
    """(F, 4, 4) fp64 camera-to-map in optical axes (right, down, forward) of ego poses (F, 3) x, y, yaw."""
    ego = np.tile(np.eye(4), (len(poses), 1, 1))
    cos, sin = np.cos(poses[:, 2]), np.sin(poses[:, 2])
    ego[:, 0, 0], ego[:, 0, 1], ego[:, 1, 0], ego[:, 1, 1] = cos, -sin, sin, cos
    ego[:, :2, 3] = poses[:, :2]
    return torch.from_numpy(ego @ camera.camera_to_ego) @ FLU_FROM_RDF
