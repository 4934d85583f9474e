"""A step log as words and columns: what `eval/store.py` writes as `log.json` and `log.npz`, and how it is read back.

Every number of which there are many lies in a column: all actor boxes of a drive are one (N, 7) array with offsets per
tick, all plans' waypoints one flat array whose shapes are in the header.  A cursor per column takes them up again in
the order in which they were written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

import numpy as np

from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.types import (
    Actor,
    ActorKind,
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

_KINDS = tuple(ActorKind)
_PLAN_ARRAYS = ("waypoints", "times_s", "rollouts", "spread_m")


def pack(log: StepLog) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """The header (words, decisions, shapes) and the columns of a drive, without its pictures."""
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


def unpack(header: dict[str, Any], columns: dict[str, np.ndarray], frames: list[SensorFrames | None]) -> StepLog:
    """The drive that `pack` took apart; `frames` holds each step's pictures or None."""
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
