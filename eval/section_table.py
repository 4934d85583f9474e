"""The ablation of section weights and noise as Markdown: variants with their figures, claims with their verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = (  # (metric, heading, factor, digits)
    ("ade", "ADE, m", 1.0, 2),
    ("ade_without_history", "ADE without history, m", 1.0, 2),
    ("object_accuracy", "yes/no right, %", 100.0, 1),
    ("loss trajectory", "trajectory loss", 1.0, 3),
    ("loss explanation", "explanation loss", 1.0, 3),
    ("draft right", "drafted right, %", 100.0, 1),
    ("draft right trajectory", "of the trajectory, %", 100.0, 1),
    ("draft right explanation", "of the explanation, %", 100.0, 1),
)


def section_weights_table(result: Mapping[str, Any]) -> str:
    """Mean and standard deviation over seeds, then the paired differences (positive: for the claim)."""
    heads = [heading for _, heading, _, _ in COLUMNS]
    lines = [f"| variant | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for name, row in result["variants"].items():
        cells = [f"{k * row[m][0]:.{d}f} ± {k * row[m][1]:.{d}f}" for m, _, k, d in COLUMNS]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    lines += ["", f"| claim | {' | '.join(heads)} |", "|---|" + "---|" * len(heads)]
    for claim in result["claims"]:
        cells = [
            f"{claim[m]['verdict']} ({k * claim[m]['mean']:+.{d}f})" if m in claim else "" for m, _, k, d in COLUMNS
        ]
        lines.append(f"| {claim['claim']} | {' | '.join(cells)} |")
    return "\n".join(lines)
