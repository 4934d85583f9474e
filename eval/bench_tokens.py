"""How far the world model's pieces are from what the chip can do: token kernels, products with weights, attention."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from efficientgen.eval.bench_clock import copy_bandwidth, graphed_ms
from efficientgen.eval.bench_sana import Shape
from efficientgen.kernels.token_heads import gated_sum, heads_through_rays, rotated_heads, temporal_conv
from efficientgen.kernels.token_rows import add_and_norm, gated_depthwise


def bench_tokens(shape: Shape, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Milliseconds of each kernel in a graph, the bytes that it must move, and those at the copy rate in ms."""
    config, grid = shape.config, shape.grid
    t, s, c, h = shape.latents, grid[0] * grid[1], config.hidden_size, config.heads
    hidden, d = int(c * config.mlp_ratio), config.linear_head_dim

    def normal(*size: int) -> Tensor:
        return torch.randn(*size, device=device).to(dtype)

    x, y, z = (normal(1, t, s, c) for _ in range(3))
    weight, angle = normal(c), torch.randn(t, s, 1, d // 2, device=device)
    turn = torch.polar(torch.ones_like(angle), angle)
    half = turn[..., : d // 4].contiguous()
    matrix = torch.eye(4, device=device).expand(1, t, s, 4, 4).contiguous()
    shift, scale, gate, *_ = normal(1, t, 6, 1, c).unbind(2)
    wide, taps, bias = normal(1, t, s, 2 * hidden), normal(2 * hidden, 1, 3, 3), normal(2 * hidden)
    keys, conv = normal(1, 3, s, c), normal(c, 1, 4)
    total = normal(1, t, s, c).float()
    norm, one = (weight, 1e-5), x.numel() * x.element_size()
    work: dict[str, tuple[Callable[[], object], float]] = {
        "rotated_heads": (lambda: rotated_heads(x, norm, turn, h, relu=True, plain=True), 3 * one),
        "heads_through_rays": (lambda: heads_through_rays(x, norm, matrix, half, h, relu=True, measured=True), 2 * one),
        "temporal_conv": (lambda: temporal_conv(x, keys, conv), 3 * one),
        "gated_sum": (lambda: gated_sum(total, x, y), (3 + 4 / x.element_size()) * one),
        "add_and_norm": (lambda: add_and_norm(x, y, None, None, (shift, scale)), 4 * one),
        "residual": (lambda: add_and_norm(x, y, gate, z), 4 * one),
        "gated_depthwise": (lambda: gated_depthwise(wide, taps, bias, grid), 1.5 * wide.numel() * wide.element_size()),
    }
    rate = copy_bandwidth(torch.device(device))["best_gb_s"] * 1e9
    out = {}
    for name, (run, moved) in work.items():
        ms = float(np.median(graphed_ms(run, repeats)))
        out[name] = {"ms": round(ms, 4), "mb": round(moved / 1e6, 1), "at_copy_rate_ms": round(1e3 * moved / rate, 4)}
    return out


def bench_products(shape: Shape, device: str, dtype: torch.dtype, repeats: int) -> dict[str, Any]:
    """Milliseconds and TFLOP/s, in a graph, of each product with weights in a block, and of softmax over the window."""
    config, grid = shape.config, shape.grid
    s, c, h = grid[0] * grid[1], config.hidden_size, config.heads
    rows, hidden = shape.latents * s, int(c * config.mlp_ratio)
    sizes = {"projections": (c, 7 * c), "expand": (c, 2 * hidden), "shrink": (hidden, c), "square": (c, c),
             "temporal": (3 * c, c)}  # fmt: skip
    out: dict[str, Any] = {}
    for name, (width, columns) in sizes.items():
        x, weight = (torch.randn(n, width, device=device).to(dtype) for n in (rows, columns))
        ms = float(np.median(graphed_ms(partial(F.linear, x, weight), repeats)))
        out[name] = {"ms": round(ms, 4), "tflop_s": round(2e-9 * rows * width * columns / ms, 1)}
    seen = rows + (config.window + shape.latents) * s
    q = torch.randn(1, rows, h, c // h, device=device).to(dtype).transpose(1, 2)
    k, v = (torch.randn(1, seen, h, c // h, device=device).to(dtype).transpose(1, 2) for _ in range(2))
    for backend in (SDPBackend.FLASH_ATTENTION, SDPBackend.CUDNN_ATTENTION):

        def attend(backend: SDPBackend = backend) -> Tensor:
            with sdpa_kernel(backend):
                return F.scaled_dot_product_attention(q, k, v)

        name = backend.name.lower()
        try:
            ms = float(np.median(graphed_ms(attend, repeats)))
            out[name] = {"ms": round(ms, 4), "tflop_s": round(4e-9 * rows * seen * c / ms, 1)}
        except RuntimeError as error:
            out[name] = {"why": str(error).splitlines()[0][:200]}
    return out
