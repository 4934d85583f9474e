"""How fast the offline metrics are: samples per second of one core, on made scenes of the data sets' size.

nuScenes: 40 road users at each of six steps within the grid, half of them around the car, which is what a busy key
frame of the validation set holds.  WOD-E2E: one prediction against three raters.  The metrics alone are timed, not the
reading of files and not the planner.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np

from efficientgen.eval.nuscenes_planning import CONVENTIONS, STEPS, planning_metrics_batch
from efficientgen.eval.wod_e2e import POINTS, RATERS, rater_feedback_batch
from efficientgen.perception.types import F64

AGENTS = 40
TARGETS = {"nuscenes-uniad": 2000.0, "nuscenes-stp3": 2000.0, "nuscenes-vad": 2000.0, "wod-e2e-rfs": 20000.0}


def made_scenes(count: int, seed: int = 0) -> tuple[F64, F64, F64, list[list[F64]]]:
    """Plans (B, 6, 2), truths (B, 6, 2), masks (B, 6) and agents, LIDAR_TOP."""
    rng = np.random.default_rng([seed, *b"bench nuscenes"])
    t = 0.5 * np.arange(1, STEPS + 1)
    speed, bend = rng.uniform(0, 15, (count, 1)), rng.normal(0, 0.3, (count, 1))
    truth = np.stack([bend * t**2, speed * t], -1)
    plan = truth + rng.normal(0, 0.3, (count, 1, 2)) * t[:, None]
    boxes = []
    for way in truth:
        near = way[rng.integers(0, STEPS, AGENTS // 2)] + rng.normal(0, 6, (AGENTS // 2, 2))
        place = np.concatenate([near, rng.uniform(-50, 50, (AGENTS - AGENTS // 2, 2))])
        shape = np.column_stack([rng.uniform(-np.pi, np.pi, AGENTS), np.tile([4.5, 1.9], (AGENTS, 1))])
        drift = rng.normal(0, 2, (AGENTS, 2))
        boxes.append([np.column_stack([place + drift * at, shape]) for at in t])
    return plan, truth, np.ones((count, STEPS)), boxes


def made_frames(count: int, seed: int = 0) -> tuple[F64, F64, F64, F64, F64]:
    """Predictions (B, 1, 20, 2), probabilities, raters (B, 3, 20, 2), their scores, speeds."""
    rng = np.random.default_rng([seed, *b"bench wod-e2e"])
    raters = np.cumsum(rng.normal([2.0, 0.0], 0.3, (count, RATERS, POINTS, 2)), 2)
    predictions = raters[:, :1] + rng.normal(0, 2, (count, 1, 1, 2))
    scores, speeds = rng.uniform(0, 10, (count, RATERS)), rng.uniform(0, 15, count)
    return predictions, np.ones((count, 1)), raters, scores, speeds


def bench_eval(samples: int = 2000, frames: int = 20000, repeats: int = 5) -> list[dict[str, Any]]:
    """Median rate of each metric in batches of `samples` and `frames`, and what it should be at least."""
    plan, truth, mask, boxes = made_scenes(samples)
    rows = []
    for convention in CONVENTIONS:
        few = samples if convention != "omnidrive" else max(1, samples // 5)
        rates = _rates(few, repeats, lambda c=convention, n=few: planning_metrics_batch(
            plan[:n], truth[:n], mask[:n], boxes[:n], c))  # type: ignore[misc]  # fmt: skip
        rows.append(_row(f"nuscenes-{convention}", "samples", few, rates))
    wod = made_frames(frames)
    rows.append(_row("wod-e2e-rfs", "frames", frames, _rates(frames, repeats, lambda: rater_feedback_batch(*wod))))
    return rows


def _rates(count: int, repeats: int, work: Callable[[], object]) -> list[float]:
    work()  # warm
    out = []
    for _ in range(repeats):
        began = time.process_time()  # of this process alone, so that a busy machine does not count
        work()
        out.append(count / (time.process_time() - began))
    return out


def _row(name: str, unit: str, batch: int, rates: list[float]) -> dict[str, Any]:
    return {
        "name": name,
        "unit": f"{unit} per CPU second",
        "batch": batch,
        "rate": float(np.median(rates)),
        "lowest": min(rates),
        "highest": max(rates),
        "target": TARGETS.get(name),
    }
