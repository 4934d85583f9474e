"""The index over many runs: what was driven when, by whom, and how it went, one card a run, linked to the run's page.

It reads each run's `summary.json` and nothing else, so it does not matter which version made the run; a directory that
holds no whole run is left out with a note that says why.  Pictures stay in the runs (`still.jpg`, linked relatively),
so the index opens from `file://` and stays small.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from efficientgen.eval.report import PAGE, STILL, SUMMARY, fill_page, write_text
from efficientgen.eval.report_tables import BASELINES, plain


@dataclass(frozen=True)
class Run:
    """One run in the list.  Figures are of the main planner's drives; `planners` counts all, the main one first."""

    name: str  # of its directory
    when: str  # ISO 8601, local time
    title: str
    planners: tuple[str, ...]
    scenarios: tuple[str, ...]
    drives: int
    score: float  # mean over drives, 0 .. 100
    successes: int
    collisions: int
    mode: str
    transport: str
    still: bool

    @property
    def planner(self) -> str:
        return self.planners[0]


@dataclass(frozen=True)
class Skipped:
    """A directory that is no whole run, and why."""

    name: str
    reason: str


def read_runs(root: Path | str) -> tuple[tuple[Run, ...], tuple[Skipped, ...]]:
    """The runs in `root`, newest first, and what was skipped.  A `root` that does not exist holds none."""
    runs, skipped = [], []
    root = Path(root)
    for directory in sorted(root.iterdir() if root.is_dir() else ()):
        if not directory.is_dir() or directory.name.startswith("."):
            continue
        try:
            runs.append(_read(directory))
        except _BrokenRunError as error:
            skipped.append(Skipped(directory.name, str(error)))
    return tuple(sorted(runs, key=lambda run: (run.when, run.name), reverse=True)), tuple(skipped)


def write_index(root: Path | str) -> Path:
    """Write `<root>/index.html` atomically over all runs there; returns its path."""
    root = Path(root)
    root.mkdir(parents=True, exist_ok=True)
    runs, skipped = read_runs(root)
    return write_text(root / PAGE, fill_page("efficientgen runs", _body(runs, skipped), "runs.js"))


class _BrokenRunError(ValueError):
    """Why a directory is not listed."""


def _read(directory: Path) -> Run:
    path = directory / SUMMARY
    if not path.exists():
        raise _BrokenRunError(f"no {SUMMARY}: the run was interrupted, or this is no run of `efficientgen drive`")
    try:
        summary: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        drives = [drive for drive in summary["drives"] if isinstance(drive["planner"], str)]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise _BrokenRunError(f"{SUMMARY} cannot be read ({type(error).__name__})") from error
    if not drives:
        raise _BrokenRunError(f"{SUMMARY} holds no drive")
    if not (directory / PAGE).exists():
        raise _BrokenRunError(f"no {PAGE}: the report was not written")
    names = list(dict.fromkeys(str(drive["planner"]) for drive in drives))
    main = str(summary.get("planner") or next((name for name in names if name not in BASELINES), names[0]))
    mine = [drive for drive in drives if drive["planner"] == main] or drives
    try:
        return Run(
            name=directory.name,
            when=_when(directory),
            title=str(summary.get("title") or main),
            planners=(main, *(name for name in names if name != main)),
            scenarios=tuple(dict.fromkeys(str(drive["scenario"]) for drive in mine)),
            drives=len(mine),
            score=sum(float(drive["driving_score"]) for drive in mine) / len(mine),
            successes=sum(bool(drive["success"]) for drive in mine),
            collisions=sum(bool(drive["collision"]) for drive in mine),
            mode=str(mine[0].get("mode", "")),
            transport=str(mine[0].get("transport", "")),
            still=(directory / STILL).exists(),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise _BrokenRunError(f"{SUMMARY} lacks figures ({error})") from error


def _when(directory: Path) -> str:
    """The run's stamp as its directory is named, else when its summary was written."""
    try:
        return datetime.strptime(directory.name[:15], "%Y%m%d-%H%M%S").isoformat()
    except ValueError:
        return datetime.fromtimestamp((directory / SUMMARY).stat().st_mtime).isoformat(timespec="seconds")


# --- the page ---


def _body(runs: Sequence[Run], skipped: Sequence[Skipped]) -> str:
    planners = dict.fromkeys(sorted({run.planner for run in runs}, key=lambda p: (p in BASELINES, p)))
    scenarios = sorted({name for run in runs for name in run.scenarios})
    orders = (("newest", "newest first"), ("oldest", "oldest first"), ("best", "best score first"),
              ("worst", "worst score first"), ("collisions", "most collisions first"))  # fmt: skip
    notes = ""
    if skipped:
        rows = "".join(f"<dt>{escape(s.name)}</dt><dd>{escape(s.reason)}</dd>" for s in skipped)
        word = "directory was" if len(skipped) == 1 else "directories were"
        notes = (
            f'<details class="more skipped"><summary>{len(skipped)} {word} skipped</summary><dl>{rows}</dl></details>'
        )
    cards = "".join(map(_card, runs))
    empty = "" if runs else '<p class="lead">No runs yet: <code>efficientgen drive</code> makes one.</p>'
    return (
        '<header class="hero"><p class="brand">efficientgen <span>runs</span></p><h1>Runs</h1></header>'
        f'{empty}<div class="controls"><span id="count"></span>'
        f"{_select('sort', 'Sort', orders)}"
        f"{_select('planner', 'Planner', [('', 'all planners'), *((p, p) for p in planners)])}"
        f"{_select('scenario', 'Scenario', [('', 'all scenarios'), *((s, plain(s)) for s in scenarios)])}</div>"
        f'<section class="runs">{cards}</section>{notes}'
    )


def _select(name: str, label: str, options: Sequence[tuple[str, str]]) -> str:
    held = "".join(f'<option value="{escape(v, quote=True)}">{escape(words)}</option>' for v, words in options)
    return f'<label>{label} <select id="{name}">{held}</select></label>'


def _card(run: Run) -> str:
    mood = "ok" if run.score >= 80 else "warn" if run.score >= 40 else "bad"
    when = datetime.fromisoformat(run.when).strftime("%d %b %Y, %H:%M")
    where = quote(run.name)
    picture = (
        f'<img src="{where}/{STILL}" alt="" loading="lazy" width="1360" height="680">'
        if run.still
        else '<div class="nothing">no picture was kept</div>'
    )
    names = ", ".join(plain(name) for name in run.scenarios[:4])
    names += f" and {len(run.scenarios) - 4} more" if len(run.scenarios) > 4 else ""
    beside = f" · beside {escape(', '.join(run.planners[1:]))}" if run.planners[1:] else ""
    data = {"when": run.when, "score": f"{run.score:.3f}", "collisions": str(run.collisions),
            "planners": run.planner, "scenarios": " ".join(run.scenarios)}  # fmt: skip
    attributes = "".join(f' data-{key}="{escape(value, quote=True)}"' for key, value in data.items())
    hits = f"{run.collisions} collision{'' if run.collisions == 1 else 's'}"
    return (
        f'<a class="run" href="{where}/{PAGE}"{attributes}>{picture}<div class="text">'
        f'<p class="top"><b>{escape(run.planner)}</b><span class="badge {mood}">{run.score:.0f}</span></p>'
        f"<p>{escape(names)}</p>"
        f'<p class="facts-line"><span>{run.successes} of {run.drives} without fault</span>'
        f'<span class="{"bad" if run.collisions else ""}">{hits}</span></p>'
        f'<p class="muted">{when} · {escape(run.transport)}, {escape(run.mode)}{beside}</p></div></a>'
    )
