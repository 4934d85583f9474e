"""Which of the papers' training choices help at nano size: small conversions that differ in one choice, with seeds.

Each seed trains one AR parent (on texts whose sentences are shuffled, then on the texts) and converts it once per
variant, from the same weights, over the same batches.  All are measured alike (`block_accuracy`): generation of whole
blocks and infilling of spans on held-out drives, and where the clean half is still causal, its AR loss.

Two-stage and direct conversion (Fast-dVLM, 2604.06832) are about where the conversion stands: before the parent learns
its task, or after.  The task here is the description, and language without it the shuffled sentences.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from efficientgen.planning.config import NoiseSchedule
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano_text import nano_text_config
from efficientgen.planning.tokenizer import IM_END, PAD, Tokenizer
from efficientgen.planning.train.block_accuracy import fill_blocks, spans
from efficientgen.planning.train.convert import Conversion
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.recipe import EFFICIENT_DLM, FAST_DVLM, Recipe
from efficientgen.planning.train.rows import text_batch
from efficientgen.planning.train.run import Run, RunConfig
from efficientgen.planning.train.text import TextData, converted_config

BLOCK = 16
SPAN = 5
DVLM = replace(FAST_DVLM, bd_size=BLOCK)
NO_AR = replace(DVLM, objective="v2")
EDLM = replace(EFFICIENT_DLM, bd_size=BLOCK)
VARIANTS: dict[str, Recipe] = {
    "dvlm": DVLM,
    "dvlm, no annealing": replace(DVLM, anneal=0.0),
    "dvlm, two-stage": DVLM,
    "dvlm, no AR term": NO_AR,
    "dvlm, no AR term, block-causal context": replace(NO_AR, clean_context="block"),
    "edlm": EDLM,
    "edlm, uniform masking": replace(EDLM, noise=NoiseSchedule()),
    "edlm, token shift": replace(EDLM, token_shift=1),
}
# (claim, what it recommends, what it argues against)
CLAIMS = (
    (
        "causal context beats block-causal, no AR term in either (2604.06832)",
        "dvlm, no AR term",
        "dvlm, no AR term, block-causal context",
    ),
    ("block-size annealing helps (2604.06832)", "dvlm", "dvlm, no annealing"),
    ("direct conversion beats two-stage (2604.06832)", "dvlm", "dvlm, two-stage"),
    ("the AR term helps (no claim of a paper: our control)", "dvlm", "dvlm, no AR term"),
    ("position-dependent masking beats uniform (2512.14067)", "edlm", "edlm, uniform masking"),
    ("no token shift beats token shift (2512.14067)", "edlm", "edlm, token shift"),
)
METRICS = ("generation", "tokens_per_forward", "infill")


@dataclass(frozen=True)
class Budget:
    """How much each run may train; `batch` texts a step."""

    parent_steps: int = 200  # of each of the parent's two stages
    steps: int = 150  # of the conversion
    batch: int = 8
    hidden: int = 64
    layers: int = 3
    heldout: int = 200  # texts to measure on


def ablate(
    train: Sequence[list[int]],
    heldout: Sequence[list[int]],
    tokenizer: Tokenizer,
    out: Path,
    seeds: int,
    budget: Budget,
    scratch: Path,
    log: Callable[[str], None],
    head: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Run every variant for every seed and write `out`, `head` first; runs that `out` already holds are kept."""
    result: dict[str, Any] = {**(head or {}), "budget": vars(budget), "block": BLOCK, "span": SPAN, "runs": []}
    if out.exists() and (old := json.loads(out.read_text())).get("budget") == vars(budget):
        result["runs"] = old["runs"]
    for seed in range(seeds):
        done = {r["variant"] for r in result["runs"] if r["seed"] == seed}
        if done >= {*VARIANTS, "parent"}:
            continue
        begin = time.process_time()
        generic = _parent(None, shuffled(train, tokenizer, seed), tokenizer, seed, budget, scratch)
        parent = _parent(generic, train, tokenizer, seed + 100, budget, scratch)
        if "parent" not in done:
            loss = ar_loss(parent, heldout[: budget.heldout], tokenizer)
            result["runs"].append({"variant": "parent", "seed": seed, "ar_loss": loss,
                                   "cpu_seconds": time.process_time() - begin})  # fmt: skip
        for name, recipe in VARIANTS.items():
            if name in done:
                continue
            begin = time.process_time()
            model = _clone(parent)
            if name == "dvlm, two-stage":
                data = TextData(shuffled(train, tokenizer, seed), budget.batch, tokenizer)
                model = _clone(generic)
                _train(model, recipe, data, budget.parent_steps, seed + 100, budget, scratch)
            _train(model, recipe, TextData(train, budget.batch, tokenizer), budget.steps, seed + 200, budget, scratch)
            row = {"variant": name, "seed": seed} | measure(model, recipe, heldout[: budget.heldout], tokenizer)
            result["runs"].append(row | {"cpu_seconds": time.process_time() - begin})
            log(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in result["runs"][-1].items()}))
            _write(out, result)
    result |= {"variants": summary(result["runs"]), "claims": verdicts(result["runs"])}
    _write(out, result)
    return result


