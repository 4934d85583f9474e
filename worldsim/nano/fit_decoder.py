"""Finishing the decoder on pieces of pictures: where lights and road users are, on what the world model dreams.

Lights are a few pixels of a few pictures, and what is drawn of them decides whether a planner stops.  Pieces of 3x3
tokens, drawn by how much their pixels count, let a CPU see thousands of them.  Only the decoder learns; latents and
the raster's reading stay what the world model was trained on.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from efficientgen.worldsim.nano.autoencoder import TOKEN_PX, Autoencoder, from_grid, to_pixels
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_autoencoder import QUIET, picture_loss, weights_of
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig

SIDE = 3  # tokens of a piece
EDGE_PX = 10  # of a piece that do not count: the nets see nothing beyond it
DREAMED = 0.75  # share of pieces whose latents were dreamed


def piece_chances(clips: Clips) -> Tensor:
    """How often each token (N * cameras, R, W) is to be the middle of a piece: by the most that its pixels count."""
    out = []
    for rasters in clips.rasters.flatten(0, 1).split(256):
        out.append(F.max_pool2d(weights_of(rasters), TOKEN_PX, TOKEN_PX)[:, 0] ** 1.5)
    return torch.cat(out)


def finish_decoder(
    model: Autoencoder, clips: Clips, latents: tuple[Tensor, Tensor], config: TrainConfig, clock: Clock, until_s: float,
    metrics: Metrics, pieces: int = 16,
) -> Autoencoder:  # fmt: skip
    """Train the decoder until `until_s` on `pieces` a step, of true and dreamed `latents` (N, C, R, cameras W)."""
    model = model.eval().requires_grad_(False)
    for part in model.decoder:
        part.requires_grad_(True)
    run = Run(model, config.polish_lr, config, clock, until_s)
    chances = piece_chances(clips)
    pictures, rasters = clips.pictures.flatten(0, 1), clips.rasters.flatten(0, 1)
    losses: list[Tensor] = []
    while run.progress < 1:
        image, top, left = drawn(chances, pieces)
        dreamt = torch.rand(pieces, device=clips.device) < DREAMED
        spots = list(zip(image.tolist(), top.tolist(), left.tolist(), dreamt.tolist(), strict=True))
        truth = torch.stack([cut(pictures[i], r, c, TOKEN_PX) for i, r, c, _ in spots])
        told = torch.stack([cut(rasters[i], r, c, TOKEN_PX // 2) for i, r, c, _ in spots])
        z = torch.stack([_latent(latents[int(d)], clips.cameras, i, r, c) for i, r, c, d in spots])
        z = model.restored(z.float())
        with torch.no_grad():
            features = model.reader(told, clips.weather[image // clips.cameras])
        out = model.decode(z + QUIET * model.std.to(z)[:, None, None] * torch.randn_like(z), features)
        inner = (..., slice(EDGE_PX, -EDGE_PX), slice(EDGE_PX, -EDGE_PX))
        loss = picture_loss(out[inner], to_pixels(truth)[inner], weights_of(told)[inner])
        run.descend(loss)
        losses.append(loss.detach())
        if run.steps % 100 == 0:
            metrics(part="decoder pieces", step=run.steps, loss=float(torch.stack(losses).mean()))
            losses.clear()
    done = Autoencoder(model.config).to(clips.device)
    metrics(part="decoder pieces", step=run.steps, done=True)
    return run.average.into(done)


def drawn(chances: Tensor, pieces: int) -> tuple[Tensor, Tensor, Tensor]:
    """Picture, and first row and column of tokens, of pieces drawn by their middles' chances (N, R, W)."""
    rows, columns = chances.shape[1:]
    pick = torch.multinomial(chances.flatten(), pieces)
    token = pick % (rows * columns)
    top = (token // columns - SIDE // 2).clamp(0, rows - SIDE)
    left = (token % columns - SIDE // 2).clamp(0, columns - SIDE)
    return pick // (rows * columns), top, left


def cut(picture: Tensor, top: int, left: int, px: int) -> Tensor:
    """A piece of (H, W, C), whose tokens are `px` wide."""
    return picture[top * px : (top + SIDE) * px, left * px : (left + SIDE) * px]


def _latent(grids: Tensor, cameras: int, image: int, top: int, left: int) -> Tensor:
    z = from_grid(grids[image // cameras][None], cameras)[image % cameras]
    return z[:, top : top + SIDE, left : left + SIDE]
