"""Heads on their way into and out of attention (SANA-WM, arXiv 2605.15178): norm, ReLU, rotation, ray transform, gate.

In plain torch these few formulas are some forty passes over memory per block, most of them in fp32; each kernel here
reads its tokens once and writes them once.  Floor at the 720p shape (2,640 tokens of 2,240 channels, bf16): 24 MB per
rotated tensor, 7 us at 3.35 TB/s, 36 MB where the unrotated one is kept too.  One program has one token, whose 2,240
channels are few enough to stay in registers; sums are fp32 whatever comes in.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from efficientgen.kernels.frame_gdn import REFERENCE_ONLY

try:
    import triton
    import triton.language as tl
except ImportError:  # installations without a GPU: the references run alone
    triton = None

RMS_FLOOR = 1e-6  # added to mean squares before a root
SMALLEST = 1e-6  # norm of a key


def in_kernels(*tensors: Tensor | None) -> bool:
    """Whether these tensors are a kernel's work: on a GPU with Triton, not double, and nobody wants their gradients."""
    given = [x for x in tensors if x is not None]
    learns = torch.is_grad_enabled() and any(x.requires_grad for x in given)
    there = triton is not None and not REFERENCE_ONLY
    return there and not learns and all(x.is_cuda and x.dtype != torch.float64 for x in given)


def rotated_heads(
    x: Tensor, norm: tuple[Tensor, float] | None, rotation: Tensor, heads: int, *, relu: bool = False,
    scale: float = 1.0, plain: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Tokens as heads whose channel pairs are turned: rotate(scale relu(rms_norm(x))).

    Args:
        x: (B, T, S, C).
        norm: weight (C,) and epsilon of the RMS norm over all channels; None: none.
        rotation: complex (T, S, 1, D/2).
        plain: also return the heads before their rotation.

    Returns:
        (B, T, S, H, D) in x's dtype, twice where `plain`.
    """
    if in_kernels(x):
        return _rotated_heads(x, norm, rotation, heads, relu, scale, plain)
    y = F.rms_norm(x, x.shape[-1:], *norm) if norm is not None else x
    y = (y.relu() if relu else y).unflatten(-1, (heads, -1))
    y = y * scale if scale != 1.0 else y
    return rotate(y, rotation), y if plain else None


def heads_through_rays(
    x: Tensor, norm: tuple[Tensor, float] | None, matrix: Tensor, rotation: Tensor, heads: int, *, relu: bool = False,
    scale: float = 1.0, capped: bool = True, back: bool = False, dtype: torch.dtype | None = None,
    measured: bool = False,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    """Tokens as heads taken through their rays (UCPE): first half by 4x4 matrices, second half turned.

    Args:
        x: (B, T, S, C).
        norm: as in `rotated_heads`.
        matrix: (B, T, S, 4, 4) fp32, for each group of four channels of a head's first half.
        rotation: complex (T, S, 1, D/4), of the second half's pairs.
        capped: scale down per token and head where the RMS grew, as translations are far longer than 1.
        back: turn the other way round.
        dtype: of the result; None: x's.

    Returns:
        (B, T, S, H, D), and where `measured` the squared factor (B, T, S, H) by which each head's norm changed.
    """
    if in_kernels(x):
        return _heads_through_rays(
            x, norm, matrix, rotation, heads, relu, scale, capped, back, dtype or x.dtype, measured
        )
    y = F.rms_norm(x, x.shape[-1:], *norm) if norm is not None else x
    y = (y.relu() if relu else y).unflatten(-1, (heads, -1))
    y = y * scale if scale != 1.0 else y
    out = transform(y.to(dtype or y.dtype), matrix, rotation, back)
    if capped:
        out = out * (_rms(y) / _rms(out)).clamp(max=1.0)
    if not measured:
        return out, None
    grown = out.norm(dim=-1).clamp_min(SMALLEST) / y.norm(dim=-1).clamp_min(SMALLEST)
    return out, grown.square()


def temporal_conv(x: Tensor, before: Tensor | None, weight: Tensor) -> Tensor:
    """Depthwise over time, the same taps to both sides, the frame itself counted once; frames after the last are zero.

    Args:
        x: (B, T, S, C).
        before: (B, K - 1, S, C) frames before the first; None: zeros.
        weight: (C, 1, K), the last tap the frame's own.
    """
    if in_kernels(x):
        return _temporal_conv(x, before, weight)
    taps = weight[:, 0].flip(-1).to(x.dtype)  # (C, K), [:, j] weighs the frame j away
    frames, reach = x.shape[1], taps.shape[1] - 1
    nothing = torch.zeros_like(x[:, :1]).expand(-1, reach, -1, -1)
    padded = torch.cat([nothing if before is None else before, x, nothing], 1)
    out = x * taps[:, 0]
    for j in range(1, reach + 1):
        out = out + (padded[:, reach - j : reach - j + frames] + padded[:, reach + j : reach + j + frames]) * taps[:, j]
    return out


def gated_sum(a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    """(a + b) silu(gate), (B, T, S, C) each, in b's dtype."""
    if in_kernels(a, b, gate):
        return _gated_sum(a, b, gate)
    return ((a.to(b.dtype) + b) * F.silu(gate.float())).to(b.dtype)


def rotate(x: Tensor, rotation: Tensor, back: bool = False) -> Tensor:
    """(B, T, S, H, D) with each pair of channels turned by its angle, in fp32."""
    pairs = torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())
    return torch.view_as_real(pairs * (rotation.conj() if back else rotation)).flatten(-2).type_as(x)


