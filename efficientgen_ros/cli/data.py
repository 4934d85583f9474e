"""`efficientgen data`: record drives, render them into a training set."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from efficientgen.planning.load import EXPERT

app = typer.Typer(help="Make training data.", no_args_is_help=True)


class NoLogsError(ValueError):
    """A directory without oracle logs."""


def _progress() -> Progress:
    return Progress(TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())


@app.command("record")
def record_command(
    out: Annotated[Path, typer.Option(help="Directory for the oracle logs.")] = Path("data/logs"),
    drives: Annotated[int, typer.Option(min=1, help="Drives of 40 s to make.")] = 420,
    first_seed: Annotated[int, typer.Option(help="Seed of the first drive; the others count up.")] = 2000,
    workers: Annotated[int, typer.Option(min=1)] = 2,
    planner: Annotated[
        str, typer.Option(help="Who drives; a learned planner's drives show where it gets to (DAgger).")
    ] = EXPERT,
    checkpoint: Annotated[str, typer.Option(help="Model directory of a planner that is not shipped.")] = "",
    traffic: Annotated[
        Literal["plain", "scripted"], typer.Option(help="scripted: with leads that brake hard and cars that cut in.")
    ] = "plain",
) -> None:
    """Drive random scenarios on the training towns and keep compact logs (no pixels); `data render` labels them."""
    from efficientgen.eval.record import record_drives

    with _progress() as progress:
        task = progress.add_task("recording", total=drives)
        kept = record_drives(
            out, drives, first_seed, workers, lambda line: progress.advance(task), planner, traffic, checkpoint
        )
    print(f"{kept} of {drives} drives in {out}; those not kept held an infraction of the expert's own")


def _logs_in(directory: Path, limit: int | None = None) -> list[Path]:
    """The oracle logs of a directory, by name.

    Raises:
        NoLogsError: there are none.
    """
    paths = sorted(directory.glob("*.npz"))[:limit]
    if not paths:
        raise NoLogsError(f"no oracle logs in {directory}; make some with `efficientgen data record --out {directory}`")
    return paths


@app.command("render")
def render_command(
    logs: Annotated[Path, typer.Option(help="Directory of oracle logs.")] = Path("data/logs"),
    out: Annotated[Path, typer.Option(help="Directory for the shards.")] = Path("data/set"),
    workers: Annotated[int, typer.Option(min=1, help="Renderer processes.")] = os.cpu_count() or 1,
    perturbed: Annotated[float, typer.Option(min=0, help="Perturbed samples per plan stamp.")] = 1.0,
    scenes: Annotated[int, typer.Option(min=1, help="Sets of houses and trees per town.")] = 7,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many logs.")] = None,
) -> None:
    """Perturb, relabel and render oracle logs into a training set."""
    from efficientgen.eval.dataset import DatasetConfig, render_set

    paths = _logs_in(logs, limit)
    with _progress() as progress:
        task = progress.add_task("rendering", total=len(paths))
        total = render_set(
            paths, out, DatasetConfig(perturbed=perturbed, scenes=scenes), workers, lambda line: progress.advance(task)
        )
    print(f"{total} new samples in {out}")


@app.command("foreign-bag")
def foreign_bag_command(
    out: Annotated[Path, typer.Option(help="Directory for recording/ and rig.yaml.")] = Path("data/foreign"),
    scenario: Annotated[str, typer.Option(help="What the expert drives.")] = "maple_right",
    seconds: Annotated[float, typer.Option(min=6.0, max=120.0, help="How long.")] = 22.0,
    seed: Annotated[int, typer.Option(min=0)] = 3,
    storage: Annotated[Literal["mcap", "sqlite3"], typer.Option(help="Of the rosbag2.")] = "mcap",
) -> None:
    """Write a recording with the topics, distorted unsynchronised cameras and clock of another car, for `replay`."""
    from dataclasses import replace

    from efficientgen.eval.foreign_bag import make_foreign_bag
    from efficientgen.worldsim.scenario import load_scenario

    with _progress() as progress:
        task = progress.add_task("driving and filming", total=100)
        shorter = replace(load_scenario(scenario), duration_s=seconds)
        bag, rig = make_foreign_bag(
            out, shorter, seed, storage, lambda done: progress.update(task, completed=round(100 * done))
        )
    print(f"efficientgen replay {bag} --rig {rig} --planner nano-ddrive")


@app.command("text")
def text_command(
    logs: Annotated[Path, typer.Option(help="Directory of oracle logs.")] = Path("data/logs"),
    out: Annotated[Path, typer.Option(help="Directory for train.txt and heldout.txt.")] = Path("data/text"),
) -> None:
    """Describe every plan stamp of oracle logs in English, one line each; every tenth drive is held out."""
    from efficientgen.eval.text_corpus import write_corpus

    for name, lines in write_corpus(_logs_in(logs), out).items():
        print(f"{lines} lines in {out / name}")


@app.command("slim")
def slim_command(
    logs: Annotated[list[Path], typer.Argument(help="Directories of oracle logs.")],
    out: Annotated[Path, typer.Option(help="Directory for the slim ones.")] = Path("data/slim"),
) -> None:
    """Copy oracle logs without what pictures do not need: a quarter of the size, to be carried to a renderer."""
    from efficientgen.eval.oracle_log import load_oracle_log, save_oracle_log
    from efficientgen.eval.world_clips import slim

    paths = [path for directory in logs for path in _logs_in(directory)]
    written = [save_oracle_log(slim(load_oracle_log(path)), out) for path in paths]
    print(f"{len(written)} logs in {out}, {sum(path.stat().st_size for path in written) / 2**20:.1f} MiB")


@app.command("heldout")
def heldout_command(
    out: Annotated[Path, typer.Option(help="Directory for the slim oracle logs.")] = Path("data/heldout-logs"),
    seconds: Annotated[float, typer.Option(min=8.0, max=300.0, help="Length of each drive.")] = 64.0,
    seed: Annotated[int, typer.Option(min=0)] = 3,
) -> None:
    """Record the expert in every held-out scenario, longer than it is, to examine a world model: never to train."""
    from efficientgen.eval.world_clips import record_heldout

    print(f"{record_heldout(out, seconds, seed, print)} drives in {out}")


@app.command("world")
def world_command(
    logs: Annotated[Path, typer.Option(help="Directory of oracle logs.")] = Path("data/logs"),
    out: Annotated[Path, typer.Option(help="Directory for the clips.")] = Path("data/clips"),
    workers: Annotated[int, typer.Option(min=1, help="Renderer processes.")] = os.cpu_count() or 1,
    scenes: Annotated[int, typer.Option(min=1, help="Sets of houses and trees per town.")] = 12,
    moved: Annotated[bool, typer.Option("--moved/--as-driven", help="Let every other drive swing in its lane.")] = True,
    seconds: Annotated[float, typer.Option(min=1, help="Begin no further drive after this wall time.")] = 1e9,
    limit: Annotated[int | None, typer.Option(help="Use only the first so many logs.")] = None,
) -> None:
    """Render oracle logs into clips for `train world`: pictures, condition rasters, poses, every 0.4 s."""
    from efficientgen.eval.world_clips import ClipsConfig, render_clips

    paths = _logs_in(logs, limit)
    with _progress() as progress:
        task = progress.add_task("rendering", total=len(paths))

        def done(line: str) -> None:
            progress.advance(task)
            if not line.endswith("steps"):
                progress.console.print(line)

        total = render_clips(paths, out, ClipsConfig(scenes, moved, seconds), workers, done)
    print(f"{total} new time steps in {out}")
