"""Runs the token kernels under Triton's interpreter (TRITON_INTERPRET=1); prints their errors, a JSON object a line."""

import json

import torch
from torch import Tensor

from efficientgen.kernels import token_heads as heads
from efficientgen.kernels import token_rows as rows

g = torch.Generator().manual_seed(torch.seed() % 2**31)
B, T, S, H = 1, 3, 6, 3


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=g)


def told(name: str, ours: Tensor | None, theirs: Tensor | None) -> None:
    assert ours is not None and theirs is not None and ours.shape == theirs.shape and ours.dtype == theirs.dtype
    print(json.dumps({"kernel": name, "error": float((ours - theirs).abs().max() / theirs.abs().max())}))


for d in (16, 112):
    wide = normal(B, T, S, 2 * H * d + 8)
    x = wide[..., 8 : 8 + H * d]  # a share of a wider product: tokens are further apart than they are wide
    weight = 1.0 + 0.1 * normal(H * d)
    angles = normal(T, S, 1, d // 2)
    turn = torch.polar(torch.ones_like(angles), angles)
    for relu, norm in ((True, (weight, 1e-5)), (False, None)):
        ours = heads._rotated_heads(x, norm, turn, H, relu, 0.3, True)
        theirs = heads.rotated_heads(x, norm, turn, H, relu=relu, scale=0.3, plain=True)
        told("rotated", ours[0], theirs[0])
        told("plain", ours[1], theirs[1])
    matrix = torch.eye(4) + 0.8 * normal(B, T, S, 4, 4)
    turn = turn[..., : d // 4]
    for relu, norm, m, capped, back in (
        (True, (weight, 1e-5), matrix, True, False),
        (False, (weight, 1e-5), matrix.transpose(-1, -2), True, False),
        (False, None, matrix, False, True),
    ):
        ours = heads._heads_through_rays(x, norm, m, turn, H, relu, 0.5, capped, back, torch.float32, True)
        theirs = heads.heads_through_rays(
            x, norm, m, turn, H, relu=relu, scale=0.5, capped=capped, back=back, measured=True
        )
        told("rays", ours[0], theirs[0])
        told("grown", ours[1], theirs[1])
    before = normal(B, 3, S, H * d)
    taps = normal(H * d, 1, 4)
    told("conv", heads._temporal_conv(x, before, taps), heads.temporal_conv(x, before, taps))
    told("conv first", heads._temporal_conv(x[:, :1], None, taps), heads.temporal_conv(x[:, :1], None, taps))
    a, b, gate = normal(B, T, S, H * d), normal(B, T, S, H * d), x
    told("gated sum", heads._gated_sum(a, b, gate), heads.gated_sum(a, b, gate))
    modulation = normal(B, T, 6, 1, H * d).unbind(2)
    for add, by, more, norm in (
        (a, modulation[2], b, None),
        (a, None, None, modulation[:2]),
        (None, None, None, modulation[:2]),
    ):
        ours, theirs = (f(x, add, by, more, norm) for f in (rows._add_and_norm, rows.add_and_norm))
        told("sum", ours[0], theirs[0])
        if norm is not None:
            told("norm", ours[1], theirs[1])

for grid, half in (((3, 5), 24), ((2, 3), 40)):
    x = normal(B, T, grid[0] * grid[1], 2 * half)
    weight, bias = normal(2 * half, 1, 3, 3), normal(2 * half)
    told("depthwise", rows._gated_depthwise(x, weight, bias, grid), rows.gated_depthwise(x, weight, bias, grid))
