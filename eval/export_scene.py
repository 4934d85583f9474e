"""What every exporter does first: find the recorded drives, and look at a drive's ticks again through other sensors.

A step log holds no sensor data beyond its small pictures; it holds the truth, of which pictures, depth and lidar are
pure functions.  So a drive recorded with any planner, with or without pictures, can be exported at any size and rig.
"""

from __future__ import annotations

import io
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.step_log import StepLog
from efficientgen.eval.store import load
from efficientgen.perception.rig import Camera
from efficientgen.perception.types import F64, U8, Actor, ActorKind, EgoState, OracleFrame

JPEG_QUALITY = 90
EPOCH_S = 1_600_000_000  # of the first scene's stamp 0; drives have no date of their own, and exports are reproducible
SCENE_APART_S = 10_000
CAR_HEIGHT_M = 1.48  # of parked cars
PARKED = "parked"


class NoRunsError(FileNotFoundError):
    """A path that holds no recorded drive."""


class ExportError(ValueError):
    """The drives cannot be exported as asked; the message carries the remedy."""


@dataclass(frozen=True)
class Drive:
    """One drive to export; its log is read when it is needed, so that many drives take no more memory than two."""

    directory: Path
    held: StepLog | None = None  # given: not read from `directory`

    @property
    def log(self) -> StepLog:
        return _read(self.directory) if self.held is None else self.held

    @property
    def title(self) -> str:
        log = self.log
        return f"{log.scenario}, {log.start.weather}, {log.planner}, seed {log.seed}"


def drives_in(paths: Sequence[Path]) -> list[Drive]:
    """The drives at or below `paths` (a run, one drive of it, or a bare step log), in order of their names.

    Raises:
        NoRunsError: a path without any.
    """
    found: dict[Path, None] = {}
    for path in paths:
        here = [path] if (path / "log.json").is_file() else [p.parent for p in sorted(path.rglob("log.json"))]
        if not here:
            raise NoRunsError(f"{path} holds no recorded drive (log.json); `efficientgen drive` makes one under runs/")
        found.update(dict.fromkeys(here))
    return [Drive(directory) for directory in found]


@lru_cache(maxsize=2)
def _read(directory: Path) -> StepLog:
    """A log without the pictures that it may hold."""
    log = load(directory)
    return replace(log, steps=tuple(replace(step, frames=None) for step in log.steps))


@contextmanager
def written_whole(target: Path) -> Iterator[Path]:
    """A directory to write into, which becomes `target` at the end, or vanishes when anything fails.

    Raises:
        ExportError: `target` exists.
    """
    if target.exists():
        raise ExportError(f"{target} exists; name another directory, or remove it first")
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield draft
        draft.chmod(0o755)
        draft.rename(target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)


@contextmanager
def looking_world(rig: tuple[Camera, ...]) -> Iterator[Any]:
    """A `ReferenceWorld` that looks through `rig`; without a rig, None."""
    if not rig:
        yield None
        return
    from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

    world = ReferenceWorld(rig)
    try:
        yield world
    finally:
        world.close()


def jpeg(image: U8) -> bytes:
    """A picture (H, W, 3) as JPEG bytes."""
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
    return buffer.getvalue()


def microseconds(scene: int, stamp_ns: int) -> int:
    """The absolute time of a stamp in the export's scene number `scene`."""
    return (EPOCH_S + SCENE_APART_S * scene) * 1_000_000 + stamp_ns // 1000


def with_parked(frame: OracleFrame, world: Any, within_m: float) -> tuple[Actor, ...]:
    """The frame's actors, and the parked cars near the ego as actors that stand still."""
    parked = (
        Actor(f"{PARKED}-{k}", ActorKind.CAR, car.x, car.y, car.yaw, 0.0, 4.6, 1.82, CAR_HEIGHT_M)
        for k, car in enumerate(world.parked)
        if (car.x - frame.ego.x) ** 2 + (car.y - frame.ego.y) ** 2 < within_m**2
    )
    return (*frame.actors, *parked)


# --- what is seen of an actor ---


def in_box(points: F64, actor: Actor, ego: EgoState, margin: float = 0.05) -> np.ndarray:
    """Which of `points` (N, 3), in the ego frame, lie in the actor's box: (N,) bool."""
    local = _to_box(points, actor, ego)
    half = np.array([actor.length, actor.width, actor.height]) / 2 + margin
    return np.asarray((np.abs(local - [0, 0, actor.height / 2]) <= half).all(1))


def visible_share(actor: Actor, index: int, ego: EgoState, images: Any, rig: Sequence[Camera]) -> float:
    """How much of the faces of an actor's box that look at the car some camera really sees, 0 .. 1.

    `images` are the `RangeImages` of `rig`; `index` is the actor's place in the frame, -1 for a parked car.  A sample
    point counts as seen where nothing but the actor itself is drawn before it; what lies outside all pictures is not.
    """
    from efficientgen.perception.rig import project
    from efficientgen.worldsim.reference.labels import Label

    points, normals = _samples(actor, ego)
    eye = np.mean([camera.mount for camera in rig], 0)
    facing = ((eye - points) * normals).sum(1) > 0
    if not facing.any():
        return 1.0  # the car is inside the box
    points = points[facing]
    seen = np.zeros(len(points), bool)
    for k, camera in enumerate(rig):
        pixels, depth = project(points, camera.intrinsics, camera.camera_to_ego)
        columns, rows = np.floor(pixels).astype(int).T
        there = (depth > 0.3) & (columns >= 0) & (columns < camera.width) & (rows >= 0) & (rows < camera.height)
        where = k, rows[there], columns[there]
        before = images.depth[where] < depth[there] - 0.3
        own = images.instances[where] == index + 1
        if index < 0:
            own = (images.labels[where] == Label.CAR) & (images.depth[where] > depth[there] - actor.length)
        seen[there] |= own | ~before
    return float(seen.mean())


def _samples(actor: Actor, ego: EgoState, across: int = 6) -> tuple[F64, F64]:
    """Points (N, 3) on the sides and top of a box, and their outward normals, in the ego frame."""
    grid = (np.arange(across) + 0.5) / across * 2 - 1
    a, b = (g.ravel() for g in np.meshgrid(grid, grid))
    one = np.ones(len(a))
    faces = [(one, a, b), (-one, a, b), (a, one, b), (a, -one, b), (a, b, one)]
    unit = np.concatenate([np.stack(face, 1) for face in faces])
    normal = np.repeat([[1.0, 0, 0], [-1, 0, 0], [0, 1, 0], [0, -1, 0], [0, 0, 1]], len(a), 0)
    half = np.array([actor.length, actor.width, actor.height]) / 2
    local = unit * half + [0, 0, actor.height / 2]
    turn = _turn(actor.yaw - ego.yaw)
    back = _turn(-ego.yaw)
    place = back @ [actor.x - ego.x, actor.y - ego.y, 0.0]
    return local @ turn.T + place, normal @ turn.T


def _to_box(points: F64, actor: Actor, ego: EgoState) -> F64:
    place = _turn(-ego.yaw) @ [actor.x - ego.x, actor.y - ego.y, 0.0]
    return np.asarray((points - place) @ _turn(actor.yaw - ego.yaw))


def _turn(yaw: float) -> F64:
    cos, sin = np.cos(yaw), np.sin(yaw)
    return np.array([[cos, -sin, 0.0], [sin, cos, 0.0], [0.0, 0.0, 1.0]])
