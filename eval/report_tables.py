"""The report's tables: every planner of the run side by side, and each scenario's score.

A row stands for one figure of `Metrics` and appears only where a drive has it; figures that have no words here are
listed under their own names, so nothing that was measured is hidden.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

import numpy as np

from efficientgen.eval.metrics import Estimate, Metrics, aggregate

BASELINES = ("constant-velocity", "log-replay", "expert")  # they look at no pixels; ordered after the planners

ROWS: tuple[tuple[str, str, float, str], ...] = (  # metric, label, factor, unit
    ("driving_score", "Driving score", 1, ""),
    ("hd_score", "HD-Score", 1, ""),
    ("success", "Success", 100, "%"),
    ("route_completion", "Route completion", 100, "%"),
    ("collision", "Collision", 100, "%"),
    ("collision_at_fault", "Collision at fault", 100, "%"),
    ("off_road", "Off road", 100, "%"),
    ("wrong_lane_share", "Wrong lane", 100, "% of time"),
    ("red_lights", "Red lights run", 1, "per drive"),
    ("min_distance", "Nearest to others", 1, "m"),
    ("fallback_share", "Fallback", 100, "% of plan periods"),
    ("mean_speed", "Mean speed", 3.6, "km/h"),
    ("comfort", "Comfort", 1, ""),
    ("max_acceleration", "Strongest acceleration", 1, "m/s²"),
    ("max_lateral_acceleration", "Strongest sideways", 1, "m/s²"),
    ("plan_deviation", "Plan deviation", 1, "m"),
    ("latency_s", "Latency driven with", 1e3, "ms"),
    ("plan_p50_s", "Plan time, median", 1e3, "ms"),
    ("plan_p99_s", "Plan time, p99", 1e3, "ms"),
    ("acceptance", "Draft tokens accepted", 100, "%"),
    ("forwards_per_plan", "Forwards per plan", 1, ""),
    ("ms_per_forward", "Time per forward", 1, "ms"),
    ("value_tokens_per_cycle", "Value tokens per cycle", 1, ""),
)
_CONTEXT = ("chunk_s", "deterministic")  # the same for all drives of a run; told among the facts


def plain(name: str) -> str:
    """An identifier as people write it."""
    return name.replace("_", " ").replace("-", " ")


def comparison(metrics: Sequence[Metrics], main: str) -> str:
    """Planners side by side, then the score of each scenario."""
    planners = sorted({m.planner for m in metrics}, key=lambda p: (p != main, p in BASELINES, p))
    by = {p: aggregate([m for m in metrics if m.planner == p]) for p in planners}
    head = "".join(f'<th class="{"mine" if p == main else ""}">{escape(p)}</th>' for p in planners)

    def line(key: str, label: str, factor: float, unit: str) -> str:
        cells = "".join(
            f'<td class="{"mine" if p == main else ""}">{_cell(by[p].get(key), factor)}</td>' for p in planners
        )
        return f"<tr><th>{escape(label)}{f' <small>{unit}</small>' if unit else ''}</th>{cells}</tr>"

    there = {key for held in by.values() for key in held}
    lines = "".join(line(*row) for row in ROWS if row[0] in there)
    rest = sorted(there - {row[0] for row in ROWS} - set(_CONTEXT))
    more = "".join(line(key, key, 1, "") for key in rest)
    scenarios = sorted({m.scenario for m in metrics})
    scores = ""
    for scenario in scenarios:
        cells = (
            _score_cell([m for m in metrics if m.scenario == scenario and m.planner == p], p == main) for p in planners
        )
        scores += f"<tr><th>{escape(plain(scenario))}</th>{''.join(cells)}</tr>"
    note = "Means over scenarios; brackets hold the 95 % bootstrap interval, resampled by scenario."
    few = " With fewer than five scenarios such intervals say little." if len(scenarios) < 5 else ""
    alone = "" if len(planners) > 1 else " No baseline was driven in this run."
    return (
        f'<section id="compare"><h2>Beside the baselines</h2><p class="muted">{note}{few}{alone}</p>'
        f"{_table('compare', head, lines)}<h3 class='sub'>Driving score by scenario</h3>"
        f"{_table('compare scores', head, scores)}"
        + (f"<details><summary>Every other figure, as stored</summary>{_table('compare', head, more)}</details>"
           if more else "")
        + "</section>"
    )  # fmt: skip


def _table(name: str, head: str, lines: str) -> str:
    return (
        f'<div class="scroll" tabindex="0"><table class="{name}"><thead><tr><th></th>{head}</tr></thead>'
        f"<tbody>{lines}</tbody></table></div>"
    )


def _cell(estimate: Estimate | None, factor: float) -> str:
    if estimate is None:
        return '<span class="muted">&ndash;</span>'
    value, low, high = (factor * v for v in (estimate.mean, estimate.low, estimate.high))
    if value == low == high == 0.0:
        return "0"
    digits = 0 if max(abs(value), abs(high)) >= 100 else 1 if max(abs(value), abs(high)) >= 1 else 2
    interval = "" if high - low < 1e-9 else f"<small>[{low:.{digits}f}, {high:.{digits}f}]</small>"
    return f"{value:.{digits}f} {interval}"


def _score_cell(drives: Sequence[Metrics], mine: bool) -> str:
    if not drives:
        return '<td class="muted">&ndash;</td>'
    value = float(np.mean([m.driving_score for m in drives]))
    ends = ", ".join(sorted({m.end_reason.replace("_", " ") for m in drives}))
    return (
        f'<td class="score{" mine" if mine else ""}"><i style="width:{value:.0f}%"></i><b>{value:.0f}</b> '
        f"<small>{escape(ends)}</small></td>"
    )
