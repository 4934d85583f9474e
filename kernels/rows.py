"""What a transformer does to each row by itself, in one launch each: embed, norm, gate, rotate and put into the cache.

Beside library products (a prefill, or a shape where cuBLAS is the faster) these are the rest of a layer.  All of them
read and write a few hundred kilobytes that live in L2, so each costs one launch; the sums are fp32.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.kernels.skinny import INTERPRETED, Heads, _place_heads

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # installations without a GPU: the references run alone
    triton = None


def embed_reference(ids: Tensor, table: Tensor) -> tuple[Tensor, Tensor]:
    """Rows (M, K) of the table and their squares (1, M)."""
    x = table[ids.long()]
    return x, x.float().pow(2).sum(-1)[None]


def embed(ids: Tensor, table: Tensor, out: Tensor, squares: Tensor, overlap: bool = False) -> None:
    """ids (M,) int32, table (V, K) -> out (M, K), squares (1, M) fp32."""
    m, k = out.shape
    _embed[(m,)](ids, table, out, squares, K=k, BK=triton.next_power_of_2(k), OVERLAP=overlap, **_options(overlap))


def squares_of(x: Tensor, squares: Tensor, overlap: bool = False) -> None:
    """x (M, K) -> squares (1, M) fp32, of rows that a library product has written."""
    m, k = x.shape
    _squares[(m,)](x, squares, K=k, BK=triton.next_power_of_2(k), OVERLAP=overlap, **_options(overlap))


def normed_reference(x: Tensor, weight: Tensor | None, eps: float) -> Tensor:
    """RMS norm of the rows; without a weight where that is folded into the product behind it."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    y = wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (y if weight is None else y * weight).to(x.dtype)


def normed(x: Tensor, weight: Tensor | None, eps: float, out: Tensor, overlap: bool = False) -> None:
    """x (M, K) -> out (M, K)."""
    m, k = x.shape
    _normed[(m,)](
        x, x if weight is None else weight, out, K=k, BK=triton.next_power_of_2(k), EPS=eps, WEIGHT=weight is not None,
        OVERLAP=overlap, **_options(overlap),
    )  # fmt: skip


def swiglu_reference(both: Tensor) -> Tensor:
    """(M, 2 F) gate beside up -> silu(gate) up (M, F)."""
    gate, up = both.to(torch.promote_types(both.dtype, torch.float32)).chunk(2, -1)
    return (F.silu(gate) * up).to(both.dtype)


def swiglu(both: Tensor, out: Tensor, overlap: bool = False) -> None:
    """both (M, 2 F) -> out (M, F)."""
    m, f = out.shape
    block = min(1024, triton.next_power_of_2(f))
    _swiglu[(m, triton.cdiv(f, block))](both, out, F=f, BF=block, OVERLAP=overlap, **_options(overlap))


def place_heads_reference(y: Tensor, heads: Heads) -> Tensor:
    """(M, (Hq + 2 Hkv) D) -> q (M, Hq, D); k and v go to their slots (see `Heads`)."""
    return _place_heads(y.to(torch.promote_types(y.dtype, torch.float32)), heads, y.dtype)


def place_heads(y: Tensor, heads: Heads, out: Tensor, overlap: bool = False) -> None:
    """The same by the kernel; q goes to `out` (M, Hq, D)."""
    shared, _, width = heads.keys.shape
    total = heads.queries + 2 * shared
    _place[(len(y), total)](
        y, out, heads.cos, heads.sin, heads.place, heads.slot, heads.keys, heads.values,
        heads.norm if heads.norm is not None else y, heads.keys.stride(0),
        HQ=heads.queries, HKV=shared, HALF=width // 2, BH=triton.next_power_of_2(width // 2),
        HEAD_NORM=heads.norm is not None, EPS=heads.eps, OVERLAP=overlap, **_options(overlap, 1),
    )  # fmt: skip


def _options(overlap: bool, warps: int = 4) -> dict[str, Any]:
    more: dict[str, Any] = {} if INTERPRETED else {"num_warps": warps}
    return more | ({"launch_pdl": True} if overlap else {})


