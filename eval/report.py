"""The run's report: one self-contained page that a stranger can open, watch and believe.

`write_report` puts the shown drives (video, the planner's words over time, a timeline), the metrics beside the
baselines, latency and acceptance, and the facts of the run into `index.html`.  Videos, style and script are inline;
the page loads nothing from anywhere.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.charts import bar_pair, latency_strips, milliseconds, stage_bar
from efficientgen.eval.metrics import Metrics, aggregate
from efficientgen.eval.report_drive import article
from efficientgen.eval.report_tables import BASELINES, comparison, plain
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import render
from efficientgen.eval.words import planner_death

PAGE, SUMMARY, STILL = "index.html", "summary.json", "still.jpg"
_PARTS = Path(__file__).with_name("page")


@dataclass(frozen=True)
class Entry:
    """One drive for the report: its metrics, and its log if more than numbers should appear.

    `show` puts the drive's video and words on the page.  Drives of baselines usually only lend their numbers, and
    the expert's log is drawn beside that of the planner on the same scenario and seed.
    """

    metrics: Metrics
    log: StepLog | None = None
    show: bool = True
    extra: str = ""  # HTML below the drive


def write_report(
    entries: Sequence[Entry],
    directory: Path | str,
    *,
    title: str = "",
    facts: Mapping[str, str] | None = None,
    town: Any = None,
    progress: Callable[[str], None] | None = None,
) -> Path:
    """Write `<directory>/index.html`, `summary.json` and `still.jpg`; returns the page's path.

    Args:
        entries: all drives of the run, baselines included.
        directory: usually `runs/<stamp>`; its name is shown as the run's stamp.
        title: the page's headline; by default who drove how many scenarios.
        facts: more rows for "How this was made" (versions, device).
        town: the `TownMap` to draw, loaded by each log's town name unless given.
        progress: called with a few words before each video is drawn.

    Raises:
        ValueError: no entries.
    """
    if not entries:
        raise ValueError("a report needs at least one drive: pass the drives' metrics and logs")
    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    shown = [entry for entry in entries if entry.show and entry.log is not None and entry.log.steps]
    articles: list[str] = []
    for entry in shown:
        assert entry.log is not None
        if progress is not None:
            progress(f"drawing {entry.log.scenario}")
        video = render(entry.log, town)
        if not articles:
            write_bytes(directory / STILL, video.poster_jpeg)
        articles.append(article(entry.log, entry.metrics, video, _expert_beside(entry, entries)) + entry.extra)
    main = _main_planner(entries)
    mine = [entry for entry in entries if entry.metrics.planner == main]
    title = title or _title(main, mine)
    body = "".join(
        (
            _hero(title, main, mine, directory.name),
            _tiles([entry.metrics for entry in mine]),
            '<section id="drives"><h2>The drives</h2>' + "".join(articles) + "</section>" if articles else "",
            comparison([entry.metrics for entry in entries], main),
            _speed(entries),
            _facts(entries, facts or {}),
            _definitions(),
        )
    )
    page = fill_page(title, body, "page.js")
    write_text(directory / SUMMARY, json.dumps(_summary(entries, title, main), indent=1))
    return write_text(directory / PAGE, page)


def fill_page(title: str, body: str, script: str) -> str:
    """A whole self-contained page: `body` in the template, with the style sheet and one of the scripts inline."""
    page = (_PARTS / "page.html").read_text(encoding="utf-8")
    for mark, text in (
        ("<!--TITLE-->", escape(title)),
        ("/*STYLE*/", (_PARTS / "page.css").read_text(encoding="utf-8")),
        ("/*SCRIPT*/", (_PARTS / script).read_text(encoding="utf-8")),
        ("<!--BODY-->", body),
    ):
        page = page.replace(mark, text)
    return page


def write_text(path: Path, text: str) -> Path:
    """Write a file atomically, readable by all."""
    return write_bytes(path, text.encode())


def write_bytes(path: Path, data: bytes) -> Path:
    """Write a file atomically, readable by all."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    with os.fdopen(handle, "wb") as out:
        out.write(data)
    os.chmod(name, 0o644)
    os.replace(name, path)
    return path


