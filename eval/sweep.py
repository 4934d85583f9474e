"""Many drives: every (scenario, seed) for one planner, over worker processes, with the honesty checks as an option.

SUMO and the renderer each hold one instance per process, so a sweep is a pool of processes that keep their planner and
world from drive to drive.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from efficientgen.eval.honesty import Bank, grey_images, picture_bank, swapped_images
from efficientgen.eval.metrics import Metrics, score
from efficientgen.eval.runner import drive
from efficientgen.eval.store import save
from efficientgen.planning.load import EXPERT, load_planner
from efficientgen.worldsim.scenario import load_scenario

Images = Literal["own", "swapped", "grey"]


@dataclass(frozen=True)
class Job:
    """One drive of a sweep; `donor` is the scenario whose pictures a swapped drive sees."""

    scenario: str
    seed: int
    planner: str
    checkpoint: str = ""
    decoder: str = ""
    images: Images = "own"
    donor: str = ""
    use_history: bool = True
    save_to: str = ""  # directory for the step log; "" keeps only the metrics


def sweep(jobs: Sequence[Job], workers: int, on_done: Callable[[Metrics], None] | None = None) -> list[Metrics]:
    """Drive all jobs; metrics in the order of `jobs`."""
    if workers <= 1:
        results = []
        for job in jobs:
            results.append(run_job(job))
            if on_done is not None:
                on_done(results[-1])
        return results
    threads = max(1, (os.cpu_count() or 1) // workers)
    with multiprocessing.get_context("spawn").Pool(workers, _start_worker, (threads,)) as pool:
        results = []
        for metrics in pool.imap(run_job, jobs):
            results.append(metrics)
            if on_done is not None:
                on_done(metrics)
    return results


def _start_worker(threads: int) -> None:
    """Share the cores out: workers that each take them all spend their time waiting for one another."""
    import torch  # every sweep may hold a learned planner

    torch.set_num_threads(threads)


_kept: dict[tuple[str, ...], Any] = {}  # planners, worlds and picture banks of this process


def run_job(job: Job) -> Metrics:
    """Drive one job in this process and score it."""
    scenario = load_scenario(job.scenario)
    planner, world = driver_of(job.planner, job.checkpoint, job.decoder, job.use_history)
    transform = None
    if job.images == "swapped":
        transform = swapped_images(_bank(job.donor, job.seed))
    elif job.images == "grey":
        transform = grey_images
    log = drive(scenario, job.seed, planner, world, transform_observation=transform)
    metrics = score(log)
    if job.save_to:
        save(log, Path(job.save_to), metrics)
    return metrics


def driver_of(name: str, checkpoint: str = "", decoder: str = "", use_history: bool = True) -> tuple[Any, Any]:
    """(planner, world) for `drive`, made once per process; the world is None for a planner that looks at no pixels."""
    if name == EXPERT:
        return EXPERT, None
    key = ("planner", name, checkpoint, decoder, str(use_history))
    if key not in _kept:
        _kept[key] = load_planner(name, checkpoint, decoder, use_history)
    planner = _kept[key]
    return planner, _world() if getattr(planner, "frames_per_camera", 2) > 0 else None


def _world() -> Any:
    if ("world",) not in _kept:
        from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

        _kept["world",] = ReferenceWorld()
    return _kept["world",]


def _bank(donor: str, seed: int) -> Bank:
    key = ("bank", donor, str(seed))
    if key not in _kept:
        _kept[key] = picture_bank(load_scenario(donor), seed, _world())
    bank: Bank = _kept[key]
    return bank
