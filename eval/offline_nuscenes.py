"""A planner's open-loop nuScenes numbers in one convention, constant velocity beside it.

Planners answer in the ego frame (rear axle, x forward, y left); the metrics want LIDAR_TOP.  With the reference
`lidar`, which is what UniAD, VAD and ST-P3 score, the path of the lidar is derived from the plan: the mount is turned
along with the path.  With `ego`, which is what OmniDrive scores, both the plan and the truth are how far the ego
origin comes.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from efficientgen.eval.io_nuscenes import KeyFrame, NuScenesReader
from efficientgen.eval.nuscenes_drive import Observer
from efficientgen.eval.nuscenes_planning import HORIZONS, MASK_RULES, STEPS, planning_metrics, summarise
from efficientgen.eval.offline import (
    SAMPLE_ERRORS,
    Driver,
    Journal,
    NothingToScoreError,
    Skips,
    samples_sha256,
    straight_on,
)
from efficientgen.eval.resample import resample
from efficientgen.perception.types import F64
from efficientgen.planning.load import CONSTANT_VELOCITY

TIMES_S = np.arange(1, STEPS + 1) * 0.5
Reference = Literal["lidar", "ego"]
AGENTS = {
    "uniad": "7 vehicle classes at each step, visibility > 40 %, with sensor points",
    "stp3": "vehicle.* and human.* seen in the last 3 key frames, placed from the ego origin",
    "vad": "7 vehicle classes and pedestrians that are there now, within 15 x 30 m, with lidar points",
    "omnidrive": "vehicle.* that are there now",
}
LEAK = "commands come from the path that was driven (UniAD, VAD, ST-P3): they leak the future"
COLUMNS = ("l2", "obj_col", "obj_box_col")
TURNS_M = 0.2  # a shorter way says nothing about the heading


@dataclass(frozen=True)
class NuScenesTask:
    """Convention and reference point."""

    convention: str
    reference: Reference
    extrapolate: bool = False


def default_reference(convention: str) -> Reference:
    """What the convention's official implementation scores."""
    return "ego" if convention == "omnidrive" else "lidar"


