"""A full-size result as tables, for the terminal and for Markdown: what decoders cost, and logits beside stock's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def decoder_lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and a line per model and decoder; "as AR" counts up to the first difference, "gap" is how near a tie."""
    out = [["model", "decoder", "values", "forwards", "drafted", "accepted", "as AR", "gap", "ms/forward", "peak GiB"]]
    for row in rows:
        counts = [str(row[key]) for key in ("values", "forwards", "drafted", "accepted")]
        alike = f"{row['agreed']}/{row['tokens']}" if row["tokens"] else ""
        gap = f"{row['logit_gap']:.2g}" if row["logit_gap"] else ""
        pace = f"{1e3 * row['seconds'] / row['forwards']:.0f}" if row["forwards"] else ""
        peak = f"{row['peak_mib'] / 1024:.1f}" if row["peak_mib"] else ""
        out.append([row["model"], row["decoder"], *counts, alike, gap, pace, peak])
    return out


def logit_lines(rows: Sequence[Mapping[str, Any]]) -> list[list[str]]:
    """Header and a line per model and prompt."""
    out = [["model", "prompt", "tokens", "ours", "stock", "ratio", "RMS of logits", "same best token, ours", "stock"]]
    for row in rows:
        numbers = [f"{row[key]:.3g}" for key in ("ours", "stock")]
        same = [f"{100 * row[key]:.1f} %" for key in ("same_choice_ours", "same_choice_stock")]
        out.append([row["model"], row["prompt"], str(row["tokens"]), *numbers, f"{row['ratio']:.2f}",
                    f"{row['logits']:.3g}", *same])  # fmt: skip
    return out


def full_size_table(result: Mapping[str, Any]) -> str:
    """Both tables as Markdown, an empty line between them."""
    return "\n\n".join(_markdown(t) for t in (decoder_lines(result["decoders"]), logit_lines(result["logits"])))


def _markdown(lines: Sequence[Sequence[str]]) -> str:
    head, *body = lines
    return "\n".join("| " + " | ".join(line) + " |" for line in (head, ["---"] * len(head), *body))
