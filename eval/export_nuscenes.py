"""Drives as a nuScenes dataset (Caesar et al. 2020): 13 tables, six cameras, lidar, CAN bus, map expansion.

Key frames lie at 2 Hz; with sweeps, cameras and lidar are also written at the other ticks (10 Hz).  All sensors of a
tick are taken at one instant.  Everything that moves is annotated from the key frame where a sensor first meets it to
the last, as nuScenes does, and so are the parked cars that only the pictures know.  Official split names make the
devkit's evaluation accept the scenes; each scene's description says what it really is.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from efficientgen.eval.export_can_bus import can_messages
from efficientgen.eval.export_nuscenes_map import LOCATION, LOCATIONS, Placed, drivable_mask, expansion, place, token
from efficientgen.eval.export_scene import (
    PARKED,
    Drive,
    ExportError,
    in_box,
    jpeg,
    looking_world,
    microseconds,
    visible_share,
    with_parked,
    written_whole,
)
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.rig import LIDAR_TOP, NUSCENES_RIG, Camera, scaled
from efficientgen.perception.types import F64, Actor, ActorKind, OracleFrame
from efficientgen.worldsim.town import load_town

if TYPE_CHECKING:
    from efficientgen.worldsim.reference.lidar import LidarScan

KEY_NS, SWEEP_NS = 500_000_000, 100_000_000
VISIBILITY_WIDTH = 400  # px of the depth pictures that tell what is hidden
PARKED_M = 70.0
MINI = {
    "mini_train": tuple(f"scene-{k:04d}" for k in (61, 553, 655, 757, 796, 1077, 1094, 1100)),
    "mini_val": ("scene-0103", "scene-0916"),
}
SPLITS = (*MINI, "train", "val")
_NO_CAN_BUS = {*range(161, 169), *range(170, 177), *range(309, 315)}  # scenes that the devkit takes to have none
_CATEGORIES = {
    ActorKind.CAR: "vehicle.car",
    ActorKind.TRUCK: "vehicle.truck",
    ActorKind.BUS: "vehicle.bus.rigid",
    ActorKind.BICYCLE: "vehicle.bicycle",
    ActorKind.PEDESTRIAN: "human.pedestrian.adult",
}
_ATTRIBUTES = ("vehicle.moving", "vehicle.stopped", "vehicle.parked", "cycle.with_rider", "cycle.without_rider",
               "pedestrian.moving", "pedestrian.standing", "pedestrian.sitting_lying_down")  # fmt: skip
_VISIBILITY = (0.4, 0.6, 0.8)  # upper ends of the levels 1 .. 3
_TABLES = ("attribute calibrated_sensor category ego_pose instance log map sample sample_annotation sample_data scene "
           "sensor visibility").split()  # fmt: skip
MOVING_M_S = 0.3


@dataclass(frozen=True)
class _Sighting:
    """One actor at one key frame."""

    actor: Actor
    points: int
    visible: float

    @property
    def met(self) -> bool:
        return self.points > 0 or self.visible > 0.15


def version_of(split: str) -> str:
    """The dataset version that the devkit pairs with a split."""
    return "v1.0-mini" if split in MINI else "v1.0-trainval"


def export_nuscenes(
    drives: Sequence[Drive],
    target: Path,
    width: int = 400,
    split: str = "mini_val",
    sweeps: bool = False,
    on_tick: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write `drives` as one dataset, a scene each; `target` appears when it is whole.

    Args:
        width: of the pictures, px; 1600 is nuScenes' own size.
        split: names the scenes; one of `SPLITS`.  The names of train and val come from the devkit.
        on_tick: told the drive's title, how many ticks of it are done, and how many there are.

    Raises:
        ExportError: no such split, more drives than it has scenes, a drive too short, or `target` exists.
        DepthUnsupportedError: no renderer that measures depth.
    """
    names = _scene_names(split, len(drives))
    rig = scaled(NUSCENES_RIG, width)
    towns = dict.fromkeys(drive.log.town for drive in drives)
    placed, canvas = place([load_town(name) for name in towns])
    with written_whole(target) as draft, looking_world(rig) as world:
        data = _Dataset(draft, rig, split)
        _write_maps(draft, placed, canvas)
        for k, drive in enumerate(drives):
            where = next(each for each in placed if each.town.name == drive.log.town)
            data.add_scene(k, names[k], drive, where, world, sweeps, on_tick)
        data.finish()
    return target


