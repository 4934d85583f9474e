"""What the sweeping commands share: from options to jobs, the progress bar, resuming, and the settings in a result."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from efficientgen.planning.load import BASELINES

if TYPE_CHECKING:
    from efficientgen.eval.latency import Latency
    from efficientgen.eval.metrics import Metrics
    from efficientgen.eval.resume import Finished
    from efficientgen.eval.sweep import Job


@dataclass(frozen=True)
class Setting:
    """What all drives of a sweep have in common."""

    scenarios: tuple[str, ...]
    seeds: int | None  # per scenario, counted from 0; None: those that each scenario names
    images: Literal["own", "swapped", "grey"] = "own"
    history: bool = True
    decoder: str = ""
    rollouts: int = 1
    checkpoint: str = ""
    workers: int = 1
    threads: int = 1
    benchmarks: bool = False


def chosen_scenarios(scenario: Sequence[str], split: str | None) -> tuple[str, ...]:
    """The scenarios named, or all of a split.

    Raises:
        ScenarioError: a wrong name is told before the first drive.
    """
    from efficientgen.worldsim.scenario import load_scenario, scenario_names

    names = tuple(dict.fromkeys(scenario)) or scenario_names(split)
    for name in names:
        load_scenario(name)
    return names


def jobs_of(planner: str, setting: Setting, latency: Latency | None) -> list[Job]:
    """Every drive that `planner` makes in this setting; baselines look at nothing, and have no checkpoint.

    Raises:
        UnknownPlannerError: no such planner.
    """
    from efficientgen.eval.provenance import checkpoint_sha256
    from efficientgen.eval.sweep import Job
    from efficientgen.eval.sweep_plan import donor_of
    from efficientgen.worldsim.scenario import load_scenario, scenario_names

    everything = scenario_names()
    blind = planner in BASELINES
    checkpoint_sha256(planner, "" if blind else setting.checkpoint)  # a wrong name is told before the first drive
    jobs = []
    for name in setting.scenarios:
        seeds = load_scenario(name).seeds if setting.seeds is None else range(setting.seeds)
        jobs += [
            Job(
                scenario=name,
                seed=seed,
                planner=planner,
                checkpoint="" if blind else setting.checkpoint,
                decoder="" if blind else setting.decoder,
                rollouts=1 if blind else setting.rollouts,
                images="own" if blind else setting.images,
                donor=donor_of(name, everything),
                use_history=setting.history,
                latency=latency,
                benchmarks=setting.benchmarks,
            )
            for seed in seeds
        ]
    return jobs


def resolved_latency(text: str, planner: str, setting: Setting, finished: Finished) -> Latency:
    """The latency that `--latency` asks for; "measured" is measured once, and kept if the sweep is interrupted.

    Raises:
        LatencyError: neither seconds, nor "measured", nor a profile.
    """
    from efficientgen.eval.latency import Latency, resolve
    from efficientgen.eval.sweep import measured_latency

    def measure() -> Latency:
        job = jobs_of(planner, setting, None)[0]
        name = f"measured/{planner}/{setting.checkpoint}/{setting.decoder}"
        return Latency(**finished.once(name, lambda: asdict(measured_latency(job, setting.threads))))

    return resolve(text, measure)


def drive_all(jobs: Sequence[Job], setting: Setting, finished: Finished) -> list[Metrics]:
    """Sweep with a progress bar on stderr."""
    from efficientgen.eval.sweep import sweep

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("driving", total=len(jobs))
        return sweep(
            jobs,
            setting.workers,
            lambda metrics: progress.advance(task),
            threads=setting.threads,
            finished=finished,
        )


def settings_in_result(setting: Setting, planners: Sequence[str], jobs: Sequence[Job]) -> dict[str, Any]:
    """The part of a result that says how it was made."""
    from efficientgen.eval.provenance import checkpoint_sha256, provenance
    from efficientgen.worldsim.scenario import load_scenario

    return {
        **provenance(),
        "images": setting.images,
        "history": setting.history,
        "decoder": setting.decoder or "scaffold-spec",
        "rollouts": setting.rollouts,
        "scenarios": [load_scenario(name).name for name in setting.scenarios],
        "seeds": sorted({job.seed for job in jobs}),
        "workers": setting.workers,
        "checkpoint_sha256": {
            who: checkpoint_sha256(who, setting.checkpoint) for who in planners if who not in BASELINES
        },
    }


def report_path(out: Path | None) -> None:
    """Say where the result lies."""
    if out is not None:
        Console(stderr=True).print(f"written: {out}", soft_wrap=True)
