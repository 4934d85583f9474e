"""Pictures to 96 tokens per time step and back: 28x28 px per token, with the condition raster at hand on both sides.

A 224x112 picture of the reference world holds more than 32 tokens of 160 numbers can: on held-out frames a linear code
of that size (principal components of the patches) reaches 26.3 dB.  But what the map knows need not pass the latent.
Encoder and decoder see the raster (where walls, windows, paint, lights and road users are); the latent carries what it
leaves open: colours, textures, leaves, clouds.  Latents are unbounded and noisy in training, so that small errors of
the world model stay small in the picture (facts of DC-AE-like nets: saturating latents do not train).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.worldsim.nano.layout import STYLES, Kind
from efficientgen.worldsim.reference.weather import WEATHERS

WEATHER_NAMES = tuple(sorted(WEATHERS))
TOKEN_PX = 28
QUARTER, TOKEN = 4, 7  # 28 px in two strides


@dataclass(frozen=True)
class AutoencoderConfig:
    """Sizes; the defaults are the shipped model's."""

    latent: int = 160  # channels of a token
    half: int = 40  # width at half resolution, the raster's
    quarter: int = 64
    inner: int = 40  # channels that come up from the tokens
    token: int = 128  # width at the tokens


class RasterReader(nn.Module):
    """Raster bytes (N, H / 2, W / 2, 6) and weathers (N,) to features at half and at quarter resolution."""

    def __init__(self, half: int, quarter: int) -> None:
        super().__init__()
        self.kinds, self.styles = nn.Embedding(len(Kind), 8), nn.Embedding(STYLES, 8)
        self.weathers = nn.Embedding(len(WEATHER_NAMES), half)
        self.stem = nn.Conv2d(8 + 8 + 8, half, 3, padding=1)
        self.near = Residual(half)
        self.down = nn.Conv2d(half, quarter, 2, 2)
        self.far = Residual(quarter)

    def forward(self, raster: Tensor, weather: Tensor) -> tuple[Tensor, Tensor]:
        codes = raster.long()
        numbers = torch.cat([raster[..., 1:4], raster[..., 5:6]], -1).to(self.stem.weight.dtype) / 127.5 - 1.0
        phase = math.pi * numbers[..., 1:3]
        features = [self.kinds(codes[..., 0]), self.styles(codes[..., 4].clamp(max=STYLES - 1)), numbers, phase.sin(),
                    phase.cos()]  # fmt: skip
        x = torch.cat([f.to(self.stem.weight.dtype) for f in features], -1).permute(0, 3, 1, 2)
        half = self.near(self.stem(x) + self.weathers(weather).to(x.dtype)[:, :, None, None])
        return half, self.far(self.down(half))


class Residual(nn.Module):
    """Two 3x3 convolutions beside an identity that they start as; no normalisation, which costs such nets accuracy."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = (nn.Conv2d(width, width, 3, padding=1) for _ in range(2))
        for parameter in self.second.parameters():
            nn.init.zeros_(parameter)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.second(F.silu(self.first(F.silu(x))))


class Autoencoder(nn.Module):
    """Pictures (N, 3, H, W) in [-1, 1] and latents (N, C, H / 28, W / 28), normalised per channel."""

    mean: Tensor
    std: Tensor

    def __init__(self, config: AutoencoderConfig) -> None:
        super().__init__()
        self.config = config
        half, quarter, inner, token = config.half, config.quarter, config.inner, config.token
        self.reader = RasterReader(half, quarter)
        self.enter = nn.Conv2d(3 * QUARTER**2 + quarter, quarter, 3, padding=1)
        self.look = nn.Sequential(Residual(quarter), Residual(quarter))
        self.gather = nn.Conv2d(quarter, token, TOKEN, TOKEN)
        self.think = nn.Sequential(Residual(token), nn.Conv2d(token, config.latent, 1))
        self.recall = nn.Sequential(nn.Conv2d(config.latent, token, 3, padding=1), Residual(token))
        self.spread = nn.Conv2d(token, inner * TOKEN**2, 1)
        self.meet = nn.Conv2d(inner + quarter, quarter, 3, padding=1)
        self.form = nn.Sequential(Residual(quarter), Residual(quarter))
        self.rise = nn.Conv2d(quarter, half * 4, 3, padding=1)
        self.join = nn.Conv2d(2 * half, half, 3, padding=1)
        self.finish = nn.Sequential(Residual(half), Residual(half), nn.SiLU(), nn.Conv2d(half, 12, 3, padding=1))
        _begin(self)
        self.register_buffer("mean", torch.zeros(config.latent))
        self.register_buffer("std", torch.ones(config.latent))

    def encode(self, pictures: Tensor, quarter: Tensor) -> Tensor:
        """Latents as the encoder gives them; `quarter` are the reader's features."""
        x = self.enter(torch.cat([F.pixel_unshuffle(pictures, QUARTER), quarter], 1))
        return self.think(self.gather(self.look(x)))

    def decode(self, latents: Tensor, features: tuple[Tensor, Tensor]) -> Tensor:
        """Pictures in about [-1, 1] of latents as the encoder gives them."""
        half, quarter = features
        x = F.pixel_shuffle(self.spread(self.recall(latents)), TOKEN)
        x = self.form(self.meet(torch.cat([x, quarter], 1)))
        x = F.pixel_shuffle(self.rise(x), 2)
        return F.pixel_shuffle(self.finish(self.join(torch.cat([x, half], 1))), 2)

    @property
    def decoder(self) -> tuple[nn.Module, ...]:
        """What `decode` is made of, the reader left out."""
        return self.recall, self.spread, self.meet, self.form, self.rise, self.join, self.finish

    def normalised(self, latents: Tensor) -> Tensor:
        return (latents - self._row(self.mean, latents)) / self._row(self.std, latents)

    def restored(self, latents: Tensor) -> Tensor:
        return latents * self._row(self.std, latents) + self._row(self.mean, latents)

    @staticmethod
    def _row(values: Tensor, like: Tensor) -> Tensor:
        return values.to(like)[:, None, None]


def _begin(module: nn.Module) -> None:
    """Weights that neither grow nor shrink what passes, so that nets without normalisation learn at once."""
    for name, part in module.named_modules():
        if isinstance(part, nn.Conv2d) and not name.endswith("second"):
            if name.endswith("first"):  # behind a SiLU
                nn.init.kaiming_normal_(part.weight, nonlinearity="relu")
            else:
                nn.init.kaiming_normal_(part.weight, nonlinearity="linear")
            assert part.bias is not None
            nn.init.zeros_(part.bias)
            if name == "finish.3":  # pictures begin grey
                part.weight.data.mul_(0.1)


def to_grid(latents: Tensor, cameras: int) -> Tensor:
    """(B * cameras, C, R, W) to one token grid (B, C, R, cameras * W), the cameras side by side."""
    x = latents.unflatten(0, (-1, cameras))
    return x.permute(0, 2, 3, 1, 4).flatten(3)


def from_grid(grid: Tensor, cameras: int) -> Tensor:
    """The inverse of `to_grid`."""
    return grid.unflatten(3, (cameras, -1)).permute(0, 3, 1, 2, 4).flatten(0, 1)


def to_pixels(pictures: Tensor) -> Tensor:
    """uint8 (N, H, W, 3) to (N, 3, H, W) in [-1, 1]."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1.0


def to_bytes(pixels: Tensor) -> Tensor:
    """(N, 3, H, W) to uint8 (N, H, W, 3)."""
    return ((pixels.float() + 1.0) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