def transform(x: Tensor, matrix: Tensor, rotation: Tensor, back: bool = False) -> Tensor:
    """(B, T, S, H, D): first half through `matrix` (B, T, S, 4, 4), second half turned; in fp32, as metres need it."""
    half = x.shape[-1] // 2
    moved = torch.einsum("btsij,btshkj->btshki", matrix, x[..., :half].float().unflatten(-1, (-1, 4))).flatten(-2)
    return torch.cat([moved.type_as(x), rotate(x[..., half:], rotation, back)], -1)


def _rms(y: Tensor) -> Tensor:
    return y.square().mean(-1, keepdim=True).add(RMS_FLOOR).sqrt()


def rows_of(x: Tensor) -> tuple[Tensor, int]:
    """(B, T, S, C) whose tokens lie at one distance from each other, and that distance in elements."""
    step = x.stride(2)
    even = x.stride(3) == 1 and x.stride(1) == x.shape[2] * step and x.stride(0) == x.shape[1] * x.stride(1)
    x = x if even or (x.stride(3) == 1 and x.shape[:2] == (1, 1)) else x.contiguous()
    return x, x.stride(2)


def _rotated_heads(
    x: Tensor, norm: tuple[Tensor, float] | None, rotation: Tensor, heads: int, relu: bool, scale: float, plain: bool
) -> tuple[Tensor, Tensor | None]:
    b, t, s, c = x.shape
    x, step = rows_of(x)
    out = torch.empty(b, t, s, heads, c // heads, dtype=x.dtype, device=x.device)
    kept = torch.empty_like(out) if plain else None
    weight, eps = norm if norm is not None else (x, 0.0)
    _rotated_kernel[(b * t * s,)](
        x, weight, torch.view_as_real(rotation).contiguous(), out, out if kept is None else kept, step, scale, t * s,
        C=c, D=c // heads, BP=triton.next_power_of_2(c // 2), EPSILON=eps, NORM=norm is not None, RELU=relu,
        PLAIN=plain, num_warps=8 if c > 1024 else 4,
    )  # fmt: skip
    return out, kept


def _heads_through_rays(
    x: Tensor, norm: tuple[Tensor, float] | None, matrix: Tensor, rotation: Tensor, heads: int, relu: bool,
    scale: float, capped: bool, back: bool, dtype: torch.dtype, measured: bool,
) -> tuple[Tensor, Tensor | None]:  # fmt: skip
    b, t, s, c = x.shape
    x, step = rows_of(x)
    d = c // heads
    out = torch.empty(b, t, s, heads, d, dtype=dtype, device=x.device)
    grown = torch.empty(b, t, s, heads, dtype=torch.float32, device=x.device) if measured else None
    weight, eps = norm if norm is not None else (x, 0.0)
    matrix = matrix.float()
    turned = matrix.stride(-1) != 1  # a transposed view is read as it is
    matrix = (matrix.transpose(-1, -2) if turned else matrix).contiguous()
    _rays_kernel[(b * t * s,)](
        x, weight, matrix, torch.view_as_real(rotation).contiguous(), out, out if grown is None else grown, step,
        scale, t * s,
        H=heads, D=d, BH=triton.next_power_of_2(heads), BG=triton.next_power_of_2(d // 8), EPSILON=eps,
        FLOOR=RMS_FLOOR, LEAST=SMALLEST, NORM=norm is not None, RELU=relu, TURNED=turned, CAPPED=capped, BACK=back,
        MEASURED=measured, num_warps=4,
    )  # fmt: skip
    return out, grown


def _temporal_conv(x: Tensor, before: Tensor | None, weight: Tensor) -> Tensor:
    b, t, s, c = x.shape
    x, step = rows_of(x)
    out = torch.empty(b, t, s, c, dtype=x.dtype, device=x.device)
    block, taps = min(1024, triton.next_power_of_2(c)), weight[:, 0].t().contiguous()  # (K, C)
    _conv_kernel[(b * s, triton.cdiv(c, block))](
        x, x if before is None else before.contiguous(), taps, out, step, S=s, C=c, T=t, K=weight.shape[-1],
        BC=block, BEFORE=before is not None, num_warps=4,
    )  # fmt: skip
    return out


def _gated_sum(a: Tensor, b: Tensor, gate: Tensor) -> Tensor:
    gate, step = rows_of(gate)
    a, b = a.contiguous(), b.contiguous()
    out, c = torch.empty_like(b), b.shape[-1]
    _gated_kernel[(b.numel() // c,)](a, b, gate, out, step, C=c, BC=triton.next_power_of_2(c), num_warps=8)
    return out


if triton is not None:

    @triton.jit
    def _rotated_kernel(
        x_ptr, weight_ptr, rotation_ptr, out_ptr, plain_ptr, step, scale, tokens,
        C: tl.constexpr, D: tl.constexpr, BP: tl.constexpr, EPSILON: tl.constexpr,
        NORM: tl.constexpr, RELU: tl.constexpr, PLAIN: tl.constexpr,
    ):  # fmt: skip
        """One token; its channels as pairs (BP, 2)."""
        row = tl.program_id(0).to(tl.int64)
        pair = tl.arange(0, BP)
        at = pair[:, None] * 2 + tl.arange(0, 2)[None, :]
        inside = at < C
        x = tl.load(x_ptr + row * step + at, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            mean = tl.sum(tl.sum(x * x, 1), 0) / C
            x = x * tl.rsqrt(mean + EPSILON) * tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            x = tl.maximum(x, 0.0)
        x = x * scale
        if PLAIN:
            tl.store(plain_ptr + row * C + at, x, mask=inside)
        angle = ((row % tokens) * (D // 2) + pair % (D // 2)) * 2
        cos = tl.load(rotation_ptr + angle, mask=pair < C // 2, other=0.0)
        sin = tl.load(rotation_ptr + angle + 1, mask=pair < C // 2, other=0.0)
        even, odd = tl.split(x)
        turned = tl.join(even * cos - odd * sin, even * sin + odd * cos)
        tl.store(out_ptr + row * C + at, turned, mask=inside)

    @triton.jit
    def _rays_kernel(
        x_ptr, weight_ptr, matrix_ptr, rotation_ptr, out_ptr, grown_ptr, step, scale, tokens,
        H: tl.constexpr, D: tl.constexpr, BH: tl.constexpr, BG: tl.constexpr, EPSILON: tl.constexpr,
        FLOOR: tl.constexpr, LEAST: tl.constexpr,
        NORM: tl.constexpr, RELU: tl.constexpr, TURNED: tl.constexpr, CAPPED: tl.constexpr, BACK: tl.constexpr,
        MEASURED: tl.constexpr,
    ):  # fmt: skip
        """One token; D / 8 groups (BG) of its heads (BH), of four channels of the first half and four of the second."""
        row = tl.program_id(0).to(tl.int64)
        head, group, four = tl.arange(0, BH), tl.arange(0, BG), tl.arange(0, 4)
        at = group[:, None, None] * 4 + head[None, :, None] * D + four[None, None, :]  # lanes next to each other
        inside = (group[:, None, None] < D // 8) & (head[None, :, None] < H) & (four[None, None, :] < 4)
        late = at + D // 2
        x_ptr += row * step
        a = tl.load(x_ptr + at, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(x_ptr + late, mask=inside, other=0.0).to(tl.float32)
        if NORM:
            squares = tl.sum(tl.sum(tl.sum(a * a + b * b, 2), 1), 0)
            factor = tl.rsqrt(squares / (H * D) + EPSILON)
            a = a * factor * tl.load(weight_ptr + at, mask=inside, other=0.0).to(tl.float32)
            b = b * factor * tl.load(weight_ptr + late, mask=inside, other=0.0).to(tl.float32)
        if RELU:
            a, b = tl.maximum(a, 0.0), tl.maximum(b, 0.0)
        a, b = a * scale, b * scale
        before = tl.sum(tl.sum(a * a + b * b, 2), 0)  # (BH,)
        a0, a1, a2, a3 = _parted(a, BG, BH)
        b0, b1, b2, b3 = _parted(b, BG, BH)
        m = matrix_ptr + row * 16
        DOWN: tl.constexpr = 1 if TURNED else 4  # elements from M[i, j] to M[i + 1, j]
        OVER: tl.constexpr = 4 if TURNED else 1
        c0 = a0 * tl.load(m) + a1 * tl.load(m + OVER) + a2 * tl.load(m + 2 * OVER) + a3 * tl.load(m + 3 * OVER)
        m += DOWN
        c1 = a0 * tl.load(m) + a1 * tl.load(m + OVER) + a2 * tl.load(m + 2 * OVER) + a3 * tl.load(m + 3 * OVER)
        m += DOWN
        c2 = a0 * tl.load(m) + a1 * tl.load(m + OVER) + a2 * tl.load(m + 2 * OVER) + a3 * tl.load(m + 3 * OVER)
        m += DOWN
        c3 = a0 * tl.load(m) + a1 * tl.load(m + OVER) + a2 * tl.load(m + 2 * OVER) + a3 * tl.load(m + 3 * OVER)
        angle = rotation_ptr + ((row % tokens) * (D // 4) + group * 2) * 2  # two pairs: cos, sin, cos, sin
        near = group < D // 8
        cos0 = tl.load(angle, mask=near, other=0.0)[:, None]
        sin0 = tl.load(angle + 1, mask=near, other=0.0)[:, None]
        cos1 = tl.load(angle + 2, mask=near, other=0.0)[:, None]
        sin1 = tl.load(angle + 3, mask=near, other=0.0)[:, None]
        if BACK:
            sin0, sin1 = -sin0, -sin1
        d0, d1 = b0 * cos0 - b1 * sin0, b0 * sin0 + b1 * cos0
        d2, d3 = b2 * cos1 - b3 * sin1, b2 * sin1 + b3 * cos1
        after = tl.sum(c0 * c0 + c1 * c1 + c2 * c2 + c3 * c3 + d0 * d0 + d1 * d1 + d2 * d2 + d3 * d3, 0)
        if CAPPED:
            factor = tl.minimum(tl.sqrt((before / D + FLOOR) / (after / D + FLOOR)), 1.0)
            after = after * factor * factor
            factor = factor[None, :]
            c0, c1, c2, c3 = c0 * factor, c1 * factor, c2 * factor, c3 * factor
            d0, d1, d2, d3 = d0 * factor, d1 * factor, d2 * factor, d3 * factor
        if MEASURED:
            ratio = tl.maximum(tl.sqrt(after), LEAST) / tl.maximum(tl.sqrt(before), LEAST)
            tl.store(grown_ptr + row * H + head, ratio * ratio, mask=head < H)
        out_ptr += row * (H * D)
        tl.store(out_ptr + at, _joined(c0, c1, c2, c3, BG, BH), mask=inside)
        tl.store(out_ptr + late, _joined(d0, d1, d2, d3, BG, BH), mask=inside)

    @triton.jit
    def _parted(x, BG: tl.constexpr, BH: tl.constexpr):
        """(BG, BH, 4) as its four parts (BG, BH)."""
        even, odd = tl.split(tl.reshape(x, (BG, BH, 2, 2)))  # 0 and 2, 1 and 3
        x0, x2 = tl.split(even)
        x1, x3 = tl.split(odd)
        return x0, x1, x2, x3

    @triton.jit
    def _joined(x0, x1, x2, x3, BG: tl.constexpr, BH: tl.constexpr):
        """The other way round."""
        return tl.reshape(tl.join(tl.join(x0, x2), tl.join(x1, x3)), (BG, BH, 4))

    @triton.jit
    def _conv_kernel(
        x_ptr, before_ptr, weight_ptr, out_ptr, step,
        S: tl.constexpr, C: tl.constexpr, T: tl.constexpr, K: tl.constexpr, BC: tl.constexpr, BEFORE: tl.constexpr,
    ):  # fmt: skip
        """One place of all frames, BC channels."""
        b, s = (tl.program_id(0) // S).to(tl.int64), tl.program_id(0) % S
        c = tl.program_id(1) * BC + tl.arange(0, BC)
        inside = c < C
        for t in tl.static_range(0, T):
            total = tl.zeros((BC,), tl.float32)
            for j in tl.static_range(1 - K, K):
                weight = tl.load(weight_ptr + (K - 1 - (j if j > 0 else -j)) * C + c, mask=inside, other=0.0)
                if t + j >= 0 and t + j < T:
                    x = tl.load(x_ptr + ((b * T + t + j) * S + s) * step + c, mask=inside, other=0.0)
                    total += x.to(tl.float32) * weight.to(tl.float32)
                elif t + j < 0 and BEFORE:
                    x = tl.load(before_ptr + ((b * (K - 1) + K - 1 + t + j) * S + s) * C + c, mask=inside, other=0.0)
                    total += x.to(tl.float32) * weight.to(tl.float32)
            tl.store(out_ptr + ((b * T + t) * S + s) * C + c, total, mask=inside)

    @triton.jit
    def _gated_kernel(a_ptr, b_ptr, gate_ptr, out_ptr, step, C: tl.constexpr, BC: tl.constexpr):
        """One token."""
        row = tl.program_id(0).to(tl.int64)
        c = tl.arange(0, BC)
        inside = c < C
        a = tl.load(a_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        b = tl.load(b_ptr + row * C + c, mask=inside, other=0.0).to(tl.float32)
        gate = tl.load(gate_ptr + row * step + c, mask=inside, other=0.0).to(tl.float32)
        tl.store(out_ptr + row * C + c, (a + b) * gate * tl.sigmoid(gate), mask=inside)
