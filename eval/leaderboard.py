"""The leaderboard: planners ranked over the drives that all of them made, overall and by family of scenarios.

Every figure carries its 95 % interval over scenarios, and every planner its paired difference to the first, for ranks
alone say little: a place is marked as shared where that difference could be nothing.  One page without anything from
outside, in the dress of the run index.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

from efficientgen.eval.compare import Comparison, aggregate_by, compare
from efficientgen.eval.drive_sets import DriveSet, Paired, comparable, dropped_words
from efficientgen.eval.metrics import Estimate, Metrics, aggregate
from efficientgen.eval.report import PAGE, fill_page, write_text
from efficientgen.eval.report_tables import BASELINES, plain
from efficientgen.eval.runner import host_facts
from efficientgen.worldsim.scenario import ScenarioError, load_scenario

BOARD = "leaderboard.json"
RANKED_BY = "driving_score"
COLUMNS: tuple[tuple[str, str, float, str, bool], ...] = (  # metric, label, factor, unit, more is better
    ("driving_score", "Driving score", 1, "0-100", True),
    ("success", "Success", 100, "%", True),
    ("collision_at_fault", "At-fault collision", 100, "%", False),
    ("off_road", "Off road", 100, "%", False),
    ("red_lights", "Red lights", 1, "per drive", False),
    ("hd_score", "HD-Score", 100, "0-100", True),
    ("pdms", "PDMS", 100, "0-100", True),
    ("epdms", "EPDMS", 100, "0-100", True),
    ("carla_driving_score", "CARLA DS", 1, "0-100", True),
    ("nuplan_score", "nuPlan CLS", 100, "0-100", True),
    ("fallback_share", "Fallback", 100, "% of plans", False),
)


@dataclass(frozen=True)
class Row:
    """One planner's line."""

    name: str
    baseline: bool
    overall: dict[str, Estimate]
    families: dict[str, dict[str, Estimate]]
    behind: Comparison | None  # against the first row; None for the first itself
    origin: Mapping[str, str]  # sha256 of the code and the checkpoint that drove

    @property
    def shared(self) -> bool:
        """Whether the paired difference to the first could be nothing."""
        return self.behind is not None and self.behind.difference.high >= 0.0


@dataclass(frozen=True)
class Board:
    """All lines, best first, over the same drives."""

    rows: tuple[Row, ...]
    paired: Paired
    families: tuple[str, ...]
    context: dict[str, str]


def leaderboard(sets: Sequence[DriveSet]) -> Board:
    """Rank sets of drives by mean driving score over the scenarios and seeds that all have.

    Raises:
        IncomparableError, NothingInCommonError: see `drive_sets.comparable`.
    """
    paired = comparable(sets)
    pairs = set(paired.pairs)
    names = _names(sets)
    families = {name: _family(name, sets) for name, _ in paired.pairs}
    drives = {name: each.only(pairs) for name, each in zip(names, sets, strict=True)}
    origins = {name: each.origin for name, each in zip(names, sets, strict=True)}
    means = {name: aggregate(mine) for name, mine in drives.items()}
    order = sorted(names, key=lambda name: (-means[name][RANKED_BY].mean, name))

    def row(name: str) -> Row:
        mine = drives[name]
        by = aggregate_by(mine, lambda m: families[m.scenario])
        behind = None if name == order[0] else compare(mine, drives[order[0]], RANKED_BY)
        return Row(name, mine[0].planner in BASELINES, means[name], by, behind, origins[name])

    return Board(
        tuple(map(row, order)), paired, tuple(sorted(set(families.values()))), _context([*drives.values()], paired)
    )


def write_leaderboard(board: Board, directory: Path | str) -> Path:
    """Write `index.html` and `leaderboard.json`, each whole or not at all; returns the page."""
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    write_text(directory / BOARD, json.dumps(_plain(board), indent=1) + "\n")
    return write_text(directory / PAGE, fill_page("efficientgen leaderboard", _body(board), "leaderboard.js"))


def _names(sets: Sequence[DriveSet]) -> list[str]:
    """Labels, with the source where two are alike."""
    labels = [each.label for each in sets]
    return [each.name if labels.count(each.label) > 1 else each.label for each in sets]


def _family(scenario: str, sets: Sequence[DriveSet]) -> str:
    for each in sets:
        if scenario in each.families:
            return each.families[scenario]
    try:
        return load_scenario(scenario).family
    except ScenarioError:
        return "other"


def _context(drives: Sequence[Sequence[Metrics]], paired: Paired) -> dict[str, str]:
    held = [m for mine in drives for m in mine]
    worlds = sorted({m.world for m in held} - {"none"})
    return {
        "scenarios": str(len({scenario for scenario, _ in paired.pairs})),
        "drives each": str(len(paired.pairs)),
        "world": ", ".join(worlds) or "none needed",
        "plan period": ", ".join(sorted({f"{m.chunk_s:g} s" for m in held})),
        "mode": ", ".join(sorted({m.mode for m in held})),
    }


