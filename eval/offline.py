"""Planners scored on recorded data, exactly as they drive: what the two data sets have in common.

A `Driver` is a planner (loaded and asked as in a drive: same observations, same health checks, same decoder) or a file
of predictions.  Each scored sample is one line of a journal at once, so an interrupted run goes on where it stopped
and no run holds more than a sample in memory.  What cannot be scored is the end of the run or a counted skip, never a
silent gap.  A result names its metric: numbers under different conventions are refused a comparison.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from efficientgen.eval.camera_fit import PictureError
from efficientgen.eval.io_nuscenes import NuScenesDataError
from efficientgen.eval.io_wod import CorruptRecordError
from efficientgen.eval.nuscenes_planning import PlanningInputError
from efficientgen.eval.predictions import PredictionError, read_predictions, trajectory_of
from efficientgen.eval.resample import WaypointError
from efficientgen.eval.sight import Sight, sight_of
from efficientgen.eval.wod_e2e import TrajectoryShapeError, UnratedFrameError
from efficientgen.perception.health import Expected, Finding, UnfitObservationError, findings
from efficientgen.perception.observation import NotEnoughHistoryError
from efficientgen.perception.types import F64, Command, EgoHistory, EgoState, Observation
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.planning.load import CONSTANT_VELOCITY, EXPERT, LOG_REPLAY, load_planner
from efficientgen.planning.schema import AnswerError

OnError = Literal["stop", "skip"]
# What one sample can have wrong with it; everything else ends the run.
SAMPLE_ERRORS = (
    CorruptRecordError, NotEnoughHistoryError, UnfitObservationError, PictureError, PredictionError, WaypointError,
    PlanningInputError, TrajectoryShapeError, UnratedFrameError, NuScenesDataError, AnswerError,
)  # fmt: skip
SAME = ("convention", "metric", "mask_rule", "reference", "agents", "ade_vs")  # of two results that may be compared


class NotOfflineError(ValueError):
    """A planner that cannot be scored on recorded data."""


class NothingToScoreError(ValueError):
    """Not one sample could be scored."""


class JournalError(ValueError):
    """A journal of another run: other data, planner or settings."""


class DifferentMetricError(ValueError):
    """Two results whose numbers mean different things, or different samples."""


@dataclass(frozen=True)
class Driver:
    """Who is scored: `answer(key, observe)` gives times (T,) s, way-points (T, 2) m in the ego frame, and the text."""

    name: str
    sight: Sight
    answer: Callable[[str, Callable[[], Observation]], tuple[F64, F64, str]]
    origin: Mapping[str, Any] = field(default_factory=dict)  # sha256 of the checkpoint or file, decoder, seed
    always_straight_on: bool = False  # past its last way-point it goes on as before, by definition
    parameters: str = ""  # how many, in words such as "7.3M"; "" where that is not known


def planner_driver(
    name: str,
    checkpoint: str = "",
    decoder: str = "",
    rollouts: int = 1,
    seed: int = 0,
    threads: int = 1,
    device: str = "cpu",
    dtype: str = "",
    schema: str = "",
) -> Driver:
    """A planner by name, as `load_planner` loads it for a drive.

    Raises:
        NotOfflineError: a planner that needs a town (the expert) or a recording of it (log-replay).
        UnknownPlannerError, CheckpointError: as `load_planner`.
    """
    if name in (EXPERT, LOG_REPLAY) and not checkpoint:
        raise NotOfflineError(f"'{name}' drives on what only a simulated town knows; score a planner that looks")
    from efficientgen.eval.provenance import checkpoint_sha256

    planner = load_planner(
        name, checkpoint, decoder, rollouts=rollouts, threads=threads, device=device, dtype=dtype, schema=schema
    )
    planner.reset(seed)
    sight = sight_of(planner)

    def answer(key: str, observe: Callable[[], Observation]) -> tuple[F64, F64, str]:
        observation = observe()
        require_fit_for(observation, sight)
        plan = planner.plan(observation)
        return plan.times_s, plan.waypoints, plan.text

    blind = name == CONSTANT_VELOCITY and not checkpoint
    origin: dict[str, Any] = {}
    if not blind:
        origin = {"checkpoint_sha256": checkpoint_sha256(name, checkpoint), "decoder": decoder or "scaffold-spec",
                  "rollouts": rollouts, "schema": schema, "device": device, "dtype": dtype}  # fmt: skip
    count = sum(p.numel() for p in planner.model.parameters()) if hasattr(planner, "model") else 0
    return Driver(name, sight, answer, origin | {"seed": seed}, blind, _in_words(count))


def file_driver(path: Path) -> Driver:
    """The predictions of a file.

    Raises:
        PredictionFileError: it cannot be read.
    """
    held = read_predictions(path)

    def answer(key: str, observe: Callable[[], Observation]) -> tuple[F64, F64, str]:
        if key not in held:
            raise PredictionError(f"{path} holds no prediction of {key}")
        times, waypoints = trajectory_of(held[key])
        return times, waypoints, str(held[key].get("model_output_raw", ""))

    origin = {"predictions_sha256": hashlib.sha256(path.read_bytes()).hexdigest(), "seed": None}
    return Driver(path.stem, Sight((), 0, 1, None), answer, origin)


def require_fit_for(observation: Observation, sight: Sight) -> None:
    """The checks that every plan in a drive passes; a picture that stands in for an earlier one is not a frozen camera.

    Raises:
        UnfitObservationError: the observation is not fit to plan on.
    """
    found = findings(observation, Expected(sight.cameras, sight.frames))
    found = tuple(
        (what, words)
        for what, words in found
        if what is not Finding.FROZEN or not any(_repeats(observation, name) for name in sight.cameras)
    )
    if found:
        raise UnfitObservationError(found)


def straight_on(speed: float) -> tuple[F64, F64]:
    """The constant-velocity baseline's plan at a speed: times (6,) and way-points (6, 2)."""
    state = EgoState(0, 0.0, 0.0, 0.0, speed, 0.0, 0.0, 0.0)
    plan = ConstantVelocity().plan(Observation(0, {}, EgoHistory((state,)), Command.GO_STRAIGHT))
    return plan.times_s, plan.waypoints


