"""What a planner knows at a nuScenes key frame: CAN-bus history and pictures, through the builder that drives use.

Poses, speed and turn come from the CAN bus (50 Hz), interpolated to the 0.1 s ticks that `ObservationBuilder` takes; it
then builds the observation as it does on the road, 16 states at 4 Hz, and refuses where the scene has not lasted long
enough.  Pictures are the sweeps nearest to the wanted instants.  The command is taken from the path that was driven
(`KeyFrame.command`), as UniAD, VAD and ST-P3 do.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from functools import lru_cache
from typing import Any

import numpy as np

from efficientgen.eval.camera_fit import PictureError, SourceCamera, as_frame, fit, read_picture
from efficientgen.eval.io_nuscenes import KeyFrame, NuScenesDataError, NuScenesReader, package_error, pose_of
from efficientgen.eval.sight import Sight
from efficientgen.perception.observation import HISTORY_NS, NotEnoughHistoryError, ObservationBuilder
from efficientgen.perception.types import NS, TICK_NS, CameraFrame, EgoState, Observation, SensorFrames

CAN_GAP_S = 0.3  # a longer hole in the CAN bus is not bridged
PICTURE_SLACK_S = 0.1  # the nearest picture may be this far from the wanted instant
NOW_NS = 1000 * NS  # the stamp that every key frame is given; only differences matter to a planner
WHEELBASE_M = 2.588  # of the car, as VAD and ST-P3 have it


class Observer:
    """Builds observations for key frames of a reader, for one planner's `sight`.

    Raises:
        NuScenesPackageError: the devkit is not installed.
        NuScenesDataError: there is no CAN bus expansion.
    """

    def __init__(self, reader: NuScenesReader, sight: Sight) -> None:
        self.reader, self.sight = reader, sight
        if not (reader.dataroot / "can_bus").is_dir():
            raise NuScenesDataError(f"{reader.dataroot} has no can_bus/: unpack the CAN bus expansion there")
        try:
            from nuscenes.can_bus.can_bus_api import NuScenesCanBus
        except ImportError as error:
            raise package_error(error) from error
        self._can: Any = NuScenesCanBus(dataroot=str(reader.dataroot))
        self._motion = lru_cache(maxsize=2)(self._read_motion)
        self._pictures: OrderedDict[str, CameraFrame] = OrderedDict()

    def observe(self, frame: KeyFrame) -> Observation:
        """The observation at a key frame.

        Raises:
            NotEnoughHistoryError: the scene or its CAN bus does not reach back far enough.
            NuScenesDataError: the scene has no CAN bus.
            PictureError: a picture is missing, damaged, or too far from its instant.
        """
        builder = ObservationBuilder(self.sight.frames, self.sight.gap_ns, self.sight.cameras)
        for state in self.states(frame):
            builder.add_state(state)
        frames = {name: self._frames(frame, name) for name in self.sight.cameras}
        if frames:
            builder.add_frames(SensorFrames(tuple(NOW_NS - age for age in self.sight.ages_ns), frames))
        return builder.build(NOW_NS, frame.command)

    def speed(self, frame: KeyFrame) -> float:
        """Speed at a key frame, m/s.

        Raises:
            NotEnoughHistoryError: the CAN bus does not reach that instant.
        """
        at, rows = self._motion(frame.scene)
        now = frame.timestamp_us / 1e6
        if not len(at) or not at[0] - CAN_GAP_S <= now <= at[-1] + CAN_GAP_S:
            raise NotEnoughHistoryError(
                f"{frame.scene} at {frame.timestamp_us} us: the CAN bus does not hold that instant"
            )
        return float(np.interp(now, at, rows[3]))

    def states(self, frame: KeyFrame) -> list[EgoState]:
        """Ego states at the ticks up to the key frame, oldest first."""
        at, rows = self._motion(frame.scene)
        ticks = -(-HISTORY_NS // TICK_NS)
        wanted = frame.timestamp_us / 1e6 - np.arange(ticks, -1, -1) * TICK_NS / NS
        if not len(at) or wanted[0] < at[0] or wanted[-1] > at[-1] + CAN_GAP_S:
            raise NotEnoughHistoryError(
                f"{frame.scene} at {frame.timestamp_us} us: the CAN bus lacks the {HISTORY_NS / NS:.2f} s before"
            )
        after = np.clip(np.searchsorted(at, wanted), 1, len(at) - 1)
        if (at[after] - at[after - 1] > CAN_GAP_S).any():
            raise NotEnoughHistoryError(f"{frame.scene} at {frame.timestamp_us} us: the CAN bus has a hole before it")
        values = [np.interp(wanted, at, row) for row in rows]
        return [
            EgoState(NOW_NS + k * TICK_NS, x, y, yaw, speed, acceleration, turn,
                     math.atan2(WHEELBASE_M * turn, max(abs(speed), 1.0)))
            for k, (x, y, yaw, speed, acceleration, turn) in enumerate(zip(*values, strict=True), -ticks)
        ]  # fmt: skip

    def _read_motion(self, scene: str) -> tuple[np.ndarray, list[np.ndarray]]:
        """Times (s) and x, y, yaw, speed, acceleration, yaw rate of a scene."""
        try:
            messages = self._can.get_messages(scene, "pose")
        except Exception as error:  # the devkit raises bare exceptions for scenes on its black list
            raise NuScenesDataError(f"{scene} has no CAN bus poses ({error})") from error
        at = np.array([m["utime"] for m in messages], np.float64) / 1e6
        keep = np.diff(at, prepend=-np.inf) > 0
        q = np.array([m["orientation"] for m in messages], np.float64).reshape(-1, 4)
        w, x, y, z = q.T
        yaw = np.unwrap(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
        place = np.array([m["pos"] for m in messages], np.float64).reshape(-1, 3)
        forward = [np.array([m[key][i] for m in messages], np.float64)
                   for key, i in (("vel", 0), ("accel", 0), ("rotation_rate", 2))]  # fmt: skip
        return at[keep], [row[keep] for row in (place[:, 0], place[:, 1], yaw, *forward)]

    def _frames(self, frame: KeyFrame, name: str) -> tuple[CameraFrame, ...]:
        """The pictures of a camera nearest to the wanted instants, stamped with those."""
        tables = self.reader.tables
        token = tables.get("sample", frame.token)["data"].get(f"CAM_{name}")
        if token is None:
            raise PictureError(f"sample {frame.token} has no CAM_{name}")
        record = tables.get("sample_data", token)
        out = []
        for age in reversed(self.sight.ages_ns):
            target = frame.timestamp_us - age / 1000
            while record["prev"]:
                before = tables.get("sample_data", record["prev"])
                if abs(before["timestamp"] - target) > abs(record["timestamp"] - target):
                    break
                record = before
            if abs(record["timestamp"] - target) > PICTURE_SLACK_S * 1e6:
                raise NotEnoughHistoryError(f"no CAM_{name} picture within {PICTURE_SLACK_S} s of {target:.0f} us")
            out.append(self._picture(record, name, NOW_NS - age))
        return tuple(reversed(out))

    def _picture(self, record: dict[str, Any], name: str, stamp_ns: int) -> CameraFrame:
        held = self._pictures.get(record["token"])
        if held is None:
            mount = self.reader.tables.get("calibrated_sensor", record["calibrated_sensor_token"])
            image = read_picture(self.reader.dataroot / record["filename"], record["filename"])
            source = source_camera(mount, image.shape[1], image.shape[0])
            target = self.sight.target(name)
            held = as_frame(name, 0, image, source) if target is None else fit(0, image, source, target)
            self._pictures[record["token"]] = held
            while len(self._pictures) > 8 * max(1, len(self.sight.cameras)):
                self._pictures.popitem(last=False)
        return CameraFrame(name, stamp_ns, held.image, held.intrinsics, held.camera_to_ego)


def source_camera(mount: dict[str, Any], width: int, height: int) -> SourceCamera:
    """A nuScenes camera: pictures are rectified, the camera frame is optical (z forward), here turned to x forward."""
    pose = pose_of(mount)
    matrix = np.eye(4)
    matrix[:3, :3] = pose.rotation @ np.array([[0.0, -1, 0], [0, 0, -1], [1, 0, 0]])
    matrix[:3, 3] = pose.translation
    k = mount["camera_intrinsic"]
    rows = tuple(tuple(map(float, row)) for row in matrix)
    return SourceCamera(width, height, (k[0][0], k[1][1], k[0][2], k[1][2]), (0.0,) * 5, rows)
