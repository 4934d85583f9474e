"""`efficientgen eval latency-curve`: the price of a slow planner, as numbers and as a plot."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Column, Table

from efficientgen.planning.load import DEFAULT
from efficientgen_ros.cli.sweeping import (
    Setting,
    chosen_scenarios,
    drive_all,
    jobs_of,
    report_path,
    resolved_latency,
    settings_in_result,
)

INTERVALS = ("driving_score", "hd_score")
SHOWN = ("driving_score", "hd_score", "success", "collision_at_fault", "fallback_share", "held_share")


def latency_curve_command(
    planner: Annotated[str, typer.Option(help="Planner, or a baseline.")] = DEFAULT,
    latencies: Annotated[
        str, typer.Option(help="Separated by commas: seconds, 'measured', profiles of launch/config/latency.yaml.")
    ] = "0,0.1,0.2,0.4,0.6,0.8,1.2",
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all of --split.")] = [],  # noqa: B006
    split: Annotated[str | None, typer.Option(help="Only the train or the heldout scenarios.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per scenario, counted from 0; default: those the scenario names.")
    ] = None,
    decoder: Annotated[str, typer.Option(help="Any of planning/decode.py, say ar, ar-jump or scaffold-spec.")] = "",
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
    threads: Annotated[int, typer.Option(min=1, help="Threads per process for the model.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Write the curve here as JSON; goes on from there if interrupted.")
    ] = None,
    plot: Annotated[Path | None, typer.Option(help=".svg or .png; default: beside --out, as .svg.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Drive the same scenarios at several latencies, deterministically, and show what each costs."""
    from efficientgen.eval.latency_plot import check_plot_name, plot_latency_curve
    from efficientgen.eval.metrics import aggregate  # these load SUMO's and the renderer's readers
    from efficientgen.eval.results import write_json
    from efficientgen.eval.resume import Finished

    picture = plot or (None if out is None else out.with_suffix(".svg"))
    if picture is not None:
        check_plot_name(picture)
    setting = Setting(
        chosen_scenarios(scenario, split),
        seeds,
        decoder=decoder,
        checkpoint=checkpoint,
        workers=workers,
        threads=threads,
    )
    finished = Finished(out)
    jobs_of(planner, setting, None)
    words = [word.strip() for word in latencies.split(",") if word.strip()]
    if not words:
        raise typer.BadParameter("--latencies names none")
    resolved = {each.delay_ns: each for each in (resolved_latency(w, planner, setting, finished) for w in words)}
    steps = [resolved[delay] for delay in sorted(resolved)]
    plan = [jobs_of(planner, setting, latency) for latency in steps]
    jobs = [job for mine in plan for job in mine]
    done = iter(drive_all(jobs, setting, finished))
    drives = [[next(done) for _ in mine] for mine in plan]
    result: dict[str, Any] = {
        "result": "latency-curve",
        "planner": planner,
        **settings_in_result(setting, [planner], jobs),
        "chunk_s": sorted({m.chunk_s for mine in drives for m in mine}),
        "points": [
            {
                "latency_s": latency.delay_ns / 1e9,
                "latency": asdict(latency),
                "metrics": {metric: asdict(e) for metric, e in aggregate(mine).items()},
            }
            for latency, mine in zip(steps, drives, strict=True)
        ],
        "drives": [asdict(m) for mine in drives for m in mine],
    }
    if out is not None:
        write_json(result, out)
        finished.discard()
    if picture is not None:
        count = len(jobs) // len(steps)
        note = f"{len(setting.scenarios)} scenarios, {count} drives per point; 95 % intervals over scenarios"
        plot_latency_curve(result["points"], planner, picture, note)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    columns = [Column(s.replace("_", " "), no_wrap=s in INTERVALS) for s in SHOWN]
    table = Table("latency", *columns, box=SIMPLE_HEAD, title=planner, pad_edge=False)
    for point in result["points"]:
        cells = [_cell(point["metrics"].get(s), interval=s in INTERVALS) for s in SHOWN]
        table.add_row(f"{point['latency_s']:g} s", *cells)
    Console().print(table)
    report_path(out)
    report_path(picture)


def _cell(estimate: dict[str, float] | None, interval: bool) -> str:
    if estimate is None:
        return ""
    between = f" ({estimate['low']:.3g}..{estimate['high']:.3g})" if interval else ""
    return f"{estimate['mean']:.3g}{between}"
