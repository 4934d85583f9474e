"""Products of a few rows with a large weight, at the memory's pace: y = x W^T for 1 to some hundred rows of x.

A planner that decodes at batch 1 reads every weight once per forward and does little with it, so the floor of a product
is its weight's bytes over the memory's speed.  Libraries reach that for wide weights and miss it for narrow ones (2,048
or 2,560 outputs), where a tile per multiprocessor leaves most of them idle.  Here the inner dimension is split over
programs as well; the last one of a tile to finish adds the parts in a fixed order, so the sum is the same every time
and there is no second launch.

What stands between two products is a part of them.  Before: the RMS norm, whose weight is folded into W at load and
whose 1 / rms, a factor of the row, is applied to the sum; the squares come from whoever wrote x (`squares`, one partial
sum per row and tile).  Behind:

    PLAIN     y = rms(x) W^T + b
    RESIDUAL  y = x' + x W^T, and the squares of y
    SWIGLU    y = silu(g) u,  (g, u) = rms(x) W^T         W holds gate over up
    ROPE      q, k, v = rms(x) W^T + b; q and k (normed per head and) rotated, k and v written to their cache slots

Floors for one layer of the 3B shape at 3.0 TB/s: qkv (2560 x 2048) 3.5 us, o (2048 x 2048) 2.8, gate-up (22016 x 2048)
30, down (2048 x 11008) 15.  With `overlap` (programmatic dependent launch, sm_90) a kernel is already resident when the
one before it ends, and has asked for its first weights: they do not depend on it.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # installations without a GPU: the references run alone
    triton = None

PLAIN, RESIDUAL, SWIGLU, ROPE = 0, 1, 2, 3
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"


@dataclass(frozen=True)
class Tile:
    """How a product is cut: outputs and inner elements of a step, parts of the inner dimension; warps, pipeline depth.

    SWIGLU and ROPE hold two tiles of `columns`: gate and up, or the halves of a head that RoPE mixes.
    """

    columns: int
    inner: int
    split: int
    warps: int = 4
    stages: int = 4
    ahead: int = 0  # steps of weights asked for before the kernel in front has ended
    held: int = 0  # rows of a program; 0: as few as do (`rows_per_program`).  Hopper's fast products take 64


@dataclass(frozen=True)
class Norm:
    """Partial sums of squares (T, M) of the rows of x, and the norm's epsilon."""

    squares: Tensor
    eps: float


@dataclass(frozen=True)
class Heads:
    """Where ROPE finds and leaves things; D the head width.

    cos, sin: (P, D / 2) fp32 by row of the table; place (M,) int32 the row of each token.
    keys, values: (Hkv, S, D) of one layer's cache; slot (M,) int32 where each token goes.
    norm: (2, D) weights of the q and k norms (Qwen3), with `eps`.
    """

    queries: int
    cos: Tensor
    sin: Tensor
    place: Tensor
    keys: Tensor
    values: Tensor
    slot: Tensor
    norm: Tensor | None = None
    eps: float = 1e-6


class TileError(ValueError):
    """A tile that cannot hold what one program of the product needs together."""


class Workspace:
    """Room for the parts of split products, and the counters of who is done; zero between products."""

    def __init__(self, device: torch.device, parts: int, tiles: int = 4096):
        self.parts = torch.empty(parts, dtype=torch.float32, device=device)
        self.done = torch.zeros(tiles, dtype=torch.int32, device=device)


def rows_per_program(rows: int) -> int:
    """Rows of x that one program holds; a tensor core wants 16 at least."""
    return min(max(16, 1 << (rows - 1).bit_length()), 128)