# --- sections ---


def _hero(title: str, main: str, mine: Sequence[Entry], stamp: str) -> str:
    log = next((entry.log for entry in mine if entry.log is not None), None)
    metrics = mine[0].metrics
    chips = [stamp, f"world: {metrics.world}", metrics.transport, f"{metrics.mode} mode"]
    if log is not None:
        host = log.notes.get("host", {})
        if host.get("cores"):
            chips.append(f"{host['cores']} CPU cores")
    what = (
        f"<b>{escape(main)}</b> saw camera pictures, wrote down what matters and where to go, and a car drove it "
        f"through simulated traffic, one plan every {metrics.chunk_s:g} s. "
        "Scores come from the simulator's truth, counted from the moment the planner took over."
    )
    if main in BASELINES:
        what = (
            f"<b>{escape(main)}</b>, a baseline, drove through simulated traffic, one plan every {metrics.chunk_s:g} s."
        )
    return (
        f'<header class="hero"><p class="brand">efficientgen <span>drive report</span></p><h1>{escape(title)}</h1>'
        f'<p class="lead">{what}</p><p class="chips">'
        + "".join(f"<span>{escape(str(chip))}</span>" for chip in chips)
        + "</p></header>"
    )


def _tiles(mine: Sequence[Metrics]) -> str:
    n = len(mine)
    score = float(np.mean([m.driving_score for m in mine]))
    hits, faults = sum(m.collision for m in mine), sum(m.collision_at_fault for m in mine)
    tiles = [
        (f"{score:.0f}", "of 100", "driving score", "ok" if score >= 80 else "warn" if score >= 40 else "bad"),
        (f"{sum(m.success for m in mine)}", f"of {n}", "routes without fault", ""),
        (f"{hits}", f"in {n} drives" if n > 1 else "", f"collisions, {faults} at fault", "ok" if not hits else "bad"),
        (f"{100 * float(np.mean([m.fallback_share for m in mine])):.1f}", "%", "of plan periods on fallback", ""),
    ]
    walls = [m.plan_p50_s for m in mine if m.plan_p50_s is not None]
    if walls:
        value, unit = milliseconds(float(np.median(walls))).split(" ")
        tiles.append((value, unit, "for one plan, median", ""))
    cells = "".join(
        f'<div class="tile {mood}"><p><b>{value}</b> {unit}</p><span>{label}</span></div>'
        for value, unit, label, mood in tiles
    )
    return f'<section class="tiles">{cells}</section>'


def _speed(entries: Sequence[Entry]) -> str:
    drives: dict[str, list[float]] = {}
    stages: dict[str, list[float]] = {}
    values, forwards, accepted, drafted, plans = 0, 0, 0, 0, 0
    for entry in entries:
        if entry.log is None or entry.metrics.planner in BASELINES:
            continue
        name = f"{plain(entry.log.scenario)}, seed {entry.log.seed}"
        for step in entry.log.steps:
            if step.stamp_ns < entry.log.handover_ns or step.plan is None:
                continue
            drives.setdefault(name, []).append(step.plan_wall_s)
            stats = step.plan.stats
            for stage, seconds in stats.seconds.items():
                if stage != "total":
                    stages.setdefault(stage, []).append(seconds)
            plans += stats.forwards > 0
            values, forwards = values + stats.value_tokens, forwards + stats.forwards
            accepted, drafted = accepted + stats.accepted, drafted + stats.drafted
    if not drives:
        return ""
    parts = ['<section id="speed"><h2>What a plan costs</h2>', latency_strips(drives)]
    if stages:
        parts.append("<h4>Where the time goes, mean of one plan</h4>")
        parts.append(stage_bar({name: float(np.mean(v)) for name, v in stages.items()}))
    if forwards and values and plans:
        parts.append("<h4>Tokens against forward passes, mean of one plan</h4>")
        rows = [
            ("value tokens written", values / plans, f"{values / plans:.1f}"),
            ("forward passes used", forwards / plans, f"{forwards / plans:.1f}"),
        ]
        parts.append(bar_pair(rows))
        if drafted:
            share = f"{100 * accepted / drafted:.0f} %"
            parts.append(
                f'<p class="muted">{share} of the drafted tokens were accepted by the verifying pass. '
                "Decoding one token at a time would need at least one pass for each value token.</p>"
            )
    return "".join(parts) + "</section>"


