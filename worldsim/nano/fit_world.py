"""Training the world model: rectified flow with a noise level per frame, on recordings and on its own dreams.

A frame enters as x = (1 - s) c + s noise, where c is what a stream would remember of it: the recording's latent, or
what the model itself made of it in a dream of the whole drive.  The target is the recording's latent either way, so
windows of dreams teach the model to lead its own errors back to what the reference renderer shows: with the truth at
hand for every way of the ego, exposure bias needs no critic.  All drives are dreamed anew every half minute or so.
Noise levels follow three patterns: independent per frame, rising with time, and finished frames with some that are
being made (diffusion forcing, arXiv 2407.01392; SANA-WM's mixture).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from efficientgen.worldsim.nano.autoencoder import Autoencoder, from_grid, to_pixels
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_autoencoder import Save, encode_steps, picture_loss, weights_of
from efficientgen.worldsim.nano.model import NanoModel, RigRays
from efficientgen.worldsim.nano.stream import Stream
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig, autocast
from efficientgen.worldsim.sana.sampler import DivergedError

FINISHED = 0.08  # the most noise on frames that count as finished
LEAST = 0.12  # frames with less noise are context, not target
DEEPEST = 8.0  # of dreamed latents, in standard deviations, for training
FLOOR = 0.3  # a velocity's weight grows no further below this noise level
PATTERNS = (0.3, 0.2, 0.5)  # independent, rising, finished with some in the making


def noise_levels(rows: int, frames: int, levels: tuple[int, ...], device: torch.device) -> Tensor:
    """(rows, frames) in [0, 1], thousandths: a mixture of the three patterns; first frames are mostly finished."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, device=device)

    full = torch.where(rand(rows, frames) < 0.45, torch.ones(rows, frames, device=device),
                       torch.sigmoid(torch.randn(rows, frames, device=device) + 0.4))  # fmt: skip
    middles = torch.tensor([level / 1000 for level in levels[1:]] or [1.0], device=device)
    near = middles[torch.randint(len(middles), (rows, frames), device=device)] + 0.1 * (rand(rows, frames) - 0.5)
    free = torch.where(rand(rows, frames) < 0.3, near.clamp(0, 1), full)
    finished = FINISHED * rand(rows, frames) * (rand(rows, frames) < 0.6)
    making = torch.where(rand(rows, frames) < 0.45, free, finished)
    which = rand(rows, 1)
    out = torch.where(
        which < PATTERNS[0], free, torch.where(which < PATTERNS[0] + PATTERNS[1], free.sort(1)[0], making)
    )
    out[:, 0] = torch.where(rand(rows) < 0.85, finished[:, 0], out[:, 0])
    return (out * 1000).round() / 1000


def fit_world(
    model: NanoModel, autoencoder: Autoencoder, clips: Clips, config: TrainConfig, clock: Clock, until_s: float,
    metrics: Metrics, save: Save, export: Callable[[NanoModel], None], resumed: dict[str, Any] | None = None,
) -> tuple[NanoModel, Tensor, Tensor]:  # fmt: skip
    """Train until `until_s` on the clock; returns the averaged model, frozen, true latents and its last dream of them.

    Args:
        save, export: called every `config.export_every_s` with the run's state, and with the averaged model.
        resumed: such a state, to go on from.
    """
    device = clips.device
    model = model.to(device).train()
    rays = RigRays(device=device)
    truth = torch.cat([encode_steps(autoencoder, clips, part) for part in _parts(len(clips.pictures), device)])
    dreamed = truth.clone()
    features = read_rasters(autoencoder, clips)
    metrics(part="world", latents=list(truth.shape))
    run = Run(model, config.lr, config, clock, until_s)
    if resumed:
        run.load(resumed)
    if config.compile:
        for block in model.transformer.blocks:
            block.compile()
    windows = clips.windows(config.window)
    shadow = NanoModel(model.config).to(device)
    notes: list[Tensor] = []
    last_dream, dreams = clock.elapsed, False
    while (progress := run.progress) < 1:
        due = clock.elapsed - last_dream > config.dream_every_s or not dreams
        if config.first_dream < progress < 0.97 and due:
            last_dream = clock.elapsed
            try:
                dreamed = dream(run.average.into(shadow), clips, truth, features, rays).clamp(-DEEPEST, DEEPEST)
                dreams = True
                off = (dreamed - truth).square().mean((1, 2, 3))
                metrics(part="dream", error=float(off.mean()), late=float(_late(off, clips)),
                        took_s=clock.elapsed - last_dream)  # fmt: skip
            except DivergedError as error:
                metrics(part="dream", diverged=str(error))
        first = windows[torch.randint(len(windows), (config.batch,), device=device)]
        where = first[:, None] + torch.arange(config.window, device=device)  # (B, T)
        on_dreams = dreams & (torch.rand(config.batch, 1, 1, 1, 1, device=device) < config.dreamed)
        z = truth[where].float()  # (B, T, C, R, W)
        held = torch.where(on_dreams, dreamed[where].float(), z)
        level = noise_levels(config.batch, config.window, model.config.levels, device)
        s = level[:, :, None, None, None]
        x = (1 - s) * held + s * torch.randn_like(z)
        with autocast(device, config):
            weather = clips.weather[first]
            condition = model.condition(features[where.flatten()]).unflatten(0, where.shape)
            v = model(
                x.transpose(1, 2), level * 1000, model.text(weather),
                rays(clips.poses[where], clips.poses[first], model.config.metre), condition.transpose(1, 2),
            ).transpose(1, 2)  # fmt: skip
        made = x - s * v.float()
        counts = (s >= LEAST) / s.clamp_min(FLOOR).square()
        loss = (counts * (made - z).square()).mean() / counts.mean().clamp_min(1e-6)
        total = loss
        if progress > config.pixels_from and config.pixel_frames:
            seen = pixel_loss(autoencoder, clips, where, made, level, config)
            total = loss + seen
        run.descend(total)
        if run.steps % 10 == 0:
            notes.append(torch.stack([loss.detach(), (total - loss).detach()]))
        if run.steps % 100 == 0 or run.steps == config.max_steps:
            mean = torch.stack(notes).mean(0).tolist() if notes else [float(loss.detach()), 0.0]
            notes.clear()
            metrics(part="world", step=run.steps, loss=mean[0], pixels=mean[1], progress=progress)
        if run.save_due():
            save(run.state())
            export(run.average.into(shadow))
    save(run.state())
    metrics(part="world", step=run.steps, done=True)
    done = run.average.into(NanoModel(model.config).to(device))
    try:
        dreamed = dream(done, clips, truth, features, rays).clamp(-DEEPEST, DEEPEST)
    except DivergedError as error:
        metrics(part="dream", diverged=str(error))
    return done, truth, dreamed


