"""Plots over drive time as inline SVG and HTML: panels of one drive share a time axis, a playhead and their colours.

A panel stretches to the page's width, so text is HTML beside the stretched picture and strokes keep their width.  The
style sheet colours everything by class name (`car`, `expert`, ...), which is how plots follow dark and light.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np

from efficientgen.perception.types import F64

_W = 1000.0  # of the stretched drawing; its height is the panel's


@dataclass(frozen=True)
class Line:
    """One quantity over time: `t` (N,) s increasing, `v` (N,) with NaN for gaps; `name` is its class."""

    name: str
    label: str
    t: F64
    v: F64


@dataclass(frozen=True)
class Stack:
    """One layer of stacked bars: from `base` to `top`, both (N,), over [t, t + width) s."""

    name: str
    label: str
    t: F64
    base: F64
    top: F64
    width: float


@dataclass(frozen=True)
class Rule:
    """A horizontal line with words at its right end."""

    value: float
    label: str


@dataclass(frozen=True)
class Panel:
    """One plot.  `low` and `high` are limits that the data may push further out."""

    title: str
    unit: str
    lines: tuple[Line, ...] = ()
    stacks: tuple[Stack, ...] = ()
    rules: tuple[Rule, ...] = ()
    low: float = 0.0
    high: float = 0.0
    height: int = 84
    digits: int = 1
    area: bool = False  # fill below the first line
    ceiling: float | None = None  # nothing is drawn above


@dataclass(frozen=True)
class Mark:
    """A moment that all panels show as a vertical line; its words stand in the first panel."""

    t: float
    label: str = ""
    mood: str = ""  # "" | "bad"


def stack_of_panels(panels: Sequence[Panel], start: float, end: float, marks: Sequence[Mark], strip: str = "") -> str:
    """All panels above one another, `strip` below the first, one ruler at the bottom.  Times in s."""
    span = max(end - start, 1e-9)

    def at(t: float) -> str:
        return f"{100 * (t - start) / span:.2f}%"

    held = [_panel(panel, start, span, marks if k == 0 else ()) for k, panel in enumerate(panels)]
    lines = "".join(f'<i class="at {mark.mood}" style="left:{at(mark.t)}"></i>' for mark in marks)
    step = max(int(nice_step(span / 6.0)), 1)
    seconds = [t for t in range(0, int(end) + 1, step) if start <= t <= end]
    late = start + 0.96 * span  # words that would stand out over the right edge
    ruler = "".join(f'<span{" class=last" if t > late else ""} style="left:{at(t)}">{t} s</span>' for t in seconds)
    series = [
        {"t": _rounded(line.t, 3), "v": _rounded(line.v, 4), "digits": panel.digits, "unit": panel.unit}
        for panel in panels
        for line in panel.lines
    ]
    data = json.dumps(series, separators=(",", ":"))
    return (
        f'<div class="timeline" data-from="{start:.3f}" data-to="{end:.3f}">'
        f"{held[0] if held else ''}{strip}{''.join(held[1:])}"
        f'<div class="ruler">{ruler}</div><div class="cursor">{lines}<i class="playhead"></i></div></div>'
        f'<script type="application/json" class="series">{data}</script>'
    )


def nice_step(rough: float) -> float:
    """The next of 1, 2, 5, 10, 20, ... at or above `rough` > 0."""
    power = 10.0 ** np.floor(np.log10(rough))
    return float(power * min(m for m in (1, 2, 5, 10) if m * power >= rough * (1 - 1e-9)))


def _panel(panel: Panel, start: float, span: float, marks: Sequence[Mark]) -> str:
    low, high = _limits(panel)
    h = float(panel.height)

    def x(t: float) -> float:
        return _W * (t - start) / span

    def y(v: float) -> float:
        return h * (high - v) / (high - low)

    def level(name: str, v: float) -> str:
        return f'<line class="{name}" x1="0" x2="{_W:.0f}" y1="{y(v):.1f}" y2="{y(v):.1f}"/>'

    parts, levels = [], []
    step = nice_step((high - low) / (3.0 if h < 100 else 3.6))
    for value in np.arange(np.ceil(low / step) * step, high + 1e-9, step):
        parts.append(level("grid zero" if low < 0 and abs(value) < 1e-9 else "grid", value))
        levels.append(f'<span style="top:{100 * y(value) / h:.1f}%">{round(float(value), 6) + 0.0:g}</span>')
    for stack in panel.stacks:
        wide = max(0.72 * _W * stack.width / span, 0.6)
        bars = "".join(
            f"M{x(t):.1f} {y(b):.1f}H{x(t) + wide:.1f}V{y(a):.1f}H{x(t):.1f}z"
            for t, b, a in zip(stack.t, stack.base, stack.top, strict=True)
        )
        parts.append(f'<path class="bar {stack.name}" d="{bars}"/>')
    for k, line in enumerate(panel.lines):
        for run in _runs(np.isfinite(line.v)):
            points = " ".join(f"{x(t):.1f},{y(v):.1f}" for t, v in zip(line.t[run], line.v[run], strict=True))
            if panel.area and k == 0:
                foot = f"{x(line.t[run][-1]):.1f},{h} {x(line.t[run][0]):.1f},{h}"
                parts.append(f'<polygon class="area" points="{points} {foot}"/>')
            parts.append(f'<polyline class="line {line.name}" points="{points}"/>')
    rules = ""
    right = all(float(stack.t[-1]) < start + 0.6 * span for stack in panel.stacks)  # where the bars leave room
    for rule in panel.rules:
        parts.append(level("rule", rule.value))
        place = f'class="rule-words{" right" if right else ""}" style="top:{100 * y(rule.value) / h:.1f}%"'
        rules += f"<span {place}>{escape(rule.label)}</span>"
    flags = "".join(
        f'<span class="flag{" late" if x(mark.t) > 0.75 * _W else ""} {mark.mood}" '
        f'style="left:{x(mark.t) / 10:.2f}%;top:{18 * k + 1}px">{escape(mark.label)}</span>'
        for k, mark in enumerate(mark for mark in marks if mark.label)
    )
    keys = "".join(f'<b class="k {line.name}">{escape(line.label)} <output></output></b>' for line in panel.lines)
    keys += "".join(f'<b class="k box {stack.name}">{escape(stack.label)}</b>' for stack in panel.stacks)
    unit = f" <small>{escape(panel.unit)}</small>" if panel.unit else ""
    return (
        f'<div class="panel"><div class="panel-head"><span class="title">{escape(panel.title)}{unit}</span>{keys}</div>'
        f'<div class="plot" style="height:{panel.height}px" role="img" aria-label="{escape(panel.title)} over time">'
        f'<svg viewBox="0 0 {_W:.0f} {h:.0f}" preserveAspectRatio="none">{"".join(parts)}</svg>'
        f'<div class="levels">{"".join(levels)}</div>{rules}{flags}</div></div>'
    )


def _limits(panel: Panel) -> tuple[float, float]:
    values = [v[np.isfinite(v)] for v in (*(ln.v for ln in panel.lines), *(s.top for s in panel.stacks))]
    values += [np.array([rule.value for rule in panel.rules])]
    all_of = np.concatenate([*values, [panel.low, panel.high]])
    low, high = float(all_of.min()), float(all_of.max())
    if panel.ceiling is not None:
        high = min(high, panel.ceiling)
    room = 0.08 * (high - low) or 1.0
    return (low - room if low < min(panel.low, 0.0) else low), high + room


def _runs(good: np.ndarray) -> list[slice]:
    edges = np.flatnonzero(np.diff(np.concatenate([[False], good, [False]]).astype(np.int8)))
    return [slice(int(a), int(b)) for a, b in zip(edges[::2], edges[1::2], strict=True)]


def _rounded(values: F64, digits: int) -> list[float | None]:
    return [round(float(v), digits) if np.isfinite(v) else None for v in values]
