"""One forward of the text tower over static buffers: what a CUDA graph captures, and what runs uncaptured on a CPU.

Six launches a layer where the skinny products are the faster ones: qkv with norm, bias, RoPE and cache write; attention
and its merge; the output product onto the residual; gate-up with norm and SiLU; down onto the residual.  Each product
may instead be the library's, with the rest of its work in kernels of its own: `Choices` says which, and
`engine_tune.py` measures it.  On a CPU every piece is the torch reference that stands beside the kernel.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from efficientgen.kernels import rows as of_rows
from efficientgen.kernels.prefix_attention import Partials, attend, attend_reference, chunk_of
from efficientgen.kernels.skinny import (
    RESIDUAL,
    ROPE,
    SWIGLU,
    Heads,
    Norm,
    Tile,
    Workspace,
    skinny,
    skinny_reference,
)
from efficientgen.planning.engine_weights import EngineWeights, LayerWeights

Choices = Mapping[tuple[str, int], Tile | None]  # (product, rows) -> its tile; None: the library's product
PRODUCTS = ("qkv", "out", "gate_up", "down")


class Step:
    """Static inputs, scratch and output of forwards of `rows` tokens whose tail is `tail` slots, up to `context` keys.

    A row that holds no token reads id 0, sees itself and writes to a slot behind everything.
    """

    def __init__(self, weights: EngineWeights, rows: int, tail: int, context: int):
        text, device, dtype = weights.config, weights.embed.device, weights.embed.dtype
        width, queries = text.head_dim, text.num_attention_heads
        self.rows, self.tail, self.context = rows, tail, context
        self.ids, self.place, self.slot = (torch.zeros(rows, dtype=torch.int32, device=device) for _ in range(3))
        self.start = torch.zeros(1, dtype=torch.int32, device=device)
        self.mask = torch.ones(rows, tail, dtype=torch.uint8, device=device)

        def empty(*shape: int, kind: torch.dtype = dtype) -> Tensor:
            return torch.empty(shape, dtype=kind, device=device)

        self.x, self.normed, self.hidden = (empty(rows, text.hidden_size) for _ in range(3))
        self.q, self.attended = empty(rows, queries, width), empty(rows, queries * width)
        self.gated, self.both = empty(rows, text.intermediate_size), empty(rows, 2 * text.intermediate_size)
        self.one = empty(1, rows, kind=torch.float32)  # squares of whole rows
        self.squares = empty(text.hidden_size // 16, rows, kind=torch.float32)  # of tiles
        self.heads = queries, width
        self.split(*chunk_of(context, rows, queries, text.num_key_value_heads))

    def split(self, chunk: int, held: int, warps: int = 0) -> None:
        """Let attention deal `chunk` keys and `held` folded rows to a program of `warps` (0: as many as usual)."""
        self.chunk, self.held, self.warps = chunk, held, warps
        self.partials = Partials(-(-self.context // chunk), self.rows, *self.heads, self.x.device)


@dataclass
class Row:
    """The residual stream x between two products, and its squares where somebody has added them up."""

    x: Tensor
    squares: Tensor | None


class Layers:
    """The tower on static K/V: `store` (layers, 2, Hkv, S, D), `cos` and `sin` (P, D / 2) by text position.

    Args:
        overlap: launch each kernel while the one before it ends (sm_90 and later).
    """

    def __init__(
        self, weights: EngineWeights, store: Tensor, cos: Tensor, sin: Tensor, choices: Choices, room: Workspace | None,
        overlap: bool = False, compile_only: bool = False,
    ):  # fmt: skip
        self.weights, self.store, self.cos, self.sin = weights, store, cos, sin
        self.choices, self.room, self.overlap, self.compile_only = choices, room, overlap, compile_only
        self.reference = room is None

    def trial(self, choices: Choices, compile_only: bool = False) -> Layers:
        """The same with other choices; `compile_only`: our products are compiled and not run."""
        return Layers(self.weights, self.store, self.cos, self.sin, choices, self.room, self.overlap, compile_only)

    def product(self, step: Step, name: str, index: int) -> None:
        """One product of one layer by itself, with all that belongs to it, on whatever the buffers hold."""
        layer, row = self.weights.layers[index], Row(step.x, step.one)
        if name == "attend":
            self.attend(step, index)
        elif name == "qkv":
            self.heads(step, index, row)
        elif name == "gate_up":
            self.gate(step, layer, row)
        else:
            self.add(step, name, *((step.attended, layer.out) if name == "out" else (step.gated, layer.down)), row)

    def run(self, step: Step) -> None:
        """Tokens of `step` to `step.hidden`, behind the final norm; their K and V go to `step.slot`."""
        weights, eps = self.weights, self.weights.config.rms_norm_eps
        if self.reference:
            x, squares = of_rows.embed_reference(step.ids, weights.embed)
            step.x.copy_(x)
            step.one.copy_(squares)
        else:
            of_rows.embed(step.ids, weights.embed, step.x, step.one, self.overlap)
        row = Row(step.x, step.one)
        for i, layer in enumerate(weights.layers):
            self.heads(step, i, row)
            self.attend(step, i)
            self.add(step, "out", step.attended, layer.out, row)
            self.gate(step, layer, row)
            self.add(step, "down", step.gated, layer.down, row)
        if self.reference:
            step.hidden.copy_(of_rows.normed_reference(step.x, weights.norm, eps))
        else:
            of_rows.normed(step.x, weights.norm, eps, step.hidden, self.overlap)

    def heads(self, step: Step, index: int, row: Row) -> None:
        """Norm, q, k, v, RoPE, cache."""
        layer, text = self.weights.layers[index], self.weights.config
        heads = Heads(text.num_attention_heads, self.cos, self.sin, step.place, self.store[index, 0],
                      self.store[index, 1], step.slot, layer.head_norm, text.rms_norm_eps)  # fmt: skip
        tile = self._tile("qkv", step)
        if self.reference:
            norm = self._norm(step, row)
            step.q.copy_(skinny_reference(row.x, layer.qkv, ROPE, bias=layer.qkv_bias, norm=norm, heads=heads))
        elif tile is not None:
            assert self.room is not None
            skinny(row.x, layer.qkv, ROPE, tile, step.q, self.room, bias=layer.qkv_bias, norm=self._norm(step, row),
                   heads=heads, overlap=self.overlap, compile_only=self.compile_only)  # fmt: skip
        else:
            of_rows.normed(row.x, None, text.rms_norm_eps, step.normed, self.overlap)
            y = torch.nn.functional.linear(step.normed, layer.qkv, layer.qkv_bias)
            of_rows.place_heads(y, heads, step.q, self.overlap)

    def attend(self, step: Step, index: int) -> None:
        """The rows to the cache and to each other."""
        keys, values = self.store[index]
        if self.reference:
            step.attended.copy_(attend_reference(step.q, keys, values, step.start, step.mask))
        else:
            attend(step.q, keys, values, step.start, step.mask, step.partials, step.attended, step.chunk, step.held,
                   step.warps, overlap=self.overlap, compile_only=self.compile_only)  # fmt: skip

    def add(self, step: Step, name: str, y: Tensor, weight: Tensor, row: Row) -> None:
        """x += y W^T."""
        tile = self._tile(name, step)
        if self.reference:
            row.x.copy_(skinny_reference(y, weight, RESIDUAL, residual=row.x))
            row.squares = None
        elif tile is not None:
            assert self.room is not None
            squares = step.squares[: -(-len(weight) // tile.columns)]
            skinny(y, weight, RESIDUAL, tile, row.x, self.room, residual=row.x, squares=squares, overlap=self.overlap,
                   compile_only=self.compile_only)  # fmt: skip
            row.squares = squares
        else:
            torch.addmm(row.x, y, weight.t(), out=row.x)
            row.squares = None

    def gate(self, step: Step, layer: LayerWeights, row: Row) -> None:
        """Norm, gate and up, SiLU."""
        tile = self._tile("gate_up", step)
        if self.reference:
            step.gated.copy_(skinny_reference(row.x, layer.gate_up, SWIGLU, norm=self._norm(step, row)))
        elif tile is not None:
            assert self.room is not None
            skinny(row.x, layer.gate_up, SWIGLU, tile, step.gated, self.room, norm=self._norm(step, row),
                   overlap=self.overlap, compile_only=self.compile_only)  # fmt: skip
        else:
            of_rows.normed(row.x, None, self.weights.config.rms_norm_eps, step.normed, self.overlap)
            torch.mm(step.normed, layer.gate_up.t(), out=step.both)
            of_rows.swiglu(step.both, step.gated, self.overlap)

    def _tile(self, name: str, step: Step) -> Tile | None:
        return self.choices.get((name, step.rows))

    def _norm(self, step: Step, row: Row) -> Norm:
        """The squares of x, added up now if whoever wrote x did not."""
        if row.squares is None:
            if self.reference:
                step.one.copy_(row.x.float().pow(2).sum(-1)[None])
            else:
                of_rows.squares_of(row.x, step.one, self.overlap)
            row.squares = step.one
        return Norm(row.squares, self.weights.config.rms_norm_eps)
