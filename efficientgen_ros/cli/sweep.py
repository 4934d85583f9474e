"""`efficientgen sweep`: a plan of many drives, on this machine's cores or a Ray cluster."""

from __future__ import annotations

import json
import os
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from efficientgen.eval.metrics import Metrics
    from efficientgen.eval.sweep_plan import Entry
    from efficientgen.eval.sweep_run import Swept

SHOWN = ("driving_score", "hd_score", "epdms", "success", "collision_at_fault", "off_road", "red_lights")


class SweepExtraError(RuntimeError):
    """The packages of the `sweep` extra are not installed."""


def sweep_command(
    plan: Annotated[Path, typer.Argument(help="YAML: planners, worlds, scenarios, seeds.")],
    out: Annotated[str, typer.Option(help="Where results go: a directory, or any fsspec URL.")] = "runs/sweep",
    workers: Annotated[int, typer.Option(min=1, help="Processes that drive.")] = min(2, os.cpu_count() or 1),
    address: Annotated[
        str, typer.Option(help="Of a Ray cluster, host:port or 'auto'; default: Ray on this machine.")
    ] = "",
    gpus: Annotated[float, typer.Option(min=0.0, help="GPUs of each worker.")] = 0.0,
    threads: Annotated[int, typer.Option(min=1, help="Threads per worker for a learned planner.")] = 1,
    serial: Annotated[
        bool, typer.Option("--serial", help="No Ray: one drive after the other in this process.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Drive planners x worlds x scenarios x seeds; interrupted or killed, the same command goes on."""
    from efficientgen.eval.sweep_plan import entries, read_plan

    drives = entries(read_plan(plan))
    try:
        from efficientgen.eval.sweep_run import run_sweep
        from efficientgen.eval.sweep_store import Store
    except ImportError as error:
        raise SweepExtraError(f"{error}: a sweep needs the `sweep` extra: pip install 'efficientgen[sweep]'") from error
    store = Store(out)
    console = Console(stderr=True)
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[last]}"),
    )
    with Progress(*columns, console=console) as progress:
        bars = {
            label: progress.add_task(label, total=count, last="")
            for label, count in Counter(entry.label for entry in drives).items()
        }

        def kept(held: Sequence[Entry]) -> None:
            for entry in held:
                progress.update(bars[entry.label], advance=1)
            if held:
                progress.console.print(f"{len(held)} of {len(drives)} drives are there already")

        def done(entry: Entry, metrics: Metrics) -> None:
            last = f"{metrics.scenario} {metrics.seed}: {metrics.driving_score:.0f}"
            progress.update(bars[entry.label], advance=1, last=last)

        make = _maker(serial, workers, address, gpus, threads, lambda words: progress.console.print(words))
        swept = run_sweep(drives, store, make, done, kept)
    if as_json:
        print(json.dumps(_summary(swept), indent=1))
        return
    Console().print(_table(swept))
    console.print(f"{swept.made} driven, {swept.kept} there before; sha256 without wall times {swept.digest[:16]}")
    console.print(f"written: {swept.table}", soft_wrap=True)


def sweep_trial_command(
    drives: Annotated[int, typer.Option(min=10, help="Short drives in each sweep.")] = 200,
    workers: Annotated[int, typer.Option(min=1, help="Processes that drive.")] = 2,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
) -> None:
    """Kill -9 a worker and the driver of a sweep, go on, and compare with a sweep that nobody disturbed."""
    from efficientgen.eval.results import write_json
    from efficientgen.eval.sweep_trial import TrialError, trial

    console = Console(stderr=True)
    with tempfile.TemporaryDirectory() as scratch:
        result = trial(drives, Path(scratch), workers, lambda words: console.print(words, highlight=False))
    if out is not None:
        write_json(result, out)
    print(json.dumps(result, indent=1))
    if not result["equal"]:
        raise TrialError("the disturbed sweep differs from the undisturbed one")


def _maker(serial: bool, workers: int, address: str, gpus: float, threads: int, say: Callable[[str], None]) -> Any:
    """Who makes the drives."""
    from efficientgen.eval.sweep_run import drive_here

    if serial:
        return lambda jobs, done: drive_here(jobs, done, threads)
    try:
        from efficientgen.eval.ray_sweep import Cluster, drive_on  # starts nothing yet
    except ImportError as error:
        raise SweepExtraError(
            f"{error}: pip install 'efficientgen[sweep]', or drive in this process with --serial"
        ) from error
    cluster = Cluster(workers, address, gpus, threads)
    return lambda jobs, done: drive_on(cluster, jobs, done, say)


def _summary(swept: Swept) -> dict[str, Any]:
    return {
        "result": "sweep",
        "table": swept.table,
        "drives": len(swept.rows),
        "made": swept.made,
        "kept": swept.kept,
        "sha256_without_wall_time": swept.digest,
    }


def _table(swept: Swept) -> Table:
    from efficientgen.eval.metrics import aggregate
    from efficientgen.eval.sweep_store import metrics_of

    labels = list(dict.fromkeys(row["label"] for row in swept.rows))
    means = {who: aggregate(metrics_of(row) for row in swept.rows if row["label"] == who) for who in labels}
    table = Table("measure", *labels, box=SIMPLE_HEAD, title="means over scenarios, 95 % intervals")
    for metric in SHOWN:
        held = [means[who].get(metric) for who in labels]
        if any(held):
            cells = ("" if e is None else f"{e.mean:.3g} ({e.low:.3g}..{e.high:.3g})" for e in held)
            table.add_row(metric.replace("_", " "), *cells)
    return table