def pixel_loss(
    autoencoder: Autoencoder, clips: Clips, where: Tensor, made: Tensor, level: Tensor, config: TrainConfig
) -> Tensor:
    """The picture loss of a few of the frames that were in the making."""
    chance = (level >= LEAST).float().flatten() + 1e-9
    pick = torch.multinomial(chance, min(config.pixel_frames, chance.numel()))
    steps = where.flatten()[pick]
    rasters = clips.rasters[steps].flatten(0, 1)
    weather = clips.weather[steps].repeat_interleave(clips.cameras)
    with autocast(clips.device, config):
        latents = autoencoder.restored(from_grid(made.flatten(0, 1)[pick], clips.cameras))
        out = autoencoder.decode(latents, autoencoder.reader(rasters, weather))
    return picture_loss(out, to_pixels(clips.pictures[steps].flatten(0, 1)), weights_of(rasters))


@torch.no_grad()
def dream(
    model: NanoModel, clips: Clips, truth: Tensor, features: Tensor, rays: RigRays, seed: int | None = None
) -> Tensor:
    """Latents (N, C, R, W) of every drive dreamed from its first picture, all drives side by side.

    Drives shorter than the longest go on standing at their last step, and what they dream there is left out.
    """
    device = clips.device
    starts = torch.tensor(clips.starts, device=device)
    lasts = starts + torch.tensor(clips.lengths, device=device) - 1
    weather = clips.weather[starts]
    out = truth.clone()
    generator = torch.Generator(device).manual_seed(seed) if seed is not None else None

    def seen(steps: Tensor) -> Tensor:
        return torch.cat([model.condition(features[part]) for part in steps.split(64)]).float()

    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        text = model.text(weather)
        stream = Stream(model, rays, text, truth[starts].float(), seen(starts), clips.poses[starts])
        for k in range(1, max(clips.lengths)):
            steps = torch.minimum(starts + k, lasts)
            noise = torch.randn(truth[starts].shape, device=device, generator=generator)
            latent = stream.step(seen(steps), clips.poses[steps], noise)
            inside = starts + k <= lasts
            out[steps[inside]] = latent[inside].to(out.dtype)
    return out


@torch.no_grad()
def read_rasters(autoencoder: Autoencoder, clips: Clips) -> Tensor:
    """The autoencoder's reading (N, cameras, features, H / 4, W / 4) of every raster, bf16: it does not learn here."""
    parts = _parts(len(clips.rasters), clips.device)
    out = torch.empty(0)
    for part in parts:
        weather = clips.weather[part].repeat_interleave(clips.cameras)
        with torch.autocast(clips.device.type, torch.bfloat16, enabled=clips.device.type == "cuda"):
            quarter = autoencoder.reader(clips.rasters[part].flatten(0, 1), weather)[1]
        read = quarter.to(torch.bfloat16).contiguous().unflatten(0, (-1, clips.cameras))
        if not out.numel():
            out = torch.empty((len(clips.rasters), *read.shape[1:]), dtype=read.dtype, device=clips.device)
        out[part] = read
    return out


def _late(off: Tensor, clips: Clips) -> Tensor:
    """The mean error of the last ten steps of the drives."""
    ends = [off[s + n - min(10, n) : s + n] for s, n in zip(clips.starts, clips.lengths, strict=True)]
    return torch.cat(ends).mean()


def _parts(count: int, device: torch.device) -> tuple[Tensor, ...]:
    return torch.arange(count, device=device).split(64)
