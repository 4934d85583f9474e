"""A sweep from plan to table: find out what is missing, have it driven, keep each drive as it ends.

Who drives is handed in: Ray actors (`ray_sweep.drive_on`) or this process (`drive_here`).  Either way a drive is
finished when its file is in the store, and only then.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from efficientgen.eval.metrics import Metrics
from efficientgen.eval.provenance import checkpoint_sha256, code_sha256, scenario_sha256
from efficientgen.eval.resume import job_key
from efficientgen.eval.sweep import Job, run_job, start_worker
from efficientgen.eval.sweep_plan import Entry, SweepPlanError
from efficientgen.eval.sweep_store import Store, digest, row_of
from efficientgen.worldsim.scenario import load_scenario

Done = Callable[[int, Metrics], None]
Make = Callable[[Sequence[Job], Done], None]


@dataclass(frozen=True)
class Swept:
    """A finished sweep: its rows in the order of the plan, how many were there before, and where the table is.

    `digest` is a sha256 over everything but measured wall time: equal for equal sweeps, however they were run.
    """

    rows: tuple[dict[str, Any], ...]
    kept: int
    made: int
    digest: str
    table: str


def run_sweep(
    entries: Sequence[Entry],
    store: Store,
    make: Make,
    on_done: Callable[[Entry, Metrics], None] | None = None,
    on_kept: Callable[[Sequence[Entry]], None] | None = None,
) -> Swept:
    """Drive what `store` lacks of `entries` and write the table.

    Args:
        make: makes the jobs it is given, in any order, and calls back with each one's number and metrics.
        on_done: called after each drive has been kept.
        on_kept: called once, before the first drive, with those that were there.

    Raises:
        SweepPlanError: two entries are the same drive.
        DrivesFailedError: from `make`; what was made is kept.
    """
    keys = [job_key(entry.job) for entry in entries]
    if twice := next((entry for entry, key in zip(entries, keys, strict=True) if keys.count(key) > 1), None):
        raise SweepPlanError(f"the drives of {twice.label!r} are asked for under two labels; leave one out")
    there = store.finished()
    todo = [i for i, key in enumerate(keys) if key not in there]
    if on_kept is not None:
        on_kept([entry for entry, key in zip(entries, keys, strict=True) if key in there])

    def done(number: int, metrics: Metrics) -> None:
        i = todo[number]
        store.add(row_of(keys[i], context_of(entries[i]), metrics))
        if on_done is not None:
            on_done(entries[i], metrics)

    make([entries[i].job for i in todo], done)
    rows = store.rows(keys)
    for row, entry in zip(rows, entries, strict=True):
        row["label"] = entry.label  # a kept drive may have been made under another
    return Swept(tuple(rows), len(keys) - len(todo), len(todo), digest(rows), store.gather(rows))


def drive_here(jobs: Sequence[Job], on_done: Done, threads: int = 1) -> None:
    """Make the drives one after the other in this process."""
    start_worker(threads)
    for i, job in enumerate(jobs):
        on_done(i, run_job(job))


def context_of(entry: Entry) -> dict[str, Any]:
    """The columns beside the metrics."""
    job, scenario = entry.job, load_scenario(entry.job.scenario)
    return {
        "label": entry.label,
        "family": scenario.family,
        "split": scenario.split,
        "images": job.images,
        "decoder": job.decoder,
        "rollouts": job.rollouts,
        "history": job.use_history,
        "scenario_sha256": scenario_sha256(job.scenario),
        "checkpoint_sha256": checkpoint_sha256(job.planner, job.checkpoint),
        "code_sha256": code_sha256(),
    }
