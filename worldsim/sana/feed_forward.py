"""The feed-forward of SANA-WM (arXiv 2605.15178), GLUMBConvTemp: a gated inverted bottleneck over space, then time.

1x1 convolution to twice the hidden width and SiLU, depthwise 3x3, value * SiLU(gate), 1x1 back; then the result plus
its convolution over the frame before, itself and the frame after.  The frame after a chunk is zero; the frame before it
is carried.
"""

from __future__ import annotations

from itertools import accumulate

import torch
from torch import Tensor, nn
from torch.nn import functional as F

MOST_ELEMENTS = 1 << 30  # convolutions count in 32 bits: more images are passed in parts


class ConvLayer(nn.Module):
    """A convolution under the name that the releases give it."""

    def __init__(self, channels: int, out: int, kernel: int, groups: int = 1, bias: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, out, kernel, padding=kernel // 2, groups=groups, bias=bias)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(x)


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
        images = x.flatten(0, 1).transpose(1, 2).unflatten(2, grid)  # (B T, C, H, W)
        at_once = max(1, MOST_ELEMENTS // (self.inverted_conv.conv.out_channels * x.shape[2]))
        y = torch.cat([self._space(part) for part in images.split(at_once)]).flatten(2).transpose(1, 2).view_as(x)
        nothing = torch.zeros_like(y[:, :1])
        earlier = torch.cat([nothing if before is None else before, y[:, :-1]], 1)
        later = torch.cat([y[:, 1:], nothing], 1)
        if len(chunks) > 1:
            last = [end - 1 for end in accumulate(chunks)]
            inner = torch.ones(x.shape[1], 1, 1, dtype=x.dtype, device=x.device)
            inner[last] = 0.0
            later = later * inner
        taps = self.t_conv.weight[..., 0].permute(0, 2, 1).flatten(1)  # (C, 3 C)
        return y + F.linear(torch.cat([earlier, y, later], -1), taps), y[:, -1:]

    def _space(self, images: Tensor) -> Tensor:
        value, gate = self.depth_conv(F.silu(self.inverted_conv(images))).chunk(2, 1)
        return self.point_conv(value * F.silu(gate))
