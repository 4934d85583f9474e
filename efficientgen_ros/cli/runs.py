"""`efficientgen runs`: what was driven here, as a list or as a page."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def runs_command(
    runs: Annotated[Path, typer.Argument(help="Where runs are kept.")] = Path("runs"),
    html: Annotated[bool, typer.Option("--html", help="Write RUNS/index.html: a card per run, linked.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """List the runs, newest first."""
    from efficientgen.eval.run_index import read_runs, write_index

    if not runs.is_dir():
        raise typer.BadParameter(f"{runs} is no directory; `efficientgen drive` makes it, or give another")
    page = write_index(runs) if html else None
    held, skipped = read_runs(runs)
    if as_json:
        told = {"runs": [asdict(run) for run in held], "skipped": [asdict(each) for each in skipped]}
        print(json.dumps(told | ({"index": str(page)} if page else {}), indent=1))
        return
    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name, right in (("run", False), ("planner", False), ("scenarios", False), ("score", True),
                        ("faultless", True), ("hits", True)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", overflow="fold")
    for run in held:
        table.add_row(run.name, run.planner, ", ".join(run.scenarios), f"{run.score:.1f}",
                      f"{run.successes}/{run.drives}", str(run.collisions))  # fmt: skip
    console.print(table)
    for each in skipped:
        console.print(f"[yellow]skipped[/] {each.name}: {each.reason}", highlight=False, soft_wrap=True)
    if page is not None:
        console.print(f"index: [bold]{page}[/]   (open it in a browser)", soft_wrap=True)
