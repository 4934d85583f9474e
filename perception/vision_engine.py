"""The vision tower on a GPU: one call for all cameras, windows without padding, a captured graph for each set of grids.

Windows at an image's edge are smaller than the others.  Patches are therefore put in an order in which windows of equal
size are neighbours, over all images, and attention is one dense batch per size; the few layers with full attention go
back to reading order for it.  Weights are fused once: norms into the matrix behind them, gate beside up, and the
feed-forward width padded from 3,420 to a multiple of 64 (an odd row length costs a library product most of its speed).
Images stay apart in every layer, so one packed call gives what one call for each gives.

Floor at 3 cameras of 32 x 30 patches on an H100: 3.7 TFLOP, 6 ms at 600 TFLOP/s.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate, groupby
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.kernels import rows as of_rows
from efficientgen.kernels.skinny import Heads
from efficientgen.perception.patches import MERGE, PATCH
from efficientgen.perception.vision import Grid, VisionBlock, VisionTower, layout_of

PAD = 64


@dataclass(frozen=True)
class _Block:
    qkv: Tensor
    qkv_bias: Tensor
    proj: Tensor
    proj_bias: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor
    down: Tensor
    down_bias: Tensor


@dataclass(frozen=True)
class _Order:
    """Where patches go; N patches, in groups of 4."""

    groups: Tensor  # (N / 4,) merge group of the reading order at each place
    back: Tensor  # (N / 4,) its inverse
    windows: tuple[tuple[int, int], ...]  # (patches of a window, how many such windows), place after place
    reading: Tensor  # (N,) places in reading order of the images
    images: tuple[tuple[int, int], ...]  # (patches of an image, how many such images in a row)
    cos: Tensor  # (N, D / 2)
    sin: Tensor
    place: Tensor  # (N,) int32


class VisionEngine:
    """`VisionTower.forward` with batch 1, fused.  On a CPU it runs uncaptured over the torch references."""

    def __init__(self, tower: VisionTower, graphs: bool | None = None):
        self.config, self.tower = tower.config, tower
        weight = tower.merger.ln_q.weight
        self.device, self.dtype = weight.device, weight.dtype
        self.plain = self.device.type != "cuda"
        self.graphs = not self.plain if graphs is None else graphs
        self.blocks = [fuse(cast(VisionBlock, block)) for block in tower.blocks]
        self._orders: dict[tuple[Grid, ...], _Order] = {}
        self._graphs: dict[tuple[Grid, ...], tuple[Tensor, Tensor, torch.cuda.CUDAGraph]] = {}

    @torch.inference_mode()
    def see(self, patches: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """Patch vectors (1, N, 1176) of the images in `grids` to tokens (1, N / 4, out), in reading order.

        From a graph: valid until the next call.
        """
        if grids not in self._orders:
            self._orders[grids] = self._order(grids)
        if not self.graphs:
            return self._run(patches[0], self._orders[grids])[None]
        if grids not in self._graphs:
            self._graphs[grids] = self._capture(patches[0], self._orders[grids])
        given, out, graph = self._graphs[grids]
        given.copy_(patches[0])
        graph.replay()
        return out[None]

    def _capture(self, patches: Tensor, order: _Order) -> tuple[Tensor, Tensor, torch.cuda.CUDAGraph]:
        given = patches.clone()
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self._run(given, order)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            out = self._run(given, order)
        return given, out, graph

    def _run(self, patches: Tensor, order: _Order) -> Tensor:
        count, cells = len(patches), MERGE * MERGE
        heads, width = self.config.num_heads, self.config.hidden_size // self.config.num_heads
        x = self.tower.patch_embed(patches)
        x = x.view(count // cells, cells, -1)[order.groups].flatten(0, 1)  # (N, hidden)
        cache = x.new_empty(2, heads, count, width)
        place = Heads(heads, order.cos, order.sin, order.place, cache[0], cache[1], order.place)
        for i, block in enumerate(self.blocks):
            y = F.linear(self._normed(x), block.qkv, block.qkv_bias)
            if self.plain:
                q = of_rows.place_heads_reference(y, place)
            else:
                q = y.new_empty(count, heads, width)
                of_rows.place_heads(y, place, q)
            if i in self.config.fullatt_block_indexes:
                k, v = (each[:, order.reading] for each in cache)
                out = torch.empty_like(q)
                out[order.reading] = _attend_runs(q[order.reading], k, v, order.images)
            else:
                out = _attend_runs(q, cache[0], cache[1], order.windows)
            x = x + F.linear(out.flatten(1), block.proj, block.proj_bias)
            both = F.linear(self._normed(x), block.gate_up, block.gate_up_bias)
            if self.plain:
                gated = of_rows.swiglu_reference(both)
            else:
                gated = both.new_empty(count, both.shape[1] // 2)
                of_rows.swiglu(both, gated)
            x = x + F.linear(gated, block.down, block.down_bias)
        merger = self.tower.merger
        x = merger.mlp(self._normed(x, merger.ln_q.weight).view(count // cells, -1))
        return x[order.back]

    def _normed(self, x: Tensor, weight: Tensor | None = None) -> Tensor:
        if self.plain:
            return of_rows.normed_reference(x, weight, self.config.rms_norm_eps)
        out = torch.empty_like(x)
        of_rows.normed(x, weight, self.config.rms_norm_eps, out)
        return out

    def _order(self, grids: tuple[Grid, ...]) -> _Order:
        """Windows sorted by size; the tower's own layout says where they are."""
        cells = MERGE * MERGE
        layout = layout_of(grids, self.config.window_size // PATCH // MERGE)
        ends = list(accumulate(size // cells for size in layout.windows))  # in groups
        by_size = sorted(range(len(ends)), key=lambda w: -layout.windows[w])
        moved = torch.cat([torch.arange(ends[w] - layout.windows[w] // cells, ends[w]) for w in by_size])
        groups = layout.order[moved]  # (N / 4,)
        positions = layout.positions.view(-1, cells, 2)[moved].flatten(0, 1)  # (N, 2)
        back = torch.argsort(groups)
        reading = (back[:, None] * cells + torch.arange(cells)).flatten()
        count = Counter(layout.windows)
        windows = tuple((size, count[size]) for size in sorted(count, reverse=True))
        images = tuple((size, len(list(run))) for size, run in groupby(layout.images))
        wide = torch.promote_types(self.dtype, torch.float32)
        cos, sin = self.tower.rope(positions, wide)  # (N, 1, D): both halves are alike
        half = cos.shape[-1] // 2
        to = self.device
        return _Order(
            groups.to(to), back.to(to), windows, reading.to(to), images, cos[:, 0, :half].contiguous().to(to),
            sin[:, 0, :half].contiguous().to(to), torch.arange(len(reading), dtype=torch.int32, device=to),
        )  # fmt: skip


def _attend_runs(q: Tensor, k: Tensor, v: Tensor, runs: tuple[tuple[int, int], ...]) -> Tensor:
    """Attention inside runs of tokens, a batch for all runs of a size; q (N, H, D), k and v (H, N, D) -> (N, H, D)."""
    out, begin = [], 0
    for size, count in runs:
        end = begin + size * count
        queries = q[begin:end].unflatten(0, (count, size)).transpose(1, 2)  # (count, H, size, D)
        keys, values = (x[:, begin:end].unflatten(1, (count, size)).transpose(0, 1) for x in (k, v))
        out.append(F.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(0, 1))
        begin = end
    return torch.cat(out) if len(out) > 1 else out[0]


@torch.no_grad()
def fuse(block: VisionBlock) -> _Block:
    """One block's weights: norms folded, gate over up, the feed-forward width padded with zeros."""
    wide = torch.promote_types(block.norm1.weight.dtype, torch.float32)

    def folded(weight: Tensor, norm: Tensor) -> Tensor:
        return (weight.to(wide) * norm.to(wide)).to(weight.dtype)

    mlp = block.mlp
    pad = -mlp.gate_proj.out_features % PAD
    gate, up = (folded(p.weight, block.norm2.weight) for p in (mlp.gate_proj, mlp.up_proj))
    return _Block(
        qkv=folded(block.attn.qkv.weight, block.norm1.weight),
        qkv_bias=block.attn.qkv.bias.detach(),
        proj=block.attn.proj.weight.detach(),
        proj_bias=block.attn.proj.bias.detach(),
        gate_up=torch.cat([F.pad(w, (0, 0, 0, pad)) for w in (gate, up)]),
        gate_up_bias=torch.cat([F.pad(p.bias, (0, pad)) for p in (mlp.gate_proj, mlp.up_proj)]),
        down=F.pad(mlp.down_proj.weight, (0, pad)).contiguous(),
        down_bias=mlp.down_proj.bias.detach(),
    )
