"""Plans on somebody else's drive: a recording goes through the planner, and its plans meet the path that was driven.

The car drives on as it did, whatever the planner says: this is open loop, and its errors are displacement errors (ADE,
FDE) from the recorded path, beside those of constant velocity on the same stamps.  Observations come from the same
builder and pass the same health checks as in a drive; a stamp without a fit observation is skipped and counted, with
the finding that says why.  Answers are written as they come, so an interrupted replay goes on where it stopped.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.bag_journal import Answer, Journal, line_of, plan_of
from efficientgen.eval.bag_reader import Bag, Survey, commands, open_bag, play, rectifiers, survey
from efficientgen.eval.bag_tally import Tally
from efficientgen.eval.provenance import checkpoint_sha256, code_sha256
from efficientgen.eval.runner import frames_needed, name_of
from efficientgen.perception.foreign_feed import Asked, ForeignFeed, cameras_needed
from efficientgen.perception.odometry import DrivenPath
from efficientgen.perception.rectify import Rectifier
from efficientgen.perception.rig_file import RigFile, load_rig
from efficientgen.perception.types import F64, NS, TICK_NS, EgoState, Plan, Planner

FRAMES = "frames.jsonl"
SUMMARY = "replay.json"
PLANNER_ERROR = "planner error"
APART_NS = 2 * NS  # worst moments closer to each other than this are one moment


class NothingPlannedError(ValueError):
    """Not one observation of the recording was fit to plan on; the results say why."""


@dataclass(frozen=True)
class Replay:
    """A replay that is over: `summary` is what `replay.json` holds."""

    directory: Path
    summary: dict[str, Any]
    rig: RigFile
    found: Survey
    rectifiers: dict[str, Rectifier]
    kept: tuple[Answer, ...]  # with pictures: the stretch that a film shows
    worst: tuple[Answer, ...]  # those with the largest ADE, worst first
    series: tuple[tuple[float, float, float, float], ...]  # s, speed m/s, ADE m of plan and of constant velocity


def replay(
    bag: Path | str,
    rig: Path | str | RigFile,
    planner: Planner,
    out: Path | str,
    *,
    checkpoint: str = "",
    seed: int = 0,
    keep_s: float = 0.0,
    keep_worst: int = 0,
    on_answer: Callable[[Answer, float], None] | None = None,
) -> Replay:
    """Plan on every plan stamp of a recording; writes `frames.jsonl` and `replay.json` to `out`.

    Args:
        keep_s: keep the pictures of so many seconds from the first plan on, every tick, for a film.
        keep_worst: keep the pictures of so many of the worst plans.
        on_answer: called after each plan stamp, with the share of the recording that is done.

    Raises:
        NothingPlannedError: no observation was fit to plan on; the files are written all the same.
        BagError, BagTopicError, RigFileError, LensError, ExtrinsicsError, MessageError: see where they are raised.
    """
    rig_file = rig if isinstance(rig, RigFile) else load_rig(rig)
    out = Path(out)
    out.mkdir(parents=True, exist_ok=True)
    look = frames_needed(planner, 0)
    needed = cameras_needed(planner, rig_file) if look else ()
    with open_bag(bag) as opened:
        found = survey(opened, rig_file)
        turned = rectifiers(rig_file, found, needed)
        key = _key(opened, rig_file, planner, checkpoint, seed)
        with Journal(out / FRAMES, key) as journal:
            planner.reset(seed)
            feed = ForeignFeed(
                rig_file, look, needed, commands(rig_file, found), turned.get, every_tick=bool(look and keep_s)
            )
            run = _Run(planner, rig_file, found.path, feed, journal, keep_s, keep_worst)
            last = int(found.path.stamps[-1]) if len(found.path.stamps) else 0
            for answer in run.answers(opened, needed):
                if on_answer is not None:
                    span = max(last - (feed.origin_ns or 0), 1)
                    on_answer(answer, min(1.0, answer.asked.stamp_ns / span))
            summary = {
                "format": "efficientgen-replay",
                "version": 1,
                "bag": opened.path.name,
                "planner": name_of(planner),
                "seed": seed,
                "key": key,
                "code_sha256": code_sha256(),
                "origin_ns": feed.origin_ns,
                "seconds": (last - int(found.path.stamps[0])) / NS if found.poses > 1 else 0.0,
                "metres": float(found.path.along[-1]) if found.poses else 0.0,
                "looks": look,
                "resumed": journal.resumed,
                **run.tally.counts(),
                "error": run.tally.error(),
                **run.tally.inputs(needed, turned, found),
            }
        journal.keep()
    draft = out / f".{SUMMARY}.part"
    draft.write_text(json.dumps(summary, indent=1), encoding="utf-8")
    os.replace(draft, out / SUMMARY)
    if not summary["planned"]:
        why = "; ".join(f"{n} times {kind} ({summary['examples'][kind]})" for kind, n in summary["skipped"].items())
        named = [camera for camera in summary["cameras"].values() if camera["topic"]]
        if named and all(camera["messages"] for camera in named):
            why += "; where topics are stamped by different clocks, set sync.stamps: received in rig.yaml"
        raise NothingPlannedError(
            f"not one of {summary['stamps']} plan stamps was fit to plan on: "
            f"{why or 'the recording is shorter than the 4 s of history that a plan needs'}; details in {out}"
        )
    return Replay(out, summary, rig_file, found, turned, tuple(run.kept), tuple(run.worst), tuple(run.tally.series))


class _Run:
    """One pass over a recording."""

    def __init__(self, planner: Planner, rig: RigFile, path: DrivenPath, feed: ForeignFeed, journal: Journal,
                 keep_s: float, keep_worst: int) -> None:  # fmt: skip
        self.planner, self.rig, self.path, self.feed, self.journal = planner, rig, path, feed, journal
        self.keep_ns, self.keep_worst = round(keep_s * NS), keep_worst
        self.kept: list[Answer] = []
        self.worst: list[Answer] = []
        self.tally = Tally(rig)

    def answers(self, bag: Bag, needed: tuple[str, ...]) -> Iterator[Answer]:
        """Every plan stamp's answer, counted and written."""
        for _ in play(bag, self.rig, needed, self.feed):
            yield from map(self._answer, self.feed.poll())
        yield from map(self._answer, self.feed.poll(at_end=True))
        if self.kept:
            self._fill(self.kept[-1])

    def _answer(self, asked: Asked) -> Answer:
        skipped, plan, wall = asked.skipped, None, 0.0
        if asked.observation is not None:
            held = self.journal.held.pop(asked.stamp_ns, None)
            began = time.perf_counter()
            try:
                plan = plan_of(held) if held and held["plan"] else self.planner.plan(asked.observation)
            except Exception as error:  # whatever a planner dies of, the recording goes on, and the result says so
                skipped = ((PLANNER_ERROR, f"{type(error).__name__}: {error}"),)
            wall = float(held["wall_s"]) if held and held["plan"] else time.perf_counter() - began
        answer = self._judged(asked, plan, wall, skipped)
        self.tally.add(answer)
        self.journal.add(line_of(answer, self.feed.origin_ns or 0))
        self._keep(answer)
        return answer

    def _judged(self, asked: Asked, plan: Plan | None, wall: float, skipped: tuple[tuple[str, str], ...]) -> Answer:
        if plan is None or asked.ego is None:
            return Answer(asked, plan, wall, skipped)
        origin, ego = self.feed.origin_ns or 0, asked.ego
        there = self.path.at([origin + asked.stamp_ns + round(t * NS) for t in plan.times_s.tolist()])
        driven = in_ego(there, ego)
        straight = np.stack([ego.speed * plan.times_s, np.zeros_like(plan.times_s)], 1)
        errors, baseline = (np.hypot(*(points - driven).T) for points in (plan.waypoints, straight))
        return Answer(asked, plan, wall, skipped, driven, errors, baseline)

    def _keep(self, answer: Answer) -> None:
        """Pictures for the film (the first stretch from the first plan on) and of the worst plans."""
        tick = answer.asked.stamp_ns
        begun = self.kept or answer.plan is not None
        if self.keep_ns and begun and (not self.kept or tick < self.kept[0].asked.stamp_ns + self.keep_ns):
            span = range(tick + TICK_NS, tick + 5 * TICK_NS, TICK_NS)
            if self.kept:  # the ticks that have been drawn since
                self._fill(self.kept[-1])
            self.kept.append(replace(answer, pictures={t: {} for t in span}))
        elif self.kept:
            self._fill(self.kept[-1])
        if self.keep_worst and answer.whole:
            now = {tick: self.feed.taken.get(tick, {})}
            self.worst = _worst_apart([*self.worst, replace(answer, pictures=now)], self.keep_worst)
        self.feed.forget(tick)

    def _fill(self, answer: Answer) -> None:
        for tick in answer.pictures:
            answer.pictures[tick].update(self.feed.taken.get(tick, {}))


