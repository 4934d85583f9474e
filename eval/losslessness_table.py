"""The losslessness matrix as a table, for the terminal and for Markdown: one line per model and decoder.

By dtype, how many of the compared tokens are the reference's.  "gap" is by how much the reference prefers its own
choice at the worst difference of all dtypes: in logits, or in probability where only the order of writing differs.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any


def lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and lines: agreement by dtype, the gap, values written per forward, share of drafted tokens kept."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    out = [["model", "decoder", *dtypes, "gap", "values/forward", "kept, %", "peak MiB"]]
    for model, decoder in dict.fromkeys((row["model"], row["decoder"]) for row in rows):
        mine = {row["dtype"]: row for row in rows if (row["model"], row["decoder"]) == (model, decoder)}
        one = next(iter(mine.values()))
        agreement = [
            f"{mine[d]['agreed']}/{mine[d]['tokens']}" if mine.get(d, {}).get("tokens") else "" for d in dtypes
        ]
        kept = f"{100 * one['accepted'] / one['drafted']:.0f}" if one["drafted"] else ""
        peak = "" if one["peak_mib"] is None else f"{one['peak_mib']:.0f}"
        rate = f"{one['values'] / one['forwards']:.2f}" if one["forwards"] else ""
        out.append(
            [
                model,
                decoder,
                *agreement,
                _gap(list(mine.values())),
                rate,
                kept,
                peak,
            ]
        )
    return out if any(line[-1] for line in out[1:]) else [line[:-1] for line in out]


def losslessness_table(result: Mapping[str, Any]) -> str:
    """The matrix as Markdown."""
    head, *body = lines(result["rows"])
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))


def _gap(rows: Collection[Mapping[str, Any]]) -> str:
    worst = {unit: max(row[key] for row in rows) for key, unit in (("logit_gap", ""), ("confidence_gap", "p "))}
    return ", ".join(f"{unit}{gap:.1g}" for unit, gap in worst.items() if gap)
