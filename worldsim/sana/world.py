"""`SanaWorld`: SANA-WM's streaming student (arXiv 2605.15178) as a world of the closed loop.

It imagines what one front camera sees.  The first chunk of a drive is the recording: what the opening (the reference
world) draws, whose last picture begins the stream.  From then on every chunk's ego poses, two per tick, give the rays
of eight pictures per latent frame, the student denoises the frames, the decoder turns them into pictures, and those at
the ticks go back with their own stamps.  Four ticks are one latent frame: at the loop's 0.4 s the model works in chunks
of one frame at 20 pictures/s, where it was trained in chunks of three at 16/s; a loop with 1.2 s chunks gives it three.
Other road users are what the model makes of them: it is not told where they are.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from efficientgen.kernels.shards import CheckpointError
from efficientgen.perception.rig import Camera
from efficientgen.perception.types import NS, TICK_NS, U8, CameraFrame, OracleFrame, SensorFrames
from efficientgen.worldsim.reference.weather import WEATHERS, weather_named
from efficientgen.worldsim.sana.camera import rigid_inverse, token_rays
from efficientgen.worldsim.sana.checkpoint import find_release, load_transformer, require
from efficientgen.worldsim.sana.config import SanaConfig, read_config, read_levels
from efficientgen.worldsim.sana.model import SanaTransformer, Text
from efficientgen.worldsim.sana.pictures import Decoder, encode, load_autoencoder, strides
from efficientgen.worldsim.sana.poses import between, camera_to_map, require_motion
from efficientgen.worldsim.sana.refiner import Refiner, load_refiner
from efficientgen.worldsim.sana.sampler import LEVELS, frame_noise
from efficientgen.worldsim.sana.stream import Stream, cuda_graphs
from efficientgen.worldsim.sana.text import encode_prompts, prompt_for

VIEW_DEG = 70.0  # across, as the front camera of `NANO_RIG`
PER_TICK = 2  # pictures of the model per oracle tick
AUTOENCODERS = ("ltx2_causal_vae", "vae")


class NotResetError(RuntimeError):
    """A step was asked of a world that has not been reset, or not since its last error."""


class ChunkLengthError(ValueError):
    """A chunk that is no whole number of latent frames."""


class WorldMemoryError(RuntimeError):
    """The accelerator has too little memory for the world model."""


def front_camera(config: SanaConfig) -> Camera:
    """Where the reference rig's front camera sits, with the model's picture size."""
    focal = config.picture_width / 2 / math.tan(math.radians(VIEW_DEG / 2))
    return Camera("FRONT", config.picture_width, config.picture_height, focal, mount=(1.7, 0.0, 1.55), yaw_deg=0.0)


class Opening(Protocol):
    """Draws the first pictures of a drive, (1, H, W, 3) of the world's camera; `ReferenceWorld` is one."""

    def reset(self, town: str, weather: str, seed: int) -> None: ...

    def render(self, frame: OracleFrame) -> U8: ...


@dataclass
class _Session:
    """One drive so far."""

    seed: int
    weather: str
    text: Text
    last: OracleFrame | None = None
    from_map: Tensor | None = None  # (4, 4) map to the first camera pose
    opening: Tensor | None = None  # the first picture's latent, until a chunk has begun with it
    frames: int = 0  # latent frames so far


@dataclass
class _Costs:
    """Seconds of each chunk."""

    denoise_s: list[float] = field(default_factory=list)
    decode_s: list[float] = field(default_factory=list)
    refine_s: list[float] = field(default_factory=list)  # where there is a refiner
    longest_step_m: float = 0.0
    simulated_s: float = 0.0


