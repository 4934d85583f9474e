"""`efficientgen bench`: how fast parts of the package are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure speed on this machine."""


@app.command("eval")
def eval_command(
    samples: Annotated[int, typer.Option(min=1, help="nuScenes samples in a batch.")] = 2000,
    frames: Annotated[int, typer.Option(min=1, help="WOD-E2E frames in a batch.")] = 20000,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each batch is scored.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The offline metrics: nuScenes samples and WOD-E2E frames per second of one core."""
    from efficientgen.eval.bench_eval import AGENTS, bench_eval
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json

    rows = bench_eval(samples, frames, repeats)
    result = {"result": "bench-eval", "agents_per_step": AGENTS, "repeats": repeats, "rows": rows, **provenance()}
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = Table("metric", "rate", "lowest .. highest", "at least", box=SIMPLE_HEAD, title="offline metrics, one core")
    for row in rows:
        spread = f"{row['lowest']:,.0f} .. {row['highest']:,.0f}"
        table.add_row(row["name"], f"{row['rate']:,.0f}", spread, f"{row['target']:,.0f}" if row["target"] else "")
    Console().print(table)
