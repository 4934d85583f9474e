"""Training the world model: rectified flow with a noise level per frame, on recordings and on its own dreams.

A frame enters as x = (1 - s) c + s noise, where c is what a stream would remember of it: the recording's latent, or
what the model itself made of it in a dream of the whole drive.  The target is the recording's latent either way, so
windows of dreams teach the model to lead its own errors back to what the reference renderer shows: with the truth at
hand for every way of the ego, exposure bias needs no critic.  All drives are dreamed anew every half minute or so, in
segments side by side, each from what the dream before made of the steps in front of it.
Noise levels follow three patterns: independent per frame, rising with time, and finished frames with some that are
being made (diffusion forcing, arXiv 2407.01392; SANA-WM's mixture).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

from efficientgen.worldsim.nano.autoencoder import Autoencoder, from_grid, to_pixels
from efficientgen.worldsim.nano.capture import Step
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_autoencoder import Save, encode_steps, per_camera, picture_loss, weights_of
from efficientgen.worldsim.nano.model import NanoModel, RigRays
from efficientgen.worldsim.nano.stream import Stream
from efficientgen.worldsim.nano.training import Clock, Metrics, Run, TrainConfig, autocast

FINISHED = 0.08  # the most noise on frames that count as finished
LEAST = 0.12  # frames with less noise are context, not target
DEEPEST = 8.0  # of dreamed latents, in standard deviations, for training
FLOOR, DREAMED_FLOOR = 0.3, 0.5  # a velocity's weight grows no further below this noise level: a dream's error stays
PATTERNS = (0.3, 0.2, 0.5)  # independent, rising, finished with some in the making


@lru_cache(maxsize=4)
def _middles(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Noise levels of all passes but the first, kept on the device: a captured step copies nothing from the host."""
    return torch.tensor([level / 1000 for level in levels[1:]] or [1.0], device=device)


def noise_levels(rows: int, frames: int, levels: tuple[int, ...], device: torch.device) -> Tensor:
    """(rows, frames) in [0, 1], thousandths: a mixture of the three patterns; first frames are mostly finished."""

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, device=device)

    full = torch.where(rand(rows, frames) < 0.45, torch.ones(rows, frames, device=device),
                       torch.sigmoid(torch.randn(rows, frames, device=device) + 0.4))  # fmt: skip
    middles = _middles(levels, device)
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
    share = torch.zeros((), device=device)  # of windows whose context is dreamed: the step reads it

    def step(pixels: bool) -> Tensor:
        first = windows[torch.randint(len(windows), (config.batch,), device=device)]
        where = first[:, None] + torch.arange(config.window, device=device)  # (B, T)
        level = noise_levels(config.batch, config.window, model.config.levels, device)
        on_dreams = torch.rand(config.batch, 1, 1, 1, 1, device=device) < share
        loss, made = flow_loss(model, clips, (truth, dreamed, features), rays, first, where, level, on_dreams, config)
        seen = pixel_loss(autoencoder, clips, where, made, level, config) if pixels else torch.zeros_like(loss)
        run.move(loss + seen)
        return torch.stack([loss.detach(), seen.detach()])

    stepping: tuple[bool, Step] | None = None
    shadow = NanoModel(model.config).to(device)
    notes: list[Tensor] = []
    next_dream, dreams = clock.elapsed, False
    while (progress := run.progress) < 1:
        if config.first_dream < progress < 0.97 and clock.elapsed >= next_dream:
            begun = clock.elapsed
            try:
                again = dream(run.average.into(shadow), clips, truth, features, rays, segment=config.dream_segment,
                              before=dreamed).clamp(-DEEPEST, DEEPEST)  # fmt: skip
                dreamed.copy_(again)
                dreams = True
                off = (dreamed - truth).square().mean((1, 2, 3))
                metrics(part="dream", error=float(off.mean()), late=float(_late(off, clips)),
                        took_s=clock.elapsed - begun)  # fmt: skip
            except RuntimeError as error:  # a dream that diverges, or finds no memory: training goes on without
                metrics(part="dream", diverged=str(error))
            took = clock.elapsed - begun
            next_dream = clock.elapsed + max(config.dream_every_s, took * (1 / config.dream_share - 1))
        ramp = min(1.0, (progress - config.first_dream) / max(config.dreamed_ramp, 1e-6))
        share.fill_(config.dreamed * ramp if dreams else 0.0)
        pixels = progress > config.pixels_from and config.pixel_frames > 0
        if stepping is None or stepping[0] != pixels:
            stepping = None  # its memory is free before the next is captured
            name = "world step with pictures" if pixels else "world step"
            stepping = pixels, Step(partial(step, pixels), device, metrics, name, config.capture)
        run.plan()
        losses = stepping[1]()
        if run.steps % 10 == 0:
            notes.append(losses.clone())
        if run.steps % 100 == 0 or run.steps == config.max_steps:
            mean = torch.stack(notes or [losses]).mean(0).tolist()
            notes.clear()
            metrics(part="world", step=run.steps, loss=mean[0], pixels=mean[1], progress=progress)
        if run.save_due():
            save(run.state())
            export(run.average.into(shadow))
    save(run.state())
    metrics(part="world", step=run.steps, done=True)
    done = run.average.into(NanoModel(model.config).to(device))
    try:
        dreamed = dream(done, clips, truth, features, rays, segment=config.dream_segment,
                        before=dreamed).clamp(-DEEPEST, DEEPEST)  # fmt: skip
    except RuntimeError as error:
        metrics(part="dream", diverged=str(error))
    return done, truth, dreamed


