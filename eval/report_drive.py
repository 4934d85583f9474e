"""One drive on the report page: how it ended, the video, its timeline, and the planner's words in step with both."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Mapping
from html import escape
from typing import Any

from efficientgen.eval.canvas import SOURCE_COLOUR, css
from efficientgen.eval.charts import milliseconds
from efficientgen.eval.drive_charts import over_time
from efficientgen.eval.happenings import happenings
from efficientgen.eval.metrics import Metrics
from efficientgen.eval.report_tables import BASELINES, plain
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import Video
from efficientgen.eval.words import SOURCE_WORDS, ending, planner_death, words_of
from efficientgen.perception.types import NS, Plan, Source

MAX_ROWS = 200  # of the fault timeline


def article(log: StepLog, metrics: Metrics, video: Video, expert: StepLog | None = None) -> str:
    """The section of one drive: outcome, video, words, plots over time, what safety did, and facts.

    Args:
        expert: the expert's drive of the same scenario and seed, to be drawn beside it.
    """
    badge, mood = _outcome(log, metrics)
    figures = [
        (f"{metrics.driving_score:.0f}", "score"),
        (f"{100 * metrics.route_completion:.0f} %", "of the route"),
        (f"{3.6 * metrics.mean_speed:.0f} km/h", "mean speed"),
        (f"{100 * metrics.fallback_share:.1f} %", "fallback"),
    ]
    if metrics.plan_p50_s is not None:
        figures.append((milliseconds(metrics.plan_p50_s), "per plan"))
    if metrics.value_tokens_per_cycle is not None:
        figures.append((f"{metrics.value_tokens_per_cycle:.1f}", "tokens per cycle"))
    source = f"data:{video.mime};base64,{b64encode(video.data).decode()}"
    poster = f"data:image/jpeg;base64,{b64encode(video.poster_jpeg).decode()}"
    place = f"{log.planner} in {log.town}, {log.start.weather}, seed {log.seed}"
    return (
        f'<article class="drive" data-t0="{_first_tick(log)}"><div class="head"><div>'
        f'<h3>{escape(plain(log.scenario))}</h3><p class="muted">{escape(place)}</p></div>'
        f'<span class="badge {mood}">{escape(badge)}</span></div><p class="ending">{escape(ending(log))}</p>'
        f'<video controls muted playsinline preload="auto" width="{video.width}" height="{video.height}" '
        f'poster="{poster}" src="{source}"></video>'
        f'<dl class="figures">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for v, k in figures)}</dl>'
        f"{words_section(log)}<h4>Over time</h4>{over_time(log, expert)}{_caption(log, expert)}"
        f"{_happened(log)}{_drive_facts(log, metrics)}</article>"
    )


def words_section(log: StepLog, states: Mapping[Source, str] = SOURCE_WORDS) -> str:
    """The planner's answers over time, for the script to show in step with the video.

    Args:
        states: what is said of each verdict source.
    """
    said: list[dict[str, Any]] = []
    for step in log.steps:
        words = words_of(step.plan)
        said.append(
            {
                "t": step.stamp_ns / NS,
                "source": step.verdict.source.value,
                "state": states[step.verdict.source],
                "why": step.verdict.reason,
                "objects": words.objects,
                "says": words.explanation,
                "meta": words.meta,
                "raw": "" if step.plan is None else step.plan.text or _compact(step.plan),
            }
        )
    data = json.dumps(said, separators=(",", ":"), default=str).replace("<", "\\u003c")
    who = "The planner's words" if log.planner not in BASELINES else "Why it drove so"
    return (
        f'<div class="words"><h4>{who}</h4><div class="now" aria-live="off"></div><ol class="all"></ol>'
        f"<details><summary>The answer as written</summary><pre></pre></details></div>"
        f'<script type="application/json" class="said">{data}</script>'
    )


def _caption(log: StepLog, expert: StepLog | None) -> str:
    """What the plots do not say by themselves."""
    words = ["Click or drag in the plots to move the video."]
    if log.planner not in BASELINES:
        words.append(
            {
                "sync": "Sync mode: the world waits for every plan, so late ones cost wall time, not driving time.",
                "latency": "Latency mode: every plan takes effect a fixed time after its pictures.",
                "realtime": "Real time: a plan that misses its deadline is replaced by safety's fallback.",
            }.get(log.mode, "")
        )
    if expert is not None:
        words.append("The expert (blue) drove the same scenario and seed, with the simulator's truth before its eyes.")
    return f'<p class="caption">{escape(" ".join(filter(None, words)))}</p>'


def _happened(log: StepLog) -> str:
    """The fault timeline in words: events and what safety did about them."""
    told = happenings(log)
    if not told:
        return (
            '<h4>Faults and what safety did</h4><p class="caption">Nothing to report: no event, '
            "and every plan came, was valid, and was followed.</p>"
        )
    rows = []
    for h in told[:MAX_ROWS]:
        when = f"{h.start_s:.1f} s" if h.end_s - h.start_s < 0.05 else f"{h.start_s:.1f}–{h.end_s:.1f} s"
        colour = css(SOURCE_COLOUR[h.source]) if h.source is not None else ""
        dot = f'<i class="dot" style="--c:{colour}"></i>' if colour else '<i class="event"></i>'
        times = f" <small>{h.count} times</small>" if h.source is None and h.count > 1 else ""
        rows.append(
            f'<li data-t="{h.start_s:.2f}"><span>{when}</span><span>{dot}{escape(h.what)}{times}</span>'
            f"<span>{escape(h.words[:240])}</span></li>"
        )
    more = f'<p class="caption">{len(told) - MAX_ROWS} more.</p>' if len(told) > MAX_ROWS else ""
    return f'<h4>Faults and what safety did</h4><ol class="happened">{"".join(rows)}</ol>{more}'


def _outcome(log: StepLog, metrics: Metrics) -> tuple[str, str]:
    if planner_death(log) is not None:
        safe = not metrics.collision and not metrics.off_road
        return ("planner died, car safe", "warn") if safe else ("planner died, car not safe", "bad")
    if metrics.success:
        return "completed", "ok"
    if metrics.collision:
        return "collision, at fault" if metrics.collision_at_fault else "collision, not at fault", "bad"
    if log.end_reason == "off_route":
        return "left the route", "bad"
    faults = [
        name for name, wrong in (("red light run", metrics.red_lights > 0), ("off the road", metrics.off_road)) if wrong
    ]
    if faults:
        return ", ".join(faults), "bad"
    return {"timeout": "time was up", "stopped": "stood still"}.get(log.end_reason, log.end_reason), "warn"


def _drive_facts(log: StepLog, metrics: Metrics) -> str:
    pids = log.notes.get("pids", {})
    rows = {
        "end reason": log.end_reason,
        "handed over at": f"{log.handover_ns / NS:.1f} s",
        "scored": f"{metrics.seconds:.1f} s, {metrics.distance:.0f} m",
        "transport": f"{log.transport}, {log.mode}" + ("" if log.deterministic else ", not deterministic"),
        "world": log.world + (f", {log.notes['renderer']}" if log.notes.get("renderer") else ""),
        "processes": ", ".join(f"{name} {pid}" for name, pid in pids.items()) if isinstance(pids, dict) else str(pids),
        "deadline misses": str(log.notes.get("deadline_misses") or ""),
        "poses sha256": metrics.pose_sha256[:16],
    }
    cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items() if v)
    return f'<details class="more"><summary>Facts of this drive</summary><dl>{cells}</dl></details>'


def _first_tick(log: StepLog) -> float:
    return log.steps[0].ticks[0].stamp_ns / NS if log.steps[0].ticks else 0.0


def _compact(plan: Plan) -> str:
    return json.dumps(dict(plan.sections), default=str, indent=1) if plan.sections else ""