def _worst_apart(answers: list[Answer], most: int) -> list[Answer]:
    """The answers furthest from the driven path, worst first, no two within `APART_NS`."""
    chosen: list[Answer] = []
    for answer in sorted(answers, key=lambda a: -a.ade_m):
        if all(abs(answer.asked.stamp_ns - other.asked.stamp_ns) >= APART_NS for other in chosen):
            chosen.append(answer)
    return chosen[:most]


def in_ego(points: F64, ego: EgoState) -> F64:
    """Points (N, 2) m of the fixed frame in the ego frame."""
    c, s = np.cos(ego.yaw), np.sin(ego.yaw)
    return np.asarray((points - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]]), np.float64)


def _key(bag: Bag, rig: RigFile, planner: Planner, checkpoint: str, seed: int) -> str:
    files = sorted(bag.path.rglob("*")) if bag.path.is_dir() else [bag.path]
    stats = [(f.name, f.stat().st_size, f.stat().st_mtime_ns) for f in files if f.is_file()]
    settings = {k: str(getattr(planner, k)) for k in ("decoder", "rollouts", "device", "dtype") if hasattr(planner, k)}
    name = name_of(planner)
    model = checkpoint_sha256(name, checkpoint) if hasattr(planner, "model") else ""
    return hashlib.sha256(repr((stats, rig, name, settings, model, seed, code_sha256())).encode()).hexdigest()