def measure(
    model: VisionLanguageModel, recipe: Recipe, lines: Sequence[list[int]], tokenizer: Tokenizer
) -> dict[str, float]:
    """Held-out figures of one converted model."""
    pad, end = tokenizer.id_of(PAD), tokenizer.id_of(IM_END)
    batch = text_batch([list(line) for line in lines], [0] * len(lines), pad, end)
    whole = fill_blocks(model, batch, batch.real, BLOCK)
    infill = fill_blocks(model, batch, spans(batch, BLOCK, SPAN, torch.Generator().manual_seed(0)), BLOCK)
    out = {"generation": whole.accuracy, "tokens_per_forward": whole.tokens_per_forward, "infill": infill.accuracy}
    if recipe.clean_context == "token":
        out["ar_loss"] = ar_loss(model, lines, tokenizer)
    return out


@torch.no_grad()
def ar_loss(model: VisionLanguageModel, lines: Sequence[list[int]], tokenizer: Tokenizer) -> float:
    """Nats per token of the texts under causal attention."""
    batch = text_batch([list(x) for x in lines], [0] * len(lines), tokenizer.id_of(PAD), tokenizer.id_of(IM_END))
    return float(Conversion(model, Recipe())(batch).total)


def shuffled(lines: Sequence[list[int]], tokenizer: Tokenizer, seed: int) -> list[list[int]]:
    """The texts with their sentences in random order: the words and sentences of the task without its logic."""
    stop, end = tokenizer.id_of("."), tokenizer.id_of(IM_END)
    rng = np.random.default_rng([seed, *b"shuffled"])
    out = []
    for line in lines:
        cuts = [0, *[i + 1 for i, t in enumerate(line) if t == stop]]
        sentences = [list(line[a:b]) for a, b in zip(cuts, cuts[1:], strict=False)]
        out.append([t for i in rng.permutation(len(sentences)) for t in sentences[i]] + [end])
    return out


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Per variant and metric: mean and standard deviation over the seeds."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in dict.fromkeys(r["variant"] for r in runs):
        mine = [r for r in runs if r["variant"] == name]
        keys = [k for k in (*METRICS, "ar_loss") if all(k in r for r in mine)]
        out[name] = {
            k: [float(np.mean([r[k] for r in mine])), float(np.std([r[k] for r in mine], ddof=1))] for k in keys
        }
    return out


def verdicts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per claim and metric the paired differences over seeds, and whether they all have one sign.

    "reproduces": every seed says so; "reversed": every seed says the opposite; else "undecided".
    """
    found = {(r["variant"], r["seed"]): r for r in runs}
    out = []
    for claim, good, bad in CLAIMS:
        seeds = sorted(s for v, s in found if v == good and (bad, s) in found)
        row: dict[str, Any] = {"claim": claim, "for": good, "against": bad}
        for metric in METRICS:
            gaps = [found[good, s][metric] - found[bad, s][metric] for s in seeds]
            sign = "reproduces" if min(gaps) > 0 else "reversed" if max(gaps) < 0 else "undecided"
            row[metric] = {"mean": float(np.mean(gaps)), "differences": gaps, "verdict": sign}
        out.append(row)
    return out


def _parent(
    start: VisionLanguageModel | None, lines: Sequence[list[int]], tokenizer: Tokenizer, seed: int, budget: Budget,
    scratch: Path,
) -> VisionLanguageModel:  # fmt: skip
    if start is None:
        torch.manual_seed(seed)
        model = VisionLanguageModel(nano_text_config(tokenizer, budget.hidden, budget.layers))
        initialise(model)
    else:
        model = _clone(start)
    _train(model, None, TextData(lines, 2 * budget.batch, tokenizer), budget.parent_steps, seed, budget, scratch)
    return model


def _train(
    model: VisionLanguageModel, recipe: Recipe | None, data: TextData, steps: int, seed: int, budget: Budget,
    scratch: Path,
) -> None:  # fmt: skip
    if recipe is not None:
        model.config = converted_config(model.config, recipe)
    config = RunConfig(steps, data.batch, peak_lr=3e-3 if recipe is None else 2e-3, seed=seed, log_every=10**9,
                       save_every=10**9)  # fmt: skip
    Run(model, recipe, data, scratch, config).run(save=False)
    model.eval()


def _clone(model: VisionLanguageModel) -> VisionLanguageModel:
    copy = VisionLanguageModel(model.config)
    copy.load_state_dict(model.state_dict())
    return copy


def _write(out: Path, result: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, out)