def score_nuscenes(
    reader: NuScenesReader,
    driver: Driver,
    task: NuScenesTask,
    journal: Journal,
    skips: Skips,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Score every key frame that the journal does not hold yet, one line each.

    Raises:
        NuScenesDataError: there is no CAN bus expansion.
        HorizonError: the plan ends before 3 s and the task does not extrapolate.
        SAMPLE_ERRORS: with skips.on_error "stop".
    """
    observer = Observer(reader, driver.sight)
    for frame in reader.key_frames():
        advance()
        if frame.token in journal.done:
            continue
        try:
            journal.add(_record(frame, reader, observer, driver, task))
        except SAMPLE_ERRORS as error:
            skips.failed(error)


def _record(
    frame: KeyFrame, reader: NuScenesReader, observer: Observer, driver: Driver, task: NuScenesTask
) -> dict[str, Any]:
    times, waypoints, text = driver.answer(frame.token, lambda: observer.observe(frame))
    path, how = resample(times, waypoints, TIMES_S, task.extrapolate or driver.always_straight_on)
    boxes = reader.agent_boxes(frame.token, task.convention)
    truth = frame.lidar_path if task.reference == "lidar" else frame.ego_path
    mount = frame.lidar_mount if task.reference == "lidar" else np.zeros(2)

    def scores(ego_path: F64) -> dict[str, Any]:
        got = planning_metrics(in_lidar(ego_path, mount), truth, frame.mask, boxes, task.convention)
        return {name: [None if math.isnan(v) else float(v) for v in getattr(got, name)] for name in COLUMNS}

    steady = resample(*straight_on(observer.speed(frame)), TIMES_S)[0]
    return {
        "key": frame.token,
        "scene": frame.scene,
        "counted": bool(task.convention == "uniad" or frame.mask.all()),
        "command": frame.command.value,
        "how": how,
        "prediction": path.tolist(),
        "answer": {"times_s": np.asarray(times).tolist(), "waypoints": np.asarray(waypoints).tolist(), "text": text},
        "planner": scores(path),
        "baseline": scores(steady),
    }


def in_lidar(ego_path: F64, mount: F64) -> F64:
    """A path of the ego origin (T, 2) in the ego frame as the path of a point at `mount`, in the axes of LIDAR_TOP.

    The heading at a way-point is the direction from the one before to the one after; at the last one, the way bends on
    as before.  On a circle at constant speed both are exact.
    """
    path = np.concatenate([np.zeros((1, 2)), ego_path])
    heading = np.zeros(len(path))
    for k in range(1, len(path)):
        dx, dy = path[min(k + 1, len(path) - 1)] - path[k - 1]
        turn = math.remainder(math.atan2(dy, dx) - heading[k - 1], 2 * math.pi)
        bend = 2.0 if k == len(path) - 1 else 1.0
        heading[k] = heading[k - 1] + (bend * turn if math.hypot(dx, dy) > TURNS_M else 0.0)
    c, s = np.cos(heading[1:]), np.sin(heading[1:])
    moved = np.stack([c * mount[0] - s * mount[1], s * mount[0] + c * mount[1]], 1) + ego_path - mount
    return np.stack([-moved[:, 1], moved[:, 0]], 1)


def nuscenes_result(
    driver: Driver, task: NuScenesTask, reader: NuScenesReader, journal: Journal, skips: Skips
) -> dict[str, Any]:
    """The result of everything in the journal.

    Raises:
        NothingToScoreError: no key frame counts.
    """
    who = {driver.name: "planner"} | ({} if driver.name == CONSTANT_VELOCITY else {CONSTANT_VELOCITY: "baseline"})
    rows: dict[str, list[F64]] = {name: [] for name in who}  # (3, 6) each: l2, obj_col, obj_box_col
    how: Counter[str] = Counter()
    keys, flags = [], []
    for record in journal.records():
        keys.append(record["key"])
        flags.append(record["counted"])
        how[record["how"]] += 1
        for name, column in who.items():
            rows[name].append(np.array([record[column][key] for key in COLUMNS], np.float64))
    counted = np.array(flags, bool)
    if not counted.any():
        raise NothingToScoreError(
            f"none of {len(keys)} key frames counts under '{task.convention}' ({MASK_RULES[task.convention]}); "
            f"left out: {skips.told() or 'nothing'}"
        )
    return {
        "result": "nuscenes",
        "metric": f"nuScenes open loop, {task.convention}",
        "convention": task.convention,
        "mask_rule": MASK_RULES[task.convention],
        "reference": task.reference,
        "agents": AGENTS[task.convention],
        "version": reader.version,
        "split": reader.split,
        "planner": driver.name,
        **driver.origin,
        "samples": int(counted.sum()),
        "key_frames": len(keys),
        "samples_sha256": samples_sha256(iter(keys)),
        "skipped": skips.told(),
        "commands": LEAK,
        "horizon": dict(how),
        "scores": {name: _means(task.convention, counted, np.array(each)) for name, each in rows.items()},
    }


def _means(convention: str, counted: NDArray[np.bool_], rows: F64) -> dict[str, float]:
    """Of (B, 3, 6) rows."""
    l2, point, box = np.moveaxis(rows, 1, 0)
    out = summarise(convention, counted, l2, box)
    for horizon, steps in HORIZONS.items():  # both ways to average, whatever the convention, so that none is mistaken
        out[f"L2_at_{horizon}"] = float(l2[counted, steps - 1].mean())
        out[f"L2_mean_to_{horizon}"] = float(l2[counted, :steps].mean())
        if convention != "vad":
            out[f"obj_col_at_{horizon}"] = float(point[counted, steps - 1].mean())
    return out
