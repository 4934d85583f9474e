"""Random inputs of the decoding kernels, at any size and dtype, and the kernel beside its reference on them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from efficientgen.kernels import rows as of_rows
from efficientgen.kernels.prefix_attention import Partials, attend, attend_reference, chunk_of
from efficientgen.kernels.skinny import (
    PLAIN,
    RESIDUAL,
    ROPE,
    SWIGLU,
    Heads,
    Norm,
    Tile,
    Workspace,
    parts_needed,
    skinny,
    skinny_reference,
)


@dataclass(frozen=True)
class Sizes:
    """Of one layer: model, feed-forward and head width, query and shared heads; cache slots, and rows of a forward."""

    hidden: int = 64
    wide: int = 96
    width: int = 32
    queries: int = 4
    shared: int = 2
    slots: int = 96
    rows: int = 5
    head_norm: bool = False

    @property
    def qkv(self) -> int:
        return (self.queries + 2 * self.shared) * self.width


@dataclass
class Made:
    """Draws tensors of one device and dtype."""

    device: str
    dtype: torch.dtype
    seed: int

    def __post_init__(self) -> None:
        self.generator = torch.Generator(self.device).manual_seed(self.seed)

    def normal(self, *shape: int, scale: float = 1.0, dtype: torch.dtype | None = None) -> Tensor:
        x = torch.randn(*shape, device=self.device, generator=self.generator) * scale
        return x.to(dtype or self.dtype)

    def heads(self, sizes: Sizes, at: int) -> Heads:
        half = sizes.width // 2
        angle = torch.outer(
            torch.arange(4096, device=self.device).float(), 0.8 ** torch.arange(half, device=self.device)
        )
        cache = self.normal(2, sizes.shared, sizes.slots, sizes.width)
        place = torch.arange(sizes.rows, device=self.device, dtype=torch.int32)
        norm = 1.0 + self.normal(2, sizes.width, scale=0.1) if sizes.head_norm else None
        return Heads(sizes.queries, angle.cos(), angle.sin(), place + 700, cache[0], cache[1], place + at, norm)


def error(ours: Tensor, exact: Tensor) -> float:
    """RMS of the difference over the RMS of the exact result."""
    return float((ours.double() - exact.double()).norm() / exact.double().norm())


def same_place(heads: Heads) -> Heads:
    return replace(heads, keys=heads.keys.clone(), values=heads.values.clone())


def product_errors(sizes: Sizes, tile: Tile, made: Made, overlap: bool = False) -> Iterator[tuple[str, float]]:
    """Every kind of product by kernel against the reference on the same rounded inputs."""
    m, k = sizes.rows, sizes.hidden
    x = made.normal(m, k)
    squares = x.float().pow(2).sum(-1)
    norm = Norm(torch.stack([squares * 0.25, squares * 0.75]), 1e-6)
    room = Workspace(x.device, max(parts_needed(m, n, 64, tile.held) for n in (k, sizes.qkv, 2 * sizes.wide)))
    weight, bias, residual = made.normal(k, k, scale=k**-0.5), made.normal(k), made.normal(m, k)
    out = torch.empty_like(residual)
    skinny(x, weight, PLAIN, tile, out, room, bias=bias, norm=norm, overlap=overlap)
    yield "plain", error(out, skinny_reference(x, weight, PLAIN, bias=bias, norm=norm))
    of_out = torch.empty(-(-k // tile.columns), m, device=x.device)
    skinny(x, weight, RESIDUAL, tile, out, room, residual=residual, squares=of_out, overlap=overlap)
    yield "residual", error(out, skinny_reference(x, weight, RESIDUAL, residual=residual))
    yield "residual squares", error(of_out.sum(0), out.float().pow(2).sum(-1))
    weight = made.normal(2 * sizes.wide, k, scale=k**-0.5)
    out = x.new_empty(m, sizes.wide)
    skinny(x, weight, SWIGLU, tile, out, room, norm=norm, overlap=overlap)
    yield "swiglu", error(out, skinny_reference(x, weight, SWIGLU, norm=norm))
    weight, bias = made.normal(sizes.qkv, k, scale=k**-0.5), made.normal(sizes.qkv)
    heads = made.heads(sizes, 3)
    theirs = same_place(heads)
    narrow = replace(tile, columns=sizes.width // 2 if sizes.head_norm else min(tile.columns, sizes.width // 2))
    out = x.new_empty(m, sizes.queries, sizes.width)
    skinny(x, weight, ROPE, narrow, out, room, bias=bias, norm=norm, heads=heads, overlap=overlap)
    yield "rope q", error(out, skinny_reference(x, weight, ROPE, bias=bias, norm=norm, heads=theirs))
    yield "rope k", error(heads.keys, theirs.keys)
    yield "rope v", error(heads.values, theirs.values)


def attention_error(sizes: Sizes, start: int, tail: int, made: Made, overlap: bool = False, apart: int = 1) -> float:
    """A random mask in which every row sees a slot; with `apart` that many groups of rows, each in its own stretch."""
    q = made.normal(sizes.rows, sizes.queries, sizes.width)
    keys, values = made.normal(2, sizes.shared, sizes.slots, sizes.width)
    mask = (made.normal(sizes.rows, tail) > 0).to(torch.uint8)
    row, own = torch.arange(sizes.rows), tail // apart
    group = row * apart // sizes.rows
    mask *= (torch.arange(tail) // own == group[:, None]).to(mask)
    mask[row, group * own + row % own] = 1
    begin = torch.tensor([start], dtype=torch.int32, device=q.device)
    chunk, held = chunk_of(sizes.slots, sizes.rows, sizes.queries, sizes.shared)
    room = Partials(-(-sizes.slots // chunk), sizes.rows, sizes.queries, sizes.width, q.device)
    out = q.new_empty(sizes.rows, sizes.queries * sizes.width)
    attend(q, keys, values, begin, mask, room, out, chunk, held, overlap=overlap)
    return error(out, attend_reference(q, keys, values, begin, mask))


def row_errors(sizes: Sizes, made: Made, overlap: bool = False) -> Iterator[tuple[str, float]]:
    """What happens to rows by themselves."""
    m, k = sizes.rows, sizes.hidden
    table = made.normal(50, k)
    ids = torch.randint(0, 50, (m,), device=table.device, generator=made.generator, dtype=torch.int32)
    x, squares = table.new_empty(m, k), torch.empty(1, m, device=table.device)
    of_rows.embed(ids, table, x, squares, overlap)
    there, theirs = of_rows.embed_reference(ids, table)
    yield "embed", error(x, there)
    yield "embed squares", error(squares, theirs)
    of_rows.squares_of(x, squares, overlap)
    yield "squares", error(squares, theirs)
    weight = made.normal(k)
    out = torch.empty_like(x)
    for each in (weight, None):
        of_rows.normed(x, each, 1e-6, out, overlap)
        yield "normed", error(out, of_rows.normed_reference(x, each, 1e-6))
    both = made.normal(m, 2 * sizes.wide)
    out = x.new_empty(m, sizes.wide)
    of_rows.swiglu(both, out, overlap)
    yield "swiglu rows", error(out, of_rows.swiglu_reference(both))
    y, heads = made.normal(m, sizes.qkv), made.heads(sizes, 2)
    other = same_place(heads)
    q = y.new_empty(m, sizes.queries, sizes.width)
    of_rows.place_heads(y, heads, q, overlap)
    yield "place q", error(q, of_rows.place_heads_reference(y, other))
    yield "place k", error(heads.keys, other.keys)
    yield "place v", error(heads.values, other.values)
