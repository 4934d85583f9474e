"""Which products are ours and how they are cut, chosen at load by measurement on the device at hand.

Every candidate runs over all layers of the real weights in one captured graph, so that no weight is in a cache that it
would not be in, and launches cost what they cost in a forward; the library's product runs with the kernels that it
needs around it.  What is compared is therefore the same piece of a layer, and the faster one stays.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from efficientgen.kernels.skinny import Tile, rows_per_program
from efficientgen.planning.engine_layers import PRODUCTS, Choices, Step

if TYPE_CHECKING:
    from efficientgen.planning.engine import Engine

# (columns, inner, split, warps, stages, ahead); none spills at the 3B shape with up to 64 rows (tests/kernels)
CANDIDATES: dict[str, tuple[Tile, ...]] = {
    "qkv": (Tile(32, 128, 4, 4, 4, 2), Tile(32, 64, 4, 4, 5, 4), Tile(16, 128, 2, 4, 4, 4), Tile(64, 64, 8, 4, 4, 4)),
    "out": (Tile(32, 128, 2, 4, 4, 4), Tile(32, 128, 4, 4, 4, 4), Tile(64, 128, 4, 4, 4, 2), Tile(16, 256, 1, 4, 4, 4)),
    "gate_up": (Tile(32, 128, 1, 4, 4, 2), Tile(64, 64, 1, 4, 4, 2), Tile(64, 128, 1, 4, 3, 2), Tile(64, 64, 1, 8, 4, 2)),
    "down": (Tile(64, 128, 2, 4, 4, 2), Tile(64, 64, 4, 4, 5, 4), Tile(32, 128, 2, 4, 4, 4), Tile(128, 64, 4, 8, 4, 2)),
}
WIDE: dict[str, tuple[Tile, ...]] = {  # of 65 rows and more
    "qkv": (Tile(64, 64, 4, 8, 3, 2),),
    "out": (Tile(64, 64, 2, 8, 3, 2), Tile(128, 64, 4, 8, 3, 2)),
    "gate_up": (Tile(64, 64, 1, 8, 3, 2),),
    "down": (Tile(64, 64, 4, 8, 3, 2), Tile(128, 64, 4, 8, 3, 2)),
}
REPLAYS = 4


@dataclass(frozen=True)
class Measured:
    """Microseconds that one layer's product took with all that belongs to it; `tile` None: the library's."""

    name: str
    rows: int
    tile: Tile | None
    us: float


def choose(engine: Engine, rows: Iterable[int], libraries_only: bool = False) -> tuple[Choices, list[Measured]]:
    """The fastest way to do each product for each number of rows, and everything that was measured."""
    steps = {r: Step(engine.weights, r, r, 1024) for r in rows}
    for step in steps.values():
        step.slot.copy_(engine.spare(step.rows))
        step.x.normal_()
        step.attended.normal_()
        step.gated.normal_()
    if not libraries_only:
        compile_all(engine, steps.values())
    measured, choices = [], dict[tuple[str, int], Tile | None]()
    for count, step in steps.items():
        for name in PRODUCTS:
            tiles: list[Tile | None] = [None] if libraries_only else [None, *candidates(name, count)]
            told = [Measured(name, count, tile, time_product(engine, step, name, tile)) for tile in tiles]
            choices[name, count] = min(told, key=lambda m: m.us).tile
            measured += told
    return choices, measured


def candidates(name: str, rows: int) -> tuple[Tile, ...]:
    """What may be tried for a product of so many rows."""
    return (CANDIDATES if rows <= 64 else WIDE)[name]


def compile_all(engine: Engine, steps: Iterable[Step]) -> None:
    """Compile the candidates side by side; rows that a program holds alike share them."""
    from triton import AsyncCompileMode

    held = {rows_per_program(step.rows): step for step in steps}
    with ThreadPoolExecutor(os.cpu_count()) as pool, AsyncCompileMode(pool):
        for step in held.values():
            for name in PRODUCTS:
                for tile in candidates(name, step.rows):
                    for _ in _product(engine, step, name, tile, 1, compile_only=True):
                        pass


def time_product(engine: Engine, step: Step, name: str, tile: Tile | None) -> float:
    """Microseconds of one layer's product `name` by `tile`, over all layers in a graph."""
    for _ in _product(engine, step, name, tile, 1):  # compiles what is not, and lets the library look for its kernel
        pass
    torch.cuda.synchronize(engine.device)
    graph, layers = torch.cuda.CUDAGraph(), len(engine.weights.layers)
    with torch.cuda.graph(graph):
        for _ in _product(engine, step, name, tile, layers):
            pass
    graph.replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(REPLAYS):
        graph.replay()
    end.record()
    torch.cuda.synchronize(engine.device)
    return begin.elapsed_time(end) * 1e3 / REPLAYS / layers


def _product(
    engine: Engine, step: Step, name: str, tile: Tile | None, layers: int, compile_only: bool = False
) -> Iterator[None]:
    """The product in each of the first `layers` layers."""
    run = engine.layers.trial({(name, step.rows): tile}, compile_only)
    for i in range(layers):
        run.product(step, name, i)
        yield
