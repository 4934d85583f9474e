"""Training the autoencoder: every picture by itself, what drivers look at counting more, latents with noise on them."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from efficientgen.worldsim.nano.autoencoder import Autoencoder, from_grid, to_bytes, to_grid, to_pixels
from efficientgen.worldsim.nano.capture import Step
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.layout import Kind
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig, autocast

COUNTS = {Kind.RED: 10.0, Kind.YELLOW: 10.0, Kind.GREEN: 10.0, Kind.HEAD: 2.0, Kind.CAR: 2.5, Kind.TRUCK: 2.0,
          Kind.BUS: 2.0, Kind.BICYCLE: 5.0, Kind.PEDESTRIAN: 5.0, Kind.PARKED: 1.5}  # fmt: skip
QUIET, LOUD = 0.05, 0.35  # noise on latents, in their standard deviations
LOUD_SHARE, BLIND_SHARE = 0.3, 0.06  # of the pictures: louder noise; no latent at all
PULL = 1e-4  # of latents towards 0

Save = Callable[[dict[str, Any]], None]


def weights_of(rasters: Tensor) -> Tensor:
    """How much pixels count, (N, 1, H, W), of rasters (N, H / 2, W / 2, 6): road users and lights, and what is near."""
    weights = _counts(rasters.device)[rasters[..., 0].long()][:, None]
    weights = F.max_pool2d(weights, 3, 1, 1)
    return F.interpolate(weights, scale_factor=2, mode="nearest")


@lru_cache(maxsize=4)
def _counts(device: torch.device) -> Tensor:
    """`COUNTS` of every kind, kept on the device: a captured step copies nothing from the host."""
    return torch.tensor([COUNTS.get(kind, 1.0) for kind in sorted(Kind)], device=device)


def picture_loss(out: Tensor, truth: Tensor, weights: Tensor) -> Tensor:
    """Absolute and squared differences, weighted, and those of the image gradients."""
    off = out.float() - truth
    plain = (weights * (off.abs() + 8.0 * off.square())).mean() / weights.mean()
    edges = (off[..., 1:] - off[..., :-1]).abs().mean() + (off[..., 1:, :] - off[..., :-1, :]).abs().mean()
    return plain + 0.25 * edges


def disturbed(z: Tensor) -> Tensor:
    """Latents (N, C, R, W) as a world model might leave them: noisy, very noisy, or missing."""
    n = len(z)
    scale = z.detach().float().std((0, 2, 3), keepdim=True)
    chance = torch.rand(n, 1, 1, 1, device=z.device)
    loud = QUIET + (LOUD - QUIET) * torch.rand(n, 1, 1, 1, device=z.device)
    level = torch.where(chance < LOUD_SHARE, loud, QUIET)
    noisy = z + (level * scale * torch.randn_like(z)).to(z)
    blind = z.detach().float().mean((0, 2, 3), keepdim=True).to(z).expand_as(z)
    return torch.where(chance > 1 - BLIND_SHARE, blind, noisy)


def per_camera(clips: Clips, steps: Tensor) -> Tensor:
    """The weather of every picture of time steps (n,): (n * cameras,)."""
    return clips.weather[steps][:, None].expand(-1, clips.cameras).flatten()


def fit_autoencoder(
    model: Autoencoder, clips: Clips, config: TrainConfig, clock: Clock, until_s: float, metrics: Metrics,
    save: Save, resumed: dict[str, Any] | None = None,
) -> Autoencoder:  # fmt: skip
    """Train until `until_s` on the clock; returns the averaged model with the latents' statistics in it, frozen.

    Args:
        save: called with the run's state now and then.
        resumed: such a state, to go on from.
    """
    device = clips.device
    model = model.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    run = Run(model, config.autoencoder_lr, config, clock, until_s)
    if resumed:
        run.load(resumed)

    def step() -> Tensor:
        pick = torch.randint(len(clips.pictures), (config.autoencoder_batch,), device=device)
        truth = to_pixels(clips.pictures[pick].flatten(0, 1)).contiguous(memory_format=torch.channels_last)
        rasters = clips.rasters[pick].flatten(0, 1)
        weather = per_camera(clips, pick)
        with autocast(device, config):
            features = model.reader(rasters, weather)
            z = model.encode(truth, features[1])
            out = model.decode(disturbed(z), features)
        loss = picture_loss(out, truth, weights_of(rasters)) + PULL * z.float().square().mean()
        run.move(loss)
        return loss.detach()

    stepping = Step(step, device, metrics, "autoencoder step", config.capture and config.capture_autoencoder)
    window: list[Tensor] = []
    while run.progress < 1:
        run.plan()
        loss = stepping()
        if run.steps % 20 == 0:
            window.append(loss.clone())
        if run.steps % 200 == 0 or run.steps == config.max_steps:
            mean = float(torch.stack(window).mean()) if window else float(loss)
            window.clear()
            metrics(part="autoencoder", step=run.steps, loss=mean, progress=run.progress)
        if run.save_due():
            save(run.state())
    done = Autoencoder(model.config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    run.average.into(done)
    spread = torch.randperm(len(clips.pictures), device=device)[:2048]
    z = torch.cat([encode_steps(done, clips, part, raw=True) for part in spread.split(64)]).float()
    done.mean.copy_(z.mean((0, 2, 3)))
    done.std.copy_(z.std((0, 2, 3)).clamp_min(1e-3))
    metrics(part="autoencoder", step=run.steps, done=True, latent_std=float(done.std.mean()))
    return done


def polish_decoder(
    model: Autoencoder, clips: Clips, latents: tuple[Tensor, Tensor], config: TrainConfig, clock: Clock, until_s: float,
    metrics: Metrics,
) -> Autoencoder:  # fmt: skip
    """The decoder on half true, half dreamed `latents` (N, C, R, cameras W), until `until_s`; all else stays frozen.

    It learns what the world model's errors look like; the latents and the raster's reading, which the world model was
    trained on, do not change.
    """
    device = clips.device
    model = model.eval().requires_grad_(False)
    for part in model.decoder:
        part.requires_grad_(True)
    run = Run(model, config.polish_lr, config, clock, until_s)

    def step() -> Tensor:
        pick = torch.randint(len(clips.pictures), (config.autoencoder_batch,), device=device)
        half = len(pick) // 2
        grid = torch.cat([latents[0][pick[:half]], latents[1][pick[half:]]])
        rasters, weather = clips.rasters[pick].flatten(0, 1), per_camera(clips, pick)
        z = model.restored(from_grid(grid.float(), clips.cameras)).contiguous(memory_format=torch.channels_last)
        with autocast(device, config):
            with torch.no_grad():
                features = model.reader(rasters, weather)
            out = model.decode(z + QUIET * model.std.to(z)[:, None, None] * torch.randn_like(z), features)
        loss = picture_loss(out, to_pixels(clips.pictures[pick].flatten(0, 1)), weights_of(rasters))
        run.move(loss)
        return loss.detach()

    stepping = Step(step, device, metrics, "decoder step", config.capture and config.capture_autoencoder)
    losses: list[Tensor] = []
    while run.progress < 1:
        run.plan()
        loss = stepping()
        if run.steps % 10 == 0:
            losses.append(loss.clone())
    done = Autoencoder(model.config).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    metrics(part="decoder", step=run.steps, loss=float(torch.stack(losses).mean()) if losses else 0.0)
    return run.average.into(done)


@torch.no_grad()
def encode_steps(model: Autoencoder, clips: Clips, steps: Tensor, raw: bool = False) -> Tensor:
    """Latents of time steps (n,): on the token grid and normalised (n, C, R, cameras W), or `raw`, per picture."""
    rasters = clips.rasters[steps].flatten(0, 1)
    weather = per_camera(clips, steps)
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.device.type == "cuda"):
        z = model.encode(to_pixels(clips.pictures[steps].flatten(0, 1)), model.reader(rasters, weather)[1]).float()
    return z if raw else to_grid(model.normalised(z), clips.cameras)


@torch.no_grad()
def decode_steps(model: Autoencoder, clips: Clips, steps: Tensor, grid: Tensor) -> Tensor:
    """Pictures (n, cameras, H, W, 3) uint8 of latents (n, C, R, cameras W) at time steps (n,)."""
    rasters = clips.rasters[steps].flatten(0, 1)
    weather = per_camera(clips, steps)
    with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.device.type == "cuda"):
        z = model.restored(from_grid(grid.float(), clips.cameras))
        out = model.decode(z, model.reader(rasters, weather))
    return to_bytes(out).unflatten(0, (-1, clips.cameras))
