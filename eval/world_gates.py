"""Is a nano world good enough to drive in?  Its gates, on drives through towns that it has never seen.

Every measure stands beside what it has to be held against: the first picture kept for ever (copy-last), the
autoencoder's ceiling, the reference pictures themselves.  The dream of a drive is given its poses and condition rasters
and nothing else after the first picture.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientgen.eval.world_pictures import overlap_psnr, psnr, spearman, ssim, turn_px
from efficientgen.eval.world_reader import CLASSES, DISTANCE_M, LIGHTS, read, train_reader
from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.nano.autoencoder import WEATHER_NAMES, Autoencoder
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_autoencoder import decode_steps, encode_steps
from efficientgen.worldsim.nano.fit_world import dream, read_rasters
from efficientgen.worldsim.nano.model import NanoModel, RigRays
from efficientgen.worldsim.nano.stream import Stream
from efficientgen.worldsim.nano.training import Clock

STEP_S = 0.4
HORIZONS_S = (1.2, 5.2, 20.0, 60.0)
TURNS_RAD = 0.01  # steps that turn less say nothing of the motion's size
MIDDLE = 1  # the front camera's place in the rig

READING_S, LEAST_TEACHING_S = 8.0, 10.0  # what reading back takes, and less than which teaches nobody
# a reader that finds less of the reference pictures' objects, or is wrong more often, reads nothing; nor do a few cells
FIT, FEW_CELLS = (0.6, 0.2), 20


@dataclass(frozen=True)
class Deadline:
    """When the examination has to be over, on a run's clock."""

    at_s: float
    clock: Clock

    @property
    def left_s(self) -> float:
        return self.at_s - self.clock.elapsed


@dataclass(frozen=True)
class Dreams:
    """Held-out drives (N steps in all): the truth, the autoencoder's rendering of it, and what was dreamed."""

    clips: Clips
    ceiling: Tensor  # (N, cameras, H, W, 3)
    dreamed: Tensor

    def at(self, seconds: float, around: int = 2) -> Tensor:
        """The steps of all drives that are long enough, `seconds` after their first, give or take a few steps."""
        k = round(seconds / STEP_S)
        spans = [range(s + max(1, k - around), s + min(n, k + around + 1)) for s, n in self.drives if n > k]
        return torch.tensor([i for span in spans for i in span], device=self.clips.device)

    @property
    def drives(self) -> list[tuple[int, int]]:
        return list(zip(self.clips.starts, self.clips.lengths, strict=True))


def examine(
    autoencoder: Autoencoder,
    model: NanoModel,
    heldout: Clips,
    reference: Clips | None,
    deadline: Deadline,
    reader_s: float = 12.0,
    samples: Path | None = None,
    planner: Path | None = None,
) -> dict[str, Any]:
    """All gates; one that fails is reported as its traceback, and what there is no time for is left out.

    Args:
        reference: clips whose pictures teach the reader, of other towns; None: nothing is read back.
        reader_s: seconds to teach it.
        samples: a PNG to write, dreams beside reference pictures.
        planner: a model directory whose vision features are compared as well.
    """
    rays = RigRays(device=heldout.device)
    steps = torch.arange(len(heldout.pictures), device=heldout.device)
    began = time.monotonic()
    truth = _in_parts(lambda part: encode_steps(autoencoder, heldout, part), steps)
    ceiling = _in_parts(lambda part: decode_steps(autoencoder, heldout, part, truth[part]), steps)
    dreamed = dream(model, heldout, truth, read_rasters(autoencoder, heldout), rays, seed=0)
    dreams = Dreams(
        heldout, ceiling, _in_parts(lambda part: decode_steps(autoencoder, heldout, part, dreamed[part]), steps)
    )
    took = time.monotonic() - began
    out: dict[str, Any] = {"drives": len(heldout.starts), "steps": len(steps), "step_s": STEP_S,
                           "device": _device_name(heldout.device), "dreaming_s": round(took, 1)}  # fmt: skip
    if samples is not None:
        write_samples(dreams, samples)
    gates: dict[str, Callable[[], dict[str, Any]]] = {
        "autoencoder": lambda: _autoencoder(autoencoder, dreams, truth),
        "horizons": lambda: _horizons(dreams),
        "collapse": lambda: _collapse(dreams),
        "steering": lambda: _steering(dreams),
        "views": lambda: _views(dreams),
        "speed": lambda: _speed(autoencoder, model, heldout, truth, rays),
    }
    if reference is not None:
        gates["recall"] = lambda: _recall(dreams, reference, min(reader_s, deadline.left_s - READING_S))
    if planner is not None:
        gates["planner_features"] = lambda: _features(dreams, planner)
    for name, gate in gates.items():
        if deadline.left_s < 0:
            out[name] = {"left out": "no time left"}
            continue
        try:
            out[name] = gate()
        except Exception:  # the others are still worth having; the traceback says what broke
            out[name] = {"error": traceback.format_exc()}
    return out


