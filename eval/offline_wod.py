"""A planner's WOD-E2E numbers: Rater Feedback Score and ADE over TFRecords, constant velocity beside it.

ADE is measured against two references, and both are named: `best_rater`, the trajectory with the highest score (what
the leaderboard does), and `log`, the path that was driven (what the data set's tutorial does).  By default only rated
frames are scored; the others are counted.  Per-cluster means need the data set's table of sequence clusters.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from efficientgen.eval.io_wod import CorruptRecordError, frames
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
from efficientgen.eval.wod_e2e import TIMES_S, ade, best_rater, cluster_means, rater_feedback_score
from efficientgen.eval.wod_frames import WodObserver, WodSample, sample_of
from efficientgen.perception.types import F64
from efficientgen.planning.load import CONSTANT_VELOCITY

METRIC = "WOD-E2E Rater Feedback Score and ADE"
ADE_VS = "best_rater (highest score) and log (future_states), each named"


class ClusterFileError(ValueError):
    """A table of clusters that is no JSON object of sequence name to cluster name."""


@dataclass(frozen=True)
class WodTask:
    """What to score and how."""

    which: Literal["rated", "all"] = "rated"
    names: frozenset[str] = frozenset()  # only these frames; empty: every one
    clusters: Mapping[str, str] | None = None  # sequence name -> cluster
    extrapolate: bool = False  # past the plan's end go on at its last velocity


def read_clusters(path: Path) -> dict[str, str]:
    """Sequence name -> cluster name.

    Raises:
        ClusterFileError: it is something else.
    """
    try:
        held = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ClusterFileError(f"{path} cannot be read as JSON ({error})") from error
    if not isinstance(held, dict) or not all(isinstance(v, str) for v in held.values()):
        raise ClusterFileError(f"{path} must be one JSON object, sequence name to cluster name")
    return held


def score_wod(
    paths: Sequence[Path],
    driver: Driver,
    task: WodTask,
    journal: Journal,
    skips: Skips,
    advance: Callable[[], None] = lambda: None,
) -> None:
    """Score every frame that the journal does not hold yet, one line each.

    Args:
        advance: called once per record read.

    Raises:
        HorizonError: the plan ends before 5 s and the task does not extrapolate.
        SAMPLE_ERRORS: with skips.on_error "stop".
    """
    observer = WodObserver(driver.sight)
    before = frozenset(journal.done)
    for frame in (frame for path in paths for frame in frames(path)):
        advance()
        try:
            if isinstance(frame, CorruptRecordError):
                raise frame
            name = frame.frame.context.name
            if not name:
                raise CorruptRecordError("a frame has no name (frame.context.name): nothing can be told about it")
            if task.names and name not in task.names or name in before and driver.sight.frames < 2:
                continue
            sample = sample_of(frame)
            observer.remember(sample)
            if name in before:
                continue
            if name in journal.done:
                skips.leave_out("seen before", f"{name} is there more than once")
                continue
            if task.which == "rated" and not sample.raters:
                skips.leave_out("unrated", f"{name} has no rater trajectory")
                continue
            journal.add(_record(sample, driver, observer, task))
        except SAMPLE_ERRORS as error:
            skips.failed(error)


def _record(sample: WodSample, driver: Driver, observer: WodObserver, task: WodTask) -> dict[str, Any]:
    times, waypoints, text = driver.answer(sample.name, lambda: observer.observe(sample))
    path, how = resample(times, waypoints, TIMES_S, task.extrapolate or driver.always_straight_on)
    steady, _ = resample(*straight_on(sample.speed), TIMES_S, extrapolate=True)
    return {
        "key": sample.name,
        "cluster": (task.clusters or {}).get(sample.segment, ""),
        "how": how,
        "repeated_picture": bool(driver.sight.frames > 1 and observer.repeated),
        "prediction": path.tolist(),
        "answer": {"times_s": np.asarray(times).tolist(), "waypoints": np.asarray(waypoints).tolist(), "text": text},
        "planner": _scores(path, sample),
        "baseline": _scores(steady, sample),
    }


def _scores(path: F64, sample: WodSample) -> dict[str, Any]:
    out: dict[str, Any] = {}
    if sample.raters:
        feedback = rater_feedback_score(path[None], [1.0], sample.raters, sample.rater_scores, sample.speed)
        out |= {"rfs": feedback.score, "within": bool(feedback.within_trust_region[0])}
        best = best_rater(sample.raters, sample.rater_scores)
        out |= {f"ade_{s}s_best_rater": ade(path, best, s) for s in (3, 5)}
    if len(sample.future):
        out |= {f"ade_{s}s_log": ade(path, sample.future, s) for s in (3, 5)}
    return out


def wod_result(driver: Driver, task: WodTask, journal: Journal, skips: Skips) -> dict[str, Any]:
    """The result of everything in the journal; its scores are means over frames, and over clusters where known.

    Raises:
        NothingToScoreError: the journal holds no frame.
    """
    who = {driver.name: "planner"} | ({} if driver.name == CONSTANT_VELOCITY else {CONSTANT_VELOCITY: "baseline"})
    totals = {name: _Totals() for name in who}
    how: Counter[str] = Counter()
    repeated, keys = 0, []
    for record in journal.records():
        keys.append(record["key"])
        how[record["how"]] += 1
        repeated += record["repeated_picture"]
        for name, column in who.items():
            totals[name].add(record[column], record["cluster"])
    if not keys:
        raise NothingToScoreError(f"no frame could be scored; left out: {skips.told() or 'nothing was there'}")
    clustered = bool(task.clusters)
    return {
        "result": "wod-e2e",
        "metric": METRIC,
        "convention": "wod-e2e",
        "ade_vs": ADE_VS,
        "mask_rule": f"{task.which} frames; rated: a rater score >= 0",
        "planner": driver.name,
        **driver.origin,
        "samples": len(keys),
        "samples_sha256": samples_sha256(iter(keys)),
        "skipped": skips.told(),
        "rfs_is": "mean of cluster means" if clustered else "mean over frames (no table of clusters given)",
        "horizon": dict(how),
        "repeated_pictures": repeated,
        "scores": {name: each.means(clustered) for name, each in totals.items()},
    }


class _Totals:
    """Sums over frames, so that no number of frames needs more memory than one."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: Counter[str] = Counter()
        self.clusters: dict[str, tuple[float, int]] = {}

    def add(self, scores: Mapping[str, Any], cluster: str) -> None:
        """One frame."""
        for key, value in scores.items():
            self.sums[key] = self.sums.get(key, 0.0) + float(value)
            self.counts[key] += 1
        if "rfs" in scores:
            total, count = self.clusters.get(cluster or "unknown", (0.0, 0))
            self.clusters[cluster or "unknown"] = (total + scores["rfs"], count + 1)

    def means(self, clustered: bool) -> dict[str, Any]:
        """Means over frames with their number; with clusters the RFS is the mean of the clusters' means."""
        out: dict[str, Any] = {}
        for key, total in self.sums.items():
            out[key], out[f"{key}_frames"] = total / self.counts[key], self.counts[key]
        if clustered and self.clusters:
            out["rfs_over_frames"] = out["rfs"]
            out["rfs_per_cluster"], out["rfs"] = cluster_means(
                (name, total / count) for name, (total, count) in sorted(self.clusters.items())
            )
        return out


def predictions_of(journal: Journal) -> Iterator[tuple[str, F64]]:
    """(frame name, (20, 2) m) of everything in the journal, for a submission."""
    for record in journal.records():
        yield record["key"], np.array(record["prediction"])
