"""The report's charts as inline SVG and HTML, coloured by the page's style sheet so that they follow dark and light."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np

from efficientgen.eval.canvas import SOURCE_COLOUR, css
from efficientgen.eval.step_log import Step, StepLog, all_ticks
from efficientgen.eval.words import SOURCE_WORDS, planner_death
from efficientgen.perception.route import locate
from efficientgen.perception.types import NS, Plan, Source

_W, _H = 1000.0, 150.0


def timeline(log: StepLog) -> str:
    """Speed, intended speed and limit over time, above a strip of who or what was being followed."""
    ticks = all_ticks(log)
    start, end = log.steps[0].stamp_ns, ticks[-1].stamp_ns
    span = max(end - start, 1)
    speeds = [3.6 * tick.ego.speed for tick in ticks]
    limits = _limits(log)
    targets = [(step.stamp_ns, 3.6 * v) for step in log.steps if (v := intended_speed(step.plan)) is not None]
    top = max(max(speeds), max((v for _, v in limits), default=0), max((v for _, v in targets), default=0), 20.0) * 1.12

    def x(stamp_ns: float) -> float:
        return _W * (stamp_ns - start) / span

    def y(kmh: float) -> float:
        return _H * (1.0 - kmh / top)

    line = " ".join(f"{x(t.stamp_ns):.1f},{y(v):.1f}" for t, v in zip(ticks, speeds, strict=True))
    parts = [f'<polygon class="area" points="0,{_H} {line} {_W},{_H}"/>']
    for kmh in np.arange(20.0, top, 20.0):
        parts.append(f'<line class="grid" x1="0" x2="{_W}" y1="{y(kmh):.1f}" y2="{y(kmh):.1f}"/>')
    parts.append(_poly("limit", [(x(t), y(v)) for t, v in limits]))
    parts.append(_poly("target", [(x(t), y(v)) for t, v in targets]))
    parts.append(f'<polyline class="speed" points="{line}"/>')
    marks = [(log.handover_ns, "handed over")] if start < log.handover_ns < end else []
    died = planner_death(log)
    if died is not None:
        marks.append((died, "planner died"))
    for stamp, _ in marks:
        parts.append(f'<line class="mark" x1="{x(stamp):.1f}" x2="{x(stamp):.1f}" y1="0" y2="{_H}"/>')
    flags = "".join(
        f'<span class="flag{" late" if x(t) > 0.8 * _W else ""}" style="left:{x(t) / 10:.2f}%;top:{18 * k - 2}px">'
        f"{escape(text)}</span>"
        for k, (t, text) in enumerate(marks)
    )
    seconds = [t for t in range(0, int(end / NS) + 1, 5) if t * NS >= start]
    ruler = "".join(f'<span style="left:{x(t * NS) / 10:.2f}%">{t} s</span>' for t in seconds)
    levels = "".join(f'<span style="top:{y(k) / _H * 100:.1f}%">{k:.0f}</span>' for k in np.arange(20.0, top, 20.0))
    return (
        f'<div class="timeline" data-from="{start / NS}" data-to="{end / NS}" role="img" aria-label="speed over time">'
        f'<div class="plot"><svg viewBox="0 0 {_W:.0f} {_H:.0f}" preserveAspectRatio="none">{"".join(parts)}</svg>'
        f'<div class="levels">{levels}</div>{flags}<i class="playhead"></i></div>'
        f'<div class="strip">{_strip(log, start, span)}</div><div class="ruler">{ruler}</div>'
        f'<div class="legend"><b class="k-speed">speed, km/h</b><b class="k-target">what the plan intends</b>'
        f'<b class="k-limit">limit</b>{_source_legend(log)}</div></div>'
    )


def intended_speed(plan: Plan | None, horizon_s: float = 2.0) -> float | None:
    """Mean speed over the plan's first `horizon_s`, m/s: what it wants; None without a plan."""
    if plan is None or not len(plan.waypoints) or not np.isfinite(plan.waypoints).all():
        return None
    k = max(1, int(np.searchsorted(plan.times_s, horizon_s + 1e-9)))
    steps = np.diff(np.vstack([np.zeros((1, 2)), plan.waypoints[:k]]), axis=0)
    return float(np.hypot(steps[:, 0], steps[:, 1]).sum() / plan.times_s[k - 1])