if triton is not None:

    @triton.jit
    def _embed(ids_ptr, table_ptr, out_ptr, squares_ptr, K: tl.constexpr, BK: tl.constexpr, OVERLAP: tl.constexpr):
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row, k = tl.program_id(0), tl.arange(0, BK)
        token = tl.load(ids_ptr + row).to(tl.int64)
        x = tl.load(table_ptr + token * K + k, mask=k < K, other=0.0)
        tl.store(out_ptr + row * K + k, x, mask=k < K)
        wide = x.to(tl.float32)
        tl.store(squares_ptr + row, tl.sum(wide * wide, 0))

    @triton.jit
    def _squares(x_ptr, squares_ptr, K: tl.constexpr, BK: tl.constexpr, OVERLAP: tl.constexpr):
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row, k = tl.program_id(0), tl.arange(0, BK)
        x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        tl.store(squares_ptr + row, tl.sum(x * x, 0))

    @triton.jit
    def _normed(
        x_ptr, weight_ptr, out_ptr,
        K: tl.constexpr, BK: tl.constexpr, EPS: tl.constexpr, WEIGHT: tl.constexpr, OVERLAP: tl.constexpr,
    ):  # fmt: skip
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row, k = tl.program_id(0).to(tl.int64), tl.arange(0, BK)
        x = tl.load(x_ptr + row * K + k, mask=k < K, other=0.0).to(tl.float32)
        y = x / tl.sqrt(tl.sum(x * x, 0) / K + EPS)
        if WEIGHT:
            y = y * tl.load(weight_ptr + k, mask=k < K, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * K + k, y.to(out_ptr.dtype.element_ty), mask=k < K)

    @triton.jit
    def _swiglu(both_ptr, out_ptr, F: tl.constexpr, BF: tl.constexpr, OVERLAP: tl.constexpr):
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row, f = tl.program_id(0).to(tl.int64), tl.program_id(1) * BF + tl.arange(0, BF)
        gate = tl.load(both_ptr + row * 2 * F + f, mask=f < F, other=0.0).to(tl.float32)
        up = tl.load(both_ptr + row * 2 * F + F + f, mask=f < F, other=0.0).to(tl.float32)
        y = gate / (1.0 + tl.exp(-gate)) * up
        tl.store(out_ptr + row * F + f, y.to(out_ptr.dtype.element_ty), mask=f < F)

    @triton.jit
    def _place(
        y_ptr, out_ptr, cos_ptr, sin_ptr, place_ptr, slot_ptr, keys_ptr, values_ptr, norm_ptr, head_stride,
        HQ: tl.constexpr, HKV: tl.constexpr, HALF: tl.constexpr, BH: tl.constexpr, HEAD_NORM: tl.constexpr,
        EPS: tl.constexpr, OVERLAP: tl.constexpr,
    ):  # fmt: skip
        """One head of one row."""
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row, head = tl.program_id(0), tl.program_id(1)
        D: tl.constexpr = 2 * HALF
        i = tl.arange(0, BH)
        live = i < HALF
        at = y_ptr + (row.to(tl.int64) * (HQ + 2 * HKV) + head) * D + i
        low = tl.load(at, mask=live, other=0.0).to(tl.float32)
        high = tl.load(at + HALF, mask=live, other=0.0).to(tl.float32)
        if head < HQ + HKV:
            if HEAD_NORM:
                factor = 1.0 / tl.sqrt((tl.sum(low * low, 0) + tl.sum(high * high, 0)) / D + EPS)
                weight = norm_ptr + (head >= HQ) * D + i
                low = low * factor * tl.load(weight, mask=live, other=0.0).to(tl.float32)
                high = high * factor * tl.load(weight + HALF, mask=live, other=0.0).to(tl.float32)
            place = tl.load(place_ptr + row)
            cos = tl.load(cos_ptr + place * HALF + i, mask=live, other=0.0)
            sin = tl.load(sin_ptr + place * HALF + i, mask=live, other=0.0)
            turned = low * cos - high * sin
            high = high * cos + low * sin
            low = turned
        slot = tl.load(slot_ptr + row).to(tl.int64)
        kind = out_ptr.dtype.element_ty
        if head < HQ:
            there = out_ptr + (row.to(tl.int64) * HQ + head) * D + i
            tl.store(there, low.to(kind), mask=live)
            tl.store(there + HALF, high.to(kind), mask=live)
        else:
            if head < HQ + HKV:
                there = keys_ptr + (head - HQ) * head_stride + slot * D + i
                tl.store(there, low.to(kind), mask=live)
                tl.store(there + HALF, high.to(kind), mask=live)
            else:
                there = values_ptr + (head - HQ - HKV) * head_stride + slot * D + i
                tl.store(there, low.to(kind), mask=live)
                tl.store(there + HALF, high.to(kind), mask=live)
