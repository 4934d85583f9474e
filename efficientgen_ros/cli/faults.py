"""`efficientgen eval faults` and `efficientgen eval braking`: what happens when things break."""

from __future__ import annotations

import json
import multiprocessing
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from efficientgen.planning.load import DEFAULT, model_directory

if TYPE_CHECKING:
    from efficientgen.eval.step_log import StepLog


class NoLogsError(FileNotFoundError):
    """There are no step logs in the directory given."""


class FaultResultsError(ValueError):
    """A file that should hold the results of an earlier campaign does not."""


def register(app: typer.Typer) -> None:
    """Add this module's commands to `efficientgen eval`."""
    app.command("faults")(faults_command)
    app.command("braking")(braking_command)


def faults_command(
    count: Annotated[
        int, typer.Option(min=1, help="Faults to inject in process (sync), by the expert's drives.")
    ] = 500,
    learned: Annotated[int, typer.Option(min=0, help="More of them in drives of --planner.")] = 60,
    planner: Annotated[str, typer.Option(help="The learned planner.")] = DEFAULT,
    mode: Annotated[
        Literal["none", "sync", "realtime", "both"],
        typer.Option(help="Modes of the drives on ROS 2 graphs; none: no ROS."),
    ] = "both",
    rounds: Annotated[int, typer.Option(min=1, help="Times that every kind is injected on a graph, per mode.")] = 1,
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all.")] = [],  # noqa: B006
    safety: Annotated[
        Literal["on", "off"], typer.Option(help="off: the same drives with plans unchecked, for the scores alone.")
    ] = "on",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
    out: Annotated[Path, typer.Option(help="Results as JSON; a run that was cut short goes on from here.")] = Path(
        "runs/faults.json"
    ),
    fresh: Annotated[bool, typer.Option("--fresh", help="Begin anew even if --out holds results.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Inject faults into drives, in process and on ROS 2 graphs: none may be driven by, be silent or do harm."""
    from efficientgen.eval.fault_campaign import DISGUISED, jobs_for, run_job
    from efficientgen.worldsim.scenario import load_scenario, scenario_names

    names = tuple(scenario) or scenario_names()
    for name in names:
        load_scenario(name)
    if learned:
        model_directory(planner)
    held: dict[str, Any] = {} if fresh or not out.exists() else _held(out)
    with _progress() as progress:
        for who, wanted in ((DISGUISED, count), (planner, learned)):
            jobs = [replace(job, checked=safety == "on") for job in jobs_for(names, 2 * wanted, who)]
            task = progress.add_task(f"faults, {who}, ladder {safety}", total=wanted)
            for record in _each(run_job, jobs, held, wanted, workers):
                held[record["key"]] = record
                _write(out, _summary(held))
                progress.advance(task, record["injected"])
        if mode != "none" and safety == "on":
            from efficientgen_ros.fault_drives import ros_jobs, run_ros_job

            modes = ("sync", "realtime") if mode == "both" else (mode,)
            graphs = ros_jobs(modes, rounds, planner)
            task = progress.add_task("drives on ROS 2 graphs", total=len(graphs))
            for record in _each(run_ros_job, graphs, held, 10**9, 1):
                held[record["key"]] = record
                _write(out, _summary(held))
                progress.advance(task)
    summary = _summary(held)
    _write(out, summary)
    if as_json:
        print(json.dumps(summary, indent=1))
    else:
        _show(summary, Console())
    if summary["escaped"] or summary["false_alarms"]:
        raise typer.Exit(1)


def _each(
    work: Callable[[Any], Any], jobs: list[Any], held: dict[str, Any], wanted: int, workers: int
) -> Iterator[dict[str, Any]]:
    """Records of `jobs` in order, held ones first, until they hold `wanted` faults."""
    todo = [job for job in jobs if job.key not in held]
    threads = max(1, (os.cpu_count() or 1) // workers)
    injected = 0
    with ExitStack() as stack:
        made: Iterator[Any] | None = None
        for job in jobs:
            if injected >= wanted:
                return
            if job.key in held:
                record = held[job.key]
            else:
                if made is None:
                    pool = None
                    if workers > 1:
                        context = multiprocessing.get_context("spawn")
                        pool = stack.enter_context(context.Pool(workers, _share_cores, (threads,)))
                    made = map(work, todo) if pool is None else pool.imap(work, todo)
                record = asdict(next(made))
            injected += record["injected"]
            yield record


def _share_cores(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _held(out: Path) -> dict[str, Any]:
    try:
        return {record["key"]: record for record in json.loads(out.read_text())["drives"]}
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise FaultResultsError(f"{out} holds no fault results ({error}); give another --out, or --fresh") from error


def _summary(held: dict[str, Any]) -> dict[str, Any]:
    from efficientgen.eval.fault_campaign import Record, scores
    from efficientgen.eval.fault_judgement import Outcome, table
    from efficientgen.eval.runner import host_facts

    drives = sorted(held.values(), key=lambda record: record["key"])
    records = [Record(**{**record, "outcomes": tuple(Outcome(**o) for o in record["outcomes"])}) for record in drives]
    found = [outcome for record in records for outcome in record.outcomes]
    groups = sorted({(o.layer, o.mode, o.planner) for o in found})
    return {
        "injected": len(found),
        "escaped": sum(bool(o.escaped) for o in found),
        "false_alarms": [alarm for record in records if record.checked for alarm in record.false_alarms],
        "groups": {
            f"{layer}, {mode}, {who}": table([o for o in found if (o.layer, o.mode, o.planner) == (layer, mode, who)])
            for layer, mode, who in groups
        },
        "scores": scores(records),
        "escapes": [asdict(o) for o in found if o.escaped],
        "host": host_facts(),
        "drives": drives,
    }


def _show(summary: dict[str, Any], console: Console) -> None:
    for group, rows in summary["groups"].items():
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title=group)
        for name in ("fault", "injected", "caught by", "escaped", "led by planner", "extra m", "seen after s"):
            table.add_column(name, justify="left" if name in ("fault", "caught by") else "right", overflow="fold")
        for kind, row in rows.items():
            by = ", ".join(f"{reason} {n}" for reason, n in row["caught_by"].items())
            seen = "" if row["detection_max_s"] is None else f"{row['detection_max_s']:.1f}"
            counts = (str(row["injected"]), by, str(row["escaped"]), str(row["led_by_planner"]))
            table.add_row(kind, *counts, f"{row['extra_max_m']:.2f}", seen)
        console.print(table)
    if summary["scores"]:
        table = Table(box=SIMPLE_HEAD, pad_edge=False, title="driving score over the same drives")
        for name in ("planner", "", "no faults", "faults", "drives"):
            table.add_column(name, justify="right" if name in ("no faults", "faults", "drives") else "left")
        for who, rows in summary["scores"].items():
            for ladder, row in rows.items():
                figures = (f"{row['no faults']:.1f}", f"{row['faults']:.1f}", f"{row['drives']:.0f}")
                table.add_row(who, ladder, *figures)
        console.print(table)
    for escape in summary["escapes"]:
        console.print(f"[red]{escape['kind']}[/] {escape['scenario']}/{escape['seed']} {escape['start_s']:.1f} s "
                      f"({escape['planner']}): {escape['escaped']}", soft_wrap=True)  # fmt: skip
    for alarm in summary["false_alarms"]:
        console.print(f"[yellow]false alarm[/] {alarm}", soft_wrap=True)
    console.print(f"{summary['injected']} faults, {summary['escaped']} escaped, "
                  f"{len(summary['false_alarms'])} false alarms")  # fmt: skip


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
            log = Path(directory) / "log"
            run_job(Job(name, seed, planner, save_to=str(log)))
            yield load(log)


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
