"""The released shapes with random weights on one device: what every decoder costs, and how far bf16 is from fp32.

Nobody needs a checkpoint for this: memory and rounding do not depend on what the weights have learned.  How many
drafted tokens are accepted does, and forwards with it; random weights keep next to none.  Our bf16 logits and those of
stock transformers, same weights and prompt, are both compared with stock's in fp32; ours may err `LIMIT` times as much.
Every cell is told as soon as it is measured, one that fails does not end the others, and a run goes on where one that
was cut short ended.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from efficientgen.eval.losslessness import costs, decoders_of
from efficientgen.eval.random_models import Subject
from efficientgen.eval.stock import Prefix, Stock
from efficientgen.planning.cache import KVCache
from efficientgen.planning.model import VisionLanguageModel, position_ids

LIMIT = 1.5
ROWS = 64  # of logits that are widened to float64 at once


@dataclass(frozen=True)
class LogitError:
    """RMS over all tokens of a prompt and the vocabulary, of the difference to stock's fp32 logits."""

    model: str
    prompt: str  # "text" or "images"
    tokens: int
    ours: float
    stock: float
    ratio: float
    within: bool  # ours <= LIMIT x stock
    logits: float  # RMS of the fp32 logits themselves
    same_choice_ours: float  # share of the tokens with fp32's best next token
    same_choice_stock: float


def full_size(
    subjects: Mapping[str, Callable[[], Subject]],
    device: str,
    prompts: int,
    new_tokens: int,
    seconds: float,
    tell: Callable[[dict[str, Any]], None],
    before: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Measure every model, one in memory at a time; no cell is begun after `seconds`.

    `tell` is given the result so far after every cell.  `failed` names what raised, `left_out` what there was no time
    for.  `before` is an earlier result with the same settings, whose cells are kept.
    """
    ends = time.monotonic() + seconds
    before = before or {}
    result: dict[str, Any] = {key: list(before.get(key, ())) for key in ("logits", "decoders")}
    result |= {"failed": [], "left_out": []}
    for name, make in subjects.items():
        for measure in (_logits, _decoders):
            try:
                measure(name, make, device, prompts, new_tokens, ends, result, tell)
            except Exception as error:  # of one cell; the others are worth having
                traceback.print_exc()
                what = {"model": name, "what": measure.__name__.strip("_"), "error": f"{type(error).__name__}: {error}"}
                result["failed"].append(what)
            if device.startswith("cuda"):
                torch.cuda.empty_cache()
        tell(result)
    return result


def logit_errors(subject: Subject, device: str, seed: int = 0) -> list[LogitError]:
    """A text prompt and, if the model sees, one with its images.  The model must be in bf16.

    Its attention is made less sharp first, to a spread of scores as trained models have: random weights that are as
    sharp as `random_model` draws them amplify any rounding, ours and stock's, until nothing can be told apart.
    """
    blunt(subject.model)
    ids, patches = subject.prompt(seed)
    config = subject.model.config
    cases: list[tuple[str, list[int], Tensor | None]] = [
        ("text", [t for t in ids if t not in (config.image_token_id, config.vision_start_token_id)], None)
    ]
    if patches is not None:
        cases.append(("images", ids, patches))
    exact = Stock(subject.model, torch.float32, device)
    low = Stock(subject.model, torch.bfloat16, device)
    return [_logit_error(subject, exact, low, *case) for case in cases]


def blunt(model: VisionLanguageModel) -> None:
    """Halve the query and key projections (exact in any binary format)."""
    for name, parameter in model.named_parameters():
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            parameter.data.mul_(0.5)


@torch.inference_mode()
def _logit_error(
    subject: Subject, exact: Stock, low: Stock, prompt: str, ids: list[int], patches: Tensor | None
) -> LogitError:
    grids = subject.grids if patches is not None else ()
    truth = _stock_logits(exact, exact.prefix(ids, patches, grids))
    theirs = _stock_logits(low, low.prefix(ids, patches, grids))
    ours = _our_logits(subject.model, ids, patches, grids)
    mine, stock = _rms(ours, truth), _rms(theirs, truth)
    best = truth.argmax(-1)
    same = [float((logits.argmax(-1) == best).float().mean()) for logits in (ours, theirs)]
    size = _rms(truth, torch.zeros_like(truth[:1]))
    return LogitError(subject.name, prompt, len(ids), mine, stock, mine / stock, mine <= LIMIT * stock, size, *same)


def _stock_logits(stock: Stock, prefix: Prefix) -> Tensor:
    size = prefix.embeds.shape[1]
    return stock.logits(prefix, [], [], torch.ones(size, size, dtype=torch.bool).tril_())


def _our_logits(model: VisionLanguageModel, ids: list[int], patches: Tensor | None, grids: tuple[Any, ...]) -> Tensor:
    parameter = next(model.parameters())
    vision = None if patches is None else model.see(patches, grids)
    embeds = model.embed(torch.tensor([ids], device=parameter.device), vision)
    cache = KVCache(model.config.text, len(ids), parameter.dtype, parameter.device)
    positions = position_ids(ids, grids, model.config).to(parameter.device)
    return model.logits(model(embeds, positions, cache.append("causal", len(ids))))[0]


def _rms(a: Tensor, b: Tensor) -> float:
    """Root mean square of the difference; `b` has as many rows as `a`, or one."""
    pairs = zip(a.split(ROWS), b.expand_as(a).split(ROWS), strict=True)
    return float(sum((x.double() - y.double()).square().sum() for x, y in pairs) / a.numel()) ** 0.5


def _decoders(
    name: str, make: Callable[[], Subject], device: str, prompts: int, new_tokens: int, ends: float,
    result: dict[str, Any], tell: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    done = {row["decoder"] for row in result["decoders"] if row["model"] == name}
    if time.monotonic() > ends:
        result["left_out"].append(f"{name}: decoders")
        return
    subject = make()
    subject.model.to(torch.bfloat16)  # as the released shapes are drawn
    missing = [decoder for decoder in decoders_of(subject) if decoder not in done]
    for row in costs(subject, "bf16", prompts, new_tokens, but=done):
        result["decoders"].append(asdict(row))
        tell(result)
        missing.remove(row.decoder)
        if missing and time.monotonic() > ends:
            result["left_out"].append(f"{name}: {', '.join(missing)}")
            return


def _logits(
    name: str, make: Callable[[], Subject], device: str, prompts: int, new_tokens: int, ends: float,
    result: dict[str, Any], tell: Callable[[dict[str, Any]], None],
) -> None:  # fmt: skip
    if any(row["model"] == name for row in result["logits"]):
        return
    if time.monotonic() > ends:
        result["left_out"].append(f"{name}: logits")
        return
    subject = make()
    if device.startswith("cuda") and _bytes(subject.model) * 5 > torch.cuda.mem_get_info()[0]:
        result["left_out"].append(f"{name}: logits, whose fp32 copy does not fit beside it")
        return
    subject.model.to(torch.bfloat16)
    result["logits"] += [asdict(row) for row in logit_errors(subject, device)]
    tell(result)


def _bytes(model: VisionLanguageModel) -> int:
    return sum(p.numel() * p.element_size() for p in model.parameters())