def latency_strips(drives: Mapping[str, Sequence[float]], period_s: float = 0.4) -> str:
    """One row of dots per drive: wall time of each plan, with median and 99th percentile."""
    held = {name: np.asarray(walls, float) for name, walls in drives.items() if len(walls)}
    if not held:
        return '<p class="muted">No plans were timed.</p>'
    top = max(float(v.max()) for v in held.values()) * 1.08
    top = max(top, 1.25 * period_s if top > 0.3 * period_s else top)
    rows = []
    for name, walls in held.items():
        p50, p99 = np.percentile(walls, [50, 99])
        lift = (np.arange(len(walls)) * 0.6180339887) % 1.0  # an even, repeatable scatter
        dots = "".join(
            f"M{1000 * w / top:.1f} {6 + 28 * u:.1f}h0" for w, u in zip(walls, lift, strict=True)
        )  # round caps of empty strokes stay round however the picture is stretched
        at50, at99 = 1000 * p50 / top, 1000 * p99 / top
        bars = "".join(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="0" y2="40"/>' for x in (at50, at99))
        rows.append(
            f'<div class="row"><span class="name">{escape(name)}</span>'
            f'<svg viewBox="0 0 1000 40" preserveAspectRatio="none"><path d="{dots}"/>{bars}</svg>'
            f'<span class="value">{milliseconds(p50)}<small> p50</small> &nbsp;'
            f"{milliseconds(p99)}<small> p99</small></span></div>"
        )
    step = _nice(top / 4)
    marks = np.arange(0, top, step)
    ruler = "".join(f'<span style="left:{100 * v / top:.1f}%">{milliseconds(v) if v else 0}</span>' for v in marks)
    period = ""
    if period_s < top:
        period = f'<span class="period" style="left:{100 * period_s / top:.1f}%">plan period</span>'
    rows.append(f'<div class="row"><span></span><div class="ruler">{ruler}{period}</div></div>')
    return f'<div class="strips">{"".join(rows)}</div>'


def stage_bar(seconds: Mapping[str, float]) -> str:
    """One plan's mean wall time cut into its stages."""
    total = sum(seconds.values())
    if total <= 0.0:
        return ""
    cells = "".join(
        f'<span class="stage s{k % 5}" style="flex-grow:{value / total:.4f}">'
        f"<b>{escape(name)}</b> {milliseconds(value)}</span>"
        for k, (name, value) in enumerate(seconds.items())
    )
    return f'<div class="stages">{cells}</div>'


def bar_pair(rows: Sequence[tuple[str, float, str]]) -> str:
    """Labelled horizontal bars on one scale: (label, value, text)."""
    top = max(value for _, value, _ in rows)
    return (
        '<div class="bars">'
        + "".join(
            f'<div class="row"><span class="name">{escape(label)}</span>'
            f'<span class="bar"><i style="width:{100 * value / top if top else 0:.1f}%"></i></span>'
            f'<span class="value">{escape(text)}</span></div>'
            for label, value, text in rows
        )
        + "</div>"
    )


def milliseconds(seconds: float) -> str:
    """A duration for people."""
    if seconds < 0.01:
        return f"{1e3 * seconds:.1f} ms"
    return f"{1e3 * seconds:.0f} ms" if seconds < 1.0 else f"{seconds:.2f} s"


def _limits(log: StepLog) -> list[tuple[int, float]]:
    out: list[tuple[int, float]] = []
    hint = None
    for step in log.steps:
        hint = locate(log.route, step.ego.x, step.ego.y, hint)[0]
        k = int(np.clip(round(hint / log.route.spacing), 0, len(log.route.speed_limits) - 1))
        out.append((step.stamp_ns, 3.6 * float(log.route.speed_limits[k])))
    return out


def _strip(log: StepLog, start: int, span: int) -> str:
    runs: list[tuple[Source, list[Step]]] = []
    for step in log.steps:
        if not runs or runs[-1][0] is not step.verdict.source:
            runs.append((step.verdict.source, []))
        runs[-1][1].append(step)
    cells = []
    for source, steps in runs:
        last = steps[-1].ticks[-1].stamp_ns if steps[-1].ticks else steps[-1].stamp_ns
        left, width = (steps[0].stamp_ns - start) / span * 100, (last - steps[0].stamp_ns) / span * 100
        why = f": {steps[0].verdict.reason}" if steps[0].verdict.reason else ""
        title = escape(f"{steps[0].stamp_ns / NS:.1f} s, {SOURCE_WORDS[source]}{why}", quote=True)
        style = f"left:{left:.2f}%;width:{width:.2f}%;background:{css(SOURCE_COLOUR[source])}"
        cells.append(f'<i style="{style}" title="{title}"></i>')
    return "".join(cells)


def _source_legend(log: StepLog) -> str:
    seen = {step.verdict.source for step in log.steps}
    return "".join(
        f'<b class="k-dot" style="--c:{css(SOURCE_COLOUR[s])}">{SOURCE_WORDS[s]}</b>' for s in Source if s in seen
    )


def _poly(name: str, points: Sequence[tuple[float, float]]) -> str:
    if len(points) < 2:
        return ""
    return f'<polyline class="{name}" points="{" ".join(f"{a:.1f},{b:.1f}" for a, b in points)}"/>'


def _nice(step: float) -> float:
    power = 10.0 ** np.floor(np.log10(step))
    return float(power * min(m for m in (1, 2, 5, 10) if m * power >= step))
