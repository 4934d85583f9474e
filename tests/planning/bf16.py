"""How far bf16 is from fp32: our error beside stock's own, both against stock fp32 with the same weights."""

from __future__ import annotations

import copy

import torch
from torch import Tensor

from efficientgen.planning.checkpoint import load_model
from tests.planning.test_stock_families import our_logits, prompt, stock_logits

LIMIT = 1.5  # ours may err this many times as much as stock does


def rms(x: Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


def bf16_errors(stock, directory, grids, seeds, device: str = "cpu") -> tuple[float, float, float]:
    """RMS error of our bf16 logits, of stock's bf16 logits, and the RMS of the fp32 logits themselves.

    `stock` is fp32 on `device`; `directory` takes its weights in bf16, so all three models hold the same numbers.
    """
    half = copy.deepcopy(stock).to(torch.bfloat16)
    wide_buffers = dict(stock.named_buffers())
    names = [n for n, _ in half.named_buffers() if n.endswith("inv_freq")]
    for name in names:  # loading in bf16 keeps them in fp32
        owner, _, leaf = name.rpartition(".")
        setattr(half.get_submodule(owner), leaf, wide_buffers[name])
    half.save_pretrained(directory)
    ours = load_model(directory, torch.bfloat16, device)
    for wide, narrow in zip(stock.parameters(), half.parameters(), strict=True):
        wide.copy_(narrow)  # the rounding of the weights is no error of the arithmetic
    errors: list[tuple[float, float, float]] = []
    for seed in seeds:
        ids, patches = prompt(grids, seed)
        patches = patches.to(device).to(torch.bfloat16)  # the rounding of the pixels neither
        exact = stock_logits(stock, ids, patches.float(), grids).float()
        a, b = (our_logits(ours, ids, patches, grids).float(), stock_logits(half, ids, patches, grids).float())
        errors.append((rms(a - exact), rms(b - exact), rms(exact)))
    mine, theirs, size = torch.tensor(errors).mean(0).tolist()
    return mine, theirs, size