def _scene_names(split: str, count: int) -> tuple[str, ...]:
    if split not in SPLITS:
        raise ExportError(f"there is no split '{split}'; take one of {', '.join(SPLITS)}")
    if split in MINI:
        names = MINI[split]
    else:
        try:
            from nuscenes.utils import splits
        except ImportError as error:
            raise ExportError(
                f"the names of split '{split}' come from nuscenes-devkit, which is not installed: "
                "pip install --no-deps nuscenes-devkit==1.2.0, or take mini_train or mini_val"
            ) from error
        names = tuple(name for name in getattr(splits, split) if int(name[-4:]) not in _NO_CAN_BUS)
    if count > len(names):
        raise ExportError(f"{count} drives do not fit into the {len(names)} scenes of {split}; take a larger split")
    return names[:count]


def _write_maps(draft: Path, placed: Sequence[Placed], canvas: tuple[float, float]) -> None:
    from PIL import Image

    (draft / "maps" / "expansion").mkdir(parents=True)
    for location in LOCATIONS:  # rasterisers load all four, whichever the scenes need
        content = expansion(placed if location == LOCATION else (), canvas)
        _dump(draft / "maps" / "expansion" / f"{location}.json", content)
    Image.fromarray(drivable_mask(placed, canvas)).save(draft / "maps" / f"{token('mask')}.png")


