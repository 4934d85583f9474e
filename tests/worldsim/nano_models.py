"""Nano worlds of a few thousand parameters for tests, with weights that say something everywhere."""

from dataclasses import replace

import numpy as np
import torch

from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.nano.autoencoder import WEATHER_NAMES, Autoencoder, AutoencoderConfig
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.layout import STYLES, Kind
from efficientgen.worldsim.nano.model import NanoModel, RigRays, WorldConfig

SMALL_CODER = AutoencoderConfig(latent=8, half=8, quarter=8, inner=4, token=16)
SMALL_WORLD = WorldConfig(
    latent=8, features=8, condition=8, session=5, primed=2,
    transformer=replace(
        WorldConfig().transformer, hidden_size=48, linear_head_dim=24, num_attention_heads=2, num_layers=2
    ),
)  # fmt: skip


def small(seed: int = 0) -> tuple[Autoencoder, NanoModel]:
    """Both parts, frozen, without the zeros that training starts from."""
    torch.manual_seed(seed)
    parts = Autoencoder(SMALL_CODER), NanoModel(SMALL_WORLD)
    for part in parts:
        for parameter in part.parameters():
            if not parameter.any():
                torch.nn.init.normal_(parameter, std=0.05)
        part.eval().requires_grad_(False)
    return parts


def noise_clips(lengths: tuple[int, ...], seed: int = 0) -> Clips:
    """Drives of random pictures and rasters along a slow curve."""
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    rasters = rng.integers(0, 255, (n, 3, 56, 112, 6), np.uint8)
    rasters[..., 0] %= len(Kind)
    rasters[..., 4] %= STYLES
    pictures = np.repeat(np.repeat(rng.integers(0, 255, (n, 3, 14, 28, 3), np.uint8), 8, 2), 8, 3)
    t = np.arange(n)
    poses = RigRays(NANO_RIG).poses(np.stack([2.0 * t, 0.1 * t * t, 0.05 * t], 1))
    weather = torch.full((n,), WEATHER_NAMES.index("day"))
    starts = tuple(np.cumsum([0, *lengths])[:-1].tolist())
    names = tuple(f"drive{k}" for k in range(len(lengths)))
    return Clips(torch.from_numpy(pictures), torch.from_numpy(rasters), poses, weather, starts, lengths, names)
