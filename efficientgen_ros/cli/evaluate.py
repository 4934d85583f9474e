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
from rich.table import Table

from efficientgen.planning.load import BASELINES, DEFAULT
from efficientgen_ros.cli import eval_world, faults, full_size, honesty, latency_curve, lossless, sweep
from efficientgen_ros.cli.sweeping import (
    Setting,
    chosen_scenarios,
    drive_all,
    jobs_of,
    report_path,
    resolved_latency,
    settings_in_result,
)

app = typer.Typer(help="Score planners.", no_args_is_help=True)
faults.register(app)
app.command("honesty")(honesty.honesty_command)
app.command("sweep-trial")(sweep.sweep_trial_command)
app.command("latency-curve")(latency_curve.latency_curve_command)
app.command("lossless")(lossless.lossless_command)
app.command("full-size")(full_size.full_size_command)
app.command("world")(eval_world.world_command)


@app.callback()
def _group() -> None:
    """Score planners."""


@app.command("closed-loop")
def closed_loop_command(
    planner: Annotated[
        list[str], typer.Option(help=f"Planner, or a baseline: {', '.join(BASELINES)}; may be given several times.")
    ] = [DEFAULT],  # noqa: B006
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all of --split.")] = [],  # noqa: B006
    split: Annotated[str | None, typer.Option(help="Only the train or the heldout scenarios.")] = None,
    seeds: Annotated[
        int | None, typer.Option(min=1, help="Seeds per scenario, counted from 0; default: those the scenario names.")
    ] = None,
    mode: Annotated[
        Literal["sync", "latency"], typer.Option(help="latency: plans take effect --latency after their stamp.")
    ] = "sync",
    latency: Annotated[str, typer.Option(help="Seconds, 'measured', or a profile of launch/config/latency.yaml.")] = "",
    images: Annotated[
        Literal["own", "swapped", "grey"],
        typer.Option(help="What the planner sees: its own pictures, another scenario's, or grey."),
    ] = "own",
    history: Annotated[
        bool, typer.Option("--history/--no-history", help="Let the planner read its ego history.")
    ] = True,
    decoder: Annotated[str, typer.Option(help="Any of planning/decode.py, say ar, ar-jump or scaffold-spec.")] = "",
    rollouts: Annotated[int, typer.Option(min=1, help="Trajectories sampled and averaged per plan; 1: greedy.")] = 1,
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    benchmarks: Annotated[
        bool, typer.Option("--benchmarks", help="Also drive the expert, and score PDMS, EPDMS and nuPlan's beside it.")
    ] = False,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = min(2, os.cpu_count() or 1),
    threads: Annotated[int, typer.Option(min=1, help="Threads per process for the model.")] = 1,
    out: Annotated[
        Path | None, typer.Option(help="Write the results here as JSON; goes on from there if interrupted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Drive scenarios in closed loop, in process, and print scores with 95 % bootstrap intervals."""
    from efficientgen.eval.results import summarise, write_json  # these load SUMO's and the renderer's readers
    from efficientgen.eval.resume import Finished
    from efficientgen.worldsim.scenario import load_scenario

    if (mode == "latency") != bool(latency):
        raise typer.BadParameter("--mode latency and --latency (seconds, 'measured' or a profile) go together")
    planners = list(dict.fromkeys(planner))
    setting = Setting(
        chosen_scenarios(scenario, split),
        seeds,
        images=images,
        history=history,
        decoder=decoder,
        rollouts=rollouts,
        checkpoint=checkpoint,
        workers=workers,
        threads=threads,
        benchmarks=benchmarks,
    )
    finished = Finished(out)
    plan = {who: jobs_of(who, setting, None) for who in planners}
    latencies = {who: resolved_latency(latency, who, setting, finished) for who in planners if latency}
    if latencies:
        plan = {who: jobs_of(who, setting, latencies[who]) for who in planners}
    jobs = [job for mine in plan.values() for job in mine]
    done = iter(drive_all(jobs, setting, finished))
    drives = {who: [next(done) for _ in mine] for who, mine in plan.items()}
    result: dict[str, Any] = {
        "result": "closed-loop",
        "mode": mode,
        "latency": {who: asdict(each) for who, each in latencies.items()},
        **settings_in_result(setting, planners, jobs),
        **summarise(drives, {each.name: each for each in map(load_scenario, setting.scenarios)}),
    }
    if out is not None:
        write_json(result, out)
        finished.discard()
    if as_json:
        print(json.dumps(result, indent=1))
        return
    print_result(result, Console())
    report_path(out)


@app.command("table")
def table_command(
    result: Annotated[Path, typer.Argument(help="JSON that closed-loop or honesty wrote with --out.", exists=True)],
) -> None:
    """Print a committed result as the Markdown table that README shows."""
    from efficientgen.eval.markdown import table_of

    print(table_of(json.loads(result.read_text(encoding="utf-8"))))


def print_result(result: dict[str, Any], console: Console) -> None:
    """Headline table, families, ratios, scenarios."""
    from efficientgen.eval.results import HEADLINES

    planners = list(result["planners"])
    table = Table("measure", *planners, box=SIMPLE_HEAD, title="means over scenarios, 95 % intervals")
    for metric in HEADLINES:
        cells = [_cell(result["planners"][who].get(metric)) for who in planners]
        if any(cells):
            table.add_row(metric.replace("_", " "), *cells)
    counts = [result["moves_off"][who] for who in planners]
    if any(count["all"] for count in counts):
        table.add_row("moves off <= 4 s after green", *(f"{c['prompt']} of {c['all']}" for c in counts))
    console.print(table)
    families = dict.fromkeys(f for who in planners for f in result["families"][who])
    table = Table("family", *planners, box=SIMPLE_HEAD, title="driving score per family")
    for family in families:
        table.add_row(
            family, *(_cell(result["families"][who].get(family, {}).get("driving_score")) for who in planners)
        )
    console.print(table)
    for who, against in result["comparisons"].items():
        for other, metrics in against.items():
            console.print(_sentence(who, other, metrics["driving_score"]), highlight=False)
    objects = dict.fromkeys(name for who in planners for name in result["answers"][who])
    if objects:
        who_answers = [who for who in planners if result["answers"][who]]
        table = Table("critical object", *who_answers, box=SIMPLE_HEAD, title="answers, balanced accuracy")
        for name in objects:
            table.add_row(name.replace("_", " "), *(_cell(result["answers"][who].get(name)) for who in who_answers))
        console.print(table)
    table = Table("scenario", "planner", "score", "ends", box=SIMPLE_HEAD, title="per scenario")
    for name in result["scenarios"]:
        for who in dict.fromkeys(drive["planner"] for drive in result["drives"]):
            mine = [d for d in result["drives"] if d["scenario"] == name and d["planner"] == who]
            if mine:
                mean = sum(d["driving_score"] for d in mine) / len(mine)
                table.add_row(name, who, f"{mean:.1f}", ", ".join(d["end_reason"] for d in mine))
    console.print(table)


def _cell(estimate: dict[str, float] | None) -> str:
    return "" if estimate is None else f"{estimate['mean']:.3g} ({estimate['low']:.3g}..{estimate['high']:.3g})"


def _sentence(who: str, other: str, comparison: dict[str, Any]) -> str:
    ratio, difference = comparison["ratio"], comparison["difference"]
    apart = "intervals apart" if comparison["apart"] else "intervals overlap"
    times = "" if ratio is None else f"{ratio['mean']:.2f} x ({ratio['low']:.2f} .. {ratio['high']:.2f}), "
    return (
        f"[bold]{who}[/] against {other}, paired, driving score: {times}"
        f"{difference['mean']:+.1f} ({difference['low']:+.1f} .. {difference['high']:+.1f}); {apart}"
    )