class Journal:
    """Scored samples as JSON lines; the first line is what the run depends on.

    Raises:
        JournalError: the file belongs to another run.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path = path
        self.done: set[str] = set()
        wanted = json.loads(json.dumps(settings))
        if path.exists() and path.stat().st_size:
            lines = self._lines()
            if next(lines, {}).get("settings") != wanted:
                raise JournalError(
                    f"{path} is the journal of a run with other data, code, planner or settings: remove it, or name "
                    "another with --journal"
                )
            self.done = {line["key"] for line in lines}
        else:
            self._write({"settings": wanted})

    def add(self, record: Mapping[str, Any]) -> None:
        """Keep a scored sample (its "key" names it)."""
        self._write(record)
        self.done.add(record["key"])

    def records(self) -> Iterator[dict[str, Any]]:
        """The scored samples in the order in which they were made, one in memory at a time."""
        lines = self._lines()
        next(lines, None)
        yield from lines

    def _lines(self) -> Iterator[dict[str, Any]]:
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                try:
                    yield json.loads(line)
                except ValueError:
                    continue  # cut short by an interruption: that sample is scored again

    def _write(self, record: Mapping[str, Any]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a+b") as file:
            file.seek(0, 2)
            if file.tell():
                file.seek(-1, 2)
                if file.read(1) != b"\n":
                    file.write(b"\n")  # after a line that was cut short
            file.write(json.dumps(record).encode() + b"\n")


@dataclass
class Skips:
    """Samples that were not scored, counted by why."""

    on_error: OnError
    counts: Counter[str] = field(default_factory=Counter)
    examples: dict[str, str] = field(default_factory=dict)

    def failed(self, error: Exception) -> None:
        """An error of one sample: the end of the run, or a counted skip."""
        if self.on_error == "stop":
            raise error
        self.leave_out(type(error).__name__, str(error))

    def leave_out(self, why: str, words: str = "") -> None:
        """A sample that is not scored, by rule."""
        self.counts[why] += 1
        self.examples.setdefault(why, words)

    def told(self) -> dict[str, Any]:
        """For the result."""
        return {why: {"samples": n, "first": self.examples[why]} for why, n in sorted(self.counts.items())}


def compare_results(a: Mapping[str, Any], b: Mapping[str, Any]) -> dict[str, float]:
    """b - a of every score that both results of the planners have.

    Raises:
        DifferentMetricError: another data set, convention, mask rule, reference, or other samples.
    """
    for key in SAME:
        if a.get(key) != b.get(key):
            raise DifferentMetricError(
                f"{key} is '{a.get(key)}' in one result and '{b.get(key)}' in the other: these numbers mean different "
                "things; score both with the same (docs/offline.md)"
            )
    if a.get("samples_sha256") != b.get("samples_sha256"):
        raise DifferentMetricError(
            f"the results are over different samples ({a.get('samples')} and {b.get('samples')}): score the same"
        )
    one, two = a["scores"][a["planner"]], b["scores"][b["planner"]]
    return {key: two[key] - one[key] for key in one if _number(one[key]) and _number(two.get(key))}


def samples_sha256(keys: Iterator[str]) -> str:
    """Of the set of samples, in whatever order."""
    digest = np.zeros(32, np.uint8)
    for key in keys:
        digest ^= np.frombuffer(hashlib.sha256(key.encode()).digest(), np.uint8)
    return digest.tobytes().hex()


def _in_words(count: int) -> str:
    """7332096 -> "7.3M"."""
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if count >= size:
            return f"{count / size:.1f}{letter}"
    return str(count)


def _number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _repeats(observation: Observation, name: str) -> bool:
    frames = observation.cameras.get(name, ())
    return len(frames) > 1 and frames[-1].image is frames[-2].image
