"""Procedural textures: made from noise with numpy and Pillow, so that nothing of unclear licence is shipped.

Ground textures are near-white variations that multiply the albedo of the vertex below them.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
from numpy.typing import NDArray
from panda3d.core import SamplerState, Texture
from PIL import Image, ImageDraw

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.noise import keyed, value_noise


def to_texture(pixels: NDArray[np.generic], wrap: bool = True, mipmaps: bool = True) -> Texture:
    """A Panda3D texture from (H, W), (H, W, 3) or (H, W, 4) values in [0, 255], top row first."""
    image = np.clip(pixels, 0, 255).astype(np.uint8)
    if image.ndim == 2:
        image = np.repeat(image[..., None], 3, 2)
    height, width, channels = image.shape
    texture = Texture()
    texture.setup2dTexture(width, height, Texture.TUnsignedByte, Texture.FRgb if channels == 3 else Texture.FRgba)
    order = [2, 1, 0] + [3] * (channels == 4)  # Panda3D keeps BGR(A), bottom row first
    texture.setRamImage(np.ascontiguousarray(image[::-1][..., order]).tobytes())
    mode = SamplerState.WMRepeat if wrap else SamplerState.WMClamp
    texture.setWrapU(mode)
    texture.setWrapV(mode)
    if mipmaps:
        # one mip level at a time costs half of two; never anisotropic: 10x slower on llvmpipe
        texture.setMinfilter(SamplerState.FTLinearMipmapNearest)
    return texture


@cache
def asphalt() -> Texture:
    rng = keyed("asphalt")
    noise = value_noise(256, ((4, 0.6), (16, 0.5), (64, 0.7), (256, 1.1)), rng)
    grains = (rng.random((256, 256)) > 0.985) * 22.0
    return to_texture(216 + (noise - 0.5) * 85 + grains)


@cache
def grass() -> Texture:
    rng = keyed("grass")
    fine = value_noise(256, ((8, 0.7), (32, 0.9), (128, 1.0), (256, 0.8)), rng)[..., None]
    dry = value_noise(256, ((4, 1.0), (16, 0.6)), rng)[..., None]
    tint = np.array([235.0, 225, 190]) * dry + np.array([190.0, 210, 175]) * (1 - dry)
    return to_texture(tint + (fine - 0.5) * 120)


@cache
def paving() -> Texture:
    """Slabs, four to a tile side, in staggered rows."""
    rng = keyed("paving")
    image = 212 + (value_noise(256, ((8, 0.6), (64, 0.6), (256, 0.8)), rng) - 0.5) * 50
    for row in range(4):
        band = slice(64 * row, 64 * row + 64)
        shift = 32 * (row % 2)
        for column in range(4):
            left = 64 * column + shift
            image[band, np.arange(left, left + 64) % 256] += rng.normal() * 8
            image[band, [left % 256, (left + 1) % 256]] *= 0.8
        image[64 * row : 64 * row + 2] *= 0.8
    return to_texture(image)


@cache
def foliage() -> Texture:
    """Left half: a loose cluster of leaves with alpha.  Right half: leaves without gaps, below a plain white strip."""
    rng = keyed("foliage")
    canvas = np.zeros((256, 512, 4))
    canvas[..., :3] = 170
    canvas[:, 256:, :3] = 95
    canvas[:, 256:, 3] = 255
    for half, count in ((0, 300), (256, 900)):
        image = Image.fromarray(canvas[:, half : half + 256].astype(np.uint8), "RGBA")
        draw = ImageDraw.Draw(image)
        for k in range(count):
            if half:
                x, y = rng.uniform(-8, 264, 2)
            else:
                angle, r = rng.uniform(0, 2 * math.pi), 112 * rng.random() ** 0.62
                x, y = 128 + r * math.cos(angle), 128 + r * math.sin(angle)
            tone = int(110 + 145 * (0.55 * k / count + 0.45 * rng.random()))
            length, breadth, turn = rng.uniform(9, 17), rng.uniform(5, 9), rng.uniform(0, 2 * math.pi)
            along = np.array([math.cos(turn), math.sin(turn)])
            across = np.array([-along[1], along[0]])
            leaf = [(-length, 0), (-length / 3, breadth), (length / 2, breadth * 0.8), (length, 0),
                    (length / 2, -breadth * 0.8), (-length / 3, -breadth)]  # fmt: skip
            points = [tuple(np.array([x, y]) + a * along + b * across) for a, b in leaf]
            draw.polygon(points, fill=(tone, tone, int(tone * 0.86), 255))
        canvas[:, half : half + 256] = np.asarray(image, np.float64)
    canvas[:48, 256:] = 255
    return to_texture(canvas, wrap=False)


def _radial(size: int) -> F64:
    axis = (np.arange(size) - (size - 1) / 2) / (size / 2)
    return np.hypot(*np.meshgrid(axis, axis))


@cache
def blob() -> Texture:
    """A soft dark disc: contact shadows."""
    alpha = np.clip((1 - _radial(64)) * 2.0, 0, 1)
    return to_texture(np.dstack([np.zeros((64, 64, 3)), 255 * alpha]), wrap=False)


@cache
def glow() -> Texture:
    """A bright core with a soft halo, for additive drawing."""
    return to_texture(255 * np.clip(1 - _radial(64), 0, 1) ** 1.8, wrap=False)


@cache
def beam() -> Texture:
    """The light of two headlights on the road; the car is at the left edge, u runs forward."""
    across, along = np.meshgrid(np.linspace(-1, 1, 64), np.linspace(0, 1, 128), indexing="ij")
    spread = 0.16 + 0.6 * along
    light = sum(np.exp(-2.4 * ((across - side * 0.12) / spread) ** 2) for side in (-1, 1))
    light *= np.exp(-(((along - 0.24) / 0.3) ** 2)) * np.clip(along * 14, 0, 1) * 0.6
    return to_texture(light[..., None] * np.array([255, 240, 205]), wrap=False)


@cache
def rain() -> Texture:
    """Falling streaks with alpha; tiles."""
    rng = keyed("rain")
    image = np.zeros((256, 512, 4))
    image[..., :3] = (205, 212, 220)
    for _ in range(420):
        x, y, length = rng.integers(0, 512), rng.integers(0, 256), rng.integers(8, 28)
        image[np.arange(y, y + length) % 256, x, 3] = rng.integers(40, 130)
    return to_texture(image, mipmaps=False)
