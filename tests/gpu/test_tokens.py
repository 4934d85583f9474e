"""The token kernels on a GPU at the released width: the references' numbers, computed in fp32 from the same inputs."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from efficientgen.kernels import token_heads as heads
from efficientgen.kernels import token_rows as rows

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
T, GRID, H, D = 3, (4, 40), 20, 112
S, C = GRID[0] * GRID[1], H * D


def normal(*shape: int) -> Tensor:
    return torch.randn(*shape, device="cuda")


@pytest.fixture
def references(monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """Runs a function's torch reference in fp32."""

    def run(function: Callable[..., Any], *args: Any, **more: Any) -> Any:
        def wide(x: Any) -> Any:
            if isinstance(x, tuple):
                return tuple(map(wide, x))
            return x.float() if isinstance(x, Tensor) and x.is_floating_point() else x

        with monkeypatch.context() as patch:
            patch.setattr(heads, "in_kernels", lambda *x: False)
            patch.setattr(rows, "in_kernels", lambda *x: False)
            patch.setattr(torch.backends.cudnn, "allow_tf32", False)
            return function(*map(wide, args), **more)

    return run


def near(ours: Tensor, theirs: Tensor, dtype: torch.dtype) -> None:
    assert ours.shape == theirs.shape
    bound = 1e-5 if dtype == torch.float32 else 4e-3  # bf16 rounds the result once
    error = float((ours.float() - theirs).norm() / theirs.norm())
    assert error < bound, error


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_heads_are_the_reference(references, dtype: torch.dtype):
    wide = normal(1, T, S, 2 * C + 8).to(dtype)
    x, weight = wide[..., 8 : 8 + C], (1 + 0.1 * normal(C)).to(dtype)
    angle = normal(T, S, 1, D // 2)
    turn = torch.polar(torch.ones_like(angle), angle)
    args, more = (x, (weight, 1e-5), turn, H), {"relu": True, "scale": 0.25, "plain": True}
    ours = heads.rotated_heads(*args, **more)
    for a, b in zip(ours, references(heads.rotated_heads, *args, **more), strict=True):
        near(a, b, dtype)
    matrix = torch.eye(4, device="cuda") + 0.5 * normal(1, T, S, 4, 4)
    turn = turn[..., : D // 4].contiguous()
    for m, norm, more in (
        (matrix, (weight, 1e-5), {"relu": True, "scale": 0.25}),
        (matrix.transpose(-1, -2), (weight, 1e-5), {}),
        (matrix, None, {"capped": False, "back": True}),
    ):
        out, grown = heads.heads_through_rays(x, norm, m, turn, H, measured=True, **more)
        expected, stretch = references(heads.heads_through_rays, x, norm, m, turn, H, measured=True, **more)
        near(out, expected, dtype)
        near(grown, stretch, torch.float32)
    before, taps = normal(1, 3, S, C).to(dtype), normal(C, 1, 4).to(dtype)
    near(heads.temporal_conv(x, before, taps), references(heads.temporal_conv, x, before, taps), dtype)
    near(heads.temporal_conv(x, None, taps), references(heads.temporal_conv, x, None, taps), dtype)
    a, b = normal(1, T, S, C), normal(1, T, S, C).to(dtype)
    near(heads.gated_sum(a, b, x), references(heads.gated_sum, a, b, x), dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@torch.inference_mode()
def test_rows_are_the_reference(references, dtype: torch.dtype):
    x, add, more = (normal(1, T, S, C).to(dtype) for _ in range(3))
    shift, scale, gate, *_ = normal(1, T, 6, 1, C).to(dtype).unbind(2)
    args = (x, add, gate, more, (shift, scale))
    for a, b in zip(rows.add_and_norm(*args), references(rows.add_and_norm, *args), strict=True):
        near(a, b, dtype)
    hidden = 3 * C
    x = normal(1, T, S, 2 * hidden).to(dtype)
    weight, bias = normal(2 * hidden, 1, 3, 3).to(dtype), normal(2 * hidden).to(dtype)
    args = (x, weight, bias, GRID)
    near(rows.gated_depthwise(*args), references(rows.gated_depthwise, *args), dtype)