def chosen(clips: Clips, drives: int | None = None, most: int | None = None) -> Clips:
    """At most so many drives, evenly chosen, and of each at most its first `most` steps; None: all."""
    keep = list(range(len(clips.starts)))
    if drives is not None:
        keep = keep[:: max(1, -(-len(keep) // drives))]
    lengths = [min(clips.lengths[k], most or clips.lengths[k]) for k in keep]
    steps = torch.cat([torch.arange(clips.starts[k], clips.starts[k] + n) for k, n in zip(keep, lengths, strict=True)])
    steps = steps.to(clips.device)
    starts = np.cumsum([0, *lengths])[:-1].tolist()
    return Clips(clips.pictures[steps], clips.rasters[steps], clips.poses[steps], clips.weather[steps], tuple(starts),
                 tuple(lengths), tuple(clips.names[k] for k in keep))  # fmt: skip


def write_samples(dreams: Dreams, path: Path, drives: int = 5) -> None:
    """Rows of reference, dream and autoencoder for some drives, at each of the horizons."""
    from PIL import Image

    rows = []
    for start, length in dreams.drives[:: max(1, len(dreams.drives) // drives)][:drives]:
        for seconds in HORIZONS_S:
            step = start + min(length - 1, round(seconds / STEP_S))
            for pictures in (dreams.clips.pictures, dreams.dreamed, dreams.ceiling):
                rows.append(torch.cat(list(pictures[step].cpu()), 1).numpy())
    Image.fromarray(np.concatenate(rows)).save(path)


def _in_parts(make: Callable[[Tensor], Tensor], steps: Tensor) -> Tensor:
    return torch.cat([make(part) for part in steps.split(32)])


def _autoencoder(autoencoder: Autoencoder, dreams: Dreams, truth: Tensor) -> dict[str, Any]:
    clips = dreams.clips
    quality = _in_psnr(dreams.ceiling, clips.pictures)
    some = torch.arange(0, len(truth), 5, device=truth.device)
    blind = _in_parts(lambda part: decode_steps(autoencoder, clips, part, torch.zeros_like(truth[part])), some)
    by = {
        WEATHER_NAMES[w]: round(float(quality[clips.weather == w].mean()), 2) for w in clips.weather.unique().tolist()
    }
    out = {"psnr_db": float(quality.mean()), "psnr_db_of_mean_error": _pooled(dreams.ceiling, clips.pictures),
           "raster_alone_psnr_db": float(_in_psnr(blind, clips.pictures[some]).mean())}  # fmt: skip
    return _rounded(out) | {"by_weather": by, "gate": ">= 30", "passed": out["psnr_db"] >= 30.0}


def _horizons(dreams: Dreams) -> dict[str, Any]:
    """At some seconds after the only given picture: the dream, that picture kept, and the autoencoder's ceiling."""
    out = {}
    clips = dreams.clips
    begins = torch.empty(len(clips.pictures), dtype=torch.long, device=clips.device)
    for start, length in dreams.drives:
        begins[start : start + length] = start
    for seconds in HORIZONS_S:
        steps = dreams.at(seconds)
        if not len(steps):
            continue
        truth = clips.pictures[steps]
        rows = {
            "dream": dreams.dreamed[steps],
            "copy_last": clips.pictures[begins[steps]],
            "ceiling": dreams.ceiling[steps],
        }
        told = {f"{name}_{what}": float(of(pictures, truth).mean())
                for name, pictures in rows.items() for what, of in (("psnr_db", psnr), ("ssim", ssim))}  # fmt: skip
        out[f"{seconds:g} s"] = _rounded(told) | {"pictures": len(steps) * clips.cameras}
    return out


def _collapse(dreams: Dreams) -> dict[str, Any]:
    """Quality late in the drive as a share of that early on, of drives that are long enough."""
    early, late = dreams.at(10.0, 5), dreams.at(60.0, 5)
    long = {s for s, n in dreams.drives if n > round(60.0 / STEP_S)}
    starts = {i: s for s, n in dreams.drives for i in range(s, s + n)}
    early = torch.tensor([i for i in early.tolist() if starts[i] in long], dtype=torch.long, device=early.device)
    if not len(late):
        return {"left out": "no drive of 60 s"}
    truth = dreams.clips.pictures
    told = {}
    for name, of in (("psnr", psnr), ("ssim", ssim)):
        told[f"{name}_at_10_s"] = float(of(dreams.dreamed[early], truth[early]).mean())
        told[f"{name}_at_60_s"] = float(of(dreams.dreamed[late], truth[late]).mean())
        told[f"{name}_share"] = told[f"{name}_at_60_s"] / told[f"{name}_at_10_s"]
    return _rounded(told, 3) | {"gate": ">= 0.9", "passed": min(told["psnr_share"], told["ssim_share"]) >= 0.9}


def _steering(dreams: Dreams) -> dict[str, Any]:
    """Does the front picture turn as the car does?  Its motion from step to step against the heading's."""
    clips = dreams.clips
    after = torch.tensor([i for s, n in dreams.drives for i in range(s + 2, s + n)], device=clips.device)
    turned = _heading(clips.poses[after]) - _heading(clips.poses[after - 1])
    turned = torch.remainder(turned + torch.pi, 2 * torch.pi) - torch.pi
    seen = turn_px(dreams.dreamed[after - 1, MIDDLE], dreams.dreamed[after, MIDDLE]).double()
    real = turn_px(clips.pictures[after - 1, MIDDLE], clips.pictures[after, MIDDLE]).double()
    turns = turned.abs() > TURNS_RAD
    steady = turns & (real.abs() < 40)
    ratio = float((seen[steady] * real[steady]).sum() / real[steady].square().sum().clamp_min(1e-9))
    told = {"spearman": spearman(turned[turns], seen[turns]), "motion_ratio": ratio}
    told["spearman_of_reference"] = spearman(turned[turns], real[turns])
    passed = told["spearman"] > 0.9 and 0.8 <= ratio <= 1.2
    return _rounded(told, 3) | {"steps": int(turns.sum()), "gate": "> 0.9, 0.8 to 1.2", "passed": passed}


def _views(dreams: Dreams) -> dict[str, Any]:
    """Agreement of neighbouring cameras where both look, beside that of the reference pictures."""
    steps = torch.arange(1, len(dreams.dreamed), 3, device=dreams.clips.device)
    told = {"dream_db": float(overlap_psnr(dreams.dreamed[steps], NANO_RIG).mean()),
            "reference_db": float(overlap_psnr(dreams.clips.pictures[steps], NANO_RIG).mean()),
            "ceiling_db": float(overlap_psnr(dreams.ceiling[steps], NANO_RIG).mean())}  # fmt: skip
    return _rounded(told)


def _speed(autoencoder: Autoencoder, model: NanoModel, clips: Clips, truth: Tensor, rays: RigRays) -> dict[str, Any]:
    """Seconds per time step of one drive: condition, passes and decoding, without drawing the raster."""
    one = replace(clips, starts=clips.starts[:1], lengths=(min(48, clips.lengths[0]),))
    begin = one.starts[0]
    weather = clips.weather[begin : begin + 1]
    stream: Stream | None = None
    seconds = []
    for k in range(one.lengths[0]):
        at = torch.tensor([begin + k], device=clips.device)
        _wait(clips.device)
        began = time.perf_counter()
        _, quarter = autoencoder.reader(clips.rasters[at][0], weather.repeat(clips.cameras))
        condition = model.condition(quarter[None])
        if stream is None:
            stream = Stream(model, rays, model.text(weather), truth[at], condition, clips.poses[at])
            continue
        latent = stream.step(condition, clips.poses[at], torch.randn_like(truth[at]))
        decode_steps(autoencoder, clips, at, latent).cpu()
        _wait(clips.device)
        seconds.append(time.perf_counter() - began)
    p50, p99 = np.percentile(seconds[4:], (50, 99))
    told = {"step_p50_s": float(p50), "step_p99_s": float(p99), "times_real_time": STEP_S / float(p50)}
    return _rounded(told, 4) | {"state_bytes": stream.bytes if stream else 0, "raster_not_included": True}


def _recall(dreams: Dreams, reference: Clips, seconds: float) -> dict[str, Any]:
    """Road users and lights read back from dreamed pictures, beside reference pictures and the autoencoder's."""
    if seconds < LEAST_TEACHING_S:
        return {"left out": f"{max(0.0, seconds):.0f} s are too few to teach a reader"}
    net = train_reader(reference, seconds)
    after = torch.tensor([i for s, n in dreams.drives for i in range(s + 1, s + n)], device=dreams.clips.device)
    rasters = dreams.clips.rasters[after].flatten(0, 1)
    pictures = {"reference": dreams.clips.pictures, "ceiling": dreams.ceiling, "dream": dreams.dreamed}
    counts = {name: read(net, of[after].flatten(0, 1), rasters) for name, of in pictures.items()}
    out: dict[str, Any] = {"distance_m": DISTANCE_M, "reader_trained_s": round(seconds, 1)}
    passed = fit = True
    for kind in CLASSES:
        row: dict[str, Any] = {"cells": counts["reference"][kind].there}
        for name, of in counts.items():
            c = of[kind]
            row[f"{name}_recall"] = round(c.found / max(1, c.there), 3)
            row[f"{name}_false_per_picture"] = round(c.false / len(rasters), 3)
            if kind in LIGHTS:
                row[f"{name}_state_right"] = round(c.right / max(1, c.there), 3)
        passed &= row["dream_state_right" if kind in LIGHTS else "dream_recall"] >= 0.8 or not row["cells"]
        if row["cells"] >= FEW_CELLS:
            known = counts["reference"][kind]
            fit &= row["reference_recall"] >= FIT[0] and known.found >= FIT[1] * (known.found + known.false)
        row["counts"] = {name: asdict(of[kind]) for name, of in counts.items()}
        out[kind] = row
    return out | {"gate": ">= 0.8, by a reader that is fit", "reader_fit": fit, "passed": fit and passed}


def _features(dreams: Dreams, planner: Path) -> dict[str, Any]:
    """Distances in the planner's vision features, of dreams and of the autoencoder's pictures."""
    from efficientgen.eval.world_features import distances, features  # loads the planner's model

    pairs = [i for s, n in dreams.drives for i in range(s + 2, s + n, 3)]
    now = torch.tensor(pairs, device=dreams.clips.device)
    real, dreamed, ceiling = (features(planner, of[now - 1], of[now])
                              for of in (dreams.clips.pictures, dreams.dreamed, dreams.ceiling))  # fmt: skip
    return {"planner": planner.name, "dream": distances(real, dreamed), "ceiling": distances(real, ceiling)}


def _heading(poses: Tensor) -> Tensor:
    """Map heading (N,) of a level camera's optical axis."""
    return torch.atan2(poses[:, 1, 2], poses[:, 0, 2])


def _in_psnr(a: Tensor, b: Tensor) -> Tensor:
    """Mean over cameras of pictures' PSNR, (N,)."""
    return torch.cat([psnr(x, y).mean(-1) for x, y in zip(a.split(64), b.split(64), strict=True)])


def _pooled(a: Tensor, b: Tensor) -> float:
    parts = [
        ((x.float() - y.float()) ** 2).mean().double() * len(x) for x, y in zip(a.split(64), b.split(64), strict=True)
    ]
    return float(10 * torch.log10(255.0**2 / (torch.stack(parts).sum() / len(a))))


def _rounded(values: dict[str, float], digits: int = 2) -> dict[str, Any]:
    return {k: round(v, digits) for k, v in values.items()}


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize()


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else "CPU, one thread"
