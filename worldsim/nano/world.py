"""`NanoWorld`: the trained nano world as a world of the closed loop, for the three cameras of the nano rig.

The first plan stamp of a drive is the recording: the reference world draws it, and its picture begins the dream.  From
then on every 0.4 s the model is told the ego's pose and what the oracle and the map say is in front of the cameras (a
condition raster), and dreams what they see; nothing of the reference world's pictures enters again, unless
`anchor_every` says so.  Pictures carry the stamps that they are of: plan stamps only, which is what planners look at.
"""

from __future__ import annotations

import resource
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, NS, U8, CameraFrame, OracleFrame, SensorFrames
from efficientgen.worldsim.nano.autoencoder import WEATHER_NAMES, Autoencoder, from_grid, to_bytes, to_grid, to_pixels
from efficientgen.worldsim.nano.checkpoint import load_nano
from efficientgen.worldsim.nano.layout import Layout, layout_of
from efficientgen.worldsim.nano.model import NanoModel, RigRays
from efficientgen.worldsim.nano.raster import Raster
from efficientgen.worldsim.nano.stream import Stream
from efficientgen.worldsim.reference.noise import keyed
from efficientgen.worldsim.reference.weather import weather_named
from efficientgen.worldsim.sana.poses import require_motion
from efficientgen.worldsim.sana.world import ChunkLengthError, NotResetError, Opening, WorldMemoryError


@dataclass
class _Session:
    """One drive so far."""

    seed: int
    layout: Layout
    weather: Tensor  # (1,)
    last: OracleFrame | None = None
    stream: Stream | None = None
    dreamed: int = 0  # pictures since the drive began, or since the last anchor


@dataclass
class _Costs:
    """Seconds of each dreamed step, by part."""

    raster_s: list[float] = field(default_factory=list)
    dream_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    anchors: int = 0


