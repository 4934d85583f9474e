"""The feed-forward of SANA-WM (arXiv 2605.15178), GLUMBConvTemp: a gated inverted bottleneck over space, then time.

1x1 convolution to twice the hidden width and SiLU, depthwise 3x3, value * SiLU(gate), 1x1 back; then the result plus
its convolution over the frame before, itself and the frame after.  The frame after a chunk is zero; the frame before it
is carried.
"""

from __future__ import annotations

from functools import lru_cache
from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.kernels.token_rows import gated_depthwise


class ConvLayer(nn.Module):
    """A convolution's weights under the name that the releases give them."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=bias)


class FeedForward(nn.Module):
    def __init__(self, width: int, hidden: int, t_kernel: int) -> None:
        super().__init__()
        if t_kernel != 3:
            raise ValueError(f"the temporal convolution reaches one frame to each side, not {t_kernel} frames")
        self.inverted_conv = ConvLayer(width, 2 * hidden, 1)
        self.depth_conv = ConvLayer(2 * hidden, 2 * hidden, 3, groups=2 * hidden)
        self.point_conv = ConvLayer(hidden, width, 1, bias=False)
        self.t_conv = nn.Conv2d(width, width, (t_kernel, 1), bias=False)
        nn.init.zeros_(self.t_conv.weight)

    def forward(
        self, x: Tensor, grid: tuple[int, int], chunks: tuple[int, ...], before: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """(B, T, S, C) to the same, and the last frame (B, 1, S, C) before the temporal convolution.

        Args:
            before: that frame of the chunk before; None: zeros.
        """
        wide, depth = self.inverted_conv.conv, self.depth_conv.conv
        assert depth.bias is not None
        hidden = F.linear(x, wide.weight.flatten(1), wide.bias)
        y = F.linear(gated_depthwise(hidden, depth.weight, depth.bias, grid), self.point_conv.conv.weight.flatten(1))
        nothing = torch.zeros_like(y[:, :1])
        earlier = torch.cat([nothing if before is None else before, y[:, :-1]], 1)
        taps = self.t_conv.weight[..., 0].permute(0, 2, 1).flatten(1)  # (C, 3 C), a view once fused
        if 1 < len(chunks) == x.shape[1]:  # chunks of one frame: no frame sees a later one
            return y + F.linear(torch.cat([earlier, y], -1), taps[:, : 2 * y.shape[-1]]), y[:, -1:]
        later = torch.cat([y[:, 1:], nothing], 1)
        if len(chunks) > 1:
            later = later * _followed(chunks, x.dtype, x.device)
        return y + F.linear(torch.cat([earlier, y, later], -1), taps), y[:, -1:]

    def fuse(self) -> None:
        """Lay the temporal taps one frame after another, as the product over three frames reads them."""
        taps = self.t_conv.weight.detach()[..., 0].permute(0, 2, 1).contiguous()  # (C, 3, C)
        self.t_conv.weight = nn.Parameter(taps.permute(0, 2, 1)[..., None], requires_grad=False)


@lru_cache(maxsize=64)
def _followed(chunks: tuple[int, ...], dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, 1, 1) ones where the next frame is of the same chunk; kept: a captured step copies nothing from the host."""
    with torch.inference_mode(False):
        inner = torch.ones(sum(chunks), 1, 1, dtype=dtype)
        inner[[end - 1 for end in accumulate(chunks)]] = 0.0
        return inner.to(device)