@dataclass
class _Dataset:
    """The tables while they grow."""

    root: Path
    rig: tuple[Camera, ...]
    split: str
    tables: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in _TABLES})

    def __post_init__(self) -> None:
        for kind in ActorKind:
            name = _CATEGORIES[kind]
            self.put("category", token=token("category", name), name=name, description="")
        for name in _ATTRIBUTES:
            self.put("attribute", token=token("attribute", name), name=name, description="")
        for k, level in enumerate(("v0-40", "v40-60", "v60-80", "v80-100")):
            words = f"visibility of whole object is between {level[1:].replace('-', ' and ')}%"
            self.put("visibility", token=str(k + 1), level=level, description=words)
        for channel in (*(camera.name for camera in self.rig), LIDAR_TOP.name):
            modality = "lidar" if channel == LIDAR_TOP.name else "camera"
            self.put("sensor", token=token("sensor", channel), channel=channel, modality=modality)
            for folder in ("samples", "sweeps"):
                (self.root / folder / channel).mkdir(parents=True)
        (self.root / "can_bus").mkdir()

    def put(self, table: str, **record: Any) -> dict[str, Any]:
        self.tables[table].append(record)
        return record

    def add_scene(
        self, number: int, name: str, drive: Drive, placed: Placed, world: Any, sweeps: bool,
        on_tick: Callable[[str, int, int], None] | None,
    ) -> None:  # fmt: skip
        """One drive: its log, calibration, key frames, sweeps, annotations and CAN bus."""
        ticks = all_ticks(drive.log)
        last = ticks[-1].stamp_ns // KEY_NS * KEY_NS
        step = SWEEP_NS if sweeps else KEY_NS
        shown = [tick for tick in ticks if tick.stamp_ns % step == 0 and tick.stamp_ns <= last]
        if last < KEY_NS:
            raise ExportError(f"{drive.directory} is shorter than 0.5 s and has no two key frames: leave it out")
        log, scene = token("log", name), token("scene", name)
        began = datetime.fromtimestamp(microseconds(number, 0) / 1e6, UTC)
        self.put("log", token=log, logfile=f"efficientgen-{number:04d}", vehicle="efficientgen",
                 date_captured=began.date().isoformat(), location=LOCATION)  # fmt: skip
        self._calibrate(name)
        samples = [tick.stamp_ns for tick in shown if tick.stamp_ns % KEY_NS == 0]
        tokens = [token("sample", name, stamp) for stamp in samples]
        self.put("scene", token=scene, name=name, description=f"simulated: {drive.title}", log_token=log,
                 nbr_samples=len(samples), first_sample_token=tokens[0], last_sample_token=tokens[-1])  # fmt: skip
        for k, stamp in enumerate(samples):
            self.put("sample", token=tokens[k], timestamp=microseconds(number, stamp), scene_token=scene,
                     prev=tokens[k - 1] if k else "", next=tokens[k + 1] if k + 1 < len(tokens) else "")  # fmt: skip
        world.reset(drive.log.town, drive.log.start.weather, drive.log.seed)
        seen: list[dict[str, _Sighting]] = []
        for k, tick in enumerate(shown):
            cloud = self._add_tick(name, number, shown, k, placed, world)
            if tick.stamp_ns % KEY_NS == 0:
                seen.append(_sightings(tick, cloud, world, self.rig))
            if on_tick is not None:
                on_tick(drive.title, k + 1, len(shown))
        self._annotate(name, tokens, seen, placed)
        for kind, content in can_messages(drive.log, placed, number).items():
            _dump(self.root / "can_bus" / f"{name}_{kind}.json", content)

    def _calibrate(self, scene: str) -> None:
        for camera in self.rig:
            pose = camera.camera_to_ego
            optical = pose[:3, :3] @ np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]])
            self.put("calibrated_sensor", token=token("calibration", scene, camera.name),
                     sensor_token=token("sensor", camera.name), translation=list(camera.mount),
                     rotation=_quaternion(optical), camera_intrinsic=camera.intrinsics.tolist())  # fmt: skip
        pose = LIDAR_TOP.lidar_to_ego
        self.put("calibrated_sensor", token=token("calibration", scene, LIDAR_TOP.name),
                 sensor_token=token("sensor", LIDAR_TOP.name), translation=list(LIDAR_TOP.mount),
                 rotation=_quaternion(pose[:3, :3]), camera_intrinsic=[])  # fmt: skip

    def _add_tick(
        self, scene: str, number: int, shown: list[OracleFrame], k: int, placed: Placed, world: Any
    ) -> LidarScan:  # fmt: skip
        """The ego pose and the sensor files of one tick; what the lidar saw."""
        tick = shown[k]
        stamp, when = tick.stamp_ns, microseconds(number, tick.stamp_ns)
        pose, key = token("pose", scene, stamp), stamp % KEY_NS == 0
        sample = token("sample", scene, -(-stamp // KEY_NS) * KEY_NS)  # a sweep belongs to the key frame that follows
        ego = tick.ego
        self.put("ego_pose", token=pose, timestamp=when, rotation=_turned(ego.yaw),
                 translation=[ego.x + placed.dx, ego.y + placed.dy, 0.0])  # fmt: skip
        cloud: LidarScan = world.scan(tick, LIDAR_TOP)
        columns = np.column_stack([cloud.points, cloud.intensity, cloud.ring]).astype(np.float32)
        files = {camera.name: jpeg(image) for camera, image in zip(self.rig, world.render(tick), strict=True)}
        files[LIDAR_TOP.name] = columns.tobytes()
        for channel, content in files.items():
            lidar = channel == LIDAR_TOP.name
            suffix = "pcd.bin" if lidar else "jpg"
            file = f"{'samples' if key else 'sweeps'}/{channel}/{scene}__{channel}__{when}.{suffix}"
            (self.root / file).write_bytes(content)
            before = token("data", scene, channel, shown[k - 1].stamp_ns) if k else ""
            after = token("data", scene, channel, shown[k + 1].stamp_ns) if k + 1 < len(shown) else ""
            size = (0, 0) if lidar else (self.rig[0].height, self.rig[0].width)
            self.put("sample_data", token=token("data", scene, channel, stamp), sample_token=sample,
                     ego_pose_token=pose, calibrated_sensor_token=token("calibration", scene, channel), timestamp=when,
                     fileformat=suffix.split(".")[0], is_key_frame=key, height=size[0], width=size[1], filename=file,
                     prev=before, next=after)  # fmt: skip
        return cloud

    def _annotate(self, scene: str, samples: list[str], seen: list[dict[str, _Sighting]], placed: Placed) -> None:
        """Boxes of everybody met, from the first to the last meeting; where one is away in between, a gap."""
        for name in sorted({name for held in seen for name, sighting in held.items() if sighting.met}):
            met = [k for k, held in enumerate(seen) if name in held and held[name].met]
            there = [k for k in range(met[0], met[-1] + 1) if name in seen[k]]
            tokens = [token("annotation", scene, name, k) for k in there]
            kind = seen[there[0]][name].actor.kind
            self.put("instance", token=token("instance", scene, name),
                     category_token=token("category", _CATEGORIES[kind]), nbr_annotations=len(there),
                     first_annotation_token=tokens[0], last_annotation_token=tokens[-1])  # fmt: skip
            for j, k in enumerate(there):
                sighting = seen[k][name]
                actor = sighting.actor
                level = 1 + sum(sighting.visible > end for end in _VISIBILITY)
                self.put("sample_annotation", token=tokens[j], sample_token=samples[k],
                         instance_token=token("instance", scene, name), visibility_token=str(level),
                         attribute_tokens=[token("attribute", _attribute(actor))],
                         translation=[actor.x + placed.dx, actor.y + placed.dy, actor.height / 2],
                         size=[actor.width, actor.length, actor.height], rotation=_turned(actor.yaw),
                         prev=tokens[j - 1] if j else "", next=tokens[j + 1] if j + 1 < len(tokens) else "",
                         num_lidar_pts=sighting.points, num_radar_pts=0)  # fmt: skip

    def finish(self) -> None:
        """Write the tables."""
        self.put("map", token=token("map"), category="semantic_prior", filename=f"maps/{token('mask')}.png",
                 log_tokens=[record["token"] for record in self.tables["log"]])  # fmt: skip
        version = self.root / version_of(self.split)
        version.mkdir()
        for name, records in self.tables.items():
            _dump(version / f"{name}.json", records)


def _sightings(
    tick: OracleFrame, cloud: LidarScan, world: Any, rig: tuple[Camera, ...]
) -> dict[str, _Sighting]:  # fmt: skip
    """Everybody around at a key frame: lidar points on them, and how much of them the cameras see."""
    looking = scaled(rig, VISIBILITY_WIDTH)
    images = world.measure(tick, looking)
    solid = cloud.in_ego[~cloud.on_ground]
    out = {}
    for k, actor in enumerate(with_parked(tick, world, PARKED_M)):
        index = -1 if actor.id.startswith(PARKED) else k
        points = int(in_box(solid, actor, tick.ego).sum())
        out[actor.id] = _Sighting(actor, points, visible_share(actor, index, tick.ego, images, looking))
    return out


def _attribute(actor: Actor) -> str:
    moving = actor.speed > MOVING_M_S
    if actor.kind is ActorKind.BICYCLE:
        return "cycle.with_rider"
    if actor.kind is ActorKind.PEDESTRIAN:
        return "pedestrian.moving" if moving else "pedestrian.standing"
    return "vehicle.moving" if moving else "vehicle.parked" if actor.id.startswith(PARKED) else "vehicle.stopped"


def _turned(yaw: float) -> list[float]:
    """A turn about z as quaternion w, x, y, z."""
    return [math.cos(0.5 * yaw), 0.0, 0.0, math.sin(0.5 * yaw)]


def _quaternion(rotation: F64) -> list[float]:
    """A rotation matrix (3, 3) as quaternion w, x, y, z: the eigenvector of Bar-Itzhack's symmetric matrix (2000)."""
    r = rotation
    k = np.array([
        [r[0, 0] - r[1, 1] - r[2, 2], 0, 0, 0],
        [r[0, 1] + r[1, 0], r[1, 1] - r[0, 0] - r[2, 2], 0, 0],
        [r[0, 2] + r[2, 0], r[1, 2] + r[2, 1], r[2, 2] - r[0, 0] - r[1, 1], 0],
        [r[2, 1] - r[1, 2], r[0, 2] - r[2, 0], r[1, 0] - r[0, 1], r[0, 0] + r[1, 1] + r[2, 2]],
    ])  # fmt: skip
    x, y, z, w = np.linalg.eigh(k)[1][:, -1]
    sign = -1.0 if w < 0 else 1.0
    return [float(sign * v) for v in (w, x, y, z)]


def _dump(path: Path, content: Any) -> None:
    path.write_text(json.dumps(content), encoding="utf-8")
