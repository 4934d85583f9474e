"""The ground's light: sky, sun, shadows of houses and trees, darker corners at walls, and pools under street lamps.

One RGB picture for the whole town.  The renderer multiplies it onto the ground layers; actors read it where they stand,
so that a car in a house's shadow is in the shade.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter

from efficientgen.perception.types import F64, U8
from efficientgen.worldsim.reference.noise import keyed, value_noise
from efficientgen.worldsim.reference.plan import StreetLamp, TownPlan
from efficientgen.worldsim.reference.weather import Weather

PIXELS = 2048
LAMP_COLOUR = (1.0, 0.80, 0.52)


@dataclass(frozen=True)
class LightMap:
    """`image` (P, P, 3), south row first, over the square of `extent` m whose lower left corner is (x0, y0)."""

    image: U8
    x0: float
    y0: float
    extent: float
    sunlit: U8  # (P, P) 255 in full sun, 0 in full shadow

    def sun_at(self, x: F64, y: F64) -> F64:
        """Share of the sun (N,) that reaches points of the ground; 1 outside."""
        scale = self.sunlit.shape[0] / self.extent
        u = ((np.asarray(x) - self.x0) * scale).astype(int)
        v = ((np.asarray(y) - self.y0) * scale).astype(int)
        inside = (u >= 0) & (v >= 0) & (u < self.sunlit.shape[1]) & (v < self.sunlit.shape[0])
        share = np.ones(len(u))
        share[inside] = self.sunlit[v[inside], u[inside]] / 255.0
        return share


def light_map(plan: TownPlan, weather: Weather) -> LightMap:
    """Draws the light of one town in one weather."""
    x0, y0, x1, y1 = plan.bounds
    extent = max(x1 - x0, y1 - y0)
    scale = PIXELS / extent
    sun, corners = Image.new("L", (PIXELS, PIXELS), 255), Image.new("L", (PIXELS, PIXELS), 255)
    sun_draw, corner_draw = ImageDraw.Draw(sun), ImageDraw.Draw(corners)
    shift = weather.shadow_per_metre

    def to_pixels(points: F64) -> list[tuple[float, float]]:
        return [((x - x0) * scale, (y - y0) * scale) for x, y in points]

    for house in plan.buildings:
        foot = house.corners
        sun_draw.polygon(to_pixels(hull(np.vstack([foot, foot + shift * house.top]))), fill=0)
        corner_draw.polygon(to_pixels(foot), fill=90)
    circle = np.stack([np.cos(np.linspace(0, 2 * math.pi, 14)), np.sin(np.linspace(0, 2 * math.pi, 14))], 1)
    for tree in plan.trees:
        at, r, h = np.array([tree.x, tree.y]), tree.crown_radius, tree.height
        for middle, size in ((0.5, 0.85), (0.7, 0.8)) if tree.kind != "bush" else ((0.3, 0.8),):
            lobe = circle * r * size * keyed("shade", round(tree.x, 2)).uniform(0.82, 1.15, (14, 1))
            sun_draw.polygon(to_pixels(at + shift * h * middle + lobe), fill=25)
        if tree.kind != "bush":
            sun_draw.line(to_pixels(np.array([at, at + shift * h * 0.5])), fill=40, width=max(1, round(0.3 * scale)))
        spot = to_pixels(at + circle * max(0.5, 0.5 * r))
        corner_draw.polygon(spot, fill=170)
    for line, height, _ in plan.hedges:
        sun_draw.line(
            to_pixels(line + shift * height * 0.5), fill=70, width=max(1, round((0.5 + 0.4 * height) * scale))
        )
    for foot_at in np.array([(post.x, post.y) for post in plan.lamps] + [(post.x, post.y) for post in plan.masts]):
        sun_draw.line(to_pixels(np.array([foot_at, foot_at + shift * 6.0])), fill=120, width=1)
    for car in plan.parked:
        corner_draw.polygon(to_pixels(np.array([car.x, car.y]) + circle * 1.7), fill=80)
    sunlit = np.asarray(sun.filter(ImageFilter.GaussianBlur(0.16 * scale + 0.4)))
    shade = np.asarray(corners.filter(ImageFilter.GaussianBlur(1.1 * scale)), np.float32) / 255
    mottle = value_noise(512, ((8, 1.0), (32, 0.7), (128, 0.5)), keyed("mottle")).astype(np.float32)
    shade = shade * (0.95 + 0.1 * np.kron(mottle, np.ones((PIXELS // 512, PIXELS // 512), np.float32)))
    image = np.empty((PIXELS, PIXELS, 3), np.uint8)
    pools = _lamp_pools(plan.lamps, x0, y0, scale) * np.float32(weather.lamps) if weather.lamps > 0 else None
    direct = sunlit.astype(np.float32) / 255
    wet = 1 - 0.25 * weather.wetness
    for channel in range(3):
        ambient, sunshine = weather.sky[channel], weather.sun[channel] * weather.to_sun[2]
        light = (np.float32(ambient) + np.float32(sunshine) * direct) * shade
        if pools is not None:
            light += pools * np.float32(LAMP_COLOUR[channel])
        image[..., channel] = np.clip(light * (255 * wet), 0, 255)
    return LightMap(image, x0, y0, extent, sunlit)


def _lamp_pools(lamps: tuple[StreetLamp, ...], x0: float, y0: float, scale: float) -> NDArray[np.float32]:
    """(P, P) light of the street lamps on the ground."""
    pools = np.zeros((PIXELS, PIXELS), np.float32)
    reach = 19.0
    half = math.ceil(reach * scale)
    axis = np.arange(-half, half + 1) / scale
    r2 = axis[:, None] ** 2 + axis[None, :] ** 2
    stamp = (0.72 * np.clip(1 - r2 / reach**2, 0, 1) ** 2 / (1 + r2 / 60)).astype(np.float32)
    for lamp in lamps:
        u = round((lamp.x + 1.6 * math.cos(lamp.yaw) - x0) * scale)
        v = round((lamp.y + 1.6 * math.sin(lamp.yaw) - y0) * scale)
        u0, v0, u1, v1 = max(u - half, 0), max(v - half, 0), min(u + half + 1, PIXELS), min(v + half + 1, PIXELS)
        if u0 < u1 and v0 < v1:
            pools[v0:v1, u0:u1] += stamp[v0 - v + half : v1 - v + half, u0 - u + half : u1 - u + half]
    return pools


def hull(points: F64) -> F64:
    """Convex hull (M, 2), counter-clockwise (Andrew's monotone chain)."""
    ordered = sorted((float(x), float(y)) for x, y in points)

    def half(chain: list[tuple[float, float]]) -> list[tuple[float, float]]:
        out: list[tuple[float, float]] = []
        for p in chain:
            while len(out) > 1 and (
                (out[-1][0] - out[-2][0]) * (p[1] - out[-2][1]) - (out[-1][1] - out[-2][1]) * (p[0] - out[-2][0]) <= 0
            ):
                out.pop()
            out.append(p)
        return out[:-1]

    return np.array(half(ordered) + half(ordered[::-1]))