def _plain(board: Board) -> dict[str, Any]:
    return {
        "result": "leaderboard",
        "host": host_facts(),
        **board.context,
        "ranked_by": RANKED_BY,
        "rows": [
            {"planner": row.name, **row.origin, "overall": {k: asdict(e) for k, e in row.overall.items()},
             "families": {f: asdict(held[RANKED_BY]) for f, held in row.families.items()},
             "behind": None if row.behind is None else asdict(row.behind.difference)}
            for row in board.rows
        ],
        "dropped": {who: [list(pair) for pair in pairs] for who, pairs in board.paired.dropped.items()},
    }  # fmt: skip


# --- the page ---


def _body(board: Board) -> str:
    first = board.rows[0]
    near = [row.name for row in board.rows if row.shared]
    lead = f"<b>{escape(first.name)}</b> drives best"
    lead += f", and the drives cannot tell it from {escape(', '.join(near))}." if near else "."
    chips = "".join(f"<span>{escape(key)}: {escape(value)}</span>" for key, value in board.context.items())
    return (
        '<header class="hero"><p class="brand">efficientgen <span>leaderboard</span></p><h1>Leaderboard</h1>'
        f'<p class="lead">{lead} Means weigh scenarios equally; brackets hold 95 % intervals over scenarios.</p>'
        f'<p class="chips">{chips}</p></header>'
        f'<section><h2>Overall</h2>{_overall(board)}<p class="muted note">A place is shared (=) where the paired '
        "difference to the first could be nothing. Click a head to sort.</p></section>"
        f"<section><h2>By family</h2>{_by_family(board)}"
        '<p class="muted note">Driving score, mean over the scenarios of a family.</p></section>'
        f"{_notes(board)}"
    )


def _overall(board: Board) -> str:
    shown = [column for column in COLUMNS if any(column[0] in row.overall for row in board.rows)]
    behind = "<th>Behind the first<small>paired</small></th>"
    head = "".join(
        f'<th data-better="{"more" if more else "less"}"><button>{escape(label)}</button>'
        f"<small>{escape(unit)}</small></th>" + (behind if metric == RANKED_BY else "")
        for metric, label, _, unit, more in shown
    )
    lines = ""
    for place, row in enumerate(board.rows, 1):
        cells = "".join(
            _cell(row.overall.get(metric), factor, bar=metric == RANKED_BY)
            + (_behind(row) if metric == RANKED_BY else "")
            for metric, _, factor, _, _ in shown
        )
        rank = f"{place}{' =' if row.shared else ''}"
        kind = " <small>baseline</small>" if row.baseline else ""
        lines += f"<tr><td class='place'>{rank}</td><th>{escape(row.name)}{kind}</th>{cells}</tr>"
    return _table("compare board", f"<th></th><th></th>{head}", lines)


def _behind(row: Row) -> str:
    if row.behind is None:
        return "<td></td>"
    d = row.behind.difference
    return f"<td>{d.mean:+.1f} <small>[{d.low:+.1f}, {d.high:+.1f}]</small></td>"


def _by_family(board: Board) -> str:
    head = "<th></th>" + "".join(f"<th>{escape(row.name)}</th>" for row in board.rows)
    lines = "".join(
        f"<tr><th>{escape(plain(family))}</th>"
        + "".join(_cell(row.families.get(family, {}).get(RANKED_BY), 1, bar=True) for row in board.rows)
        + "</tr>"
        for family in board.families
    )
    return _table("compare scores", head, lines)


def _notes(board: Board) -> str:
    lines = dropped_words(board.paired)
    if not lines:
        return ""
    items = "".join(f"<dd>{escape(line)}</dd>" for line in lines)
    summary = "<summary>Drives that not all have were left out</summary>"
    return f'<details class="more skipped">{summary}<dl>{items}</dl></details>'


def _table(name: str, head: str, lines: str) -> str:
    return (
        f'<div class="scroll" tabindex="0"><table class="{name}"><thead><tr>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(e: Estimate | None, factor: float, bar: bool = False) -> str:
    if e is None:
        return '<td class="muted" data-value="">&ndash;</td>'
    mean, low, high = (factor * value for value in (e.mean, e.low, e.high))
    digits = 1 if abs(mean) < 99.95 else 0
    between = "" if high - low < 1e-9 else f" <small>[{low:.{digits}f}, {high:.{digits}f}]</small>"
    mark = f'<i style="width:{min(max(mean, 0.0), 100.0):.0f}%"></i>' if bar else ""
    kind = ' class="score"' if bar else ""
    return f'<td{kind} data-value="{mean:.6g}">{mark}<b>{mean:.{digits}f}</b>{between}</td>'
