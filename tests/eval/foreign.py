"""A made-up car with three unsynchronised cameras, recorded with `rosbags`: for the tests of replay and the live node.

It drives a circle under a sky whose colours depend on direction alone, so what a rectified picture must show is known.
"""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.foreign_bag import EPOCH_NS, ODOMETRY, TURN, ForeignWriter
from efficientgen.perception.health import Expected, require_readable
from efficientgen.perception.rectify import OPTICAL_FROM_CAMERA, Lens
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.rig_file import mount_of
from efficientgen.perception.types import NS, EgoState, Observation, Plan
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.planning.views import VIEWS

SPEED, RADIUS = 6.0, 60.0
SKEW_NS = {"FRONT_LEFT": -28_000_000, "FRONT": 0, "FRONT_RIGHT": 30_000_000}
LENS = Lens(112, 63, 70.0, 70.4, 56.2, 31.1, "plumb_bob", (-0.2, 0.05, 0.001, -0.001, 0.0))
MOUNTS = {c.name: mount_of((1.5, 0.0, 1.5), 0.9 * c.yaw_deg, -1.0, 0.5) for c in NANO_RIG}
REAR_AXLE = -1.35


def circle(t: float, radius: float = RADIUS) -> EgoState:
    """The car `t` s after it began: a left turn at constant speed."""
    yaw = SPEED * t / radius
    x, y = radius * math.sin(yaw), radius * (1.0 - math.cos(yaw))
    return EgoState(round(t * NS), x, y, math.remainder(yaw, math.tau), SPEED, 0.0, SPEED / radius, 0.0)


def sky(rays: np.ndarray) -> np.ndarray:
    """uint8 (N, 3) colour of each direction of the map frame."""
    x, y, z = (rays / np.linalg.norm(rays, axis=1, keepdims=True)).T
    waves = (np.sin(6 * y + 2 * x), np.cos(7 * z - 3 * y), np.sin(5 * x + 6 * z))
    return np.rint(np.stack([127.5 + 110 * wave for wave in waves], 1)).astype(np.uint8)


@cache
def _rays(name: str) -> np.ndarray:
    v, u = np.mgrid[: LENS.height, : LENS.width].astype(np.float64)
    return LENS.unproject(np.stack([u.ravel(), v.ravel()], 1)) @ OPTICAL_FROM_CAMERA @ MOUNTS[name][:3, :3].T


def _look(name: str, yaw: float) -> np.ndarray:
    c, s = math.cos(yaw), math.sin(yaw)
    turned = _rays(name) @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])
    return sky(turned).reshape(LENS.height, LENS.width, 3)


def record(
    path: Path,
    seconds: float = 7.0,
    storage: str = "mcap",
    kind: str = "png",
    cameras: tuple[str, ...] = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"),
    drop: Any = lambda name, k: False,
    radius: float = RADIUS,
    poses: bool = True,
    turn: str = "left",
    stagger_ns: int = 3_000_000,
) -> Path:
    """Write the recording; `drop(camera, k)` leaves the k-th picture out, "garbage" damages it."""
    with ForeignWriter(path, storage) as writer:  # type: ignore[arg-type]
        optical = np.eye(4)
        optical[:3, :3] = OPTICAL_FROM_CAMERA.T
        base = np.eye(4)
        base[0, 3] = REAR_AXLE
        links = [("base_link", f"{n.lower()}_optical", base @ MOUNTS[n] @ optical) for n in cameras]
        writer.mounts(links, EPOCH_NS)
        for k in range(round(seconds / 0.02) if poses else 0):
            t = 0.02 * k
            writer.odometry(ODOMETRY, circle(t, radius), EPOCH_NS + round(t * NS) + stagger_ns, -REAR_AXLE)
        for k in range(1, round(seconds / 0.1) - 1):
            if turn:
                writer.word(TURN, turn, EPOCH_NS + k * NS // 10)
            for name in cameras:
                dropped = drop(name, k)
                if dropped is True:
                    continue
                stamp = k * NS // 10 + SKEW_NS[name] + stagger_ns
                image = _look(name, circle((stamp - stagger_ns) / NS, radius).yaw)
                topic = f"/cam/{name.lower()}"
                if dropped == "garbage":
                    image = image[:5]
                full = f"{topic}/image" + ("" if kind == "raw" else "/compressed")
                writer.picture(full, image, EPOCH_NS + stamp, f"{name.lower()}_optical", kind)
                if k % 10 == 1:
                    writer.camera_info(f"{topic}/camera_info", LENS, EPOCH_NS + stamp, f"{name.lower()}_optical")
    return path


def rig(kind: str = "png", cameras: tuple[str, ...] = ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"), **more: Any) -> dict:
    """The rig.yaml of that car, as a mapping."""
    suffix = "" if kind == "raw" else "/compressed"
    held: dict[str, Any] = {
        "cameras": {
            n: {"topic": f"/cam/{n.lower()}/image{suffix}", "info": f"/cam/{n.lower()}/camera_info"} for n in cameras
        },
        "odometry": {"topic": ODOMETRY},
        "rear_axle": [REAR_AXLE, 0.0, 0.0],
        "command": {"topic": TURN, "values": {"left": "GO_LEFT", "straight": "GO_STRAIGHT", "right": "GO_RIGHT"}},
    }
    return held | more


class Watcher(ConstantVelocity):
    """Sees what nano sees and remembers it, plans constant velocity; `dies_at` raises at its n-th plan."""

    name = "watcher"
    view = VIEWS["nano"]
    frames_per_camera = 2

    def __init__(self, dies_at: int | None = None, error: type[BaseException] = RuntimeError) -> None:
        self.seen: list[Observation] = []
        self.dies_at, self.error = dies_at, error

    def plan(self, observation: Observation) -> Plan:
        require_readable(observation, Expected(self.view.cameras, self.frames_per_camera))
        self.seen.append(observation)
        if self.dies_at is not None and len(self.seen) > self.dies_at:
            raise self.error("as told")
        return super().plan(observation)