def parts_needed(rows: int, columns: int, split: int, held: int = 0) -> int:
    """fp32 numbers of a `Workspace` that a product of `columns` outputs needs; the rows are padded."""
    held = held or rows_per_program(rows)
    return 0 if split == 1 else -(-rows // held) * held * columns * split


def skinny_reference(
    x: Tensor, weight: Tensor, kind: int = PLAIN, *, bias: Tensor | None = None, residual: Tensor | None = None,
    norm: Norm | None = None, heads: Heads | None = None,
) -> Tensor:  # fmt: skip
    """The four products in torch, fp32 or wider; ROPE returns q (M, Hq, D) and writes k and v."""
    wide = torch.promote_types(x.dtype, torch.float32)
    y = F.linear(x.to(wide), weight.to(wide))
    if norm is not None:
        y = y * torch.rsqrt(norm.squares.sum(0) / x.shape[1] + norm.eps)[:, None]
    if bias is not None:
        y = y + bias.to(wide)
    if kind == RESIDUAL:
        assert residual is not None
        y = residual.to(wide) + y
    if kind == SWIGLU:
        gate, up = y.chunk(2, -1)
        y = F.silu(gate) * up
    if kind == ROPE:
        assert heads is not None
        return _place_heads(y, heads, x.dtype)
    return y.to(x.dtype)


def _place_heads(y: Tensor, heads: Heads, dtype: torch.dtype) -> Tensor:
    shared, _, width = heads.keys.shape
    q, k, v = y.unflatten(-1, (-1, width)).split([heads.queries, shared, shared], 1)  # (M, H, D) each
    if heads.norm is not None:
        q, k = (
            h * torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + heads.eps) * w.to(h.dtype)
            for h, w in ((q, heads.norm[0]), (k, heads.norm[1]))
        )
    cos, sin = heads.cos[heads.place.long()][:, None], heads.sin[heads.place.long()][:, None]

    def turn(h: Tensor) -> Tensor:
        low, high = h.chunk(2, -1)
        return torch.cat((low * cos - high * sin, high * cos + low * sin), -1)

    heads.keys[:, heads.slot.long()] = turn(k).transpose(0, 1).to(heads.keys.dtype)
    heads.values[:, heads.slot.long()] = v.transpose(0, 1).to(heads.values.dtype)
    return turn(q).to(dtype)


def skinny(
    x: Tensor, weight: Tensor, kind: int, tile: Tile, out: Tensor, room: Workspace, *, bias: Tensor | None = None,
    residual: Tensor | None = None, norm: Norm | None = None, heads: Heads | None = None,
    squares: Tensor | None = None, overlap: bool = False, compile_only: bool = False,
) -> None:  # fmt: skip
    """The products by the kernel: x (M, K) and weight (N, K) contiguous; the result goes to `out`.

    Args:
        out: (M, N), for SWIGLU (M, N / 2), for ROPE (M, Hq, D).
        squares: (N / tile.columns, M) fp32, of RESIDUAL: where the squares of y go.

    Raises:
        TileError: the tile cuts what has to stay in one program.
    """
    (m, k), n = x.shape, weight.shape[0]
    paired = kind in (SWIGLU, ROPE)
    half = heads.keys.shape[-1] // 2 if heads is not None else n // 2 if paired else 0
    if heads is not None and (half % tile.columns or heads.norm is not None and half != tile.columns):
        least = "a divisor of half a head" if heads.norm is None else "half a head, whose norm needs the whole"
        raise TileError(f"{tile.columns} columns for heads of {2 * half}: give {least}")
    held, tiles = tile.held or rows_per_program(m), ceil_div(n, tile.columns * (2 if paired else 1))
    per = ceil_div(ceil_div(k, tile.inner), tile.split) * tile.inner
    split = ceil_div(k, per)  # no part is empty
    partial = len(norm.squares) if norm is not None else 0
    more: dict[str, Any] = {} if INTERPRETED else {"num_warps": tile.warps, "num_stages": tile.stages}
    if overlap:
        more["launch_pdl"] = True
    _skinny.run(
        x, weight, out, bias if bias is not None else x, residual if residual is not None else x,
        norm.squares if norm is not None else x, squares if squares is not None else x,
        heads.cos if heads else x, heads.sin if heads else x, heads.place if heads else x, heads.slot if heads else x,
        heads.keys if heads else x, heads.values if heads else x,
        heads.norm if heads and heads.norm is not None else x,
        room.parts, room.done,
        m, heads.keys.stride(0) if heads else 0,
        partial, N=n, K=k, BM=held, BN=tile.columns, BK=tile.inner,
        SPLIT=split, PER=per, HALF=half, KIND=kind,
        NORM=norm is not None, EPS=norm.eps if norm is not None else 0.0, BIAS=bias is not None,
        HQ=heads.queries if heads else 0, HKV=heads.keys.shape[0] if heads else 0,
        HEAD_NORM=heads is not None and heads.norm is not None, HEAD_EPS=heads.eps if heads else 0.0,
        AHEAD=tile.ahead, OVERLAP=overlap, grid=(tiles, split, ceil_div(m, held)), warmup=compile_only, **more,
    )  # fmt: skip


