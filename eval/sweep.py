"""Many drives: every (scenario, seed) for one planner, over worker processes, with the honesty checks as an option.

SUMO and the renderer each hold one instance per process, so a sweep is a pool of processes that keep their planner and
world from drive to drive.  What is finished is kept (`resume.Finished`), so an interrupted sweep goes on.  `run_job` is
also what every worker of a cluster calls (`ray_sweep.py`), which is why both give the same numbers.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from efficientgen.eval.degrade import DEGRADED
from efficientgen.eval.honesty import Bank, grey_images, picture_bank, swapped_images
from efficientgen.eval.latency import Latency
from efficientgen.eval.metrics import Metrics, score
from efficientgen.eval.replay import log_replay
from efficientgen.eval.resume import Finished
from efficientgen.eval.runner import drive, frames_needed, measure_latency
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.store import save
from efficientgen.planning.load import EXPERT, LOG_REPLAY, load_planner
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.worlds import NANO, REFERENCE, load_world

Images = Literal["own", "swapped", "grey"]
WORLDS = (REFERENCE, NANO)  # that need no weights of the user's


@dataclass(frozen=True)
class Job:
    """One drive of a sweep; `donor` is the scenario whose pictures a swapped drive sees."""

    scenario: str
    seed: int
    planner: str
    checkpoint: str = ""
    decoder: str = ""
    rollouts: int = 1
    device: str = "cpu"  # where the model computes, in which number format, and which answer it is asked for:
    dtype: str = ""
    schema: str = ""
    images: str = "own"  # of `Images` or `DEGRADED`
    donor: str = ""
    world: str = "reference"  # what draws the cameras, of `WORLDS`
    use_history: bool = True
    latency: Latency | None = None  # None: sync mode
    benchmarks: bool = False  # also drive the expert, and score what is measured by it: PDMS, EPDMS, nuPlan, AlpaSim
    save_to: str = ""  # directory for the step log; "" keeps only the metrics


def sweep(
    jobs: Sequence[Job],
    workers: int,
    on_done: Callable[[Metrics], None] | None = None,
    *,
    threads: int = 1,
    finished: Finished | None = None,
) -> list[Metrics]:
    """Drive all jobs; metrics in the order of `jobs`.

    Args:
        on_done: called with each drive's metrics as it ends, those that `finished` holds first.
        threads: of a learned planner, per worker.
        finished: drives made before, which are not made again; gets the new ones as they end.
    """
    finished = finished or Finished()
    results = {i: held for i, job in enumerate(jobs) if (held := finished.get(job)) is not None}
    todo = [(i, job) for i, job in enumerate(jobs) if i not in results]

    def done(i: int, metrics: Metrics, new: bool) -> None:
        if new:
            finished.add(jobs[i], metrics)
        results[i] = metrics
        if on_done is not None:
            on_done(metrics)

    for i, metrics in sorted(results.items()):
        done(i, metrics, new=False)
    if workers <= 1 or len(todo) <= 1:
        start_worker(threads)
        for i, job in todo:
            done(i, run_job(job), new=True)
    else:
        with multiprocessing.get_context("spawn").Pool(min(workers, len(todo)), start_worker, (threads,)) as pool:
            for i, metrics in pool.imap_unordered(_run_numbered, todo):
                done(i, metrics, new=True)
    return [results[i] for i in range(len(jobs))]


_threads = 1  # of learned planners in this process
_kept: dict[tuple[str, ...], Any] = {}  # planners, worlds and picture banks of this process


def start_worker(threads: int) -> None:
    """Of each worker process, before its first job."""
    global _threads
    _threads = threads


def _run_numbered(numbered: tuple[int, Job]) -> tuple[int, Metrics]:
    return numbered[0], run_job(numbered[1])


def run_job(job: Job) -> Metrics:
    """Drive one job in this process and score it."""
    planner, world = driver_of(job)
    transform = None
    if job.images == "swapped":
        transform = swapped_images(_bank(job.donor, job.seed))
    elif job.images == "grey":
        transform = grey_images
    elif job.images != "own":
        transform = DEGRADED[job.images]
    log = drive(
        load_scenario(job.scenario),
        job.seed,
        planner,
        world,
        transform_observation=transform,
        mode="sync" if job.latency is None else "latency",
        latency=job.latency or 0.0,
    )
    expert = None
    if job.benchmarks:
        itself = job.planner == EXPERT and job.latency is None
        expert = log if itself else _expert_log(job.scenario, job.seed)
    metrics = score(log, expert=expert)
    if job.save_to:
        save(log, Path(job.save_to), metrics)
    return metrics


def model_of(job: Job) -> tuple[str, ...]:
    """What has to be loaded for a job; jobs that agree in it share a planner within a process."""
    settings = (job.decoder, str(job.use_history), str(job.rollouts), job.device, job.dtype, job.schema)
    return (job.planner, job.checkpoint, *settings)


def driver_of(job: Job) -> tuple[Any, Any]:
    """(planner, world) of a job for `drive`, made once per process; no world for a planner that looks at no pixels."""
    planner = _planner(job)
    return planner, _world(job.world) if frames_needed(planner, 2) else None


def measured_latency(job: Job, threads: int = 1) -> Latency:
    """How long the job's planner takes for a plan in this process, on the job's scenario."""
    start_worker(threads)
    planner, world = driver_of(job)
    return measure_latency(planner, load_scenario(job.scenario), job.seed, world)


@lru_cache(maxsize=32)
def _expert_log(scenario: str, seed: int) -> StepLog:
    return drive(load_scenario(scenario), seed, "expert")


def _planner(job: Job) -> Any:
    """The job's planner, ready; the expert is its name."""
    if job.planner == EXPERT:
        return EXPERT
    if job.planner == LOG_REPLAY and not job.checkpoint:
        key: tuple[str, ...] = ("replay", job.scenario, str(job.seed))
        if key not in _kept:
            _kept[key] = log_replay(load_scenario(job.scenario), job.seed)
        return _kept[key]
    key = ("planner", *model_of(job))
    if key not in _kept:
        how = {"device": job.device, "dtype": job.dtype, "schema": job.schema}
        _kept[key] = load_planner(
            job.planner, job.checkpoint, job.decoder, job.use_history, job.rollouts, _threads, **how
        )
    return _kept[key]


def _world(name: str) -> Any:
    if ("world", name) not in _kept:
        _kept["world", name] = load_world(name, threads=_threads)
    return _kept["world", name]


def _bank(donor: str, seed: int) -> Bank:
    key = ("bank", donor, str(seed))
    if key not in _kept:
        _kept[key] = picture_bank(load_scenario(donor), seed, _world("reference"))
    bank: Bank = _kept[key]
    return bank
