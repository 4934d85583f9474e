"""A committed result as the Markdown table that README shows; a test compares the two, so neither can drift."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from efficientgen.eval.full_size_table import full_size_table
from efficientgen.eval.losslessness_table import losslessness_table
from efficientgen.eval.section_table import section_weights_table

ROWS = (  # (label, metric, factor, digits, with interval)
    ("driving score, 0-100", "driving_score", 1.0, 1, True),
    ("HD-Score, 0-1", "hd_score", 1.0, 2, True),
    ("route completed without fault, %", "success", 100.0, 0, True),
    ("at-fault collision, %", "collision_at_fault", 100.0, 0, False),
    ("off the road, %", "off_road", 100.0, 0, False),
    ("red lights run per drive", "red_lights", 1.0, 2, False),
    ("plan periods on fallback, %", "fallback_share", 100.0, 1, False),
    ("one plan, ms", "plan_p50_s", 1000.0, 0, False),
    ("forward passes per plan", "forwards_per_plan", 1.0, 1, False),
    ("ms per forward pass", "ms_per_forward", 1.0, 1, False),
    ("value tokens per draft-and-verify cycle", "value_tokens_per_cycle", 1.0, 1, False),
    ("drafted tokens accepted, %", "acceptance", 100.0, 0, False),
)


def closed_loop_table(result: Mapping[str, Any]) -> str:
    """Planners in columns, `ROWS` below each other, 95 % intervals in brackets."""
    planners = list(result["planners"])
    lines = ["| | " + " | ".join(planners) + " |", "|---|" + "---|" * len(planners)]
    learned = {who for who in planners if "forwards_per_plan" in result["planners"][who]}
    for label, metric, factor, digits, interval in ROWS:
        cells = []
        for who in planners:
            e = result["planners"][who].get(metric)
            of_model = metric in ("plan_p50_s", "forwards_per_plan", "ms_per_forward", "acceptance")
            if e is None or of_model and who not in learned:
                cells.append("")
                continue
            mean, low, high = (f"{factor * e[k]:.{digits}f}" for k in ("mean", "low", "high"))
            cells.append(f"{mean} ({low}-{high})" if interval else mean)
        lines.append(f"| {label} | " + " | ".join(cells) + " |")
    moves = [result["moves_off"][who] for who in planners]
    lines.append(
        "| moves off within 4 s of green | " + " | ".join(f"{m['prompt']} of {m['all']}" for m in moves) + " |"
    )
    return "\n".join(lines)


def honesty_table(result: Mapping[str, Any]) -> str:
    """What was taken away, the score with it, and its share of the planner's own."""
    lines = ["| what it drives by | driving score | of its own |", "|---|---|---|"]
    for name, row in result["conditions"].items():
        e, share = row["driving_score"], row["of_own"]
        of = "" if share is None else f"{share['mean']:.2f} ({share['low']:.2f}-{share['high']:.2f})"
        lines.append(f"| {name} | {e['mean']:.1f} ({e['low']:.1f}-{e['high']:.1f}) | {of} |")
    return "\n".join(lines)


TABLES = {
    "closed-loop": closed_loop_table,
    "honesty": honesty_table,
    "losslessness": losslessness_table,
    "full-size": full_size_table,
    "section-weights": section_weights_table,
}


class NoTableError(ValueError):
    """A result that has no table."""


def table_of(result: Mapping[str, Any]) -> str:
    """The table of any result that has one.

    Raises:
        NoTableError: it has none.
    """
    kind = str(result.get("result"))
    if kind not in TABLES:
        raise NoTableError(f"a result of kind {kind!r} has no table; those with one: {', '.join(TABLES)}")
    return TABLES[kind](result)
