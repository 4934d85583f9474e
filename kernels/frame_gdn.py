"""The frame-wise gated delta rule of SANA-WM (arXiv 2605.15178) with carried state: reference, kernel, floor, tuning.

All S tokens of a frame write to the state at once, so a frame is one rank-S update and not S rank-1 updates: token-wise
delta-rule kernels compute another function.  With g the frame's decay and K, V (D, S), per head:

    N_t = g_t N_{t-1} (I - K b K^T) + V b K^T          numerator, D x D
    z_t = g_t (I - K0 b K0^T) z_{t-1} + K0 b 1         denominator, D, from keys without rotation
    out_t = (N_t + M_t) q / ((z_t + y_t)^T q0 + eps)

M_t and y_t are the same recurrences from the end of t's chunk backwards, of the frames after t only: within a chunk
every frame sees every other.  Without (q0, K0) there is no denominator (the camera branch).  Across chunks only N and z
are carried, so a stream costs the same at every frame.

Floor at the 720p shape (S 880, D 112, H 20, T 3, fp32 in and out), main branch: q, k, v, q0, k0 read once and out
written once, 6 * 23.7 MB = 142 MB, 42 us at 3.35 TB/s; transitions and states 5 * 3.0 MB more, mostly in L2.
Arithmetic: 4 products of 2 S D^2 and the scan's 4 D^3 per frame and head, 6.0 GFLOP, three times that in TF32 parts
that add up to fp32, 45 us at 400 TFLOP/s: as long as the memory takes.  Three passes: transitions per frame (parallel),
the scan in both directions (serial in T, parallel over the rows of N), one read-out of the summed states, where a scan
per direction would read out twice.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import lru_cache
from itertools import accumulate
from typing import Any

import torch
from torch import Tensor

try:
    import triton
    import triton.language as tl
except ImportError:  # installations without a GPU: the reference runs alone
    triton = None

EPS = 1e-8
REFERENCE_ONLY = os.environ.get("EFFICIENTGEN_KERNELS") == "reference"  # for runs too short to compile


@dataclass(frozen=True)
class GDNState:
    """What a stream carries from frame to frame: `numerator` (B, H, D, D) values by keys, `denominator` (B, H, D)."""

    numerator: Tensor
    denominator: Tensor | None = None


def frame_gdn(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    *,
    mass: tuple[Tensor, Tensor] | None = None,
    state: GDNState | None = None,
    chunks: tuple[int, ...] = (),
) -> tuple[Tensor, GDNState]:
    """The rule above by the kernel where there is one (CUDA, no gradients), else by the reference.

    Args:
        q, k, v: (B, T, S, H, D); keys scaled and, where they are, rotated.
        beta: (B, T, S, H) in (0, 1).
        decay: (B, T, H) in (0, 1).
        mass: q0 and k0, shaped like q and k, of the denominator.
        state: after the frame before the first; None: nothing was seen yet.
        chunks: lengths that add up to T; (): one chunk.

    Returns:
        Attention output (B, T, S, H, D) in the state's dtype (fp32, or fp64 for fp64 input), and the state after T.
    """
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v, beta, decay))
    kernel = q.is_cuda and triton is not None and q.dtype != torch.float64 and not learns and not REFERENCE_ONLY
    rule = frame_gdn_triton if kernel else frame_gdn_reference
    with torch.autocast(q.device.type, enabled=False):  # recurrences add up in fp32 whatever surrounds them
        return rule(q, k, v, beta, decay, mass=mass, state=state, chunks=chunks)


def frame_gdn_reference(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    *,
    mass: tuple[Tensor, Tensor] | None = None,
    state: GDNState | None = None,
    chunks: tuple[int, ...] = (),
) -> tuple[Tensor, GDNState]:
    """The rule in torch, differentiable."""
    kind = torch.promote_types(q.dtype, torch.float32)
    q, k, v, beta, decay = (x.to(kind) for x in (q, k, v, beta, decay))
    inner = _followed(q.shape[1], chunks)
    weighted = (k * beta[..., None]).flatten(0, 1)  # (B T, S, H, D)
    write = torch.einsum("nshd,nshe->nhde", v.flatten(0, 1), weighted).unflatten(0, q.shape[:2])  # (B, T, H, D, D)
    keep = _keep(k, beta, decay)
    first = None if state is None else state.numerator
    states, last = _scan(keep, write, first, inner)
    out = torch.einsum("bthde,btshe->btshd", states, q)
    if mass is None:
        return out, GDNState(last)
    q0, k0 = (x.to(kind) for x in mass)
    write = torch.einsum("btshd,btsh->bthd", k0, beta)[..., None, :]  # (B, T, H, 1, D): a numerator of one row
    first = None if state is None or state.denominator is None else state.denominator[..., None, :]
    masses, last_mass = _scan(_keep(k0, beta, decay), write, first, inner)
    weight = torch.einsum("bthd,btshd->btsh", masses[..., 0, :], q0)
    return out / (weight[..., None] + EPS), GDNState(last, last_mass[..., 0, :])


def _keep(k: Tensor, beta: Tensor, decay: Tensor) -> Tensor:
    """g (I - K b K^T), (B, T, H, D, D), symmetric."""
    erase = torch.einsum("btshd,btshe->bthde", k * beta[..., None], k)
    return decay[..., None, None] * (torch.eye(k.shape[-1], dtype=k.dtype, device=k.device) - erase)


def _scan(keep: Tensor, write: Tensor, first: Tensor | None, inner: list[bool]) -> tuple[Tensor, Tensor]:
    """States of both directions summed (B, T, H, R, D), and the forward one after the last frame (B, H, R, D).

    Frames are taken apart once, so that a frame is one batched product forwards, and backwards no gradient of the whole
    sequence is made per frame.
    """
    rows, frames = write.shape[0], range(write.shape[1])
    keeps, writes = (x.transpose(0, 1).flatten(1, 2).unbind(0) for x in (keep, write))  # T of (B H, D or R, D)
    state = writes[0] if first is None else torch.baddbmm(writes[0], first.to(write.dtype).flatten(0, 1), keeps[0])
    forward = [state]
    for t in frames[1:]:
        state = torch.baddbmm(writes[t], state, keeps[t])
        forward.append(state)
    both = torch.stack(forward)
    if any(inner):
        nothing = torch.zeros_like(state)
        later, backward = nothing, [nothing] * len(frames)
        for t in reversed(frames[:-1]):
            later = torch.baddbmm(writes[t + 1], later, keeps[t + 1]) if inner[t] else nothing
            backward[t] = later
        both = both + torch.stack(backward)
    return both.unflatten(1, (rows, -1)).transpose(0, 1), state.unflatten(0, (rows, -1))


def _followed(frames: int, chunks: tuple[int, ...]) -> list[bool]:
    """Per frame: is the next one in the same chunk?"""
    if sum(chunks or (frames,)) != frames or any(n < 1 for n in chunks):
        raise ValueError(f"chunks {chunks} do not add up to {frames} frames")
    ends = {end - 1 for end in accumulate(chunks or (frames,))}
    return [t not in ends for t in range(frames)]


@lru_cache(maxsize=64)
def _edges(frames: int, chunks: tuple[int, ...], device: torch.device) -> Tensor:
    """`_followed` as ones and zeros on the device, kept so that a captured graph copies nothing from the host."""
    return torch.tensor(_followed(frames, chunks), dtype=torch.float32, device=device)


def frame_gdn_triton(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    beta: Tensor,
    decay: Tensor,
    *,
    mass: tuple[Tensor, Tensor] | None = None,
    state: GDNState | None = None,
    chunks: tuple[int, ...] = (),
) -> tuple[Tensor, GDNState]:
    """The rule by the kernels below: fp32 sums of any input dtype; no gradients."""
    b, t, s, h, d = q.shape
    q, k, v, beta = (x.contiguous() for x in (q, k, v, beta))
    decay = decay.float().contiguous()
    inner = _edges(t, chunks, q.device)

    def empty(*shape: int) -> Tensor:
        return torch.empty(shape, dtype=torch.float32, device=q.device)

    def start(given: Tensor | None, *shape: int) -> Tensor:
        if given is None:
            return torch.zeros(shape, dtype=torch.float32, device=q.device)
        return given.float().contiguous()

    block = max(16, triton.next_power_of_2(d))
    sizes = {"T": t, "S": s, "H": h, "D": d, "BD": block}
    keep, write, states, last = empty(b, t, h, d, d), empty(b, t, h, d, d), empty(b, t, h, d, d), empty(b, h, d, d)
    _launch(_transitions, lambda m: (b * t * h, triton.cdiv(d, m["BN"])), TRANSITIONS, k, v, beta, decay, keep, write,
            **sizes, VALUES=True)  # fmt: skip
    _launch(_scan_rows, lambda m: (b * h, triton.cdiv(d, m["BR"])), SCAN, keep, write,
            start(None if state is None else state.numerator, b, h, d, d), inner, states, last,
            T=t, H=h, D=d, BD=block)  # fmt: skip
    out, q0, masses, last_mass = empty(b, t, s, h, d), q, states, None
    if mass is not None:
        q0, k0 = (x.contiguous() for x in mass)
        keep0, write0, masses, last_mass = empty(b, t, h, d, d), empty(b, t, h, d), empty(b, t, h, d), empty(b, h, d)
        _launch(_transitions, lambda m: (b * t * h, triton.cdiv(d, m["BN"])), TRANSITIONS, k0, k0, beta, decay, keep0,
                write0, **sizes, VALUES=False)  # fmt: skip
        _scan_mass[(b * h,)](keep0, write0, start(None if state is None else state.denominator, b, h, d), inner,
                             masses, last_mass, T=t, H=h, D=d, BD=block)  # fmt: skip
    _launch(_read_out, lambda m: (b * t * h, triton.cdiv(s, m["BS"])), READ_OUT, q, q0, states, masses, out,
            **sizes, EPSILON=EPS, MASS=mass is not None)  # fmt: skip
    return out, GDNState(last, last_mass)


# Tiles, warps and pipeline stages to choose from by measurement, per shape; the interpreter takes the first tile.  None
# of them spills registers at D 112 on sm_90 (tests/kernels/compiled.py asks the assembler).
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
Tiles = list[tuple[dict[str, int], int, int]]
TRANSITIONS: Tiles = [({"BN": n, "BS": s}, 8, 3) for n, s in ((32, 32), (32, 64), (64, 32), (64, 64))]
SCAN: Tiles = [({"BR": 16}, 8, 1)]
READ_OUT: Tiles = [({"BS": s}, warps, 1) for s, warps in ((32, 8), (64, 8), (32, 4))]


def _launch(kernel: Any, grid: Any, tiles: Tiles, *tensors: Tensor, **sizes: Any) -> None:
    """Run an autotuned kernel, or its first tile size under the interpreter, which has no clock to tune by."""
    if INTERPRETED:
        kernel[grid(tiles[0][0])](*tensors, **sizes, **tiles[0][0])
    else:
        kernel[grid](*tensors, **sizes)


if triton is not None:
    PART = tl.constexpr(tl.float32 if INTERPRETED else tl.bfloat16)  # the interpreter cannot multiply bf16

    def _tuned(tiles: Tiles, key: list[str]) -> Any:
        configs = [triton.Config(tile, num_warps=warps, num_stages=stages) for tile, warps, stages in tiles]
        return (lambda kernel: kernel) if INTERPRETED else triton.autotune(configs, key=key)

    @triton.jit
    def _add_product(out, left, right):
        """out + left right as in fp32: a bf16 left is whole in one part, so right's three parts are three products."""
        if left.dtype == tl.bfloat16:
            first = right.to(tl.bfloat16)
            rest = right - first.to(tl.float32)
            second = rest.to(tl.bfloat16)
            third = (rest - second.to(tl.float32)).to(tl.bfloat16)
            left = left.to(PART)
            out = tl.dot(left, third.to(PART), out)
            out = tl.dot(left, second.to(PART), out)
            return tl.dot(left, first.to(PART), out)
        return tl.dot(left.to(tl.float32), right, out, input_precision="tf32x3")

    @_tuned(TRANSITIONS, ["T", "S", "H", "D"])
    @triton.jit
    def _transitions(
        k_ptr, v_ptr, beta_ptr, decay_ptr, keep_ptr, write_ptr,
        T: tl.constexpr, S: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
        VALUES: tl.constexpr, BN: tl.constexpr, BS: tl.constexpr,
    ):  # fmt: skip
        """One frame and head, BN columns: keep = g (I - K b K^T); write = V b K^T, or K b 1 without VALUES."""
        frame = tl.program_id(0)  # (b T + t) H + h
        rows = tl.arange(0, BD)
        cols = tl.program_id(1) * BN + tl.arange(0, BN)
        inside = (rows[:, None] < D) & (cols[None, :] < D)
        token0 = (frame // H).to(tl.int64) * S
        head = frame % H
        erase = tl.zeros((BD, BN), tl.float32)
        write = tl.zeros((BD, BN), tl.float32)
        total = tl.zeros((BN,), tl.float32)
        for s0 in range(0, S, BS):
            s = s0 + tl.arange(0, BS)
            beta = tl.load(beta_ptr + (token0 + s) * H + head, mask=s < S, other=0.0).to(tl.float32)
            at = ((token0 + s) * H + head) * D
            all_of = at[:, None] + rows[None, :]
            some_of = at[:, None] + cols[None, :]
            full = (s[:, None] < S) & (rows[None, :] < D)
            k = tl.load(k_ptr + all_of, mask=full, other=0.0)
            kb = tl.load(k_ptr + some_of, mask=(s[:, None] < S) & (cols[None, :] < D), other=0.0).to(tl.float32)
            kb = kb * beta[:, None]
            erase = _add_product(erase, tl.trans(k), kb)
            if VALUES:
                write = _add_product(write, tl.trans(tl.load(v_ptr + all_of, mask=full, other=0.0)), kb)
            else:
                total += tl.sum(kb, 0)
        decay = tl.load(decay_ptr + frame)
        identity = (rows[:, None] == cols[None, :]).to(tl.float32)
        where = frame.to(tl.int64) * D * D + rows[:, None] * D + cols[None, :]
        tl.store(keep_ptr + where, decay * (identity - erase), mask=inside)
        if VALUES:
            tl.store(write_ptr + where, write, mask=inside)
        else:
            tl.store(write_ptr + frame.to(tl.int64) * D + cols, total, mask=cols < D)

    @_tuned(SCAN, ["T", "H", "D"])
    @triton.jit
    def _scan_rows(
        keep_ptr, write_ptr, first_ptr, inner_ptr, states_ptr, last_ptr,
        T: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr, BR: tl.constexpr,
    ):  # fmt: skip
        """One head, BR rows of its numerator, kept in registers over all frames, forwards and then backwards."""
        b, h = tl.program_id(0) // H, tl.program_id(0) % H
        rows = tl.program_id(1) * BR + tl.arange(0, BR)
        every, cols = tl.arange(0, BD), tl.arange(0, BD)
        mine = rows[:, None] * D + cols[None, :]
        inside = (rows[:, None] < D) & (cols[None, :] < D)
        square = every[:, None] * D + cols[None, :]
        whole = (every[:, None] < D) & (cols[None, :] < D)
        carried = tl.program_id(0).to(tl.int64) * D * D
        state = tl.load(first_ptr + carried + mine, mask=inside, other=0.0)
        for t in range(0, T):
            at = ((b * T + t) * H + h).to(tl.int64) * D * D
            keep = tl.load(keep_ptr + at + square, mask=whole, other=0.0)
            write = tl.load(write_ptr + at + mine, mask=inside, other=0.0)
            state = tl.dot(state, keep, input_precision="tf32x3") + write
            tl.store(states_ptr + at + mine, state, mask=inside)
        tl.store(last_ptr + carried + mine, state, mask=inside)
        tl.debug_barrier()  # other threads of this program may have stored what is loaded next
        later = tl.zeros((BR, BD), tl.float32)
        for i in range(0, T - 1):
            t = T - 2 - i
            at = ((b * T + t) * H + h).to(tl.int64) * D * D
            after = at + H * D * D
            keep = tl.load(keep_ptr + after + square, mask=whole, other=0.0)
            write = tl.load(write_ptr + after + mine, mask=inside, other=0.0)
            later = (tl.dot(later, keep, input_precision="tf32x3") + write) * tl.load(inner_ptr + t)
            both = tl.load(states_ptr + at + mine, mask=inside, other=0.0) + later
            tl.store(states_ptr + at + mine, both, mask=inside)

    @triton.jit
    def _scan_mass(
        keep_ptr, write_ptr, first_ptr, inner_ptr, states_ptr, last_ptr,
        T: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
    ):  # fmt: skip
        """The denominator of one head: the same scan for a single row."""
        b, h = tl.program_id(0) // H, tl.program_id(0) % H
        rows, cols = tl.arange(0, BD), tl.arange(0, BD)
        square = rows[:, None] * D + cols[None, :]
        whole = (rows[:, None] < D) & (cols[None, :] < D)
        mine = rows < D
        state = tl.load(first_ptr + tl.program_id(0) * D + rows, mask=mine, other=0.0)
        for t in range(0, T):
            at = ((b * T + t) * H + h).to(tl.int64)
            keep = tl.load(keep_ptr + at * D * D + square, mask=whole, other=0.0)
            state = tl.sum(keep * state[None, :], 1) + tl.load(write_ptr + at * D + rows, mask=mine, other=0.0)
            tl.store(states_ptr + at * D + rows, state, mask=mine)
        tl.store(last_ptr + tl.program_id(0) * D + rows, state, mask=mine)
        tl.debug_barrier()
        later = tl.zeros((BD,), tl.float32)
        for i in range(0, T - 1):
            t = T - 2 - i
            at = ((b * T + t) * H + h).to(tl.int64)
            keep = tl.load(keep_ptr + (at + H) * D * D + square, mask=whole, other=0.0)
            write = tl.load(write_ptr + (at + H) * D + rows, mask=mine, other=0.0)
            later = (tl.sum(keep * later[None, :], 1) + write) * tl.load(inner_ptr + t)
            both = tl.load(states_ptr + at * D + rows, mask=mine, other=0.0) + later
            tl.store(states_ptr + at * D + rows, both, mask=mine)

    @_tuned(READ_OUT, ["T", "S", "H", "D", "MASS"])
    @triton.jit
    def _read_out(
        q_ptr, q0_ptr, states_ptr, masses_ptr, out_ptr,
        T: tl.constexpr, S: tl.constexpr, H: tl.constexpr, D: tl.constexpr, BD: tl.constexpr,
        EPSILON: tl.constexpr, MASS: tl.constexpr, BS: tl.constexpr,
    ):  # fmt: skip
        """BS tokens of one frame and head: N q, divided by z^T q0 + eps where there is a denominator."""
        frame = tl.program_id(0)
        s = tl.program_id(1) * BS + tl.arange(0, BS)
        rows = tl.arange(0, BD)
        at = (((frame // H).to(tl.int64) * S + s) * H + frame % H) * D
        out = tl.zeros((BS, BD), tl.float32)
        weight = tl.zeros((BS,), tl.float32)
        for d0 in range(0, BD, 32):  # in parts, or the whole of N would not stay in registers
            cols = d0 + tl.arange(0, 32)
            inside = (s[:, None] < S) & (cols[None, :] < D)
            q = tl.load(q_ptr + at[:, None] + cols[None, :], mask=inside, other=0.0)
            turned = frame.to(tl.int64) * D * D + cols[:, None] + rows[None, :] * D  # N^T: (key, value)
            state = tl.load(states_ptr + turned, mask=(cols[:, None] < D) & (rows[None, :] < D), other=0.0)
            out = _add_product(out, q, state)
            if MASS:
                z = tl.load(masses_ptr + frame.to(tl.int64) * D + cols, mask=cols < D, other=0.0)
                q0 = tl.load(q0_ptr + at[:, None] + cols[None, :], mask=inside, other=0.0).to(tl.float32)
                weight += tl.sum(q0 * z[None, :], 1)
        if MASS:
            out = out / (weight + EPSILON)[:, None]
        kept = (s[:, None] < S) & (rows[None, :] < D)
        tl.store(out_ptr + at[:, None] + rows[None, :], out, mask=kept)
