"""What a replay counts: displacement errors beside constant velocity's, skipped stamps, and what the cameras gave."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from efficientgen.eval.bag_journal import Answer
from efficientgen.eval.bag_reader import Survey
from efficientgen.perception.foreign_feed import before_history
from efficientgen.perception.rectify import Rectifier
from efficientgen.perception.rig_file import RigFile
from efficientgen.perception.types import NS


class Tally:
    """Sums over the answers of one replay; it holds a few numbers per plan and no picture."""

    def __init__(self, rig: RigFile) -> None:
        self.rig = rig
        self.skipped: Counter[str] = Counter()
        self.examples: dict[str, str] = {}
        self.stamps = self.early = self.planned = 0
        self.sums: dict[float, list[float]] = {}  # horizon s -> [n, plan error, constant velocity's]
        self.rows: list[tuple[float, float, float, float]] = []  # ADE, FDE of plan and of constant velocity
        self.series: list[tuple[float, float, float, float]] = []  # s, speed, ADE of plan and of constant velocity
        self.times: list[float] | None = None
        self.one_horizon = True
        self.walls: list[float] = []
        self.offsets: dict[str, list[int]] = {}
        self.dark: Counter[str] = Counter()
        self.commands: Counter[str] = Counter()
        self.notes: Counter[str] = Counter()

    def add(self, answer: Answer) -> None:
        """Count one plan stamp."""
        asked = answer.asked
        self.stamps += 1
        for name, offset in (asked.offsets_ns or {}).items():
            self.offsets.setdefault(name, []).append(offset)
        if answer.plan is None:
            if before_history(asked):
                self.early += 1
                return
            for kind, words in answer.skipped[:1]:
                self.skipped[kind] += 1
                self.examples.setdefault(kind, words)
            return
        self.planned += 1
        self.walls.append(answer.wall_s)
        self.dark.update([*asked.blackened, *asked.absent])
        self.commands[asked.command.value if asked.command else ""] += 1
        if answer.plan.stats.note:
            self.notes[answer.plan.stats.note] += 1
        times = answer.plan.times_s.tolist()
        self.one_horizon &= self.times in (None, times)
        self.times = self.times or times
        if answer.errors_m is None or answer.baseline_m is None:
            return
        for t, error, base in zip(times, answer.errors_m.tolist(), answer.baseline_m.tolist(), strict=True):
            if np.isfinite(error):
                held = self.sums.setdefault(round(t, 3), [0.0, 0.0, 0.0])
                held[0], held[1], held[2] = held[0] + 1, held[1] + error, held[2] + base
        if answer.whole:
            e, b = answer.errors_m, answer.baseline_m
            speed = asked.ego.speed if asked.ego is not None else 0.0
            self.series.append((asked.stamp_ns / NS, speed, float(e.mean()), float(b.mean())))
            self.rows.append((float(e.mean()), float(e[-1]), float(b.mean()), float(b[-1])))

    def counts(self) -> dict[str, Any]:
        """How many plan stamps there were, and what became of them."""
        return {
            "stamps": self.stamps,
            "before_history": self.early,
            "planned": self.planned,
            "skipped": dict(self.skipped),
            "examples": self.examples,
        }

    def error(self) -> dict[str, Any]:
        """Displacement errors; the means are None where no plan's whole horizon was recorded."""
        rows = np.array(self.rows, np.float64).reshape(-1, 4)
        ade, fde, base_ade, base_fde = rows.mean(0).tolist() if len(rows) else (None,) * 4
        return {
            "what": "displacement from the driven path at the plan's times; plans whose whole horizon was recorded",
            "times_s": self.times,
            "one_horizon": self.one_horizon,
            "plans": len(rows),
            "ade_m": ade,
            "fde_m": fde,
            "constant_velocity_ade_m": base_ade,
            "constant_velocity_fde_m": base_fde,
            "at": {
                f"{t:g} s": {"plans": int(n), "plan_m": e / n, "constant_velocity_m": b / n}
                for t, (n, e, b) in sorted(self.sums.items())
            },
        }

    def inputs(self, needed: tuple[str, ...], turned: dict[str, Rectifier], found: Survey) -> dict[str, Any]:
        """What the recording gave: command, odometry, each camera."""
        walls = np.array(self.walls)
        return {
            "plan_wall_s": {"p50": float(np.median(walls)), "p99": float(np.percentile(walls, 99))}
            if len(walls)
            else None,
            "command": {"source": command_words(self.rig), "heard": dict(self.commands)},
            "odometry": {
                "topic": self.rig.odometry,
                "type": found.topics[self.rig.odometry][0],
                "messages": found.poses,
                "derived": derived(self.rig),
            },
            "cameras": {name: self._camera(name, turned.get(name), found) for name in needed},
            "missing": self.rig.missing,
            "notes": dict(self.notes),
        }

    def _camera(self, name: str, rectifier: Rectifier | None, found: Survey) -> dict[str, Any]:
        camera = self.rig.cameras.get(name)
        offsets = np.abs(np.array(self.offsets.get(name, []), np.float64)) / 1e6
        told: dict[str, Any] = {
            "topic": camera.topic if camera else "",
            "messages": found.topics.get(camera.topic, ("", 0))[1] if camera else 0,
            "pictures_used": len(offsets),
            "offset_ms": {"median": float(np.median(offsets)), "largest": float(offsets.max())}
            if len(offsets)
            else None,
            "plans_without": self.dark[name],
        }
        if rectifier is not None:
            lens, pinhole = rectifier.lens, rectifier.pinhole
            told |= {
                "lens": {
                    "model": lens.model,
                    "size": [lens.width, lens.height],
                    "coefficients": list(lens.coefficients),
                },
                "pinhole": {
                    "size": [pinhole.width, pinhole.height],
                    "focal": pinhole.focal,
                    "yaw_deg": pinhole.yaw_deg,
                },
                "coverage": rectifier.coverage,
            }
        return told


def derived(rig: RigFile) -> list[str]:
    """What the odometry does not tell and was derived."""
    more = ["speed and yaw rate (three-point backward differences of poses)"] if rig.speed == "derived" else []
    return [*more, "acceleration (speeds of the last 0.3 s)", "steering (yaw rate, bicycle model)"]


def command_words(rig: RigFile) -> str:
    """Where the route command came from, plainly."""
    source = rig.command
    if source.driven_path:
        return "derived from the path driven afterwards: the planner was told what no car knows"
    return f"topic {source.topic}" if source.topic else f"constant {source.constant.value if source.constant else ''}"
