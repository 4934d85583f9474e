"""`efficientgen eval honesty`: does the planner look, does it tell the truth, and is the number the same both ways?

The same scenarios are driven with something taken away: the pictures of another scenario, grey pictures (history only),
no history (pictures only).  Beside that, plain AR must make the same drive as scaffold speculation, and ROS 2 nodes the
same as the loop in this process.
"""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from efficientgen.planning.load import DEFAULT
from efficientgen_ros.cli.sweeping import (
    Setting,
    chosen_scenarios,
    drive_all,
    jobs_of,
    report_path,
    settings_in_result,
)


def conditions_of(setting: Setting) -> dict[str, Setting]:
    """What is taken away, by name; the first is the planner as it is."""
    return {
        "own pictures": setting,
        "another scenario's pictures": replace(setting, images="swapped"),
        "history only (grey pictures)": replace(setting, images="grey"),
        "pictures only (no history)": replace(setting, history=False),
    }


def honesty_command(
    planner: Annotated[str, typer.Option(help="A learned planner.")] = DEFAULT,
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all of --split.")] = [],  # noqa: B006
    split: Annotated[str | None, typer.Option(help="Only the train or the heldout scenarios.")] = "heldout",
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per scenario, counted from 0.")] = 2,
    same: Annotated[int, typer.Option(min=0, help="Drives to repeat with plain AR and over ROS 2.")] = 2,
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 2,
    out: Annotated[
        Path | None, typer.Option(help="Write the results here as JSON; goes on from there if interrupted.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Take pictures or history away from the planner, check its answers, and repeat drives with plain AR and ROS 2."""
    from efficientgen.eval.compare import balanced_accuracy, compare, moves_off_rate  # these load SUMO's readers
    from efficientgen.eval.metrics import Metrics, aggregate
    from efficientgen.eval.results import write_json
    from efficientgen.eval.resume import Finished

    setting = Setting(chosen_scenarios(scenario, split), seeds, checkpoint=checkpoint, workers=workers)
    settings = conditions_of(setting)
    finished = Finished(out)
    plan = {name: jobs_of(planner, each, None) for name, each in settings.items()}
    repeated = plan["own pictures"][:: max(1, len(plan["own pictures"]) // max(same, 1))][:same]
    plan["plain AR"] = [replace(job, decoder="ar") for job in repeated]
    done = iter(drive_all([job for jobs in plan.values() for job in jobs], setting, finished))
    drives: dict[str, list[Metrics]] = {name: [next(done) for _ in jobs] for name, jobs in plan.items()}
    own = drives["own pictures"]
    poses = {job: m.pose_sha256 for job, m in zip(plan["own pictures"], own, strict=True)}
    ros = [_over_ros(planner, checkpoint, job.scenario, job.seed) for job in repeated]
    result: dict[str, Any] = {
        "result": "honesty",
        **settings_in_result(setting, [planner], plan["own pictures"]),
        "conditions": {
            name: {
                "driving_score": asdict(aggregate(drives[name])["driving_score"]),
                "of_own": None if name == "own pictures" else _plain(compare(drives[name], own).ratio),
            }
            for name in settings
        },
        "answers": {name: asdict(e) for name, e in balanced_accuracy(own).items()},
        "moves_off": dict(zip(("prompt", "all"), moves_off_rate(own), strict=True)),
        "same_drive": {
            "plain AR": [poses[job] == m.pose_sha256 for job, m in zip(repeated, drives["plain AR"], strict=True)],
            "ROS 2 nodes": [poses[job] == sha for job, sha in zip(repeated, ros, strict=True)],
        },
        "drives": [asdict(m) | {"condition": name} for name, mine in drives.items() for m in mine],
    }
    if out is not None:
        write_json(result, out)
        finished.discard()
    if as_json:
        print(json.dumps(result, indent=1))
        return
    _show(result, Console())
    report_path(out)


def _over_ros(planner: str, checkpoint: str, scenario: str, seed: int) -> str:
    import tempfile

    from efficientgen.eval.metrics import pose_sha256
    from efficientgen_ros.bringup import drive_ros

    with tempfile.TemporaryDirectory() as scratch:
        return pose_sha256(drive_ros(scenario, seed, planner, checkpoint, record_dir=scratch))


def _plain(estimate: Any) -> dict[str, Any] | None:
    return None if estimate is None else asdict(estimate)


def _show(result: dict[str, Any], console: Console) -> None:
    def cell(e: dict[str, float] | None, digits: int) -> str:
        return "" if e is None else f"{e['mean']:.{digits}f} ({e['low']:.{digits}f} .. {e['high']:.{digits}f})"

    table = Table("what it drives by", "driving score", "of its own", box=SIMPLE_HEAD)
    for name, row in result["conditions"].items():
        table.add_row(name, cell(row["driving_score"], 1), cell(row["of_own"], 2))
    console.print(table)
    table = Table("answer", "balanced accuracy", "asked", box=SIMPLE_HEAD)
    for name, e in result["answers"].items():
        table.add_row(name.replace("_", " "), cell(e, 2), str(e["count"]))
    console.print(table)
    moves = result["moves_off"]
    console.print(f"moves off within 4 s of green: {moves['prompt']} of {moves['all']}")
    for name, same in result["same_drive"].items():
        console.print(f"{name}: the same poses, bit for bit, in {sum(same)} of {len(same)} drives")