def ceil_div(a: int, b: int) -> int:
    """a / b, rounded up."""
    return -(-a // b)


if triton is not None:

    @triton.jit
    def _ask(w_ptr, cols, k0, K: tl.constexpr, N: tl.constexpr, BK: tl.constexpr, LINE: tl.constexpr):
        """Ask the L2 cache for the lines of a weight tile, and do not wait."""
        at = w_ptr + tl.minimum(cols, N - 1)[:, None].to(tl.int64) * K + (k0 + tl.arange(0, BK // LINE) * LINE)[None, :]
        tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32,
                                  is_pure=False, pack=1)  # fmt: skip

    @triton.jit
    def _sum_parts(base, at, SPLIT: tl.constexpr, STEP: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr):
        total = tl.zeros((BM, BN), tl.float32)
        for s in range(0, SPLIT):
            total += tl.load(base + s * STEP + at, cache_modifier=".cg")
        return total

    @triton.jit(do_not_specialize=["M", "T"])  # else a kernel would be compiled for one row alone
    def _skinny(
        x_ptr, w_ptr, out_ptr, bias_ptr, residual_ptr, squares_ptr, squares_out_ptr,
        cos_ptr, sin_ptr, place_ptr, slot_ptr, keys_ptr, values_ptr, head_norm_ptr, parts_ptr, done_ptr,
        M, head_stride, T, N: tl.constexpr, K: tl.constexpr,
        BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, SPLIT: tl.constexpr,
        PER: tl.constexpr, HALF: tl.constexpr, KIND: tl.constexpr, NORM: tl.constexpr, EPS: tl.constexpr,
        BIAS: tl.constexpr, HQ: tl.constexpr, HKV: tl.constexpr, HEAD_NORM: tl.constexpr, HEAD_EPS: tl.constexpr,
        AHEAD: tl.constexpr, OVERLAP: tl.constexpr,
    ):  # fmt: skip
        """One tile of outputs, one part of the inner dimension, BM rows; kinds 2 and 3 hold a second tile HALF away."""
        tile, part, band = tl.program_id(0), tl.program_id(1), tl.program_id(2)
        PAIRED: tl.constexpr = KIND >= 2
        rows = band * BM + tl.arange(0, BM)
        inner = tl.arange(0, BK)
        if KIND == 3:
            low = tile // (HALF // BN) * (2 * HALF) + tile % (HALF // BN) * BN + tl.arange(0, BN)
        else:
            low = tile * BN + tl.arange(0, BN)
        end: tl.constexpr = HALF if KIND == 2 else N
        real, live = rows < M, low < end
        begin = part * PER
        if OVERLAP:
            for i in tl.static_range(AHEAD):
                if begin + (i + 1) * BK <= K:
                    _ask(w_ptr, low, begin + i * BK, K, N, BK, 64)
                    if PAIRED:
                        _ask(w_ptr, low + HALF, begin + i * BK, K, N, BK, 64)
            gdc_wait()
            gdc_launch_dependents()
        # what the end needs is asked for before the loop, and is there when it ends
        if NORM:
            total = tl.zeros((BM,), tl.float32)
            for first in range(0, T, 64):
                t = first + tl.arange(0, 64)
                there = (t < T)[:, None] & real[None, :]
                total += tl.sum(tl.load(squares_ptr + t[:, None] * M + rows[None, :], mask=there, other=0.0), 0)
            scale = 1.0 / tl.sqrt(total / K + EPS)
        if BIAS:
            bias = tl.load(bias_ptr + low, mask=live, other=0.0).to(tl.float32)
            if PAIRED:
                other_bias = tl.load(bias_ptr + low + HALF, mask=live, other=0.0).to(tl.float32)
        whole = real[:, None] & live[None, :]
        if KIND == 1:
            there = rows[:, None] * N + low[None, :]
            residual = tl.load(residual_ptr + there, mask=whole, other=0.0)
        if KIND == 3:
            D: tl.constexpr = 2 * HALF
            head = tile // (HALF // BN)
            inside = tile % (HALF // BN) * BN + tl.arange(0, BN)  # in the half
            angle = tl.load(place_ptr + rows, mask=real, other=0)[:, None] * HALF + inside[None, :]
            cos = tl.load(cos_ptr + angle)
            sin = tl.load(sin_ptr + angle)
            slot = tl.load(slot_ptr + rows, mask=real, other=0)
        x_at = x_ptr + rows[:, None] * K + inner[None, :]
        w_at = w_ptr + low[None, :].to(tl.int64) * K + inner[:, None]
        acc = tl.zeros((BM, BN), tl.float32)
        other = tl.zeros((BM, BN), tl.float32)
        for i in range(0, PER // BK):
            k0 = begin + i * BK
            if K % PER == 0:
                x = tl.load(x_at + k0, mask=real[:, None], other=0.0)
                w = tl.load(w_at + k0, mask=live[None, :], other=0.0, eviction_policy="evict_first")
            else:
                filled = k0 + inner < K
                x = tl.load(x_at + k0, mask=real[:, None] & filled[None, :], other=0.0)
                w = tl.load(w_at + k0, mask=live[None, :] & filled[:, None], other=0.0)
            acc = tl.dot(x, w, acc, input_precision="ieee")
            if PAIRED:
                if K % PER == 0:
                    w = tl.load(w_at + k0 + HALF * K, mask=live[None, :], other=0.0, eviction_policy="evict_first")
                else:
                    w = tl.load(w_at + k0 + HALF * K, mask=live[None, :] & (k0 + inner < K)[:, None], other=0.0)
                other = tl.dot(x, w, other, input_precision="ieee")
        if SPLIT > 1:
            number = band * tl.num_programs(0) + tile
            STEP: tl.constexpr = BM * BN * (2 if PAIRED else 1)
            base = parts_ptr + number.to(tl.int64) * SPLIT * STEP
            at = tl.arange(0, BM)[:, None] * BN + tl.arange(0, BN)[None, :]
            tl.store(base + part * STEP + at, acc)
            if PAIRED:
                tl.store(base + part * STEP + BM * BN + at, other)
            tl.debug_barrier()  # all of this program's parts are written before it says so
            if tl.atomic_add(done_ptr + number, 1, sem="acq_rel") != SPLIT - 1:
                return
            acc = _sum_parts(base, at, SPLIT, STEP, BM, BN)
            if PAIRED:
                other = _sum_parts(base + BM * BN, at, SPLIT, STEP, BM, BN)
            tl.store(done_ptr + number, 0)
        if NORM:
            acc = acc * scale[:, None]
            if PAIRED:
                other = other * scale[:, None]
        if BIAS:
            acc += bias[None, :]
            if PAIRED:
                other += other_bias[None, :]
        kind = out_ptr.dtype.element_ty
        if KIND == 0:
            tl.store(out_ptr + rows[:, None].to(tl.int64) * N + low[None, :], acc.to(kind), mask=whole)
        if KIND == 1:
            acc += residual.to(tl.float32)
            kept = acc.to(kind)
            tl.store(out_ptr + there, kept, mask=whole)
            kept = kept.to(tl.float32)
            tl.store(squares_out_ptr + tile * M + rows, tl.sum(kept * kept, 1), mask=real)
        if KIND == 2:
            y = acc / (1.0 + tl.exp(-acc)) * other
            tl.store(out_ptr + rows[:, None] * HALF + low[None, :], y.to(kind), mask=whole)
        if KIND == 3:
            if head < HQ + HKV:
                if HEAD_NORM:  # BN is HALF: the whole head is here
                    mean = (tl.sum(acc * acc, 1) + tl.sum(other * other, 1)) / D
                    factor = (1.0 / tl.sqrt(mean + HEAD_EPS))[:, None]
                    weight = head_norm_ptr + (head >= HQ) * D + inside
                    acc = acc * factor * tl.load(weight).to(tl.float32)[None, :]
                    other = other * factor * tl.load(weight + HALF).to(tl.float32)[None, :]
                turned = acc * cos - other * sin
                other = other * cos + acc * sin
                acc = turned
            if head < HQ:
                q_at = out_ptr + (rows[:, None] * HQ + head) * D + inside[None, :]
                tl.store(q_at, acc.to(kind), mask=whole)
                tl.store(q_at + HALF, other.to(kind), mask=whole)
            else:
                kv_at = slot[:, None].to(tl.int64) * D + inside[None, :]
                if head < HQ + HKV:
                    k_at = keys_ptr + (head - HQ) * head_stride + kv_at
                    tl.store(k_at, acc.to(kind), mask=whole)
                    tl.store(k_at + HALF, other.to(kind), mask=whole)
                else:
                    v_at = values_ptr + (head - HQ - HKV) * head_stride + kv_at
                    tl.store(v_at, acc.to(kind), mask=whole)
                    tl.store(v_at + HALF, other.to(kind), mask=whole)
