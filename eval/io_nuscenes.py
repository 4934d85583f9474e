"""nuScenes through the real devkit: key frames, the future that was driven, the road users that each convention counts.

The scorers of UniAD, VAD, ST-P3 and OmniDrive do not only compute differently (`eval.nuscenes_planning`), they also
look at different road users: who is chosen here, per convention, as their data pipelines do it.

- `uniad`: the seven vehicle classes annotated at each future key frame, without those less than 40 % visible and those
  that no sensor point falls on.
- `vad`: pedestrians and the same vehicles that are there now, within 30 m ahead and behind and 15 m aside and with a
  lidar point on them, followed into the future by their annotations.
- `stp3`: everything called vehicle or human that was at least 40 % visible in one of the last three key frames, where
  it is annotated later; placed from the ego origin (0.94 m behind the lidar), as its labels are.
- `omnidrive`: everything called vehicle that is there now, followed into the future.

The devkit is imported on use and installed with --no-deps (requirements-devkits.txt): its pin on numpy 1 is not needed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.nuscenes_planning import STEPS
from efficientgen.perception.types import F64, Command

TABLES = (
    "category", "attribute", "visibility", "instance", "sensor", "calibrated_sensor", "ego_pose", "log", "scene",
    "sample", "sample_data", "sample_annotation", "map",
)  # fmt: skip
VEHICLES = (
    "vehicle.car", "vehicle.truck", "vehicle.construction", "vehicle.bus.bendy", "vehicle.bus.rigid",
    "vehicle.trailer", "vehicle.motorcycle", "vehicle.bicycle",
)  # fmt: skip
PEDESTRIANS = tuple(f"human.pedestrian.{kind}" for kind in ("adult", "child", "construction_worker", "police_officer"))
VAD_RANGE_M = (15.0, 30.0)  # aside, ahead
COMMAND_M = 2.0  # the last future point this far to the side makes it a turn
PAST = 2  # key frames before now that ST-P3 has seen


class NuScenesPackageError(RuntimeError):
    """The devkit or one of its real needs is not installed."""


class NuScenesDataError(ValueError):
    """The data set is not where it was said to be, or incomplete."""


@dataclass(frozen=True)
class Pose:
    """A sensor or the ego origin in the world: rotation (3, 3) and translation (3,)."""

    rotation: F64
    translation: F64

    def inside(self, points: F64) -> F64:
        """World points (N, 3) in this frame."""
        return np.asarray((points - self.translation) @ self.rotation)


@dataclass(frozen=True)
class KeyFrame:
    """A sample and what was driven after it, in LIDAR_TOP (x right, y forward)."""

    token: str
    scene: str
    timestamp_us: int
    lidar_path: F64  # (6, 2) m, where LIDAR_TOP will be
    ego_path: F64  # (6, 2) m, how far the ego origin will have come, in the axes of LIDAR_TOP
    mask: F64  # (6,)
    lidar_mount: F64  # (2,) m of LIDAR_TOP in the ego frame
    command: Command  # from the future path: it leaks the way


class NuScenesReader:
    """A data set of a version, e.g. v1.0-mini, below `dataroot`; scenes of a split, or all.

    Raises:
        NuScenesPackageError: the devkit is not installed.
        NuScenesDataError: a table is missing or damaged, or no scene belongs to the split.
    """

    def __init__(self, dataroot: Path, version: str, split: str = "", scenes: Sequence[str] = ()) -> None:
        _require_tables(dataroot, version)
        try:
            from nuscenes.nuscenes import NuScenes
            from nuscenes.utils.splits import create_splits_scenes
        except ImportError as error:
            raise package_error(error) from error
        try:
            self.tables: Any = NuScenes(version=version, dataroot=str(dataroot), verbose=False)
        except (ValueError, LookupError, AssertionError, TypeError, OSError) as error:
            what = f"{type(error).__name__}: {error}"
            raise NuScenesDataError(
                f"{dataroot / version}: a table is damaged, or they do not fit together ({what})"
            ) from error
        self.dataroot, self.version, self.split = dataroot, version, split
        wanted = set(scenes)
        if split:
            splits = create_splits_scenes()
            if split not in splits:
                raise NuScenesDataError(f"no split '{split}'; choose one of {', '.join(splits)}")
            wanted |= set(splits[split])
        self.scenes = [s for s in self.tables.scene if not wanted or s["name"] in wanted]
        if not self.scenes:
            held = ", ".join(sorted(s["name"] for s in self.tables.scene)[:5])
            raise NuScenesDataError(f"{version} holds none of the scenes asked for; it holds {held}, ...")

    def __len__(self) -> int:
        return sum(int(scene["nbr_samples"]) for scene in self.scenes)

    def key_frames(self) -> Iterator[KeyFrame]:
        """Every sample of the scenes, scene by scene in time order."""
        for scene in self.scenes:
            chain = self.chain(scene["first_sample_token"])
            poses = [self.poses(sample) for sample in chain]
            for i, sample in enumerate(chain):
                yield self._key_frame(scene["name"], sample, poses[i : i + STEPS + 1])

    def chain(self, token: str, count: int = 1_000_000) -> list[dict[str, Any]]:
        """The samples from `token` on, at most `count`, to the end of its scene."""
        out: list[dict[str, Any]] = []
        while token and len(out) < count:
            out.append(self.tables.get("sample", token))
            token = out[-1]["next"]
        return out

    def poses(self, sample: dict[str, Any]) -> tuple[Pose, Pose, Pose]:
        """World poses of (ego origin, LIDAR_TOP), and LIDAR_TOP in the ego frame, at a sample."""
        if "LIDAR_TOP" not in sample["data"]:
            raise NuScenesDataError(f"sample {sample['token']} has no LIDAR_TOP key frame")
        data = self.tables.get("sample_data", sample["data"]["LIDAR_TOP"])
        ego = pose_of(self.tables.get("ego_pose", data["ego_pose_token"]))
        mount = pose_of(self.tables.get("calibrated_sensor", data["calibrated_sensor_token"]))
        lidar = Pose(ego.rotation @ mount.rotation, ego.rotation @ mount.translation + ego.translation)
        return ego, lidar, mount

    def agent_boxes(self, token: str, convention: str) -> list[F64]:
        """Six arrays (A, 5) of x, y, yaw, length, width in LIDAR_TOP: the road users that `convention` counts."""
        sample = self.tables.get("sample", token)
        ego, lidar, _ = self.poses(sample)
        frame = _flat_lidar_at_ego(ego) if convention == "stp3" else lidar
        steps = self.chain(token, STEPS + 1)[1:]
        if convention in ("vad", "omnidrive"):
            found = self._followed(sample, frame, convention)
        else:
            known = self._seen_lately(sample) if convention == "stp3" else set()
            found = [[a for a in self._annotations(step) if self._counts(a, convention, known)] for step in steps]
        found += [[]] * (STEPS - len(found))
        return [_boxes(annotations, frame) for annotations in found]

    def _key_frame(self, scene: str, sample: dict[str, Any], poses: Sequence[tuple[Pose, Pose, Pose]]) -> KeyFrame:
        ego, lidar, mount = poses[0]
        later = poses[1:]
        lidar_path, ego_path, mask = np.zeros((STEPS, 2)), np.zeros((STEPS, 2)), np.zeros(STEPS)
        if later:
            n = len(later)
            mask[:n] = 1.0
            lidar_path[:n] = lidar.inside(np.array([p.translation for _, p, _ in later]))[:, :2]
            ahead = ego.inside(np.array([p.translation for p, _, _ in later]))
            ego_path[:n] = np.stack([-ahead[:, 1], ahead[:, 0]], 1)
            lidar_path[n:], ego_path[n:] = lidar_path[n - 1], ego_path[n - 1]  # the last pose repeated, masked
        side = lidar_path[-1, 0]
        command = Command.GO_RIGHT if side >= COMMAND_M else Command.GO_LEFT if side <= -COMMAND_M else None
        return KeyFrame(
            sample["token"], scene, int(sample["timestamp"]), lidar_path, ego_path, mask, mount.translation[:2],
            command or Command.GO_STRAIGHT,
        )  # fmt: skip

    def _annotations(self, sample: dict[str, Any]) -> list[dict[str, Any]]:
        return [self.tables.get("sample_annotation", token) for token in sample["anns"]]

    def _counts(self, annotation: dict[str, Any], convention: str, known: set[str]) -> bool:
        category = annotation["category_name"]
        if convention == "stp3":
            return ("vehicle" in category or "human" in category) and annotation["instance_token"] in known
        seen = annotation["num_lidar_pts"] + annotation["num_radar_pts"] > 0
        return category in VEHICLES and annotation["visibility_token"] != "1" and seen

    def _seen_lately(self, sample: dict[str, Any]) -> set[str]:
        known: set[str] = set()
        for _ in range(PAST + 1):
            known |= {a["instance_token"] for a in self._annotations(sample) if a["visibility_token"] != "1"}
            if not sample["prev"]:
                break
            sample = self.tables.get("sample", sample["prev"])
        return known

    def _followed(self, sample: dict[str, Any], lidar: Pose, convention: str) -> list[list[dict[str, Any]]]:
        """Per future step the annotations of those who are there now; who is lost once does not come back."""
        steps: list[list[dict[str, Any]]] = [[] for _ in range(STEPS)]
        for now in self._annotations(sample):
            if convention == "omnidrive":
                wanted = "vehicle" in now["category_name"]
            else:
                x, y = np.abs(lidar.inside(np.array([now["translation"]]))[0, :2])
                near = x <= VAD_RANGE_M[0] and y <= VAD_RANGE_M[1] and now["num_lidar_pts"] > 0
                wanted = near and now["category_name"] in (*VEHICLES, *PEDESTRIANS)
            token = now["next"] if wanted else ""
            for step in steps:
                if not token:
                    break
                later = self.tables.get("sample_annotation", token)
                step.append(later | {"size": now["size"]})
                token = later["next"]
        return steps


def _boxes(annotations: Sequence[dict[str, Any]], frame: Pose) -> F64:
    """(A, 5): x, y, yaw, length, width in `frame`; nuScenes sizes are width, length, height."""
    if not annotations:
        return np.zeros((0, 5))
    place = frame.inside(np.array([a["translation"] for a in annotations]))
    along = np.array([_rotation(a["rotation"])[:, 0] for a in annotations]) @ frame.rotation
    size = np.array([a["size"] for a in annotations], np.float64)
    return np.column_stack([place[:, :2], np.arctan2(along[:, 1], along[:, 0]), size[:, 1], size[:, 0]])


def _flat_lidar_at_ego(ego: Pose) -> Pose:
    """x right, y forward, level, at the ego origin."""
    forward = ego.rotation[:2, 0] / np.linalg.norm(ego.rotation[:2, 0])
    right = np.array([forward[1], -forward[0]])
    rotation = np.eye(3)
    rotation[:2, 0], rotation[:2, 1] = right, forward
    return Pose(rotation, ego.translation)


def pose_of(record: dict[str, Any]) -> Pose:
    """Of an ego_pose or calibrated_sensor record."""
    return Pose(_rotation(record["rotation"]), np.array(record["translation"], np.float64))


def _rotation(quaternion: Sequence[float]) -> F64:
    """(3, 3) of w, x, y, z."""
    w, x, y, z = np.asarray(quaternion, np.float64) / np.linalg.norm(quaternion)
    return np.array([
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ])  # fmt: skip


def _require_tables(dataroot: Path, version: str) -> None:
    """What the devkit would end with a bare assertion."""
    folder = dataroot / version
    if not folder.is_dir():
        held = ", ".join(sorted(p.name for p in dataroot.glob("v*") if p.is_dir())) if dataroot.is_dir() else ""
        raise NuScenesDataError(f"{folder} does not exist; below {dataroot} there is: {held or 'no version'}")
    missing = [name for name in TABLES if not (folder / f"{name}.json").is_file()]
    if missing:
        raise NuScenesDataError(f"{folder} lacks {len(missing)} of its {len(TABLES)} tables: {', '.join(missing)}")


def package_error(error: ImportError) -> NuScenesPackageError:
    return NuScenesPackageError(
        f"nuScenes needs packages that are not installed ({error}): pip install opencv-python-headless shapely "
        "pyquaternion descartes scikit-learn cachetools tqdm && pip install --no-deps nuscenes-devkit==1.2.0"
    )
