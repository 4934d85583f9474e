"""Step logs on disk: one directory per drive, written atomically, read back exactly.

`log.json` holds names, decisions and words; `log.npz` holds every number of which there are many, as columns (all actor
boxes of a drive are one (N, 8) array with offsets per tick); `frames.npz` holds the pictures as JPEG, only when the
drive kept them.  Floats come back bit for bit, pictures come back as JPEG leaves them.  `metrics.json` lets sweeps and
tables be read without touching the rest.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.metrics import Metrics, MetricsFormatError, metrics_from
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.types import (
    Actor,
    ActorKind,
    CameraFrame,
    Command,
    DecodeStats,
    EgoState,
    OracleFrame,
    Plan,
    Route,
    SensorFrames,
    Source,
    StopLine,
    Trajectory,
    Verdict,
)

FORMAT = "efficientgen-steplog"
VERSION = 1
JPEG_QUALITY = 90

_KINDS = tuple(ActorKind)
_PLAN_ARRAYS = ("waypoints", "times_s", "rollouts", "spread_m")


class LogFormatError(ValueError):
    """A directory is no step log, or one that this version cannot read."""


def run_directory(root: Path | str, stamp: str, log: StepLog) -> Path:
    """Where a drive of run `stamp` belongs: `<root>/<stamp>/<scenario>-<planner>-<seed>`."""
    return Path(root) / stamp / f"{log.scenario}-{log.planner}-{log.seed}"


def save(log: StepLog, directory: Path | str, metrics: Metrics | None = None) -> Path:
    """Write `log` (and its metrics) to `directory`, replacing a log that is there; returns the directory."""
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    draft = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        header, columns = _pack(log)
        (draft / "log.json").write_text(json.dumps(header, indent=1, default=_plain), encoding="utf-8")
        np.savez_compressed(draft / "log.npz", **columns)  # type: ignore[arg-type]
        if any(step.frames is not None for step in log.steps):
            np.savez(draft / "frames.npz", **_pack_frames(log.steps))  # type: ignore[arg-type]
        if metrics is not None:
            (draft / "metrics.json").write_text(json.dumps(asdict(metrics), indent=1), encoding="utf-8")
        draft.chmod(0o755)
        _swap(draft, target)
    finally:
        shutil.rmtree(draft, ignore_errors=True)
    return target


def load(directory: Path | str) -> StepLog:
    """Read a drive back.

    Raises:
        LogFormatError: no step log there, or one of another version.
    """
    directory = Path(directory)
    header = _header(directory)
    with np.load(directory / "log.npz") as held:
        columns = {name: held[name] for name in held.files}
    frames_file = directory / "frames.npz"
    frames: list[SensorFrames | None] = [None] * len(header["steps"])
    if frames_file.exists():
        frames = _unpack_frames(frames_file, len(frames))
    return _unpack(header, columns, frames)


def load_metrics(directory: Path | str) -> Metrics:
    """Only the metrics of a stored drive.

    Raises:
        LogFormatError: the drive was stored without metrics, or by another version.
    """
    path = Path(directory) / "metrics.json"
    if not path.exists():
        raise LogFormatError(f"{path} does not exist: score the log and save it again with its metrics")
    try:
        return metrics_from(json.loads(path.read_text(encoding="utf-8")))
    except MetricsFormatError as error:
        raise LogFormatError(f"{path}: {error}; score the log again") from error


def _swap(draft: Path, target: Path) -> None:
    """Put `draft` at `target`; a reader sees the old directory or the new one, never half of one."""
    if not target.exists():
        os.rename(draft, target)
        return
    if not (target / "log.json").exists():
        raise LogFormatError(f"{target} exists and is no step log; choose another directory")
    old = Path(tempfile.mkdtemp(prefix=f".{target.name}.old.", dir=target.parent))
    os.rename(target, old / "old")
    os.rename(draft, target)
    shutil.rmtree(old)


def _header(directory: Path) -> dict[str, Any]:
    path = directory / "log.json"
    if not path.exists():
        raise LogFormatError(f"{directory} holds no log.json; give the directory of one drive")
    header: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if header.get("format") != FORMAT or header.get("version") != VERSION:
        raise LogFormatError(
            f"{path} is {header.get('format')} version {header.get('version')}, this reads {FORMAT} {VERSION}; "
            "drive again with this version"
        )
    return header


# --- packing ---


def _pack(log: StepLog) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    frames = [log.start, *(tick for step in log.steps for tick in step.ticks)]
    lights: list[dict[str, str]] = []
    ids: dict[str, int] = {}
    light_index: dict[str, int] = {}
    which_lights = []
    for frame in frames:
        key = json.dumps(dict(frame.lights), sort_keys=True)
        if key not in light_index:
            light_index[key] = len(lights)
            lights.append(dict(frame.lights))
        which_lights.append(light_index[key])
    actors = [actor for frame in frames for actor in frame.actors]
    plans = [step.plan for step in log.steps if step.plan is not None]
    columns = {
        "tick_ego": _egos([frame.ego for frame in frames]),
        "tick_ego_stamp": np.array([frame.ego.stamp_ns for frame in frames], np.int64),
        "tick_stamp": np.array([frame.stamp_ns for frame in frames], np.int64),
        "tick_lights": np.array(which_lights, np.int32),
        "tick_actors": np.cumsum([0, *(len(frame.actors) for frame in frames)]).astype(np.int64),
        "actor_id": np.array([ids.setdefault(a.id, len(ids)) for a in actors], np.int32),
        "actor_kind": np.array([_KINDS.index(a.kind) for a in actors], np.int8),
        "actor_box": np.array(
            [(a.x, a.y, a.yaw, a.speed, a.length, a.width, a.height) for a in actors], np.float64
        ).reshape(len(actors), 7),
        "step_ego": _egos([step.ego for step in log.steps]),
        "step_ego_stamp": np.array([step.ego.stamp_ns for step in log.steps], np.int64),
        "step_wall": np.array([step.plan_wall_s for step in log.steps], np.float64),
        "verdict_points": _stack([step.verdict.trajectory.points for step in log.steps], (2,)),
        "verdict_times": _stack([step.verdict.trajectory.times_s for step in log.steps], ()),
        "verdict_age": np.array([step.verdict.plan_age_s for step in log.steps], np.float64),
        "bridge_points": _stack([step.bridge.points for step in log.steps if step.bridge], (2,)),
        "bridge_times": _stack([step.bridge.times_s for step in log.steps if step.bridge], ()),
        "route_points": log.route.points,
        "route_headings": log.route.headings,
        "route_limits": log.route.speed_limits,
        "route_half_widths": log.route.half_widths,
    }
    for name in _PLAN_ARRAYS:
        columns[f"plan_{name}"] = np.concatenate(
            [np.zeros(0), *(np.asarray(getattr(plan, name), np.float64).ravel() for plan in plans)]
        )
    header = {
        "format": FORMAT,
        "version": VERSION,
        "drive": {
            name: getattr(log, name)
            for name in (
                "scenario town seed planner world mode transport handover_ns end_reason deterministic notes".split()
            )
        },
        "route": {
            "stops": [asdict(stop) for stop in log.route.stops],
            "crossings": [list(pair) for pair in log.route.crossings],
            "spacing": log.route.spacing,
        },
        "ticks": [[frame.town, frame.weather] for frame in _changes(frames)],
        "ticks_from": [i for i, frame in enumerate(frames) if i == 0 or _place(frame) != _place(frames[i - 1])],
        "lights": lights,
        "actor_ids": list(ids),
        "steps": [_pack_step(step) for step in log.steps],
    }
    return header, columns


def _pack_step(step: Step) -> dict[str, Any]:
    verdict, plan = step.verdict, step.plan
    return {
        "stamp_ns": step.stamp_ns,
        "command": step.command.value,
        "ticks": len(step.ticks),
        "verdict": {
            "stamp_ns": verdict.stamp_ns,
            "source": verdict.source.value,
            "reason": verdict.reason,
            "anchor_ns": verdict.trajectory.stamp_ns,
            "points": len(verdict.trajectory.points),
        },
        "timing": {
            "asked": step.asked,
            "due": step.due,
            "effective_ns": step.effective_ns,
            "bridge": None if step.bridge is None else [step.bridge.stamp_ns, len(step.bridge.points)],
        },
        "plan": None
        if plan is None
        else {
            "stamp_ns": plan.stamp_ns,
            "sections": dict(plan.sections),
            "text": plan.text,
            "shapes": {name: list(np.shape(getattr(plan, name))) for name in _PLAN_ARRAYS},
            "stats": {f.name: _value(getattr(plan.stats, f.name)) for f in fields(DecodeStats)},
        },
    }


def _pack_frames(steps: Iterable[Step]) -> dict[str, np.ndarray]:
    from PIL import Image  # a picture library, only for drives that kept pictures

    out: dict[str, np.ndarray] = {}
    cameras: dict[str, list[tuple[int, CameraFrame]]] = {}
    stamps: list[tuple[int, int]] = []
    for i, step in enumerate(steps):
        if step.frames is None:
            continue
        stamps.extend((i, stamp) for stamp in step.frames.stamps_ns)
        for name, sequence in step.frames.cameras.items():
            cameras.setdefault(name, []).extend((i, frame) for frame in sequence)
    out["stamps"] = np.array(stamps, np.int64).reshape(len(stamps), 2)
    for name, held in cameras.items():
        blobs = []
        for _, frame in held:
            buffer = io.BytesIO()
            Image.fromarray(frame.image).save(buffer, "JPEG", quality=JPEG_QUALITY, subsampling=0)
            blobs.append(buffer.getvalue())
        out[f"{name}/jpeg"] = np.frombuffer(b"".join(blobs), np.uint8)
        out[f"{name}/offsets"] = np.cumsum([0, *map(len, blobs)]).astype(np.int64)
        out[f"{name}/step_stamp"] = np.array([(i, frame.stamp_ns) for i, frame in held], np.int64)
        out[f"{name}/intrinsics"] = np.array([frame.intrinsics for _, frame in held])
        out[f"{name}/camera_to_ego"] = np.array([frame.camera_to_ego for _, frame in held])
    return out


def _egos(states: list[EgoState]) -> np.ndarray:
    rows = [(e.x, e.y, e.yaw, e.speed, e.acceleration, e.yaw_rate, e.steering) for e in states]
    return np.array(rows, np.float64).reshape(len(rows), 7)


def _stack(parts: list[np.ndarray], tail: tuple[int, ...]) -> np.ndarray:
    return np.concatenate([np.zeros((0, *tail)), *(np.asarray(part, np.float64) for part in parts)])


def _place(frame: OracleFrame) -> tuple[str, str]:
    return frame.town, frame.weather


def _changes(frames: list[OracleFrame]) -> list[OracleFrame]:
    return [frame for i, frame in enumerate(frames) if i == 0 or _place(frame) != _place(frames[i - 1])]


def _value(value: Any) -> Any:
    return dict(value) if isinstance(value, Mapping) else value


def _plain(value: Any) -> Any:
    """JSON for what a planner may put into its sections."""
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a step log cannot hold {type(value).__name__}; put plain numbers, words, lists and dicts into it")


# --- unpacking ---


def _unpack(header: dict[str, Any], columns: dict[str, np.ndarray], frames: list[SensorFrames | None]) -> StepLog:
    ticks = _unpack_ticks(header, columns)
    egos = _unpack_egos(columns["step_ego"], columns["step_ego_stamp"])
    cursor = dict.fromkeys((*_PLAN_ARRAYS, "verdict", "bridge"), 0)
    steps, tick = [], 1
    for i, held in enumerate(header["steps"]):
        verdict = held["verdict"]
        trajectory = _unpack_trajectory("verdict", verdict["anchor_ns"], verdict["points"], columns, cursor)
        timing = held.get("timing", {})  # logs from before the latency mode have none
        bridge = timing.get("bridge")
        steps.append(
            Step(
                stamp_ns=held["stamp_ns"],
                command=Command(held["command"]),
                ego=egos[i],
                plan=_unpack_plan(held["plan"], columns, cursor),
                verdict=Verdict(
                    verdict["stamp_ns"],
                    trajectory,
                    Source(verdict["source"]),
                    verdict["reason"],
                    float(columns["verdict_age"][i]),
                ),
                ticks=tuple(ticks[tick : tick + held["ticks"]]),
                plan_wall_s=float(columns["step_wall"][i]),
                frames=frames[i],
                asked=timing.get("asked", True),
                due=timing.get("due", True),
                effective_ns=timing.get("effective_ns", 0),
                bridge=None if bridge is None else _unpack_trajectory("bridge", bridge[0], bridge[1], columns, cursor),
            )
        )
        tick += held["ticks"]
    held = header["route"]
    route = Route(
        points=columns["route_points"],
        headings=columns["route_headings"],
        speed_limits=columns["route_limits"],
        half_widths=columns["route_half_widths"],
        stops=tuple(StopLine(**stop) for stop in held["stops"]),
        crossings=tuple((a, b) for a, b in held["crossings"]),
        spacing=held["spacing"],
    )
    return StepLog(**header["drive"], route=route, start=ticks[0], steps=tuple(steps))


def _unpack_trajectory(
    name: str, stamp_ns: int, points: int, columns: dict[str, np.ndarray], cursor: dict[str, int]
) -> Trajectory:
    """The next trajectory of the columns `<name>_points` and `<name>_times`."""
    span = slice(cursor[name], cursor[name] + points)
    cursor[name] = span.stop
    return Trajectory(stamp_ns, columns[f"{name}_points"][span], columns[f"{name}_times"][span])


def _unpack_ticks(header: dict[str, Any], columns: dict[str, np.ndarray]) -> list[OracleFrame]:
    egos = _unpack_egos(columns["tick_ego"], columns["tick_ego_stamp"])
    boxes, names = columns["actor_box"].tolist(), header["actor_ids"]
    kinds, ids = columns["actor_kind"].tolist(), columns["actor_id"].tolist()
    actors = [
        Actor(names[i], _KINDS[k], x, y, yaw, speed, length, width, height)
        for i, k, (x, y, yaw, speed, length, width, height) in zip(ids, kinds, boxes, strict=True)
    ]
    offsets, lights = columns["tick_actors"].tolist(), columns["tick_lights"].tolist()
    out = []
    place = -1
    for i, stamp in enumerate(columns["tick_stamp"].tolist()):
        if place + 1 < len(header["ticks_from"]) and header["ticks_from"][place + 1] == i:
            place += 1
        town, weather = header["ticks"][place]
        there = tuple(actors[offsets[i] : offsets[i + 1]])
        out.append(OracleFrame(stamp, town, egos[i], there, header["lights"][lights[i]], weather))
    return out


def _unpack_plan(held: dict[str, Any] | None, columns: dict[str, np.ndarray], cursor: dict[str, int]) -> Plan | None:
    if held is None:
        return None
    arrays = {}
    for name in _PLAN_ARRAYS:
        shape = tuple(held["shapes"][name])
        span = slice(cursor[name], cursor[name] + int(np.prod(shape)))
        cursor[name] = span.stop
        arrays[name] = columns[f"plan_{name}"][span].reshape(shape)
    return Plan(
        stamp_ns=held["stamp_ns"],
        sections=held["sections"],
        text=held["text"],
        stats=DecodeStats(**held["stats"]),
        **arrays,
    )


def _unpack_egos(rows: np.ndarray, stamps: np.ndarray) -> list[EgoState]:
    return [EgoState(stamp, *row) for stamp, row in zip(stamps.tolist(), rows.tolist(), strict=True)]


def _unpack_frames(path: Path, steps: int) -> list[SensorFrames | None]:
    from PIL import Image

    cameras: list[dict[str, list[CameraFrame]]] = [{} for _ in range(steps)]
    stamps: list[list[int]] = [[] for _ in range(steps)]
    with np.load(path) as held:
        for i, stamp in held["stamps"].tolist():
            stamps[i].append(stamp)
        for name in [key.removesuffix("/jpeg") for key in held.files if key.endswith("/jpeg")]:
            blob, offsets = held[f"{name}/jpeg"].tobytes(), held[f"{name}/offsets"].tolist()
            intrinsics, mounts = held[f"{name}/intrinsics"], held[f"{name}/camera_to_ego"]
            for k, (i, stamp) in enumerate(held[f"{name}/step_stamp"].tolist()):
                image = np.asarray(Image.open(io.BytesIO(blob[offsets[k] : offsets[k + 1]])).convert("RGB"))
                cameras[i].setdefault(name, []).append(CameraFrame(name, stamp, image, intrinsics[k], mounts[k]))
    return [
        SensorFrames(tuple(stamps[i]), {name: tuple(seq) for name, seq in cameras[i].items()}) if stamps[i] else None
        for i in range(steps)
    ]
