"""The training set on disk and in memory: rendered triplets, prompts and answers as flat arrays.

A set is a directory of `.npy` shards written by `efficientgen data render`; the arrays of all shards are concatenated
here.  It is small enough to live on the training device as a whole, so a batch is an index operation.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
import torch
from torch import Tensor


class DatasetError(ValueError):
    """A training-set directory that is empty or inconsistent."""


@dataclass(frozen=True)
class DrivingSet:
    """N samples over M rendered triplets; P prompt and L answer tokens."""

    images: Tensor  # (M, 3, H, W, 3) uint8, cameras FRONT_LEFT, FRONT, FRONT_RIGHT
    now: Tensor  # (N,) row of `images` at the sample's stamp
    before: Tensor  # (N,) row of `images` one frame gap earlier
    prompt: Tensor  # (N, P) int16
    answer: Tensor  # (N, L) int16
    weight: Tensor  # (N,) float32 sampling weight
    heldout: Tensor  # (N,) bool, True: validation only
    kinds: Tensor  # (N, T) uint8, what each of the present frames' vision tokens shows (`look.token_labels`)
    metres: Tensor  # (N, T) uint8, and how far away it is

    def __len__(self) -> int:
        return len(self.now)

    def to(self, device: str) -> DrivingSet:
        return DrivingSet(*(getattr(self, f.name).to(device) for f in fields(self)))

    def pairs(self, rows: Tensor) -> Tensor:
        """uint8 (B, 3, 2, H, W, 3): per camera the earlier and the present frame."""
        return torch.stack([self.images[self.before[rows]], self.images[self.now[rows]]], 2)


def load_set(directory: Path, device: str = "cpu", drives: int | None = None) -> DrivingSet:
    """The shards of `directory` as one set on `device`; pictures go there shard by shard, several at a time.

    Args:
        drives: at most so many shards, one each, the same ones every time.

    Raises:
        DatasetError: there is none, or their shapes disagree.
    """
    shards = sorted(p.name.removesuffix(".now.npy") for p in directory.glob("*.now.npy"))
    if not shards:
        raise DatasetError(f"{directory} holds no shards; make some with `efficientgen data record` and `data render`")
    if drives is not None:
        shards = sorted(np.random.default_rng([0, *b"drives"]).permutation(shards)[:drives].tolist())
    small = [f.name for f in fields(DrivingSet) if f.name != "images"]
    columns: dict[str, list[np.ndarray]] = {name: [] for name in small}
    places: dict[Path, slice] = {}  # of each shard's pictures
    shapes, offset = set(), 0
    for shard in shards:
        if lacking := [name for name in [*small, "images"] if not (directory / f"{shard}.{name}.npy").exists()]:
            raise DatasetError(f"{directory} lacks {shard}.{lacking[0]}.npy; render it anew with `data render`")
        path = directory / f"{shard}.images.npy"
        shape = np.load(path, mmap_mode="r").shape
        shapes.add(shape[1:])
        for name in small:
            array = np.load(directory / f"{shard}.{name}.npy")
            columns[name].append(array + offset if name in ("now", "before") else array)
        places[path] = slice(offset, offset + shape[0])
        offset += shape[0]
    try:
        if len(shapes) > 1:
            raise ValueError(f"pictures of {len(shapes)} sizes")
        joined = {k: torch.from_numpy(np.concatenate(v)).to(device) for k, v in columns.items()}
    except ValueError as error:
        raise DatasetError(f"the shards of {directory} do not fit each other: {error}") from error
    images = torch.empty((offset, *shapes.pop()), dtype=torch.uint8, device=device)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda item: images[item[1]].copy_(torch.from_numpy(np.load(item[0]))), places.items()))
    return DrivingSet(images=images, **joined)


def save_shard(directory: Path, name: str, arrays: dict[str, np.ndarray]) -> None:
    """Write one shard; `now` goes last and marks it complete."""
    directory.mkdir(parents=True, exist_ok=True)
    for key in sorted(arrays, key=lambda k: k == "now"):
        temporary = directory / f".{name}.{key}.npy"
        np.save(temporary, arrays[key])
        temporary.rename(directory / f"{name}.{key}.npy")