def flow_loss(
    model: NanoModel, clips: Clips, known: tuple[Tensor, Tensor, Tensor], rays: RigRays, first: Tensor, where: Tensor,
    level: Tensor, on_dreams: Tensor, config: TrainConfig,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """The weighted squared error of what the model makes of windows, and what it makes, (B, T, C, R, W).

    Args:
        known: true and dreamed latents and the readings of all rasters, each (N, ...).
        first, where: the windows' first steps (B,) and all their steps (B, T).
        on_dreams: (B, 1, 1, 1, 1) booleans: what is remembered of a window was dreamed.
    """
    truth, dreamed, features = known
    z = truth[where].float()  # (B, T, C, R, W)
    held = torch.where(on_dreams, dreamed[where].float(), z)
    s = level[:, :, None, None, None]
    x = (1 - s) * held + s * torch.randn_like(z)
    with autocast(clips.device, config):
        condition = model.condition(features[where.flatten()]).unflatten(0, where.shape)
        v = model(
            x.transpose(1, 2), level * 1000, model.text(clips.weather[first]),
            rays(clips.poses[where], clips.poses[first], model.config.metre), condition.transpose(1, 2),
        ).transpose(1, 2)  # fmt: skip
    made = x - s * v.float()
    floor = torch.where(on_dreams, DREAMED_FLOOR, FLOOR)
    counts = (s >= LEAST) / torch.maximum(s, floor).square()
    return (counts * (made - z).square()).mean() / counts.mean().clamp_min(1e-6), made


def pixel_loss(
    autoencoder: Autoencoder, clips: Clips, where: Tensor, made: Tensor, level: Tensor, config: TrainConfig
) -> Tensor:
    """The picture loss of a few of the frames that were in the making."""
    chance = (level >= LEAST).float().flatten() + 1e-9
    race = chance / torch.empty_like(chance).exponential_()  # the first of it are a draw without replacement ...
    pick = race.topk(min(config.pixel_frames, chance.numel())).indices  # ... that asks the host nothing
    steps = where.flatten()[pick]
    rasters = clips.rasters[steps].flatten(0, 1)
    weather = per_camera(clips, steps)
    with autocast(clips.device, config):
        latents = autoencoder.restored(from_grid(made.flatten(0, 1).index_select(0, pick), clips.cameras))
        out = autoencoder.decode(latents, autoencoder.reader(rasters, weather))
    return picture_loss(out, to_pixels(clips.pictures[steps].flatten(0, 1)), weights_of(rasters))


@torch.no_grad()
def dream(
    model: NanoModel, clips: Clips, truth: Tensor, features: Tensor, rays: RigRays, seed: int | None = None,
    segment: int | None = None, before: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """Latents (N, C, R, W) of every drive dreamed from its first picture, all drives side by side.

    Drives shorter than the longest go on standing at their last step, and what they dream there is left out.

    Args:
        segment: drives are cut into pieces of so many steps, all dreamed side by side; None: they are not.
        before: what an earlier dream made of all steps, (N, C, R, W): pieces that are not a drive's first go on from
            it.  None: from the truth.
    """
    device = clips.device
    pieces = _pieces(clips, segment)
    starts = torch.tensor([s for s, _ in pieces], device=device)
    lasts = torch.tensor([s + n - 1 for s, n in pieces], device=device)
    weather = clips.weather[starts]
    out = truth.clone()
    given = (truth if before is None else before)[starts]
    is_first = torch.isin(starts, torch.tensor(clips.starts, device=device))[:, None, None, None]
    given = torch.where(is_first, truth[starts], given).float()
    generator = torch.Generator(device).manual_seed(seed) if seed is not None else None

    def seen(steps: Tensor) -> Tensor:
        return torch.cat([model.condition(features[part]) for part in steps.split(64)]).float()

    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        stream = Stream(model, rays, model.text(weather), given, seen(starts), clips.poses[starts])
        for k in range(1, max(n for _, n in pieces)):
            steps = torch.minimum(starts + k, lasts)
            noise = torch.randn(given.shape, device=device, generator=generator)
            latent = stream.step(seen(steps), clips.poses[steps], noise)
            inside = starts + k <= lasts
            out[steps[inside]] = latent[inside].to(out.dtype)
    return out


def _pieces(clips: Clips, segment: int | None) -> list[tuple[int, int]]:
    """First step and length of every piece; each begins with the last step of the one before, so none is left out."""
    pieces = []
    for start, length in zip(clips.starts, clips.lengths, strict=True):
        reach = length if segment is None else max(segment, 2)
        for offset in range(0, max(length - 1, 1), reach - 1 if segment is not None else length):
            pieces.append((start + offset, min(reach, length - offset)))
    return pieces


@torch.no_grad()
def read_rasters(autoencoder: Autoencoder, clips: Clips) -> Tensor:
    """The autoencoder's reading (N, cameras, features, H / 4, W / 4) of every raster, bf16: it does not learn here."""
    parts = _parts(len(clips.rasters), clips.device)
    out = torch.empty(0)
    for part in parts:
        weather = per_camera(clips, part)
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
