"""Pictures to latents and back: diffusers' LTX-2 video autoencoder, decoded as a stream.

diffusers' causal decoder sees a whole clip.  A closed loop decodes one chunk at a time, and a clip's decoder pads every
chunk's beginning anew.  `Decoder` keeps each causal convolution's last inputs instead, so chunks decode to the very
pictures of the whole clip, at constant cost and memory.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from efficientgen.kernels.shards import CheckpointError
from efficientgen.perception.types import U8


def load_autoencoder(directory: Path, dtype: torch.dtype, device: str | torch.device) -> Any:
    """diffusers' `AutoencoderKLLTX2Video` from its directory, frozen.

    Raises:
        CheckpointError: it is missing or damaged, or its decoder looks ahead.
        ImportError: diffusers is not installed.
    """
    from diffusers import AutoencoderKLLTX2Video

    if not (directory / "config.json").exists():
        raise CheckpointError(f"{directory} holds no autoencoder (config.json is missing); fetch the release's")
    try:
        vae = AutoencoderKLLTX2Video.from_pretrained(
            directory, torch_dtype=dtype, local_files_only=True, low_cpu_mem_usage=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{directory} holds no sound LTX-2 autoencoder: {str(error)[:300]}") from error
    if not vae.config.decoder_causal:
        raise CheckpointError(f"{directory}'s decoder looks ahead; a stream needs the causal one (ltx2_causal_vae)")
    return vae.to(device).eval().requires_grad_(False)


def strides(vae: Any) -> tuple[int, int]:
    """(px per latent to each side, pictures per latent frame), counted from the encoder's stages."""
    config = vae.config
    scaling = config.spatio_temporal_scaling
    on = (scaling,) * len(config.downsample_type) if isinstance(scaling, bool) else scaling
    kinds = [kind for kind, active in zip(config.downsample_type, on, strict=True) if active]
    space = sum(kind in ("spatial", "spatiotemporal") for kind in kinds)
    time = sum(kind in ("temporal", "spatiotemporal") for kind in kinds)
    return config.patch_size * 2**space, config.patch_size_t * 2**time


@torch.inference_mode()
def encode(vae: Any, picture: U8) -> Tensor:
    """Normalised latent (1, C, 1, h, w) of one picture (H, W, 3): the posterior's mode."""
    pixels = torch.from_numpy(np.ascontiguousarray(picture)).to(vae.device, vae.dtype) / 127.5 - 1.0
    latent = vae.encode(pixels.permute(2, 0, 1)[None, :, None]).latent_dist.mode()
    mean, std = _statistics(vae)
    return (latent - mean) * vae.config.scaling_factor / std


class Decoder:
    """Latents of consecutive chunks to pictures; the first frame gives one picture, every other `stride`."""

    def __init__(self, vae: Any) -> None:
        self._vae = vae
        self._streams = _streaming(vae.decoder)

    def reset(self) -> None:
        """Begin a new clip."""
        for stream in self._streams:
            stream.before = None

    @property
    def bytes(self) -> int:
        """Memory that is carried from chunk to chunk."""
        held = [stream.before for stream in self._streams if stream.before is not None]
        return sum(x.numel() * x.element_size() for x in held)

    @torch.inference_mode()
    def decode(self, latents: Tensor) -> U8:
        """(1, C, T, h, w) normalised latents to pictures (F, H, W, 3)."""
        mean, std = _statistics(self._vae)
        z = latents.to(mean) / self._vae.config.scaling_factor * std + mean
        pixels = self._vae.decoder(z, None, causal=True)[0].permute(1, 2, 3, 0)  # (F, H, W, 3)
        return ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).cpu().numpy()


def _statistics(vae: Any) -> tuple[Tensor, Tensor]:
    mean, std = (x.view(1, -1, 1, 1, 1).to(vae.device, vae.dtype) for x in (vae.latents_mean, vae.latents_std))
    return mean, std


class _Conv(nn.Module):
    """A causal convolution that remembers its last inputs; at a clip's beginning the first frame stands for them."""

    before: Tensor | None = None

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.conv, self._reach = inner.conv, inner.kernel_size[0] - 1

    def forward(self, x: Tensor, causal: bool = True) -> Tensor:
        before = x[:, :, :1].repeat(1, 1, self._reach, 1, 1) if self.before is None else self.before
        x = torch.cat([before, x], 2)
        self.before = x[:, :, x.shape[2] - self._reach :].clone()
        return self.conv(x)


class _Upsampler(nn.Module):
    """A temporal upsampler drops a clip's first picture; later chunks pass with two frames of context, then cut off."""

    before: Tensor | None = None

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self._inner, self._factor, self._reach = inner, inner.stride[0], inner.conv.kernel_size[0] - 1

    def forward(self, x: Tensor, causal: bool = True) -> Tensor:
        begins = self.before is None
        seen = x if begins else torch.cat([self.before, x], 2)  # type: ignore[list-item]
        out = self._inner(seen, causal=True)
        if begins:
            self.before = torch.cat([x[:, :, :1].repeat(1, 1, self._reach, 1, 1), x], 2)[:, :, -self._reach :].clone()
            return out
        self.before = seen[:, :, -self._reach :].clone()
        return out[:, :, out.shape[2] - self._factor * x.shape[2] :]


def _streaming(decoder: nn.Module) -> list[_Conv | _Upsampler]:
    """Put the stream's modules in place of a decoder's own; the weights stay where they are."""
    streams: list[_Conv | _Upsampler] = []

    def replace(parent: nn.Module) -> None:
        for name, child in parent.named_children():
            kind = type(child).__name__
            if isinstance(child, _Conv | _Upsampler):
                streams.append(child)
            elif kind == "LTX2VideoUpsampler3d" or kind == "LTX2VideoCausalConv3d":
                stream = _Upsampler(child) if kind == "LTX2VideoUpsampler3d" else _Conv(child)
                setattr(parent, name, stream)
                streams.append(stream)
            else:
                replace(child)

    replace(decoder)
    return streams
