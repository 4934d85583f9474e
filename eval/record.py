"""Record drives for training: random scenarios on the training towns, as compact logs, by a few worker processes.

The expert's drives show how it is done.  A learned planner's own drives (DAgger: Ross, Gordon, Bagnell 2011) show where
it gets to; `eval.dataset` labels every stamp of either kind with what the expert would do there.
"""

from __future__ import annotations

import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from efficientgen.eval.metrics import score
from efficientgen.eval.oracle_log import from_step_log, save_oracle_log
from efficientgen.eval.runner import drive
from efficientgen.eval.sweep import Job, driver_of
from efficientgen.planning.load import EXPERT
from efficientgen.worldsim.scenario import HELDOUT_TOWNS, training_scenario
from efficientgen.worldsim.town import town_names

Traffic = Literal["plain", "scripted"]


def training_towns() -> tuple[str, ...]:
    return tuple(t for t in town_names() if t not in HELDOUT_TOWNS)


def record_drives(
    directory: Path,
    drives: int,
    first_seed: int = 0,
    workers: int = 2,
    on_done: Callable[[str], None] | None = None,
    planner: str = EXPERT,
    traffic: Traffic = "plain",
    checkpoint: str = "",
) -> int:
    """Record `drives` drives of `planner`, spread over the training towns; returns how many were kept.

    `checkpoint` is the model directory of a planner that is not shipped.  "scripted" traffic adds leads that brake,
    crawl or wait, and cars that cut in.

    An expert drive with a collision or an infraction of the expert's own is not kept: it is no example.  A learned
    planner's drives are all kept, up to where they ended: its mistakes are what they are recorded for.
    Drives that `directory` already holds are skipped, so an interrupted recording goes on.
    """
    towns = training_towns()
    driven = (planner, traffic, checkpoint)
    jobs = [(str(directory), towns[i % len(towns)], first_seed + i, *driven) for i in range(drives)]
    kept = 0
    with multiprocessing.get_context("spawn").Pool(workers, maxtasksperchild=50) as pool:
        for line in pool.imap_unordered(_record_one, jobs):
            kept += line.startswith("kept")
            if on_done is not None:
                on_done(line)
    return kept


def _record_one(job: tuple[str, str, int, str, Traffic, str]) -> str:
    directory, town, seed, planner, traffic, checkpoint = Path(job[0]), *job[1:]
    scenario = training_scenario(town, seed, traffic)
    if (directory / f"{scenario.name}.{seed}.npz").exists():
        return f"kept {scenario.name} (there already)"
    log = drive(scenario, seed, *driver_of(Job(scenario.name, seed, planner, checkpoint)))
    if planner == EXPERT:
        metrics = score(log)
        if metrics.collision_at_fault or metrics.red_lights or metrics.off_road:
            return f"dropped {scenario.name}: {log.end_reason}"
    save_oracle_log(from_step_log(log), directory)
    return f"kept {scenario.name}: {log.end_reason}"
