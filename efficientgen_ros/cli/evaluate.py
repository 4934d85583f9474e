"""`efficientgen eval`: scores over many drives, and the honesty checks."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from efficientgen.planning.load import DEFAULT
from efficientgen_ros.cli import faults

app = typer.Typer(help="Score planners.", no_args_is_help=True)
faults.register(app)

HEADLINES = ("driving_score", "success", "route_completion", "collision_at_fault", "off_road", "red_lights",
             "fallback_share")  # fmt: skip


@app.callback()
def _group() -> None:
    """Score planners."""


@app.command("closed-loop")
def closed_loop_command(
    planner: Annotated[list[str], typer.Option(help="Planner; may be given several times.")] = [DEFAULT],  # noqa: B006
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all of --split.")] = [],  # noqa: B006
    split: Annotated[str | None, typer.Option(help="Only the train or the heldout scenarios.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per scenario, counted from 0.")] = 3,
    images: Annotated[
        Literal["own", "swapped", "grey"],
        typer.Option(help="What the planner sees: its own pictures, another scenario's, or grey."),
    ] = "own",
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Let the planner read its ego history.")
    ] = True,
    decoder: Annotated[str, typer.Option(help="ar or scaffold-spec.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
    out: Annotated[Path | None, typer.Option(help="Write the results here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Drive scenarios in closed loop, in process, and print scores with 95 % bootstrap intervals."""
    from efficientgen.eval.metrics import aggregate  # these load SUMO's and the renderer's readers
    from efficientgen.eval.runner import host_facts
    from efficientgen.eval.sweep import Images, Job, sweep
    from efficientgen.planning.load import CONSTANT_VELOCITY, EXPERT
    from efficientgen.worldsim.scenario import load_scenario, scenario_names

    everything = scenario_names()
    names = tuple(scenario) or scenario_names(split)
    jobs = []
    for who in planner:
        seen: Images = "own" if who in (EXPERT, CONSTANT_VELOCITY) else images
        for name in names:
            load_scenario(name)  # a wrong name is told before the first drive
            donor = _donor(name, everything)
            jobs += [
                Job(
                    name,
                    seed,
                    who,
                    checkpoint if who not in (EXPERT, CONSTANT_VELOCITY) else "",
                    decoder,
                    seen,
                    donor,
                    history,
                )
                for seed in range(seeds)
            ]
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as progress:
        task = progress.add_task("driving", total=len(jobs))
        results = sweep(jobs, workers, lambda metrics: progress.advance(task))
    summary: dict[str, Any] = {
        "images": images,
        "history": history,
        "decoder": decoder or "scaffold-spec",
        "seeds": seeds,
        "scenarios": list(names),
        "host": host_facts(),
        "planners": {},
        "drives": [asdict(m) for m in results],
    }
    for who, first in zip(planner, range(0, len(jobs), len(names) * seeds), strict=True):
        mine = results[first : first + len(names) * seeds]
        summary["planners"][who] = {k: asdict(v) for k, v in aggregate(mine).items()}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        draft = out.with_name(f".{out.name}.new")
        draft.write_text(json.dumps(summary, indent=1) + "\n")
        draft.rename(out)
    if as_json:
        print(json.dumps(summary, indent=1))
        return
    _print(summary, planner, results, Console())


def _donor(name: str, everything: tuple[str, ...]) -> str:
    """The scenario whose pictures stand in for those of `name`: half the list away, so another place and situation."""
    return (
        everything[(everything.index(name) + len(everything) // 2) % len(everything)]
        if name in everything
        else everything[0]
    )


def _print(summary: dict[str, Any], planners: list[str], results: list[Any], console: Console) -> None:
    table = Table("planner", "measure", "mean", "95 % interval", box=SIMPLE_HEAD, title="means over scenarios")
    for who in planners:
        held = summary["planners"][who]
        for h in HEADLINES:
            if h in held:
                table.add_row(
                    who, h.replace("_", " "), f"{held[h]['mean']:.3g}", f"{held[h]['low']:.3g} .. {held[h]['high']:.3g}"
                )
    console.print(table)
    table = Table("scenario", "planner", "score", "ends", box=SIMPLE_HEAD, title="per scenario")
    for name in summary["scenarios"]:
        for who in dict.fromkeys(m.planner for m in results):
            mine = [m for m in results if m.scenario == name and m.planner == who]
            mean = sum(m.driving_score for m in mine) / len(mine)
            table.add_row(name, who, f"{mean:.1f}", ", ".join(m.end_reason for m in mine))
    console.print(table)
