"""A small classifier that reads road users and lights back out of pictures, to see whether a world model shows them.

It is trained on the reference world's pictures alone, with the condition raster as its truth, and then asked about
imagined ones: recall there, beside recall on reference pictures of the same moments, says what the imagination lost.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.worldsim.nano.autoencoder import TOKEN_PX, to_pixels
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_decoder import cut, drawn, piece_chances
from efficientgen.worldsim.nano.layout import Kind
from efficientgen.worldsim.nano.raster import distance_code

CLASSES: dict[str, tuple[Kind, ...]] = {
    "vehicle": (Kind.CAR, Kind.TRUCK, Kind.BUS),
    "person": (Kind.PEDESTRIAN, Kind.BICYCLE),
    "red": (Kind.RED,),
    "yellow": (Kind.YELLOW,),
    "green": (Kind.GREEN,),
}
LIGHTS = ("red", "yellow", "green")
DISTANCE_M = {"vehicle": 40.0, "person": 25.0, "red": 45.0, "yellow": 45.0, "green": 45.0}  # driving distances
STRIDE = 2  # raster cells per cell of the answer
EDGE_CELLS = 2  # of a piece, which do not count
LEAST_CELLS = 2  # of an object's 2x2 raster cells, for the answer's cell to count as the object's


class Reader(nn.Module):
    """Pictures (N, 3, H, W) to logits (N, classes, H / 4, W / 4)."""

    def __init__(self, width: int = 48) -> None:
        super().__init__()
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), nn.Conv2d(12, width, 3, padding=1), nn.SiLU(),
                                   nn.Conv2d(width, width, 3, 2, 1), nn.SiLU()]  # fmt: skip
        for spread in (1, 2, 4, 1):
            layers += [nn.Conv2d(width, width, 3, padding=spread, dilation=spread), nn.SiLU()]
        for layer in layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="relu")
        self.net = nn.Sequential(*layers, nn.Conv2d(width, len(CLASSES), 1))

    def forward(self, pictures: Tensor) -> Tensor:
        return self.net(pictures)


def truth_of(rasters: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (N, classes, h, w) that hold an object within driving distance, and those where any answer is right."""
    kinds, codes = rasters[..., 0], rasters[..., 1].float()
    inside, doubtful = [], []
    for name, members in CLASSES.items():
        is_class = torch.isin(kinds, torch.tensor([int(m) for m in members], device=kinds.device))
        limit = float(distance_code(torch.tensor(DISTANCE_M[name]).numpy()))
        near = is_class & (codes <= limit)
        share = F.avg_pool2d(near.float()[:, None], STRIDE) * STRIDE**2
        least = 1 if name in LIGHTS else LEAST_CELLS
        cells = share >= least
        around = F.max_pool2d(F.max_pool2d(is_class.float()[:, None], STRIDE), 3, 1, 1) > 0
        inside.append(cells)
        doubtful.append(around & ~cells)
    return torch.cat(inside, 1), torch.cat(doubtful, 1)


def train_reader(
    clips: Clips, seconds: float, seed: int = 0, batch: int = 48, most_steps: int = 4000, lr: float = 2e-3
) -> Reader:
    """Train on pieces of reference pictures, most of them with lights and people, for some seconds."""
    torch.manual_seed(seed)
    device = clips.device
    net = Reader().to(device)
    optimiser = torch.optim.AdamW(net.parameters(), lr=lr, weight_decay=0.01)
    pictures, told, chances = clips.pictures.flatten(0, 1), clips.rasters.flatten(0, 1), piece_chances(clips)
    began, step = time.monotonic(), 0
    while step < most_steps and (share := (time.monotonic() - began) / seconds) < 1:
        optimiser.param_groups[0]["lr"] = lr * (1 - max(share, step / most_steps)) + 1e-5
        places = [place.tolist() for place in drawn(chances, batch)]
        spots = list(zip(*places, strict=True))
        rasters = torch.stack([cut(told[i], r, c, TOKEN_PX // 2) for i, r, c in spots])
        inside, doubtful = truth_of(rasters)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = torch.stack([cut(pictures[i], r, c, TOKEN_PX) for i, r, c in spots])
            logits = net(to_pixels(seen)).float()
        rare = torch.full((len(CLASSES), 1, 1), 6.0, device=device)
        loss = F.binary_cross_entropy_with_logits(logits, inside.float(), reduction="none", pos_weight=rare)
        counts = ~doubtful
        counts[..., :EDGE_CELLS, :] = counts[..., -EDGE_CELLS:, :] = False  # the net sees nothing beyond a piece
        counts[..., :EDGE_CELLS] = counts[..., -EDGE_CELLS:] = False
        loss = (loss * counts).mean() * 50
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        step += 1
    return net.eval().requires_grad_(False)


@dataclass(frozen=True)
class Counts:
    """Of one class: cells of objects, those that were read, cells read where there is nothing, and lights read right.

    For lights `right` counts cells whose strongest light class is the true one.
    """

    there: int
    found: int
    false: int
    right: int


@torch.no_grad()
def read(net: Reader, pictures: Tensor, rasters: Tensor, batch: int = 64) -> dict[str, Counts]:
    """Per class, over pictures (N, H, W, 3) and rasters (N, H / 2, W / 2, 6)."""
    total = torch.zeros(len(CLASSES), 4, dtype=torch.long)
    lights = [list(CLASSES).index(name) for name in LIGHTS]
    for some, told in zip(pictures.split(batch), rasters.split(batch), strict=True):
        inside, doubtful = truth_of(told)
        score = net(to_pixels(some)).float()
        near = F.max_pool2d(score, 3, 1, 1)  # an answer may be a cell off
        strongest = near[:, lights].argmax(1)
        for k, name in enumerate(CLASSES):
            cells = inside[:, k]
            right = (strongest == LIGHTS.index(name)) & (near[:, k] > 0) if name in LIGHTS else near[:, k] > 0
            free = ~cells & ~doubtful[:, k]
            values = (cells.sum(), (cells & (near[:, k] > 0)).sum(), (free & (score[:, k] > 0)).sum(),
                      (cells & right).sum())  # fmt: skip
            total[k] += torch.stack(values).cpu()
    return {name: Counts(*(int(v) for v in row)) for name, row in zip(CLASSES, total, strict=True)}