def _facts(entries: Sequence[Entry], extra: Mapping[str, str]) -> str:
    rows: dict[str, str] = dict(extra)
    logs = [entry.log for entry in entries if entry.log is not None]
    if logs:
        notes = logs[0].notes
        host = notes.get("host", {})
        if host:
            rows.setdefault("Host", ", ".join(f"{key} {value}" for key, value in host.items()))
        if notes.get("renderer"):
            rows.setdefault("Renderer", str(notes["renderer"]))
        wall = [float(log.notes["wall_s"]) for log in logs if "wall_s" in log.notes]
        if wall:
            rows.setdefault("Wall time of the drives", f"{sum(wall):.1f} s for {len(wall)}")
    metrics = [entry.metrics for entry in entries]
    rows.setdefault("Transport", ", ".join(sorted({m.transport for m in metrics})))
    rows.setdefault("Plan period", ", ".join(sorted({f"{m.chunk_s:g} s" for m in metrics})))
    sure = all(m.deterministic for m in metrics)
    rows.setdefault("Deterministic", "yes: same scenario and seed, same poses" if sure else "no: wall time ruled")
    cells = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in rows.items())
    table = f'<div class="scroll"><table class="facts">{cells}</table></div>'
    return f'<section id="facts"><h2>How this was made</h2>{table}</section>'


def _definitions() -> str:
    return (
        "<footer><h4>What the words mean</h4><dl>"
        "<dt>Driving score</dt><dd>100 × route completion × (1 − share of time off the road) × 0.5 for hitting "
        "a pedestrian, 0.6 for a vehicle, 0.7 for each red light (CARLA leaderboard coefficients).</dd>"
        "<dt>Success</dt><dd>Route completed, nobody touched, no red light run, never off the road.</dd>"
        "<dt>At fault</dt><dd>The car's front or side touched someone; being hit from behind is not its fault "
        "(AlpaSim).</dd>"
        "<dt>Fallback</dt><dd>No fresh valid plan: the last one is held for up to 1.2 s, then the car brakes along "
        "it and stands.</dd>"
        "<dt>Hand-over</dt><dd>A privileged expert drives the first seconds, so that the planner starts with "
        "a real past.</dd>"
        "</dl></footer>"
    )


# --- small parts ---


def _main_planner(entries: Sequence[Entry]) -> str:
    names = [entry.metrics.planner for entry in entries]
    return next((name for name in names if name not in BASELINES), names[0])


def _title(main: str, mine: Sequence[Entry]) -> str:
    n = len({entry.metrics.scenario for entry in mine})
    words = f"{main} drove {n} scenario{'s' if n != 1 else ''}"
    died = sum(entry.log is not None and planner_death(entry.log) is not None for entry in mine)
    if not died:
        return f"{words} by itself"
    return f"{words} until it died" if died == len(mine) else f"{words} and died in {died} of them"


def _expert_beside(entry: Entry, entries: Sequence[Entry]) -> StepLog | None:
    """The expert's log of the same scenario and seed, unless the entry is the expert's own."""
    m = entry.metrics
    if m.planner == "expert":
        return None
    pairs = ((other.metrics, other.log) for other in entries)
    return next((log for n, log in pairs if (n.planner, n.scenario, n.seed) == ("expert", m.scenario, m.seed)), None)


def _summary(entries: Sequence[Entry], title: str, main: str) -> dict[str, Any]:
    metrics = [entry.metrics for entry in entries]
    planners = sorted({m.planner for m in metrics})
    return {
        "title": title,
        "planner": main,
        "drives": [asdict(m) for m in metrics],
        "planners": {
            p: {key: asdict(value) for key, value in aggregate([m for m in metrics if m.planner == p]).items()}
            for p in planners
        },
    }
