"""The answers of a replay, and their place on disk: one JSON line a plan stamp, written as they come."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.perception.foreign_feed import Asked
from efficientgen.perception.types import F64, CameraFrame, DecodeStats, Plan


@dataclass(frozen=True)
class Answer:
    """What came of one plan stamp."""

    asked: Asked
    plan: Plan | None
    wall_s: float
    skipped: tuple[tuple[str, str], ...]
    driven: F64 | None = None  # (T, 2) m: where the car was at the plan's times, in the ego frame; NaN: not recorded
    errors_m: F64 | None = None  # (T,) of the plan; NaN where it was not recorded
    baseline_m: F64 | None = None  # (T,) of constant velocity
    pictures: dict[int, dict[str, CameraFrame]] = field(default_factory=dict)  # tick -> camera -> picture, if kept

    @property
    def whole(self) -> bool:
        """The recording covers the plan's whole horizon."""
        return self.errors_m is not None and bool(np.isfinite(self.errors_m).all())

    @property
    def ade_m(self) -> float:
        return float(np.mean(self.errors_m)) if self.errors_m is not None else float("nan")


class Journal:
    """The answers of a replay, one JSON line each, in a file that gets its name when it is whole.

    A file that an interrupted replay of the same recording, rig, planner and code left is taken up again.
    """

    def __init__(self, path: Path, key: str) -> None:
        self.path, self._draft = path, path.with_name(f"{path.name}.part")
        self.held: dict[int, dict[str, Any]] = {}
        lines = self._draft.read_text("utf-8").splitlines() if self._draft.exists() else []
        good = [line for line in map(_json, lines) if line is not None]
        if good and good[0].get("key") == key:
            self.held = {line["stamp_ns"]: line for line in good[1:]}
        self.resumed = len(self.held)
        self._file = self._draft.open("w", encoding="utf-8")
        self._write({"key": key})

    def add(self, line: dict[str, Any]) -> None:
        """Append an answer."""
        self._write(line)

    def keep(self) -> None:
        """Give the whole file its name."""
        os.replace(self._draft, self.path)

    def _write(self, line: dict[str, Any]) -> None:
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is not None:  # what was resumed and not reached again is not lost
            for line in self.held.values():
                self._write(line)
        self._file.close()


def line_of(answer: Answer, origin_ns: int) -> dict[str, Any]:
    asked, plan = answer.asked, answer.plan
    return {
        "stamp_ns": asked.stamp_ns,
        "recorded_ns": origin_ns + asked.stamp_ns,
        "command": None if asked.command is None else asked.command.value,
        "ego": None if asked.ego is None else asdict(asked.ego),
        "skipped": [list(found) for found in answer.skipped],
        "offsets_ms": {name: offset / 1e6 for name, offset in (asked.offsets_ns or {}).items()},
        "black": list(asked.blackened),
        "absent": list(asked.absent),
        "wall_s": answer.wall_s,
        "plan": None
        if plan is None
        else {
            "waypoints": plan.waypoints.tolist(),
            "times_s": plan.times_s.tolist(),
            "rollouts": plan.rollouts.tolist(),
            "spread_m": plan.spread_m.tolist(),
            "sections": _plain(plan.sections),
            "text": plan.text,
            "stats": _plain(asdict(plan.stats)),
        },
        "driven": _finite(answer.driven),
        "errors_m": _finite(answer.errors_m),
        "constant_velocity_m": _finite(answer.baseline_m),
    }


def plan_of(line: dict[str, Any]) -> Plan | None:
    held = line["plan"]
    if held is None:
        return None
    return Plan(
        stamp_ns=line["stamp_ns"],
        waypoints=np.array(held["waypoints"], np.float64).reshape(-1, 2),
        times_s=np.array(held["times_s"], np.float64),
        sections=held["sections"],
        text=held["text"],
        rollouts=np.array(held["rollouts"], np.float64).reshape(-1, len(held["times_s"]), 2),
        spread_m=np.array(held["spread_m"], np.float64),
        stats=DecodeStats(**held["stats"]),
    )


def _plain(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda v: v.tolist() if hasattr(v, "tolist") else dict(v)))


def _finite(values: F64 | None) -> Any:
    return None if values is None else np.where(np.isfinite(values), values, None).tolist()  # type: ignore[call-overload]


def _json(line: str) -> dict[str, Any] | None:
    try:
        held = json.loads(line)
    except ValueError:
        return None  # cut short by the interruption
    return held if isinstance(held, dict) else None