class NanoWorld:
    """The nano world between `reset` and `reset`.

    Args:
        opening: draws the first picture of a drive (the reference world).
        anchor_every: after so many dreamed pictures the dream goes on from a real one; 0: never, as honest scores need.
    """

    name = "nano"
    memoryless = False
    rig = NANO_RIG

    def __init__(self, autoencoder: Autoencoder, model: NanoModel, opening: Opening, *, anchor_every: int = 0) -> None:
        self._autoencoder, self._model, self._opening = autoencoder, model, opening
        self._device = next(model.parameters()).device
        self._anchor_every = anchor_every
        self._raster, self._rays = Raster(self.rig), RigRays(self.rig, self._device)
        self._session: _Session | None = None
        self._costs = _Costs()

    @staticmethod
    def from_pretrained(
        directory: str | Path,
        *,
        device: str = "cpu",
        opening: Opening | None = None,
        anchor_every: int = 0,
        threads: int = 1,
    ) -> NanoWorld:
        """The world in a directory that `efficientgen train world` has written.

        Args:
            opening: None: the reference world.
            threads: of this process, on a CPU; with one, sums come out the same on every machine.

        Raises:
            MissingWorldError, WrongVariantError: nothing, or another model, is there.
            CheckpointError: it is incomplete or damaged.
            WorldMemoryError: it does not fit the accelerator.
        """
        if device == "cpu":
            torch.set_num_threads(threads)
        try:
            autoencoder, model = load_nano(Path(directory), device)
        except torch.OutOfMemoryError as error:
            raise _no_memory(error) from error
        if opening is None:
            from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

            opening = ReferenceWorld(NANO_RIG)
        return NanoWorld(autoencoder, model, opening, anchor_every=anchor_every)

    @property
    def renderer(self) -> str:
        """What draws, for reports."""
        config = self._model.config
        passes = f"{len(config.levels)} passes"
        return f"nano world {config.sana.num_layers}x{config.sana.hidden_size}, {passes}, {self._device.type}"

    def reset(self, town: str, weather: str, seed: int) -> None:
        """Begin a drive; also after any error.

        Raises:
            UnknownTownError, UnknownWeatherError: there is no such town or weather.
        """
        weather_named(weather)
        self._session = None
        self._opening.reset(town, weather, seed)
        self._costs = _Costs()
        index = torch.tensor([WEATHER_NAMES.index(weather)], device=self._device)
        self._session = _Session(seed, layout_of(town, weather, seed), index)

    def step(self, frames: tuple[OracleFrame, ...]) -> SensorFrames:
        """The cameras' pictures at the plan stamps among the ticks.  After an error the world needs a `reset`.

        Raises:
            NotResetError: no drive has begun.
            ChunkLengthError: there is no plan stamp among the ticks.
            PoseJumpError: the ego leaps, or ticks are left out.
            DivergedError: the model's latents are not finite.
            WorldMemoryError: the accelerator has no memory left.
        """
        session, self._session = self._session, None
        if session is None:
            raise NotResetError("call reset(town, weather, seed) before a drive and after an error")
        track = frames if session.last is None else (session.last, *frames)
        for before, after in zip(track, track[1:], strict=False):
            require_motion(before.ego, after.ego)
        seen = tuple(frame for frame in frames if frame.stamp_ns % CHUNK_NS == 0)
        if not seen:
            raise ChunkLengthError(
                f"{len(frames)} ticks without a plan stamp: this world dreams every {CHUNK_NS / NS:g} s, give it whole "
                "chunks"
            )
        try:
            pictures = [self._picture(session, frame) for frame in seen]
        except torch.OutOfMemoryError as error:
            raise _no_memory(error) from error
        session.last, self._session = frames[-1], session
        return self._sensed(seen, pictures)

    def diagnostics(self) -> dict[str, Any]:
        """Latency per dreamed step by part, the real-time factor, and the memory that is carried and was used."""
        costs = self._costs
        steps = [sum(parts) for parts in zip(costs.raster_s, costs.dream_s, costs.decode_s, strict=True)]
        out: dict[str, Any] = {"chunks": len(steps), "anchors": costs.anchors}
        for name, seconds in (("chunk", steps), ("raster", costs.raster_s), ("denoise", costs.dream_s),
                              ("decode", costs.decode_s)):  # fmt: skip
            if seconds:
                p50, p99 = np.percentile(seconds, (50, 99))
                out |= {f"{name}_p50_s": round(float(p50), 4), f"{name}_p99_s": round(float(p99), 4)}
        if steps:
            out["wall_per_simulated_s"] = round(sum(steps) / (len(steps) * CHUNK_NS / NS), 3)
        stream = self._session.stream if self._session else None
        unit = 1 if sys.platform == "darwin" else 1024
        out |= {"state_bytes": stream.bytes if stream else 0,
                "peak_resident_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit}  # fmt: skip
        if self._device.type == "cuda":
            out["peak_bytes"] = torch.cuda.max_memory_allocated(self._device)
        return out

    def close(self) -> None:
        """Frees the opening."""
        self._session = None
        close = getattr(self._opening, "close", None)
        if close is not None:
            close()

    @torch.inference_mode()
    def _picture(self, session: _Session, frame: OracleFrame) -> U8:
        """The rig's view (n_cams, H, W, 3) of one plan stamp."""
        began = perf_counter()
        raster = torch.from_numpy(self._raster.draw(frame, session.layout)).to(self._device)
        drawn = perf_counter()
        features = self._autoencoder.reader(raster, session.weather.repeat(len(self.rig)))
        condition = self._model.condition(features[1][None])
        pose = self._rays.poses(np.array([[frame.ego.x, frame.ego.y, frame.ego.yaw]])).to(self._device)
        anchored = self._anchor_every and session.dreamed >= self._anchor_every
        if session.stream is None or anchored:
            return self._begin(session, frame, condition, pose, features)
        shape = (self._model.config.latent, *self._rays.grid)
        noise = keyed("nano", session.seed, frame.stamp_ns).standard_normal((len(self.rig), *shape), np.float32)
        latent = session.stream.step(condition, pose, to_grid(torch.from_numpy(noise).to(self._device), len(self.rig)))
        dreamed = perf_counter()
        z = self._autoencoder.restored(from_grid(latent, len(self.rig)))
        picture: U8 = to_bytes(self._autoencoder.decode(z, features)).cpu().numpy()
        session.dreamed += 1
        for seconds, span in ((self._costs.raster_s, drawn - began), (self._costs.dream_s, dreamed - drawn),
                              (self._costs.decode_s, perf_counter() - dreamed)):  # fmt: skip
            seconds.append(span)
        return picture

    def _begin(
        self, session: _Session, frame: OracleFrame, condition: Tensor, pose: Tensor, features: tuple[Tensor, Tensor]
    ) -> U8:
        """A real picture, from which the dream goes on."""
        picture = self._opening.render(frame)
        pixels = to_pixels(torch.from_numpy(picture).to(self._device))
        latent = to_grid(self._autoencoder.normalised(self._autoencoder.encode(pixels, features[1])), len(self.rig))
        if session.stream is None:
            text = self._model.text(session.weather)
            session.stream = Stream(self._model, self._rays, text, latent, condition, pose)
        else:
            session.stream.anchor(latent, condition, pose)
            self._costs.anchors += 1
        session.dreamed = 0
        return picture

    def _sensed(self, frames: tuple[OracleFrame, ...], pictures: list[U8]) -> SensorFrames:
        cameras = {
            camera.name: tuple(
                CameraFrame(camera.name, frame.stamp_ns, np.ascontiguousarray(picture[k]), camera.intrinsics,
                            camera.camera_to_ego)
                for frame, picture in zip(frames, pictures, strict=True)
            )
            for k, camera in enumerate(self.rig)
        }  # fmt: skip
        return SensorFrames(tuple(frame.stamp_ns for frame in frames), cameras)


def _no_memory(error: Exception) -> WorldMemoryError:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    words = str(error).splitlines()[0][:200] if str(error) else "out of memory"
    return WorldMemoryError(f"no memory for the nano world ({words}); free the device, or use --world-device cpu")
