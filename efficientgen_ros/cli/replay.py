"""`efficientgen replay`: a planner on a recording of another car, with a report."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from efficientgen.planning.load import DEFAULT, load_planner

if TYPE_CHECKING:
    from efficientgen.eval.bag_journal import Answer


def replay_command(
    bag: Annotated[Path, typer.Argument(help="rosbag2 directory, .mcap or .db3 file, or ROS 1 .bag.")],
    rig: Annotated[Path, typer.Option(help="rig.yaml: which topics are what (docs/replay.md).")],
    planner: Annotated[str, typer.Option(help="As for `drive`; nano-ddrive, constant-velocity, ...")] = DEFAULT,
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    schema: Annotated[str, typer.Option(help="Answer to ask for; empty: the checkpoint's.")] = "",
    decoder: Annotated[str, typer.Option(help="How the planner decodes; empty: scaffold-spec.")] = "",
    device: Annotated[str, typer.Option(help="Where its model runs: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of its weights; empty: float32 on a CPU, bfloat16 elsewhere.")] = "",
    rollouts: Annotated[int, typer.Option(min=1, max=64, help="Trajectories averaged per plan; 1: greedy.")] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of the rollouts.")] = 0,
    out: Annotated[
        Path | None, typer.Option(help="Directory for the results; by default replays/<bag>-<planner>.")
    ] = None,
    film: Annotated[float, typer.Option(min=0.0, max=600.0, help="Seconds to film for the report; 0: none.")] = 40.0,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Plan on a recording, compare the plans with the path that was driven, and write a report.

    An interrupted replay goes on where it stopped when the same command is given again.
    """
    from efficientgen.eval.bag_replay import replay  # these load readers and video
    from efficientgen.eval.bag_report import write_replay_report
    from efficientgen.perception.rig_file import load_rig

    car = load_rig(rig)
    name = bag.name if bag.is_dir() else bag.stem
    out = out or Path("replays") / f"{name}-{planner}"
    console = Console(stderr=as_json)
    driver = load_planner(
        planner, checkpoint, decoder=decoder, rollouts=rollouts, device=device, dtype=dtype, schema=schema
    )
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.fields[note]}"), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{planner} on {name}", total=1.0, note="")

        def tick(answer: Answer, done: float) -> None:
            if answer.whole:
                note = f"ADE {answer.ade_m:.2f} m"
            else:
                note = answer.skipped[0][0] if answer.skipped else "planned"
            progress.update(task, completed=done, note=note)

        made = replay(
            bag, car, driver, out, checkpoint=checkpoint, seed=seed, keep_s=film, keep_worst=6, on_answer=tick
        )
        page = write_replay_report(made, lambda words: progress.update(task, description=words))
    summary = made.summary
    if as_json:
        print(json.dumps({"report": str(page), **summary}, indent=1))
        return
    error = summary["error"]
    asked = summary["stamps"] - summary["before_history"]
    console.print(f"{summary['planned']} of {asked} plan stamps planned, command: {summary['command']['source']}")
    for kind, n in summary["skipped"].items():
        console.print(f"[yellow]{n} skipped[/]: {kind} ({summary['examples'][kind]})", soft_wrap=True)
    if error["ade_m"] is None:
        console.print("no plan's whole horizon was recorded: there is no ADE")
    else:
        console.print(
            f"ADE [bold]{error['ade_m']:.2f} m[/], FDE {error['fde_m']:.2f} m to {error['times_s'][-1]:g} s over "
            f"{error['plans']} plans; constant velocity {error['constant_velocity_ade_m']:.2f} m, "
            f"{error['constant_velocity_fde_m']:.2f} m"
        )
    console.print(f"report: [bold]{page}[/]", soft_wrap=True)
