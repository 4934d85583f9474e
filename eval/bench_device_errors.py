"""How far the engine's logits are from fp32's, beside stock transformers' and our eager model's in the same dtype.

The weights are the benchmark's, drawn anew as a freshly initialised model has them (std 0.02, norms 1): sharper ones
amplify every rounding until all that is measured is chaos.  All models read the same text and the same block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficientgen.eval.stock import Stock
from efficientgen.planning.cache import KVCache
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.engine import Engine
from efficientgen.planning.model import VisionLanguageModel

PROMPT, BLOCK = 600, 32


@torch.inference_mode()
def errors_to_fp32(planner: DDrive, stock: Stock) -> dict[str, Any]:
    """Relative RMS error of the logits of a causal block of 32 tokens, and how often the best token is fp32's.

    The weights of `planner` and `stock` are overwritten.
    """
    model, device, dtype = planner.model, planner.device, planner.dtype
    assert planner.engine is not None
    generator = torch.Generator(device).manual_seed(0)
    for name, parameter in model.model.language_model.named_parameters():
        if parameter.dim() > 1:
            parameter.normal_(0, 0.02, generator=generator)
        else:
            parameter.fill_(0.0 if name.endswith("bias") else 1.0)
    held = {k.removeprefix("model.language_model."): v for k, v in model.state_dict().items() if "language_model" in k}
    stock.text.load_state_dict(held)
    stock.model.tie_weights()
    ids = torch.randint(0, model.config.text.vocab_size, (PROMPT + BLOCK,), device=device, generator=generator)
    out = {"engine": _ours(Engine(model, PROMPT + BLOCK, planner.engine.text.layers.choices, graphs=False), model, ids)}
    out["eager"] = _eager(model, ids, dtype)
    hidden = stock.text(input_ids=ids[None]).last_hidden_state[0, PROMPT:]
    out["stock"] = stock.model.lm_head(hidden)
    model.float()  # the fp32 that all are compared with: the same rounded weights, exact products
    try:
        exact = _eager(model, ids, torch.float32)
    finally:
        model.to(dtype)
    size = exact.norm()
    told: dict[str, Any] = {
        name: {
            "error": float((logits.float() - exact).norm() / size),
            "same_best": float((logits.argmax(-1) == exact.argmax(-1)).float().mean()),
        }
        for name, logits in out.items()
    }
    return told | {"engine_over_stock": told["engine"]["error"] / told["stock"]["error"]}


def _eager(model: VisionLanguageModel, ids: Tensor, dtype: torch.dtype) -> Tensor:
    cache = KVCache(model.config.text, len(ids), dtype, ids.device)
    places = torch.arange(len(ids), device=ids.device)
    cache.read(model, ids[:PROMPT], places[:PROMPT], "causal")
    return model.logits(cache.read(model, ids[PROMPT:], places[PROMPT:], "causal"))


def _ours(engine: Engine, model: VisionLanguageModel, ids: Tensor) -> Tensor:
    places = torch.arange(len(ids), device=ids.device)
    cache, _ = engine.prefill(ids[:PROMPT].tolist(), model.embed(ids[:PROMPT]), places[:PROMPT].expand(3, -1))
    return model.logits(cache.read(model, ids[PROMPT:], places[PROMPT:], "causal")).clone()
