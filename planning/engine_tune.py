"""Which products are ours and how they are cut, chosen at load by measurement on the device at hand.

Every candidate runs over all layers of the real weights in one captured graph, so that no weight is in a cache that it
would not be in, and launches cost what they cost in a forward; the library's product runs with the kernels that it
needs around it.  What is compared is therefore the same piece of a layer.  The best few are then tried inside whole
forwards, and what makes those faster stays.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch

from efficientgen.kernels.prefix_attention import ways
from efficientgen.kernels.skinny import Tile, rows_per_program
from efficientgen.planning.engine_layers import PRODUCTS, Choices, Step

if TYPE_CHECKING:
    from efficientgen.planning.engine import Engine

# (columns, inner, split, warps, stages, ahead); none spills at the 3B shape with up to 64 rows (tests/kernels)
CANDIDATES: dict[str, tuple[Tile, ...]] = {
    "qkv": (Tile(32, 128, 4, 4, 4, 4), Tile(32, 128, 2, 4, 4, 4), Tile(16, 256, 1, 4, 4, 4), Tile(16, 128, 2, 4, 5, 4)),
    "out": (Tile(32, 128, 4, 4, 4, 4), Tile(64, 128, 4, 4, 4, 4), Tile(16, 256, 1, 4, 4, 4), Tile(16, 128, 1, 4, 6, 6)),
    "gate_up": (
        Tile(32, 128, 1, 4, 4, 2), Tile(64, 64, 1, 4, 4, 4), Tile(64, 128, 1, 4, 3, 2), Tile(32, 64, 1, 4, 6, 4),
        Tile(64, 64, 1, 8, 5, 4),
    ),
    "down": (
        Tile(64, 64, 4, 4, 8, 8), Tile(64, 64, 4, 4, 5, 4), Tile(32, 128, 2, 4, 6, 6), Tile(32, 64, 4, 4, 6, 4),
        Tile(16, 256, 1, 4, 4, 2),
    ),
}  # fmt: skip
# with the rows padded to 64, what those do best
PADDED: dict[str, tuple[Tile, ...]] = {
    "qkv": (Tile(16, 256, 1, 4, 4, 4, 64), Tile(32, 128, 2, 4, 4, 4, 64)),
    "out": (Tile(16, 256, 1, 4, 4, 4, 64), Tile(16, 128, 1, 4, 6, 6, 64)),
    "gate_up": (Tile(32, 128, 1, 4, 4, 2, 64),),
    "down": (Tile(32, 128, 2, 4, 6, 6, 64), Tile(64, 64, 4, 4, 8, 8, 64)),
}
# a head's own norm (Qwen3) needs the whole head in one program: half of its width, 64, twice
WHOLE_HEADS = (Tile(64, 128, 4, 4, 3, 3), Tile(64, 64, 4, 4, 5, 4), Tile(64, 64, 2, 4, 5, 4), Tile(64, 64, 4, 8, 5, 4))
WIDE: dict[str, tuple[Tile, ...]] = {  # of 65 rows and more
    "qkv": (Tile(64, 64, 4, 8, 3, 2),),
    "out": (Tile(64, 64, 2, 8, 3, 2),),
    "gate_up": (Tile(64, 64, 1, 8, 3, 2),),
    "down": (Tile(64, 64, 4, 8, 3, 2),),
}
REPLAYS = 4
RUNNERS_UP = 3


@dataclass(frozen=True)
class Measured:
    """Microseconds that one layer's product took with all that belongs to it; `tile` None: the library's."""

    name: str
    rows: int
    tile: Tile | None
    us: float


def choose(engine: Engine, rows: Iterable[int], libraries_only: bool = False) -> tuple[Choices, list[Measured]]:
    """The fastest way to do each product for each number of rows, and everything that was measured."""
    context = min(2048, engine.store.shape[3])
    steps = {r: Step(engine.weights, r, r, context) for r in rows}
    for step in steps.values():
        step.start.fill_(context - step.tail)
        step.slot.copy_(engine.spare(step.rows))
        step.x.normal_()
        step.attended.normal_()
        step.gated.normal_()
    if not libraries_only:
        compile_all(engine, list(steps.values()))
    measured, choices = [], dict[tuple[str, int], Tile | None]()
    for count, step in steps.items():
        for name in PRODUCTS:
            tiles: list[Tile | None] = (
                [None] if libraries_only else [None, *candidates(name, count, whole_head(engine))]
            )
            told = [Measured(name, count, tile, time_product(engine, step, name, tile)) for tile in tiles]
            choices[name, count] = min(told, key=lambda m: m.us).tile
            measured += told
        if not libraries_only:
            measured += refine(engine, step, choices, [m for m in measured if m.rows == count])
    return choices, measured


def refine(
    engine: Engine, step: Step, choices: dict[tuple[str, int], Tile | None], alone: Sequence[Measured]
) -> list[Measured]:
    """Try the runners-up inside whole forwards, and put into `choices` what makes those faster.

    A product by itself knows nothing of what it costs its neighbours: the squares that a library does not leave, or
    the launch of the next kernel, which a library's product delays until it has ended.
    """
    rows, told = step.rows, []
    best = time_forward(engine, step, choices)
    told.append(Measured("forward", rows, None, best))
    for name in PRODUCTS[::-1]:
        kept = choices[name, rows]
        for other in sorted((m for m in alone if m.name == name), key=lambda m: m.us)[:RUNNERS_UP]:
            if other.tile == kept:
                continue
            us = time_forward(engine, step, choices | {(name, rows): other.tile})
            told.append(Measured(f"forward with {name}", rows, other.tile, us))
            if us < best * 0.997:
                best, choices[name, rows] = us, other.tile
    return told


def candidates(name: str, rows: int, whole: int = 0) -> tuple[Tile, ...]:
    """What may be tried for a product of so many rows; `whole`: columns that qkv must hold, for norms of heads."""
    tiles = (CANDIDATES if rows <= 64 else WIDE)[name]
    if 8 <= rows <= 32:
        tiles += PADDED[name]
    if name != "qkv" or not whole:
        return tiles
    tiles = (WHOLE_HEADS if rows <= 64 else ()) + tiles
    return tuple(tile for tile in tiles if tile.columns == whole)


def whole_head(engine: Engine) -> int:
    """Columns that a program of qkv must hold: half a head where heads are normed, else 0 for any number."""
    text = engine.weights.config
    return text.head_dim // 2 if text.qk_norm else 0


def split_attention(engine: Engine, step: Step) -> tuple[int, int, int]:
    """Give `step` the fastest way of attention for its rows and its longest context, and say which."""
    text = engine.weights.config
    step.start.fill_(step.context - step.tail)
    step.q.normal_()
    best: tuple[float, tuple[int, int, int]] | None = None
    for way in ways(step.context, step.rows, text.num_attention_heads, text.num_key_value_heads):
        step.split(*way)
        us = time_product(engine, step, "attend", None)
        if best is None or us < best[0]:
            best = us, way
    assert best is not None
    step.split(*best[1])
    return best[1]


def compile_all(engine: Engine, steps: Sequence[Step], names: Sequence[str] = PRODUCTS) -> None:
    """Compile the candidates side by side; rows that a program holds alike share them."""
    held = {rows_per_program(step.rows): step for step in steps}
    whole = whole_head(engine)
    compile_together(
        engine, [(s, name, tile) for s in held.values() for name in names for tile in candidates(name, s.rows, whole)]
    )


def compile_together(engine: Engine, wanted: Iterable[tuple[Step, str, Tile | None]]) -> None:
    """Compile these products, and attention of their steps, on all cores at once."""
    from triton import AsyncCompileMode

    text, steps = engine.weights.config, dict[int, Step]()
    with ThreadPoolExecutor(os.cpu_count()) as pool, AsyncCompileMode(pool):
        for step, name, tile in wanted:
            engine.layers.trial({(name, step.rows): tile}, True).product(step, name, 0)
            steps[id(step)] = step
        for step in steps.values():
            for way in ways(step.context, step.rows, text.num_attention_heads, text.num_key_value_heads):
                step.split(*way)
                engine.layers.trial({}, True).product(step, "attend", 0)


def time_product(engine: Engine, step: Step, name: str, tile: Tile | None) -> float:
    """Microseconds of one layer's product `name` by `tile`, over all layers in a graph."""
    layers = len(engine.weights.layers)
    run = engine.layers.trial({(name, step.rows): tile})
    run.product(step, name, 0)  # compiles what is not, and lets the library look for its kernel

    def work() -> None:
        for i in range(layers):
            run.product(step, name, i)

    return _graphed_us(engine, work) / layers


def time_forward(engine: Engine, step: Step, choices: Choices) -> float:
    """Microseconds of a whole forward, without the head."""
    run = engine.layers.trial(choices)
    run.run(step)
    return _graphed_us(engine, partial(run.run, step))


def _graphed_us(engine: Engine, work: Callable[[], None]) -> float:
    torch.cuda.synchronize(engine.device)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    torch.cuda.synchronize(engine.device)
    return begin.elapsed_time(end) * 1e3 / REPLAYS
