"""The sky: gradient, clouds on a plane high above, and a hazy line of woods where the fields end.

One panorama texture per weather on a dome that follows the cameras.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from panda3d.core import Texture

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.mesh import Mesh
from efficientgen.worldsim.reference.noise import keyed, sample_tiled, value_noise
from efficientgen.worldsim.reference.textures import to_texture
from efficientgen.worldsim.reference.weather import Weather

TOP_DEG = 62.0  # the panorama ends here, far above what a camera sees
BOTTOM_DEG = -4.0
WIDTH, HEIGHT = 1024, 256


@cache
def panorama(weather: Weather) -> Texture:
    """(256, 1024) panorama: azimuth to the right, elevation upwards."""
    azimuth = np.linspace(0, 2 * math.pi, WIDTH, endpoint=False)[None, :]
    elevation = np.radians(np.linspace(TOP_DEG, BOTTOM_DEG, HEIGHT))[:, None]
    up = np.clip(np.sin(elevation), 0, 1)
    climb = (1 - np.exp(-3.2 * up))[..., None] / (1 - math.exp(-3.2))
    sky = np.asarray(weather.horizon) * (1 - climb) + np.asarray(weather.zenith) * climb  # (H, 1, 3)
    sky = np.broadcast_to(sky, (HEIGHT, WIDTH, 3)).copy()
    sun = weather.to_sun
    flat = np.cos(elevation)
    towards = flat * np.cos(azimuth) * sun[0] + flat * np.sin(azimuth) * sun[1] + np.sin(elevation) * sun[2]
    halo = np.clip(towards, 0, 1)[..., None] ** 10 * 0.35 * np.asarray(weather.sun)
    sky += halo
    density, light = _clouds(azimuth, elevation, weather)
    cloud = np.asarray(weather.cloud_shade) * (1 - light) + np.asarray(weather.cloud) * light
    fade = np.clip(up / 0.22, 0, 1)[..., None] ** 0.7
    alpha = density * fade
    sky = sky * (1 - alpha) + cloud * alpha
    _far_woods(sky, azimuth, elevation, weather)
    return to_texture(255 * np.clip(sky, 0, 1), wrap=True)


def _clouds(azimuth: F64, elevation: F64, weather: Weather) -> tuple[F64, F64]:
    """Cover and light (H, W, 1) of clouds on a plane seen in perspective."""
    noise = value_noise(512, ((4, 1.0), (8, 0.9), (16, 0.6), (32, 0.42), (64, 0.26), (128, 0.16)), keyed("clouds"))
    noise = (noise - noise.min()) / (noise.max() - noise.min())
    distance = 1 / (np.clip(np.sin(elevation), 0, 1) + 0.12)
    x, y = distance * np.cos(azimuth) * 0.16, distance * np.sin(azimuth) * 0.16
    threshold = 0.72 - 0.5 * weather.cloud_cover
    here = sample_tiled(noise, x, y)
    cover = np.clip((here - threshold) / 0.2, 0, 1)
    step = 0.012 * weather.to_sun[:2]
    lit = np.clip(0.62 + 3.2 * (here - sample_tiled(noise, x + step[0], y + step[1])) - 0.5 * (here - threshold), 0, 1)
    return cover[..., None], lit[..., None]


def _far_woods(sky: F64, azimuth: F64, elevation: F64, weather: Weather) -> None:
    """Paints two ridges of woods on the horizon, bluish with distance."""
    for k, (height, haze) in enumerate(((2.6, 0.62), (1.5, 0.4))):
        noise = value_noise(1024, ((8, 1.0), (32, 0.5), (128, 0.35), (512, 0.25)), keyed("ridge", k))[0]
        top = np.radians(height * (0.35 + 0.9 * np.interp(azimuth, np.linspace(0, 2 * math.pi, 1024), noise)))
        woods = np.array([0.24, 0.31, 0.20]) * weather.lit_ground
        haze = min(1.0, haze + 12 * weather.fog)
        colour = woods * (1 - haze) + np.asarray(weather.horizon) * haze
        sky[:] = np.where((elevation < top)[..., None], colour, sky)


def dome(mesh: Mesh) -> None:
    """A dome of radius 340 m around the origin with panorama coordinates."""
    columns, rows = 32, 8
    azimuth = np.linspace(0, 2 * math.pi, columns + 1)
    elevation = np.radians(np.linspace(BOTTOM_DEG, TOP_DEG, rows + 1))
    a, e = np.meshgrid(azimuth, elevation)
    points = 340 * np.stack([np.cos(e) * np.cos(a), np.cos(e) * np.sin(a), np.sin(e)], -1).reshape(-1, 3)
    uv = np.stack(np.meshgrid(np.linspace(0, 1, columns + 1), np.linspace(0.004, 0.996, rows + 1)), -1).reshape(-1, 2)
    i = (np.arange(rows)[:, None] * (columns + 1) + np.arange(columns)).reshape(-1)
    inward = np.r_[np.c_[i, i + columns + 2, i + 1], np.c_[i, i + columns + 1, i + columns + 2]]
    mesh.add(points, (0, 0, 1), (1, 1, 1), inward, uv)
