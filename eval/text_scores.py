"""What a text model makes of held-out scene descriptions: gaps filled, texts completed, tokens per forward.

Everything is compared with the description itself, which is what the oracle knew.  A converted model sees both sides of
a gap, its AR parent the left side only; a bigram model and the most frequent filling show what needs no model.
"""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.decode_text import complete
from efficientgen.planning.text_model import TextLM, fill_gap
from efficientgen.planning.tokenizer import IM_END, Tokenizer

# kind of gap -> where it is; the group is hidden
GAPS = {
    "light colour": re.compile(r"light is( red| green| yellow),"),
    "explanation": re.compile("(" + "|".join(" " + re.escape(s) for s in SENTENCES) + ")"),
    "plan": re.compile(r"The plan is to( .*?) and"),
    "speed": re.compile(r"drives at (\d+) metres per second and"),
    "later": re.compile(r"Two seconds later the car( stands still| drives)"),
}
SPAN = 5  # tokens of the gaps at random places
CONFIDENCES = (0.9, 0.7, 0.5)


@dataclass(frozen=True)
class Gap:
    """One gap of one text, in tokens."""

    kind: str
    before: list[int]
    truth: list[int]
    behind: list[int]


def gaps_of(text: str, tokenizer: Tokenizer, rng: np.random.Generator) -> list[Gap]:
    """One gap of every kind that the text has, and one of `SPAN` tokens at a random place."""
    out = []
    for kind, pattern in GAPS.items():
        if match := pattern.search(text):
            begin, end = match.span(1)
            parts = [tokenizer.encode(t) for t in (text[:begin], text[begin:end], text[end:])]
            out.append(Gap(kind, *parts))
    ids = tokenizer.encode(text)
    begin = int(rng.integers(1, len(ids) - SPAN))
    out.append(Gap("random span", ids[:begin], ids[begin : begin + SPAN], ids[begin + SPAN :]))
    return out


def score_texts(
    model: TextLM,
    parent: TextLM | None,
    train: Sequence[str],
    heldout: Sequence[str],
    texts: int,
    log: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Infilling and completion of `texts` held-out texts, evenly spread.

    Shares of gaps filled exactly right ("exact") and of their tokens ("tokens").
    """
    tokenizer = model.tokenizer
    picks = [heldout[i] for i in np.linspace(0, len(heldout) - 1, min(texts, len(heldout))).astype(int)]
    rng = np.random.default_rng([0, *b"text-gaps"])
    gaps = [g for text in picks for g in gaps_of(text, tokenizer, rng)]
    frequent, follower = _controls(train, tokenizer)
    fillers: dict[str, Callable[[Gap], list[int]]] = {
        "most frequent": lambda g: frequent.get(g.kind, g.truth[:0]),
        "bigram": lambda g: _bigram(g, follower),
    }
    forwards = Counter[str]()

    def diffuse(gap: Gap) -> list[int]:
        ids, _, cost = fill_gap(model.model, gap.before, len(gap.truth), gap.behind)
        forwards["model"] += cost
        return ids

    if parent is not None:
        ar = parent  # bound for the closure
        fillers["AR parent"] = lambda g: complete(ar.model, g.before, len(g.truth), "ar").ids
    fillers["model"] = diffuse
    infill: dict[str, Any] = {}
    for name, fill in fillers.items():
        filled = [(g, fill(g)) for g in gaps]
        infill[name] = {
            kind: {
                "gaps": sum(g.kind == kind for g, _ in filled),
                "exact": float(np.mean([f == g.truth for g, f in filled if g.kind == kind])),
                "tokens": float(np.mean([_agree(f, g.truth) for g, f in filled if g.kind == kind])),
            }
            for kind in (*GAPS, "random span")
            if any(g.kind == kind for g, _ in filled)
        }
        log(f"infill {name}: " + ", ".join(f"{k} {v['exact']:.2f}" for k, v in infill[name].items()))
    out: dict[str, Any] = {"texts": len(picks), "infill": infill, "completion": {}}
    out["infill_tokens_per_forward"] = sum(len(g.truth) for g in gaps) / forwards["model"]
    out["unknown_length"] = _unknown(model, [g for g in gaps if g.kind in ("explanation", "plan")][:40])
    for confidence in CONFIDENCES:
        out["completion"][f"model, confidence {confidence}"] = _completion(model, picks, confidence)
    if parent is not None:
        out["completion"]["AR parent"] = _completion(parent, picks, 1.0)
    for name, row in out["completion"].items():
        log(f"completion {name}: " + ", ".join(f"{k} {v:.3f}" for k, v in row.items()))
    return out


def _completion(model: TextLM, texts: Sequence[str], confidence: float) -> dict[str, float]:
    """Give everything up to the explanation, let the model write the rest."""
    right: dict[str, list[bool]] = {"explanation": [], "plan": []}
    tokens, forwards, begin = 0, 0, time.perf_counter()
    for text in texts:
        cut = GAPS["explanation"].search(text)
        if cut is None:
            continue
        prompt = text[: cut.start()]
        written = model.complete(prompt, 72, confidence)
        tokens, forwards = tokens + written.tokens, forwards + written.forwards - 1  # the prompt's is not counted
        for kind, hits in right.items():
            truth = GAPS[kind].search(text)
            said = GAPS[kind].search(written.text, cut.start())
            hits.append(truth is not None and said is not None and said[1] == truth[1])
    seconds = time.perf_counter() - begin
    return {
        **{f"{kind}_exact": float(np.mean(hits)) for kind, hits in right.items()},
        "tokens_per_forward": tokens / max(forwards, 1),
        "tokens_per_text": tokens / len(texts),
        "ms_per_text": 1e3 * seconds / len(texts),
    }


def _unknown(model: TextLM, gaps: Sequence[Gap]) -> dict[str, float]:
    """The same gaps when their length is not told."""
    decode = model.tokenizer.decode
    said = [model.infill(decode(g.before) + " [gap]" + decode(g.behind)) for g in gaps]
    whole = [g.before + g.truth + g.behind for g in gaps]
    return {
        "gaps": len(gaps),
        "length_right": float(np.mean([len(s.ids) == len(w) for s, w in zip(said, whole, strict=True)])),
        "exact": float(np.mean([s.ids == w for s, w in zip(said, whole, strict=True)])),
    }


def _controls(train: Sequence[str], tokenizer: Tokenizer) -> tuple[dict[str, list[int]], dict[int, int]]:
    """The most frequent filling of each kind of gap, and the most frequent follower of each token."""
    fillings: dict[str, Counter[str]] = {kind: Counter() for kind in GAPS}
    pairs: dict[int, Counter[int]] = {}
    for text in train:
        for kind, pattern in GAPS.items():
            if match := pattern.search(text):
                fillings[kind][match[1]] += 1
        ids = [*tokenizer.encode(text), tokenizer.id_of(IM_END)]
        for a, b in zip(ids, ids[1:], strict=False):
            pairs.setdefault(a, Counter())[b] += 1
    frequent = {k: tokenizer.encode(c.most_common(1)[0][0]) for k, c in fillings.items() if c}
    return frequent, {a: c.most_common(1)[0][0] for a, c in pairs.items()}


def _bigram(gap: Gap, follower: dict[int, int]) -> list[int]:
    ids = gap.before[-1:]
    for _ in gap.truth:
        ids.append(follower.get(ids[-1], ids[-1]))
    return ids[1:]


def _agree(ids: Sequence[int], truth: Sequence[int]) -> float:
    return sum(a == b for a, b in zip(ids, truth, strict=False)) / len(truth)
