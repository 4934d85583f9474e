"""The losslessness matrix as a table, for the terminal and for Markdown: one line per model and decoder.

"all N": each of N tokens is the reference's.  Else how many are, and by how much the reference prefers its own choice at
the worst difference: in logits, or in probability where only the order of writing differs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and lines; agreement by dtype, what one forward yields, which share of the drafted tokens is kept."""
    dtypes = list(dict.fromkeys(row["dtype"] for row in rows))
    out = [["model", "decoder", *dtypes, "values per forward", "kept of drafted, %", "peak MiB"]]
    for model, decoder in dict.fromkeys((row["model"], row["decoder"]) for row in rows):
        mine = {row["dtype"]: row for row in rows if (row["model"], row["decoder"]) == (model, decoder)}
        one = next(iter(mine.values()))
        kept = f"{100 * one['accepted'] / one['drafted']:.0f}" if one["drafted"] else ""
        peak = "" if one["peak_mib"] is None else f"{one['peak_mib']:.0f}"
        agreement = [_agreement(mine[dtype]) if dtype in mine else "" for dtype in dtypes]
        out.append([model, decoder, *agreement, f"{one['values'] / max(one['forwards'], 1):.2f}", kept, peak])
    return out if any(line[-1] for line in out[1:]) else [line[:-1] for line in out]


def losslessness_table(result: Mapping[str, Any]) -> str:
    """The matrix as Markdown."""
    head, *body = lines(result["rows"])
    return "\n".join(["| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body)])


def _agreement(row: Mapping[str, Any]) -> str:
    if not row["tokens"]:
        return ""
    if row["agreed"] == row["tokens"]:
        return f"all {row['tokens']}"
    gaps = [f"{row[key]:.1g} {unit}" for key, unit in (("logit_gap", "logit"), ("confidence_gap", "p")) if row[key]]
    return f"{row['agreed']} of {row['tokens']}" + (f" ({', '.join(gaps)})" if gaps else "")
