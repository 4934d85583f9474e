"""The stages of a plan one by one: vision, prefill, and a forward of R rows behind a context of C tokens.

A forward reads every weight of the text tower once, and K and V of the context: its floor is those bytes over the speed
of a copy measured in the same run.  The share of that speed which a forward reaches says what is left to gain.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from efficientgen.eval.bench_clock import Took, clock_of, spread, timed
from efficientgen.perception.types import Observation
from efficientgen.planning.cache import KVCache, TextCache
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.model import VisionLanguageModel, position_ids

ROWS = (1, 8, 16, 32, 64, 272)  # 272 = 16 x 17: fused draft and verify at block 16
WARM_UP = 3


def text_weights(model: VisionLanguageModel) -> int:
    """Parameters that every row of a forward meets: the text tower's and the head's."""
    weights = sum(p.numel() for p in model.model.language_model.parameters())
    if not model.config.text.tie_word_embeddings:  # then embeddings are looked up row by row, and the head is read
        weights += model.lm_head.weight.numel() - model.model.language_model.embed_tokens.weight.numel()
    return weights


def forward_bytes(model: VisionLanguageModel, context: int) -> int:
    """What one forward has to read: the text tower and head, K and V of `context` tokens."""
    text = model.config.text
    held = 2 * text.num_hidden_layers * text.num_key_value_heads * text.head_dim * context
    return (text_weights(model) + held) * next(model.parameters()).element_size()


@torch.inference_mode()
def bench_forwards(
    planner: DDrive, contexts: Sequence[int], rows: Sequence[int], repeats: int, copy_gb_s: float
) -> Iterator[dict[str, Any]]:
    """Causal forwards to logits of every row, over random K and V; new random tokens each time."""
    model, device, text = planner.model, planner.device, planner.model.config.text
    for context in contexts:
        cache: TextCache
        if planner.engine is None:
            cache = KVCache(text, context + max(rows), planner.dtype, device)
        else:
            cache = planner.engine.text.cache()
        cache.store.normal_()
        for count in rows:
            places = context + torch.arange(count, device=device)
            took: list[Took] = []
            for _ in range(WARM_UP + repeats):
                ids = torch.randint(0, text.vocab_size, (count,), device=device)
                cache.length = context
                took.append(timed(device, partial(_forward, model, ids, places, cache))[1])
            row = spread(took[WARM_UP:])
            size = forward_bytes(model, context)
            ms = row[f"{clock_of(device)}_ms"]["p50"]
            rate, work = size / ms / 1e6, 2 * count * text_weights(model)
            yield {
                "rows": count,
                "context": context,
                **row,
                "bytes": size,
                "gb_s": rate,
                "share_of_copy": rate / copy_gb_s,
                "weight_gflop_s": work / ms / 1e6,
            }


@dataclass
class Stages:
    """What comes before decoding, measured by itself; `prompt` tokens."""

    prompt: int
    took: dict[str, list[Took]]

    def told(self) -> dict[str, Any]:
        return {"prompt_tokens": self.prompt} | {name: spread(took) for name, took in self.took.items()}


@torch.inference_mode()
def bench_stages(planner: DDrive, observations: Sequence[Observation]) -> Stages:
    """Inputs (pictures to patches, prompt to tokens), vision and prefill of every observation.

    The last one warms up, more than once: the second prompt keeps what it shares with the first, and is captured then.
    """
    model, device = planner.model, planner.device
    took: dict[str, list[Took]] = {"inputs": [], "vision": [], "prefill": []}
    prompt = 0
    for observation in [observations[-1]] * WARM_UP + list(observations):
        (patches, grids, ids), inputs = timed(device, partial(planner.inputs, observation))
        seen, vision = timed(device, partial((planner.engine or model).see, patches, grids))
        positions = position_ids(ids, grids, model.config).to(device)
        if planner.engine is None:
            cache = KVCache(model.config.text, len(ids), planner.dtype, device)
            embeds = model.embed(torch.tensor([ids], device=device), seen)
            _, prefill = timed(device, partial(_prefill, model, embeds, positions, cache))
        else:
            _, prefill = timed(device, partial(planner.engine.prefill, ids, seen, positions))
        for name, each in zip(took, (inputs, vision, prefill), strict=True):
            took[name].append(each)
        prompt = len(ids)
    return Stages(prompt, {name: each[WARM_UP:] for name, each in took.items()})


@torch.inference_mode()
def long_prefill(planner: DDrive, prompt: int, repeats: int) -> dict[str, Any]:
    """Reading a whole prompt of `prompt` tokens through the engine, nothing kept from the one before; new each time."""
    assert planner.engine is not None
    text, model, device = planner.engine.text, planner.model, planner.device
    places, took = torch.arange(prompt, device=device).expand(3, -1), []
    for _ in range(WARM_UP + repeats):
        ids = torch.randint(0, model.config.text.vocab_size, (prompt,), device=device)
        text.cache()  # forgets the prompt before
        took.append(timed(device, partial(text.prefill, ids.tolist(), model.embed(ids), places))[1])
    return {"prompt_tokens": prompt} | spread(took[WARM_UP:])


@torch.inference_mode()
def forward_kernels(planner: DDrive, rows: int, context: int, runs: int = 5) -> dict[str, Any]:
    """Microseconds that each kind of kernel takes in a forward of `rows` tokens behind `context`, as a profiler counts.

    Kernels that overlap are counted in full, each; on a CPU, torch's operators stand for kernels.
    """
    assert planner.engine is not None
    cache, device = planner.engine.text.cache(), planner.device
    cache.store.normal_()
    ids = torch.randint(0, planner.model.config.text.vocab_size, (rows,), device=device)
    places = context + torch.arange(rows, device=device)

    def forward() -> None:
        cache.length = context
        _forward(planner.model, ids, places, cache)

    kind = "cuda" if device.type == "cuda" else "cpu"
    activity = torch.profiler.ProfilerActivity.CUDA if kind == "cuda" else torch.profiler.ProfilerActivity.CPU
    for _ in range(WARM_UP):
        forward()
    with torch.profiler.profile(activities=[activity]) as profiler:
        for _ in range(runs):
            forward()
        if kind == "cuda":
            torch.cuda.synchronize(device)
    told = []
    for event in profiler.key_averages():
        spent = event.self_device_time_total if kind == "cuda" else event.self_cpu_time_total
        if spent > 0:
            told.append({"kernel": event.key[:80], "calls": event.count / runs, "us": round(spent / runs, 1)})
    told.sort(key=lambda each: -each["us"])
    return {"rows": rows, "context": context, "kernels": told[:30], "us": round(sum(each["us"] for each in told), 1)}


def _forward(model: VisionLanguageModel, ids: Tensor, places: Tensor, cache: TextCache) -> Tensor:
    return model.logits(cache.read(model, ids, places, "causal"))


def _prefill(model: VisionLanguageModel, embeds: Tensor, positions: Tensor, cache: KVCache) -> Tensor:
    return model.logits(model(embeds, positions, cache.append("causal", embeds.shape[1]))[0, -1])
