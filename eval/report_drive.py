"""One drive on the report page: how it ended, the video, its timeline, and the planner's words in step with both."""

from __future__ import annotations

import json
from base64 import b64encode
from html import escape
from typing import Any

from efficientgen.eval.charts import milliseconds, timeline
from efficientgen.eval.metrics import Metrics
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import Video
from efficientgen.eval.words import SOURCE_WORDS, ending, planner_death, words_of
from efficientgen.perception.types import NS, Plan

BASELINES = ("constant-velocity", "expert")  # they look at no pixels; ordered after the planners in tables


def article(log: StepLog, metrics: Metrics, video: Video) -> str:
    """The section of one drive: outcome, video, timeline, figures, words and facts."""
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
        f'poster="{poster}" src="{source}"></video>{timeline(log)}'
        f'<dl class="figures">{"".join(f"<div><dt>{k}</dt><dd>{v}</dd></div>" for v, k in figures)}</dl>'
        f"{_words(log)}{_drive_facts(log, metrics)}</article>"
    )


def plain(name: str) -> str:
    """An identifier as people write it."""
    return name.replace("_", " ").replace("-", " ")


def _words(log: StepLog) -> str:
    """The planner's answers over time, for the script to show in step with the video."""
    said: list[dict[str, Any]] = []
    for step in log.steps:
        words = words_of(step.plan)
        said.append(
            {
                "t": step.stamp_ns / NS,
                "source": step.verdict.source.value,
                "state": SOURCE_WORDS[step.verdict.source],
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
        "poses sha256": metrics.pose_sha256[:16],
    }
    for event in log.notes.get("events", [])[:4]:
        if isinstance(event, dict):
            when = f"event at {event.get('stamp_ns', 0) / NS:.1f} s"
            rows[when] = str(event.get("text", event.get("kind", "")))[:160]
    cells = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in rows.items() if v)
    return f'<details class="more"><summary>Facts of this drive</summary><dl>{cells}</dl></details>'


def _first_tick(log: StepLog) -> float:
    return log.steps[0].ticks[0].stamp_ns / NS if log.steps[0].ticks else 0.0


def _compact(plan: Plan) -> str:
    return json.dumps(dict(plan.sections), default=str, indent=1) if plan.sections else ""
