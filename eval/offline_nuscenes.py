"""A planner's open-loop nuScenes numbers in one convention, constant velocity beside it.

Planners answer in the ego frame (rear axle, x forward, y left); the metrics want LIDAR_TOP.  With the reference
`lidar`, which is what UniAD, VAD and ST-P3 score, the path of the lidar is derived from the plan: the mount is turned
along with the path.  With `ego`, which is what OmniDrive scores, both the plan and the truth are how far the ego
origin comes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

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
        columns = {"l2": got.l2, "obj_col": got.obj_col, "obj_box_col": got.obj_box_col}
        return {name: [None if math.isnan(v) else float(v) for v in column] for name, column in columns.items()}

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
    records = [{key: r[key] for key in ("key", "counted", "how", "planner", "baseline")} for r in journal.records()]
    counted = np.array([record["counted"] for record in records], bool)
    if not counted.any():
        raise NothingToScoreError(
            f"none of {len(records)} key frames counts under '{task.convention}' ({MASK_RULES[task.convention]}); "
            f"left out: {skips.told() or 'nothing'}"
        )
    who = {driver.name: "planner"} | ({} if driver.name == CONSTANT_VELOCITY else {CONSTANT_VELOCITY: "baseline"})
    how: dict[str, int] = {}
    for record in records:
        how[record["how"]] = how.get(record["how"], 0) + 1
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
        "key_frames": len(records),
        "samples_sha256": samples_sha256(record["key"] for record in records),
        "skipped": skips.told(),
        "commands": LEAK,
        "horizon": how,
        "scores": {name: _means(task.convention, counted, records, key) for name, key in who.items()},
    }


def _means(convention: str, counted: np.ndarray, records: list[Mapping[str, Any]] | Any, who: str) -> dict[str, float]:
    table = {name: np.array([record[who][name] for record in records], np.float64) for name in records[0][who]}
    out = summarise(convention, counted, table["l2"], table["obj_box_col"])
    whole = table["l2"][counted]
    for horizon, steps in HORIZONS.items():  # both ways to average, whatever the convention, so that none is mistaken
        out[f"L2_at_{horizon}"] = float(whole[:, steps - 1].mean())
        out[f"L2_mean_to_{horizon}"] = float(whole[:, :steps].mean())
    if not np.isnan(table["obj_col"]).all():
        for horizon, steps in HORIZONS.items():
            out[f"obj_col_at_{horizon}"] = float(np.nanmean(table["obj_col"][counted][:, steps - 1]))
    return out
