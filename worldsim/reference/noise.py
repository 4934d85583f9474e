"""Keyed random generators and tiling value noise: everything irregular in the town comes from here.

Random numbers are keyed by name instead of streamed, so that adding a tree never moves a house.
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

from efficientgen.perception.types import F64


def key(*names: object) -> int:
    """A 64-bit integer that depends on the names only (stable between processes and Python versions)."""
    return int.from_bytes(hashlib.blake2b(repr(names).encode(), digest_size=8).digest(), "little")


def keyed(*names: object) -> np.random.Generator:
    """A random generator for one named purpose."""
    return np.random.default_rng(key(*names))


def value_noise(size: int, octaves: tuple[tuple[int, float], ...], rng: np.random.Generator) -> F64:
    """Noise (size, size) in [0, 1] that tiles; each octave is (lattice cells per side, weight)."""
    total = np.zeros((size, size))
    for cells, weight in octaves:
        lattice = rng.random((cells, cells))
        where = np.arange(size) * cells / size
        low = where.astype(int)
        mix = where - low
        mix = mix * mix * (3 - 2 * mix)
        high = (low + 1) % cells
        rows = lattice[low] * (1 - mix)[:, None] + lattice[high] * mix[:, None]  # (size, cells)
        total += weight * (rows[:, low] * (1 - mix) + rows[:, high] * mix)
    return total / sum(weight for _, weight in octaves)


def sample_tiled(field: NDArray[np.floating], x: F64, y: F64) -> F64:
    """Bilinear samples of a tiling field (N, N) at x, y in units of whole tiles."""
    size = field.shape[0]
    u, v = np.mod(x, 1.0) * size, np.mod(y, 1.0) * size
    i, j = np.floor(u).astype(int), np.floor(v).astype(int)
    fu, fv = u - i, v - j
    i0, i1, j0, j1 = i % size, (i + 1) % size, j % size, (j + 1) % size
    top = field[j0, i0] * (1 - fu) + field[j0, i1] * fu
    return top * (1 - fv) + (field[j1, i0] * (1 - fu) + field[j1, i1] * fu) * fv
