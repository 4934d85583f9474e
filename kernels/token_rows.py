"""What stands between a video transformer's products (SANA-WM, arXiv 2605.15178): residuals with modulated norm, and
the feed-forward's depthwise convolution with its gates.

Floor at the 720p shape (2,640 tokens of 2,240 channels, bf16).  `add_and_norm` reads three tensors and writes two,
59 MB, 18 us at 3.35 TB/s.  `gated_depthwise` reads 2,640 tokens of 13,440 channels once and writes half as many,
106 MB, 32 us; a convolution library takes many times that for channels-last bf16, and the SiLU before and the gate
after would each be a pass of their own.  A program walks along two rows with some channels, so each input is read
twice and not nine times, and neighbouring threads read neighbouring channels.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from efficientgen.kernels.token_heads import in_kernels

try:
    import triton
    import triton.language as tl
except ImportError:  # installations without a GPU: the references run alone
    triton = None

NORM_EPS = 1e-6
MOST_ELEMENTS = 1 << 30  # convolutions count in 32 bits: more images are passed in parts
CHANNELS = 256  # of a program of the convolution


def add_and_norm(
    x: Tensor, add: Tensor | None = None, gate: Tensor | None = None, more: Tensor | None = None,
    modulation: tuple[Tensor, Tensor] | None = None,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """x + gate add + more, and its layer norm (without weights) times 1 + scale plus shift.

    Args:
        x, add, more: (B, T, S, C).
        gate: (B, T, 1, C); None: ones.
        modulation: shift and scale (B, T, 1, C); None: no norm is wanted.
    """
    if in_kernels(x):
        return _add_and_norm(x, add, gate, more, modulation)
    if add is not None:
        x = x + (add if gate is None else gate * add)
    x = x if more is None else x + more
    if modulation is None:
        return x, None
    shift, scale = modulation
    return x, F.layer_norm(x, x.shape[-1:], eps=NORM_EPS) * (1 + scale) + shift


def gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    """value silu(gate) of the halves (value, gate) of a depthwise 3x3 convolution of silu(x), edges zero.

    Args:
        x: (B, T, S, 2 F) tokens, rows of the grid one after another.
        weight: (2 F, 1, 3, 3).

    Returns:
        (B, T, S, F).
    """
    if in_kernels(x):
        return _gated_depthwise(x, weight, bias, grid)
    images = F.silu(x).flatten(0, 1).transpose(1, 2).unflatten(2, grid)  # (B T, 2 F, H, W)
    at_once = max(1, MOST_ELEMENTS // images[0].numel())
    parts = []
    for part in images.split(at_once):
        value, gate = F.conv2d(part, weight, bias, padding=1, groups=weight.shape[0]).chunk(2, 1)
        parts.append(value * F.silu(gate))
    return torch.cat(parts).flatten(2).transpose(1, 2).unflatten(0, x.shape[:2])


def _add_and_norm(
    x: Tensor, add: Tensor | None, gate: Tensor | None, more: Tensor | None, modulation: tuple[Tensor, Tensor] | None
) -> tuple[Tensor, Tensor | None]:
    b, t, s, c = x.shape
    x = x.contiguous()
    add, more = (None if y is None else y.contiguous() for y in (add, more))
    changed = add is not None or more is not None
    out = torch.empty_like(x) if changed else x
    normed = torch.empty_like(x) if modulation is not None else None
    per_frame = [y for y in (gate, *(modulation or ())) if y is not None]
    step = per_frame[0].stride(1) if per_frame else c
    even = all(y.stride() == per_frame[0].stride() and y.stride(-1) == 1 for y in per_frame)
    if not even or (b > 1 and per_frame and per_frame[0].stride(0) != t * step):
        gate = None if gate is None else gate.contiguous()
        modulation = None if modulation is None else (modulation[0].contiguous(), modulation[1].contiguous())
        step = c
    shift, scale = modulation if modulation is not None else (x, x)
    _row_kernel[(b * t * s,)](
        x, x if add is None else add, x if gate is None else gate, x if more is None else more, shift, scale, out,
        out if normed is None else normed, s, step, C=c, BC=triton.next_power_of_2(c), EPSILON=NORM_EPS,
        ADD=add is not None, GATE=gate is not None, MORE=more is not None, NORM=normed is not None, num_warps=8,
    )  # fmt: skip
    return out, normed


def _gated_depthwise(x: Tensor, weight: Tensor, bias: Tensor, grid: tuple[int, int]) -> Tensor:
    b, t, s, c = x.shape
    height, width = grid
    half = c // 2
    out = torch.empty(b, t, s, half, dtype=x.dtype, device=x.device)
    taps = weight.flatten(1).t().contiguous()  # (9, 2 F): neighbouring channels side by side
    _depthwise_kernel[(b * t, triton.cdiv(height, 2), triton.cdiv(half, CHANNELS))](
        x.contiguous(), taps, bias, out, F=half, H=height, W=width, BC=CHANNELS, num_warps=4,
    )  # fmt: skip
    return out


if triton is not None:

    @triton.jit
    def _row_kernel(
        x_ptr, add_ptr, gate_ptr, more_ptr, shift_ptr, scale_ptr, out_ptr, normed_ptr, tokens, step,
        C: tl.constexpr, BC: tl.constexpr, EPSILON: tl.constexpr,
        ADD: tl.constexpr, GATE: tl.constexpr, MORE: tl.constexpr, NORM: tl.constexpr,
    ):  # fmt: skip
        """One token."""
        row = tl.program_id(0).to(tl.int64)
        frame = row // tokens
        c = tl.arange(0, BC)
        inside = c < C
        x = tl.load(x_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        if ADD:
            add = tl.load(add_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
            if GATE:
                add = add * tl.load(gate_ptr + frame * step + c, mask=inside, other=0.0).to(tl.float32)
            x = x + add
        if MORE:
            x = x + tl.load(more_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        if ADD or MORE:
            tl.store(out_ptr + row * C + c, x, mask=inside)
        if NORM:
            mean = tl.sum(x, 0) / C
            centred = tl.where(inside, x - mean, 0.0)
            factor = tl.rsqrt(tl.sum(centred * centred, 0) / C + EPSILON)
            scale = tl.load(scale_ptr + frame * step + c, mask=inside, other=0.0).to(tl.float32)
            shift = tl.load(shift_ptr + frame * step + c, mask=inside, other=0.0).to(tl.float32)
            tl.store(normed_ptr + row * C + c, centred * factor * (1.0 + scale) + shift, mask=inside)

    @triton.jit
    def _depthwise_kernel(
        x_ptr, weight_ptr, bias_ptr, out_ptr,
        F: tl.constexpr, H: tl.constexpr, W: tl.constexpr, BC: tl.constexpr,
    ):  # fmt: skip
        """Two rows of a picture, BC channels of the value and the same of the gate, from the first column to the last.

        A column's four inputs serve the outputs of three columns: that before it is finished then.
        """
        image, y = tl.program_id(0).to(tl.int64), tl.program_id(1) * 2
        c = tl.program_id(2) * BC + tl.arange(0, BC)
        inside = c < F
        x_ptr += image * H * W * 2 * F
        out_ptr += image * H * W * F + y * W * F + c
        v00, v01, v02, v10, v11, v12, v20, v21, v22 = _taps(weight_ptr + c, 2 * F, inside)
        g00, g01, g02, g10, g11, g12, g20, g21, g22 = _taps(weight_ptr + F + c, 2 * F, inside)
        value_bias = tl.load(bias_ptr + c, mask=inside, other=0.0).to(tl.float32)
        gate_bias = tl.load(bias_ptr + F + c, mask=inside, other=0.0).to(tl.float32)
        nothing = tl.zeros((BC,), tl.float32)
        va, vb, ga, gb = (
            nothing,
            nothing,
            nothing,
            nothing,
        )  # of the column before, rows y and y + 1, still without this
        wa, wb, ha, hb = nothing, nothing, nothing, nothing  # of this column, with what the column before it gave
        for x in range(0, W + 1):
            r0, r1, r2, r3 = _column(x_ptr + c, y, x, inside, H, W, 2 * F)
            value0 = va + r0 * v02 + r1 * v12 + r2 * v22 + value_bias
            value1 = vb + r1 * v02 + r2 * v12 + r3 * v22 + value_bias
            va = wa + r0 * v01 + r1 * v11 + r2 * v21
            vb = wb + r1 * v01 + r2 * v11 + r3 * v21
            wa = r0 * v00 + r1 * v10 + r2 * v20
            wb = r1 * v00 + r2 * v10 + r3 * v20
            r0, r1, r2, r3 = _column(x_ptr + F + c, y, x, inside, H, W, 2 * F)
            gate0 = ga + r0 * g02 + r1 * g12 + r2 * g22 + gate_bias
            gate1 = gb + r1 * g02 + r2 * g12 + r3 * g22 + gate_bias
            ga = ha + r0 * g01 + r1 * g11 + r2 * g21
            gb = hb + r1 * g01 + r2 * g11 + r3 * g21
            ha = r0 * g00 + r1 * g10 + r2 * g20
            hb = r1 * g00 + r2 * g10 + r3 * g20
            kept = inside & (x > 0)
            tl.store(out_ptr + (x - 1) * F, value0 * gate0 * tl.sigmoid(gate0), mask=kept)
            tl.store(out_ptr + (W + x - 1) * F, value1 * gate1 * tl.sigmoid(gate1), mask=kept & (y + 1 < H))

    @triton.jit
    def _column(x_ptr, y, x, inside, H: tl.constexpr, W: tl.constexpr, STEP: tl.constexpr):
        """silu of rows y - 1 to y + 2 at column x, zero outside the picture."""
        return (
            _silu(x_ptr + ((y - 1) * W + x) * STEP, inside & (y > 0) & (x < W)),
            _silu(x_ptr + (y * W + x) * STEP, inside & (x < W)),
            _silu(x_ptr + ((y + 1) * W + x) * STEP, inside & (y + 1 < H) & (x < W)),
            _silu(x_ptr + ((y + 2) * W + x) * STEP, inside & (y + 2 < H) & (x < W)),
        )

    @triton.jit
    def _silu(ptr, inside):
        v = tl.load(ptr, mask=inside, other=0.0).to(tl.float32)
        return v * tl.sigmoid(v)

    @triton.jit
    def _taps(ptr, STEP: tl.constexpr, inside):
        """Nine taps of each channel, rows first."""
        return (
            tl.load(ptr, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 2 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 3 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 4 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 5 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 6 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 7 * STEP, mask=inside, other=0.0).to(tl.float32),
            tl.load(ptr + 8 * STEP, mask=inside, other=0.0).to(tl.float32),
        )
