"""The report's charts over many plans as inline SVG and HTML, coloured by the page's style sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

import numpy as np


def latency_strips(drives: Mapping[str, Sequence[float]], period_s: float = 0.4) -> str:
    """One row of dots per drive: wall time of each plan on a logarithmic scale, with median and 99th percentile."""
    held = {name: np.maximum(np.asarray(walls, float), 1e-5) for name, walls in drives.items() if len(walls)}
    if not held:
        return '<p class="muted">No plans were timed.</p>'
    low = np.log10(min(period_s, *(float(v.min()) for v in held.values())) / 1.15)
    high = np.log10(max(period_s, *(float(v.max()) for v in held.values())) * 1.15)

    def x(seconds: float) -> float:
        return float(1000 * (np.log10(seconds) - low) / (high - low))

    rows = []
    for name, walls in held.items():
        p50, p99 = (float(p) for p in np.percentile(walls, [50, 99]))
        lift = (np.arange(len(walls)) * 0.6180339887) % 1.0  # an even, repeatable scatter
        dots = "".join(
            f"M{x(w):.1f} {6 + 28 * u:.1f}h0" for w, u in zip(walls, lift, strict=True)
        )  # round caps of empty strokes stay round however the picture is stretched
        bars = "".join(f'<line x1="{x(p):.1f}" x2="{x(p):.1f}" y1="0" y2="40"/>' for p in (p50, p99))
        due = f'<line class="deadline" x1="{x(period_s):.1f}" x2="{x(period_s):.1f}" y1="0" y2="40"/>'
        rows.append(
            f'<div class="row"><span class="name">{escape(name)}</span>'
            f'<svg viewBox="0 0 1000 40" preserveAspectRatio="none"><path d="{dots}"/>{due}{bars}</svg>'
            f'<span class="value">{milliseconds(p50)}<small> p50</small> &nbsp;'
            f"{milliseconds(p99)}<small> p99</small></span></div>"
        )
    ruler = "".join(f'<span style="left:{x(v) / 10:.1f}%">{milliseconds(v)}</span>' for v in _decades(low, high))
    where = (
        f'<span class="period" style="left:{x(period_s) / 10:.1f}%{";transform:none" if x(period_s) < 120 else ""}">'
    )
    rows.append(f'<div class="row"><span></span><div class="ruler">{ruler}{where}plan period</span></div></div>')
    return f'<div class="strips">{"".join(rows)}</div>'


def _decades(low: float, high: float) -> list[float]:
    """Round values between 10^low and 10^high: 1, 2, 5 of each decade, or only 1 when that were too many."""
    firsts = (1, 2, 5) if high - low < 2.2 else (1,)
    powers = range(int(np.floor(low)), int(np.ceil(high)) + 1)
    return [v for power in powers for first in firsts if low < np.log10(v := first * 10.0**power) < high]


def stage_bar(seconds: Mapping[str, float]) -> str:
    """One plan's mean wall time cut into its stages."""
    total = sum(seconds.values())
    if total <= 0.0:
        return ""
    cells = "".join(
        f'<span class="stage s{k % 6}" style="flex-grow:{value / total:.4f}">'
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
    if seconds < 1.0:
        return f"{1e3 * seconds:.0f} ms"
    return f"{seconds:.2f}".rstrip("0").rstrip(".") + " s"
