"""Rendered clips in a device's memory, as training and the gates read them."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientgen.worldsim.nano.autoencoder import WEATHER_NAMES
from efficientgen.worldsim.nano.model import RigRays


class NoClipsError(ValueError):
    """A directory without rendered clips."""


@dataclass(frozen=True)
class Clips:
    """N time steps of several drives, one after the other.

    `pictures` (N, cameras, H, W, 3) and `rasters` (N, cameras, H / 2, W / 2, 6) uint8, `poses` (N, 4, 4) fp64 middle
    camera to map, `weather` (N,); drive k is `starts[k]` to `starts[k] + lengths[k]`.
    """

    pictures: Tensor
    rasters: Tensor
    poses: Tensor
    weather: Tensor
    starts: tuple[int, ...]
    lengths: tuple[int, ...]
    names: tuple[str, ...]

    @property
    def device(self) -> torch.device:
        return self.pictures.device

    @property
    def cameras(self) -> int:
        return self.pictures.shape[1]

    def windows(self, frames: int) -> Tensor:
        """First steps of all windows of `frames` steps that lie within one drive."""
        spans = [torch.arange(s, s + n - frames + 1) for s, n in zip(self.starts, self.lengths, strict=True)]
        return torch.cat(spans).to(self.device)


def load_clips(directory: Path, device: str, most: int = 1 << 30) -> Clips:
    """All clips of a directory, up to `most` time steps.

    Raises:
        NoClipsError: there are none.
    """
    abouts = [json.loads(path.read_text()) for path in sorted(directory.glob("*.json"))]
    kept, steps = [], 0
    for about in abouts:
        if steps + about["steps"] <= most:
            kept.append(about)
            steps += about["steps"]
    if not kept:
        raise NoClipsError(f"no clips in {directory}; make some with `efficientgen data world --out {directory}`")
    rays = RigRays()

    def array(about: dict, name: str) -> np.ndarray:
        return np.load(directory / f"{about['log']}.{name}.npy", mmap_mode="r")

    starts = np.cumsum([0, *(about["steps"] for about in kept)])[:-1].tolist()
    shapes = {name: array(kept[0], name).shape[1:] for name in ("pictures", "rasters")}
    held = {name: torch.empty((steps, *shape), dtype=torch.uint8, device=device) for name, shape in shapes.items()}
    poses = np.empty((steps, 3))
    weather = torch.empty(steps, dtype=torch.long)

    def fill(job: tuple[dict, int]) -> None:
        about, start = job
        span = slice(start, start + about["steps"])
        for name, into in held.items():
            into[span] = torch.from_numpy(np.array(array(about, name)))
        poses[span] = array(about, "poses")
        weather[span] = WEATHER_NAMES.index(about["weather"])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(fill, zip(kept, starts, strict=True)))
    return Clips(held["pictures"], held["rasters"], rays.poses(poses).to(device), weather.to(device), tuple(starts),
                 tuple(about["steps"] for about in kept), tuple(about["log"] for about in kept))  # fmt: skip
