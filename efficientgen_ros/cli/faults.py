"""`efficientgen eval faults` and `efficientgen eval braking`: what happens when things break."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from efficientgen.planning.load import DEFAULT

if TYPE_CHECKING:
    from efficientgen.eval.step_log import StepLog


class NoLogsError(FileNotFoundError):
    """There are no step logs in the directory given."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to `efficientgen eval`."""
    app.command("braking")(braking_command)


def braking_command(
    logs: Annotated[
        Path | None, typer.Option(help="Directory with step logs of drives; default: drive all scenarios now.")
    ] = None,
    planner: Annotated[str, typer.Option(help="Who drives when --logs is not given.")] = DEFAULT,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per scenario when --logs is not given.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the table here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Kill the planner at every stamp of many drives, offline, and measure where each way of braking ends."""
    from efficientgen.eval.braking import DESIGNS, stops, summary

    with _progress() as progress:
        held = list(_read(logs, progress) if logs is not None else _drive(planner, seeds, progress))
        task = progress.add_task("designs", total=len(DESIGNS))
        designs: dict[str, Any] = {}
        for design in DESIGNS:
            designs[design.name] = summary([stop for log in held for stop in stops(log, design)])
            progress.advance(task)
    found = {
        "planners": sorted({log.planner for log in held}),
        "drives": sorted(f"{log.scenario}/{log.seed}" for log in held),
        "designs": designs,
    }
    if out is not None:
        _write(out, found)
    if as_json:
        print(json.dumps(found, indent=1))
        return
    table = Table(box=SIMPLE_HEAD, title=f"a planner's death at every stamp of {len(held)} drives")
    for name in ("design", "deaths", "outside lane", "gained p50 m", "p95 m", "p99 m", "max m"):
        table.add_column(name, justify="left" if name == "design" else "right")
    for name, d in designs.items():
        figures = (f"{d[key]:.2f}" for key in ("gained_p50_m", "gained_p95_m", "gained_p99_m", "gained_max_m"))
        table.add_row(name, str(d["deaths"]), f"{d['outside']:.1%}", *figures)
    console = Console()
    console.print(table)
    alive = next(iter(designs.values()))["outside_alive"]
    console.print(f"undisturbed, the car was outside its lane within the same seconds in {alive:.1%}", soft_wrap=True)


def _read(directory: Path, progress: Progress) -> Iterator[StepLog]:
    from efficientgen.eval.store import load

    found = sorted(path.parent for path in directory.rglob("log.json"))
    if not found:
        raise NoLogsError(f"no step logs under {directory}; make some with `efficientgen drive`, or leave out --logs")
    for path in progress.track(found, description="reading"):
        yield load(path)


def _drive(planner: str, seeds: int, progress: Progress) -> Iterator[StepLog]:
    import tempfile

    from efficientgen.eval.store import load
    from efficientgen.eval.sweep import Job, run_job
    from efficientgen.worldsim.scenario import scenario_names

    jobs = [(name, seed) for seed in range(seeds) for name in scenario_names()]
    for name, seed in progress.track(jobs, description="driving"):
        with tempfile.TemporaryDirectory() as directory:
            run_job(Job(name, seed, planner, save_to=directory))
            yield load(Path(directory))


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        console=Console(stderr=True),
    )


def _write(out: Path, found: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.new")
    draft.write_text(json.dumps(found, indent=1) + "\n")
    draft.rename(out)