class SanaWorld:
    """SANA-WM's student between `reset` and `reset`.

    Args:
        texts: what the model is told in each weather.
        camera: the one that it imagines; its size in whole latents.
        translation_scale: of the poses, for models trained at other speeds.
        refiner: refines the latents before they are decoded; its texts go by weather.
    """

    name = "sana-wm"
    memoryless = False

    def __init__(
        self,
        model: SanaTransformer,
        autoencoder: Any,
        texts: Mapping[str, Text],
        opening: Opening,
        camera: Camera,
        *,
        levels: tuple[int, ...] = LEVELS,
        translation_scale: float = 1.0,
        refiner: Refiner | None = None,
    ) -> None:
        self.rig = (camera,)
        self._model, self._vae, self._texts, self._opening = model, autoencoder, texts, opening
        self._levels, self._scale = levels, translation_scale
        self._side, self._stride = strides(autoencoder)
        self._require_fit()
        self._decoder, self._refiner = Decoder(autoencoder), refiner
        self._stream = Stream(model, levels, cuda_graphs(model))
        self._session: _Session | None = None
        self._costs = _Costs()

    @staticmethod
    def from_pretrained(
        directory: str | Path,
        *,
        device: str = "cpu",
        dtype: torch.dtype | None = None,
        camera: Camera | None = None,
        opening: Opening | None = None,
        levels: tuple[int, ...] | None = None,
        translation_scale: float = 1.0,
        refine: bool = False,
    ) -> SanaWorld:
        """The streaming release in `directory`: `sana_dit/`, `ltx2_causal_vae/`, Gemma's `text_encoder/`, `tokenizer/`.

        Args:
            dtype: of the weights; None: bf16 on an accelerator, fp32 on a CPU.
            camera: None: a front camera of the size that the model was trained on.
            opening: None: the reference world with this camera.
            levels: None: those that the weights were distilled for.
            refine: also load the release's second stage (`refiner_diffusers/`, `gemma3_12b/`) and put it in the loop.

        Raises:
            MissingWorldError, WrongVariantError: nothing, or another variant, is there.
            CheckpointError: a part is missing, damaged, or does not fit the others.
            WorldMemoryError: it does not fit the accelerator.
        """
        directory = Path(directory)
        release = find_release(directory)
        require(release, "streaming")
        kind = dtype or (torch.float32 if device == "cpu" else torch.bfloat16)
        autoencoder = next((directory / name for name in AUTOENCODERS if (directory / name).is_dir()), None)
        if autoencoder is None:
            raise CheckpointError(f"{directory} has no {AUTOENCODERS[0]}/; fetch the release's")
        camera = camera or front_camera(read_config(release.directory))
        if opening is None:
            from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

            opening = ReferenceWorld((camera,))
        prompts = {weather: prompt_for(weather) for weather in WEATHERS}
        try:
            encoded = encode_prompts(directory, tuple(prompts.values()), kind, device)
            refiner = load_refiner(directory, prompts, kind, device, PER_TICK * NS / TICK_NS) if refine else None
            return SanaWorld(
                load_transformer(release, kind, device).fuse(),
                load_autoencoder(autoencoder, kind, device),
                {weather: encoded[prompt] for weather, prompt in prompts.items()},
                opening,
                camera,
                levels=levels or read_levels(release.directory, LEVELS),
                translation_scale=translation_scale,
                refiner=refiner,
            )
        except RuntimeError as error:
            if not _exhausted(error):
                raise
            raise _no_memory(error, camera) from error

    @property
    def renderer(self) -> str:
        """What draws, for reports."""
        config, weights = self._model.config, next(self._model.parameters())
        words = f"sana-wm {config.num_layers}x{config.hidden_size}, {len(self._levels)} steps, {weights.device.type}"
        return f"{words} {str(weights.dtype).removeprefix('torch.')}"

    def reset(self, town: str, weather: str, seed: int) -> None:
        """Begin a drive; also after any error.

        Raises:
            UnknownWeatherError: there is no such weather.
        """
        weather_named(weather)
        self._session = None
        self._opening.reset(town, weather, seed)
        self._decoder.reset()
        self._costs = _Costs()
        self._session = _Session(seed, weather, self._texts[weather])

    def step(self, frames: tuple[OracleFrame, ...]) -> SensorFrames:
        """The camera's pictures at the ticks of one chunk.  After an error the world needs a `reset`.

        Raises:
            NotResetError: no drive has begun.
            ChunkLengthError: the ticks are no whole number of latent frames.
            PoseJumpError: the ego leaps, or ticks are left out.
            DivergedError: the model's latents are not finite.
            WorldMemoryError: the accelerator has no memory left.
        """
        session, self._session = self._session, None
        if session is None:
            raise NotResetError("call reset(town, weather, seed) before a drive and after an error")
        try:
            pictures = self._record(session, frames) if session.last is None else self._imagine(session, frames)
        except RuntimeError as error:
            if not _exhausted(error):
                raise
            self._stream.forget_graphs()
            raise _no_memory(error, self.rig[0]) from error
        session.last, self._session = frames[-1], session
        return self._sensed(frames, pictures)

    def diagnostics(self) -> dict[str, Any]:
        """Latency per imagined chunk, memory carried, and the camera's longest way between two model pictures."""
        denoise, decode, refine = self._costs.denoise_s, self._costs.decode_s, self._costs.refine_s
        chunks = [sum(parts) for parts in zip(denoise, decode, refine or [0.0] * len(decode), strict=True)]
        out: dict[str, Any] = {"chunks": len(chunks), "longest_step_m": round(self._costs.longest_step_m, 3)}
        for name, seconds in (("chunk", chunks), ("denoise", denoise), ("refine", refine), ("decode", decode)):
            if seconds:
                p50, p99 = np.percentile(seconds, (50, 99))
                out |= {f"{name}_p50_s": round(float(p50), 4), f"{name}_p99_s": round(float(p99), 4)}
        if chunks:
            out["wall_per_simulated_s"] = round(sum(chunks) / self._costs.simulated_s, 3)
            out["real_time_factor"] = round(self._costs.simulated_s / sum(chunks), 3)
        out |= {"state_bytes": self._stream.bytes, "decoder_bytes": self._decoder.bytes}
        out["captured"] = self._stream.captured
        if self._refiner is not None:
            out["refiner_bytes"] = self._refiner.bytes
        if torch.cuda.is_available():
            out["peak_bytes"] = torch.cuda.max_memory_allocated()
        return out

    def close(self) -> None:
        """Frees the opening."""
        self._session = None
        close = getattr(self._opening, "close", None)
        if close is not None:
            close()

    def _record(self, session: _Session, frames: tuple[OracleFrame, ...]) -> U8:
        """What the opening saw at each tick, (F, H, W, 3); the last picture begins the stream."""
        for before, after in zip(frames, frames[1:], strict=False):
            require_motion(before.ego, after.ego)
        pictures = np.stack([self._opening.render(frame)[0] for frame in frames])
        ego = frames[-1].ego
        session.from_map = rigid_inverse(camera_to_map(np.array([[ego.x, ego.y, ego.yaw]]), self.rig[0])[0])
        session.opening = encode(self._vae, pictures[-1])
        self._stream.begin(session.text)
        if self._refiner is not None:
            self._refiner.begin(session.weather)
        return pictures

    def _imagine(self, session: _Session, frames: tuple[OracleFrame, ...]) -> U8:
        """What the model sees at each tick, (F, H, W, 3)."""
        latents, rest = divmod(len(frames) * PER_TICK, self._stride)
        if rest or not latents:
            ticks = self._stride // PER_TICK
            raise ChunkLengthError(f"a chunk of {len(frames)} ticks; this model's frames are {ticks} ticks long each")
        assert session.last is not None and session.from_map is not None
        track = (session.last, *frames)
        for before, after in zip(track, track[1:], strict=False):
            require_motion(before.ego, after.ego)
        steps = [between(a.ego, b.ego, PER_TICK) for a, b in zip(track, track[1:], strict=False)]
        c2w = session.from_map @ camera_to_map(np.concatenate(steps), self.rig[0])  # (F, 4, 4)
        opens = session.opening is not None
        if opens:
            c2w = torch.cat([torch.eye(4, dtype=c2w.dtype)[None], c2w])
        moved = torch.linalg.norm(c2w[1:, :3, 3] - c2w[:-1, :3, 3], dim=-1)
        self._costs.longest_step_m = max(self._costs.longest_step_m, float(moved.max()) if len(moved) else 0.0)
        c2w[:, :3, 3] *= self._scale
        began = perf_counter()
        z = self._denoise(session, c2w, latents + opens)
        done = perf_counter()
        if self._refiner is not None:
            shape = (self._model.config.in_channels, *z.shape[3:])
            z = self._refiner.refine(z, frame_noise(session.seed, session.frames, z.shape[2], shape, "refiner").to(z))
            self._costs.refine_s.append(perf_counter() - done)
        refined = perf_counter()
        pictures = self._decoder.decode(z)[int(opens) :]
        self._costs.denoise_s.append(done - began)
        self._costs.decode_s.append(perf_counter() - refined)
        self._costs.simulated_s += len(frames) * TICK_NS / NS
        session.opening, session.frames = None, session.frames + latents + opens
        return pictures[PER_TICK - 1 :: PER_TICK]

    @torch.inference_mode()
    def _denoise(self, session: _Session, c2w: Tensor, latents: int) -> Tensor:
        camera, config = self.rig[0], self._model.config
        grid = (camera.height // self._side, camera.width // self._side)
        device = next(self._model.parameters()).device
        rays = token_rays(
            c2w[None], torch.from_numpy(camera.intrinsics)[None], (camera.height, camera.width), grid, self._stride,
            opening=session.opening is not None,
        )  # fmt: skip
        noise = frame_noise(session.seed, session.frames, latents, (config.in_channels, *grid)).to(device)
        return self._stream.sample(noise, rays.to(device), session.opening)

    def _require_fit(self) -> None:
        config, camera = self._model.config, self.rig[0]
        channels = self._vae.config.latent_channels
        if channels != config.in_channels or self._stride != config.temporal_stride:
            raise CheckpointError(
                f"the transformer denoises {config.in_channels} channels at {config.temporal_stride} pictures a frame, "
                f"the autoencoder has {channels} at {self._stride}: they are of different releases"
            )
        if camera.height % self._side or camera.width % self._side:
            raise CheckpointError(
                f"a {camera.width}x{camera.height} camera is no whole number of latents of {self._side} px"
            )

    def _sensed(self, frames: tuple[OracleFrame, ...], pictures: U8) -> SensorFrames:
        camera = self.rig[0]
        seen = tuple(
            CameraFrame(camera.name, frame.stamp_ns, np.ascontiguousarray(picture), camera.intrinsics,
                        camera.camera_to_ego)
            for frame, picture in zip(frames, pictures, strict=True)
        )  # fmt: skip
        return SensorFrames(tuple(frame.stamp_ns for frame in frames), {camera.name: seen})


def _exhausted(error: RuntimeError) -> bool:
    """Libraries below torch say in their own ways that memory is short."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or "out of memory" in words or "ALLOC_FAILED" in words


def _no_memory(error: Exception, camera: Camera) -> WorldMemoryError:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    words = str(error).splitlines()[0][:200] if str(error) else "out of memory"
    return WorldMemoryError(
        f"no memory for the world model at {camera.width}x{camera.height} ({words}); free the device, take a smaller "
        "camera, or drive --world reference"
    )
