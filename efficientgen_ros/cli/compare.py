"""`efficientgen compare` and `efficientgen leaderboard`: planners side by side, from results that are there."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

if TYPE_CHECKING:
    from efficientgen.eval.metrics import Estimate

METRICS = ("driving_score", "hd_score", "epdms", "success", "route_completion", "collision_at_fault", "off_road",
           "red_lights", "comfort", "fallback_share")  # fmt: skip


class UnknownMetricError(ValueError):
    """A metric that drives do not have."""


def compare_command(
    a: Annotated[str, typer.Argument(help="A sweep (directory, Parquet, URL), or JSON of `eval closed-loop`.")],
    b: Annotated[str, typer.Argument(help="Another, or the same.")],
    label_a: Annotated[str, typer.Option("--a", help="Whose drives of A, where it holds several planners.")] = "",
    label_b: Annotated[str, typer.Option("--b", help="Whose drives of B; default: those of --a.")] = "",
    metric: Annotated[list[str], typer.Option(help="Numeric fields of Metrics; default: the headlines.")] = [],  # noqa: B006
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare two planners, or two versions of one, paired by scenario and seed, with 95 % intervals."""
    from efficientgen.eval.compare import NothingInCommonError, compare
    from efficientgen.eval.drive_sets import chosen, comparable, dropped_words, read_sets

    _known(metric)
    one = chosen(read_sets(a), label_a, a)
    two = chosen(read_sets(b), label_b or (label_a if a != b else ""), b)
    paired = comparable([one, two])
    pairs = set(paired.pairs)
    got = {}
    for name in metric or METRICS:
        try:
            got[name] = compare(one.only(pairs), two.only(pairs), name)
        except NothingInCommonError:
            if metric:
                raise
    if as_json:
        told = {
            "a": one.name, "b": two.name, "pairs": len(pairs),
            "dropped": {who: [list(pair) for pair in mine] for who, mine in paired.dropped.items()},
            "metrics": {name: asdict(each) | {"apart": each.apart} for name, each in got.items()},
        }  # fmt: skip
        print(json.dumps(told, indent=1))
        return
    console = Console()
    table = Table(box=SIMPLE_HEAD, pad_edge=False, title=f"{len(pairs)} pairs of drives, 95 % intervals over scenarios")
    for head in ("", f"A: {one.label}", f"B: {two.label}", "A - B, paired"):
        table.add_column(head, overflow="fold")
    for name, each in got.items():
        table.add_row(name.replace("_", " "), _cell(each.a), _cell(each.b), _cell(each.difference, "+"))
    console.print(table)
    for line in dropped_words(paired):
        console.print(f"[yellow]{line}[/]", highlight=False, soft_wrap=True)


def leaderboard_command(
    results: Annotated[list[str], typer.Argument(help="Sweeps and closed-loop JSON, as many as there are.")],
    out: Annotated[Path, typer.Option(help="Directory that gets index.html and leaderboard.json.")] = Path(
        "runs/leaderboard"
    ),
) -> None:
    """Rank planners over the drives that all of them made: a page that opens from the disk."""
    from efficientgen.eval.drive_sets import dropped_words, read_sets
    from efficientgen.eval.leaderboard import leaderboard, write_leaderboard

    board = leaderboard([each for source in results for each in read_sets(source)])
    page = write_leaderboard(board, out)
    console = Console()
    table = Table("", "planner", "driving score", box=SIMPLE_HEAD, pad_edge=False)
    for place, row in enumerate(board.rows, 1):
        table.add_row(str(place), row.name, _cell(row.overall.get("driving_score")))
    console.print(table)
    for line in dropped_words(board.paired):
        console.print(f"[yellow]{line}[/]", highlight=False, soft_wrap=True)
    console.print(f"leaderboard: [bold]{page}[/]   (open it in a browser)", soft_wrap=True)


def _known(metrics: list[str]) -> None:
    from dataclasses import fields

    from efficientgen.eval.metrics import Metrics

    names = [field.name for field in fields(Metrics)]
    for name in metrics:
        if name not in names:
            raise UnknownMetricError(f"no metric {name!r}; there are: {', '.join(names)}")


def _cell(e: Estimate | None, sign: str = "") -> str:
    return "" if e is None else f"{e.mean:{sign}.3g} ({e.low:{sign}.3g}..{e.high:{sign}.3g})"
