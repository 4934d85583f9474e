"""Attention of a block of rows to one long shared prefix and to a short tail that each row sees in its own way.

At batch 1 there is one prefix, and few K/V heads (2 in the 3B planner): a program per head would leave most of the GPU
idle.  So all rows and all query heads of a K/V head are folded into one matrix, the prefix is read once for them, and
its length is split over programs; what each finds is merged by log-sum-exp (FlashDecoding).  Who sees whom in the tail
is data, a mask of bytes: causal, bidirectional, forks of a fused verify-and-draft forward and the private tails of N
rollouts are all the same launch, and the same captured graph.

    out_r = softmax(q_r K^T / sqrt(D)) V   over the keys [0, start) and those of [start, start + T) that mask[r] has

Floor, 3B shape, prefix 2,048, per layer: K and V 2.1 MB, 0.7 us at 3.0 TB/s; 32 rows: 0.54 GFLOP, 1 us.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficientgen.kernels.skinny import INTERPRETED

try:
    import triton
    import triton.language as tl
    from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait
except ImportError:  # installations without a GPU: the reference runs alone
    triton = None


def attend_reference(q: Tensor, keys: Tensor, values: Tensor, start: Tensor, mask: Tensor) -> Tensor:
    """q (R, H, D), keys and values (Hkv, S, D), start (1,) int32, mask (R, T) of bytes -> (R, H D)."""
    wide = torch.promote_types(q.dtype, torch.float32)
    rows, heads, width = q.shape
    begin, tail = int(start), mask.shape[1]
    k, v = (x[:, : begin + tail].to(wide).repeat_interleave(heads // len(keys), 0) for x in (keys, values))
    scores = torch.einsum("rhd,hsd->hrs", q.to(wide), k) * width**-0.5
    seen = torch.cat([mask.new_ones(rows, begin), mask], 1).bool()
    weights = scores.masked_fill(~seen, -torch.inf).softmax(-1)
    return torch.einsum("hrs,hsd->rhd", weights, v).reshape(rows, -1).to(q.dtype)


CHUNKS = (64, 96, 128, 192, 256, 384, 512, 768, 1024)  # keys of a program that are tried
LOG2_E = 1.4426950408889634


class Partials:
    """Room for what the splits find: `parts` (splits, R, H, D) and their log-sum-exps, fp32."""

    def __init__(self, splits: int, rows: int, heads: int, width: int, device: torch.device):
        self.parts = torch.empty(splits, rows, heads, width, dtype=torch.float32, device=device)
        self.sums = torch.empty(splits, rows, heads, dtype=torch.float32, device=device)


def chunk_of(context: int, rows: int, heads: int, shared: int, programs: int = 160) -> tuple[int, int]:
    """Keys of a split and folded rows of a program, so that about `programs` of them share the work."""
    folded = rows * heads // shared
    held = 16 if folded <= 16 else 32 if folded <= 32 else 64 if folded <= 1024 else 128
    others = -(-folded // held) * shared
    splits = max(1, min(64, -(-programs // others)))
    chunk = -(-context // splits)
    return max(32, -(-chunk // 64) * 64), held


def ways(context: int, rows: int, heads: int, shared: int) -> list[tuple[int, int, int]]:
    """(chunk, held, warps) that are worth a measurement; a kernel is compiled for each pair of the last two only."""
    folded, out = rows * heads // shared, list[tuple[int, int, int]]()
    for held in (16, 32, 64, 128):
        for chunk in CHUNKS:
            splits = -(-context // chunk)
            programs = -(-folded // held) * shared * splits
            if held < 2 * max(16, folded) and 30 <= programs <= 700 and splits <= 64:
                out += [
                    (chunk, held, warps) for warps in (4, 8) if warps == 4 and held < 128 or warps == 8 and held > 32
                ]
    return out or [(*chunk_of(context, rows, heads, shared), 0)]


def attend(
    q: Tensor, keys: Tensor, values: Tensor, start: Tensor, mask: Tensor, room: Partials, out: Tensor, chunk: int,
    held: int, warps: int = 0, *, overlap: bool = False, compile_only: bool = False,
) -> None:  # fmt: skip
    """The same by the kernels; `room` has as many splits as `chunk` needs for the longest prefix (`chunk_of`)."""
    rows, heads, width = q.shape
    shared, splits = len(keys), len(room.parts)
    tail = mask.shape[1]
    more: dict[str, Any] = {"launch_pdl": True} if overlap else {}
    first = {} if INTERPRETED else {"num_warps": warps or (4 if held < 128 else 8), "num_stages": 2}
    step = 64 if q.element_size() < 4 else 32  # no tile of these spills registers at D 128
    wide = triton.next_power_of_2(width)
    _attend_split.run(
        q, keys, values, start, mask, room.parts, room.sums, rows, tail, keys.stride(0), chunk,
        H=heads, G=heads // shared, D=width, BD=wide, BM=held, BN=step, BT=32, SCALE=width**-0.5 * LOG2_E,
        OVERLAP=overlap, grid=(triton.cdiv(rows * heads // shared, held), shared, splits), warmup=compile_only,
        **first, **more,
    )  # fmt: skip
    _merge.run(
        room.parts, room.sums, out, rows * heads, splits, D=width, BD=wide, BS=triton.next_power_of_2(splits),
        OVERLAP=overlap, grid=(rows * heads,), warmup=compile_only, **({} if INTERPRETED else {"num_warps": 2}), **more,
    )  # fmt: skip


if triton is not None:

    @triton.jit
    def _ask(at):
        """Ask the L2 cache for the lines at `at`, and do not wait."""
        tl.inline_asm_elementwise("prefetch.global.L2 [$1]; mov.u32 $0, 0;", "=r,l", [at], dtype=tl.int32,
                                  is_pure=False, pack=1)  # fmt: skip

    @triton.jit
    def _keys_and_values(keys, values, key, width, D: tl.constexpr, BD: tl.constexpr):
        if BD == D:  # without masks: fewer registers
            k = tl.load(keys + key[None, :] * D + width[:, None])
            v = tl.load(values + key[:, None] * D + width[None, :])
        else:
            k = tl.load(keys + key[None, :] * D + width[:, None], mask=(width < D)[:, None], other=0.0)
            v = tl.load(values + key[:, None] * D + width[None, :], mask=(width < D)[None, :], other=0.0)
        return k, v

    @triton.jit
    def _take(scores, v, best, total, acc):
        """One step of the online softmax."""
        new = tl.maximum(best, tl.max(scores, 1))
        safe = tl.where(new == float("-inf"), 0.0, new)
        weights = tl.exp2(scores - safe[:, None])
        fade = tl.exp2(best - safe)
        total = total * fade + tl.sum(weights, 1)
        acc = tl.dot(weights.to(v.dtype), v, acc * fade[:, None], input_precision="ieee")
        return new, total, acc

    @triton.jit(do_not_specialize=["R"])
    def _attend_split(
        q_ptr, keys_ptr, values_ptr, start_ptr, mask_ptr, parts_ptr, sums_ptr, R, T, head_stride,
        CHUNK, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BM: tl.constexpr,
        BN: tl.constexpr, BT: tl.constexpr, SCALE: tl.constexpr, OVERLAP: tl.constexpr,
    ):  # fmt: skip
        """BM folded rows (row, head of the group) of one K/V head against CHUNK keys."""
        shared, split = tl.program_id(1), tl.program_id(2)
        start = tl.load(start_ptr)
        low = split * CHUNK
        high = min(low + CHUNK, start + T)
        width = tl.arange(0, BD)
        plane = shared.to(tl.int64) * head_stride
        if OVERLAP:
            # the prefix was written by earlier forwards: ask for it while the kernel in front still runs
            if tl.program_id(0) == 0:
                for i in range(0, tl.cdiv(min(high, start) - low, BN)):
                    line = tl.minimum(low + i * BN + tl.arange(0, BN), start - 1)[:, None] * D
                    line += tl.arange(0, 2)[None, :] * (D // 2)
                    _ask(keys_ptr + plane + line)
                    _ask(values_ptr + plane + line)
            gdc_wait()
            gdc_launch_dependents()
        folded = tl.program_id(0) * BM + tl.arange(0, BM)
        row, head = folded // G, shared * G + folded % G
        real = row < R
        at = (row * H + head) * D
        sums_at = sums_ptr + (split * R + row) * H + head
        if low >= high:
            tl.store(sums_at, tl.full((BM,), float("-inf"), tl.float32), mask=real)
            return
        if BD == D:
            q = tl.load(q_ptr + at[:, None] + width[None, :], mask=real[:, None], other=0.0)
        else:
            q = tl.load(q_ptr + at[:, None] + width[None, :], mask=real[:, None] & (width < D)[None, :], other=0.0)
        best = tl.full((BM,), float("-inf"), tl.float32)
        total = tl.zeros((BM,), tl.float32)
        acc = tl.zeros((BM, BD), tl.float32)
        whole = tl.maximum(min(high, start) - low, 0) // BN
        for i in range(0, whole):
            key = low + i * BN + tl.arange(0, BN)
            k, v = _keys_and_values(keys_ptr + plane, values_ptr + plane, key, width, D, BD)
            scores = tl.dot(q, k, input_precision="ieee") * SCALE
            best, total, acc = _take(scores, v, best, total, acc)
        for i in range(0, tl.cdiv(high - low - whole * BN, BT)):  # reaches into the tail
            key = low + whole * BN + i * BT + tl.arange(0, BT)
            held, tail = key < high, key - start
            near = held & (tail >= 0)
            seen = tl.load(mask_ptr + row[:, None] * T + tail[None, :], mask=real[:, None] & near[None, :], other=0)
            seen = (held & (tail < 0))[None, :] | (seen != 0)
            if tl.max(tl.max(seen.to(tl.int32), 1), 0) > 0:  # the tails of other rollouts are passed over
                there = tl.minimum(key, high - 1)  # what lies behind is read once more and weighs nothing
                k, v = _keys_and_values(keys_ptr + plane, values_ptr + plane, there, width, D, BD)
                scores = tl.where(seen, tl.dot(q, k, input_precision="ieee") * SCALE, float("-inf"))
                best, total, acc = _take(scores, v, best, total, acc)
        some = total > 0.0
        acc = acc / tl.where(some, total, 1.0)[:, None]
        parts_at = (split.to(tl.int64) * R * H) * D + at
        tl.store(parts_ptr + parts_at[:, None] + width[None, :], acc, mask=real[:, None] & (width < D)[None, :])
        tl.store(sums_at, tl.where(some, best + tl.log2(tl.where(some, total, 1.0)), float("-inf")), mask=real)

    @triton.jit(do_not_specialize=["rows", "splits"])
    def _merge(
        parts_ptr, sums_ptr, out_ptr, rows, splits,
        D: tl.constexpr, BD: tl.constexpr, BS: tl.constexpr, OVERLAP: tl.constexpr,
    ):  # fmt: skip
        """One row and head: the splits' outputs, weighted by their share of the softmax."""
        if OVERLAP:
            gdc_wait()
            gdc_launch_dependents()
        row = tl.program_id(0)
        split, width = tl.arange(0, BS), tl.arange(0, BD)
        sums = tl.load(sums_ptr + split * rows + row, mask=split < splits, other=float("-inf"))
        weights = tl.exp2(sums - tl.max(sums, 0))
        weights = weights / tl.sum(weights, 0)
        some = (sums > float("-inf"))[:, None] & (width < D)[None, :]
        at = (split.to(tl.int64) * rows + row)[:, None] * D + width[None, :]
        parts = tl.load(parts_ptr + at, mask=some, other=0.0)
        out = tl.sum(parts * weights[:, None], 0)
        tl.store(out_ptr + row.to(tl.int64) * D + width, out.to(out_ptr.dtype.element_ty), mask=width < D)
