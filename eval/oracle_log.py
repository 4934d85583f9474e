"""Compact oracle logs: what the expert did in one training drive, small enough to carry to where it is rendered.

A log keeps the route, the ego at every tick (0.1 s) and the whole oracle frame at every plan stamp (0.4 s).  Pictures
and labels are pure functions of it, so they are made later, on any machine, without SUMO.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np

from efficientgen.eval.step_log import StepLog
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame, Route, StopLine

KINDS = tuple(ActorKind)
ACTOR_RANGE_M = 95.0


class OracleLogError(ValueError):
    """A file that is not an oracle log of this version."""


@dataclass(frozen=True)
class OracleLog:
    """One expert drive: `frames` at plan stamps, `states` at ticks, both from stamp 0 on."""

    name: str
    route: Route
    frames: tuple[OracleFrame, ...]
    states: tuple[EgoState, ...]


def from_step_log(log: StepLog) -> OracleLog:
    """Keep what training needs of an expert's drive."""
    frames = (log.start, *(step.ticks[-1] for step in log.steps))
    states = (log.start.ego, *(tick.ego for step in log.steps for tick in step.ticks))
    return OracleLog(f"{log.scenario}.{log.seed}", log.route, frames, states)


def save_oracle_log(log: OracleLog, directory: Path) -> Path:
    """Write `<name>.npz` under a temporary name, then rename."""
    directory.mkdir(parents=True, exist_ok=True)
    near = [[a for a in f.actors if _near(a, f.ego)] for f in log.frames]
    ids = sorted({a.id for actors in near for a in actors})
    index = {name: i for i, name in enumerate(ids)}
    table = np.array([_row(a, index) for actors in near for a in actors], np.float32).reshape(-1, 9)
    head = {
        "version": 1,
        "name": log.name,
        "town": log.frames[0].town,
        "weather": log.frames[0].weather,
        "ids": ids,
        "lights": [dict(f.lights) for f in log.frames],
        "stops": [astuple(s) for s in log.route.stops],
        "crossings": log.route.crossings,
        "spacing": log.route.spacing,
    }
    temporary, final = directory / f".{log.name}.npz", directory / f"{log.name}.npz"
    with temporary.open("wb") as file:
        np.savez_compressed(
            file,
            head=np.frombuffer(json.dumps(head).encode(), np.uint8),
            actors=table,
            counts=np.array([len(a) for a in near], np.int32),
            stamps=np.array([f.stamp_ns for f in log.frames]),
            states=np.array([astuple(s) for s in log.states]),
            points=log.route.points,
            headings=log.route.headings,
            speed_limits=log.route.speed_limits,
            half_widths=log.route.half_widths,
        )
    temporary.rename(final)
    return final


def load_oracle_log(path: Path) -> OracleLog:
    """Read one log.

    Raises:
        OracleLogError: the file is damaged or of another version.
    """
    try:
        with np.load(path) as file:
            data = {k: file[k] for k in file.files}
        head = json.loads(data["head"].tobytes())
        if head["version"] != 1:
            raise OracleLogError(
                f"{path} is an oracle log of version {head['version']}, this is version 1: record it anew"
            )
    except (OSError, KeyError, ValueError) as error:
        raise OracleLogError(f"{path} is not an oracle log ({error}): record it anew") from error
    states = tuple(EgoState(int(row[0]), *map(float, row[1:])) for row in data["states"])
    by_stamp = {s.stamp_ns: s for s in states}
    ends = np.cumsum(data["counts"])
    frames = []
    for stamp, end, count, lights in zip(data["stamps"].tolist(), ends, data["counts"], head["lights"], strict=True):
        actors = tuple(_actor(row, head["ids"]) for row in data["actors"][end - count : end])
        frames.append(OracleFrame(stamp, head["town"], by_stamp[stamp], actors, lights, head["weather"]))
    route = Route(
        data["points"], data["headings"], data["speed_limits"], data["half_widths"],
        tuple(StopLine(*s) for s in head["stops"]), tuple((a, b) for a, b in head["crossings"]), head["spacing"],
    )  # fmt: skip
    return OracleLog(head["name"], route, tuple(frames), states)


def _near(actor: Actor, ego: EgoState) -> bool:
    return (actor.x - ego.x) ** 2 + (actor.y - ego.y) ** 2 < ACTOR_RANGE_M**2


def _row(a: Actor, index: dict[str, int]) -> tuple[float, ...]:
    return (index[a.id], KINDS.index(a.kind), a.x, a.y, a.yaw, a.speed, a.length, a.width, a.height)


def _actor(row: Sequence[float], ids: list[str]) -> Actor:
    name, kind, *rest = row
    return Actor(ids[int(name)], KINDS[int(kind)], *(float(v) for v in rest))
