"""Light and air of a drive: one row of numbers per weather, and the shading that bakes them into vertex colours.

The sun stands still, so static geometry is lit once, when the town is built: a hemisphere (sky above, ground below)
plus a sun.  The same formula gives the ground its light map and moving actors their lamps.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64

Colour = tuple[float, float, float]


class UnknownWeatherError(ValueError):
    """The weather asked for is not in `WEATHERS`."""


@dataclass(frozen=True)
class Weather:
    """Everything that depends on hour and sky.  Colours are display RGB in [0, 1]; angles in degrees."""

    sun_azimuth: float  # counter-clockwise from map x, towards the sun
    sun_elevation: float
    sun: Colour  # light on a surface that faces the sun
    sky: Colour  # light from above
    bounce: Colour  # light from below
    zenith: Colour
    horizon: Colour  # also the colour of fog
    cloud: Colour
    cloud_shade: Colour
    cloud_cover: float  # 0 clear .. 1 overcast
    fog: float  # 1/m, exponential
    lamps: float = 0.0  # street lamps, lit windows: 0 off .. 1 full night
    headlights: float = 0.0  # glow of vehicle lights
    rain: bool = False
    wetness: float = 0.0  # darkens ground and lends it the sky's colour

    @property
    def to_sun(self) -> F64:
        """(3,) unit vector towards the sun."""
        azimuth, elevation = math.radians(self.sun_azimuth), math.radians(self.sun_elevation)
        flat = math.cos(elevation)
        return np.array([flat * math.cos(azimuth), flat * math.sin(azimuth), math.sin(elevation)])

    @property
    def shadow_per_metre(self) -> F64:
        """(2,) m by which the shadow of a point moves on the ground per metre of its height."""
        sun = self.to_sun
        return -sun[:2] / sun[2]

    @property
    def lit_ground(self) -> F64:
        """(3,) light on open flat ground."""
        return np.asarray(self.sky) + np.asarray(self.sun) * self.to_sun[2]


WEATHERS: dict[str, Weather] = {
    "day": Weather(
        sun_azimuth=228, sun_elevation=40, sun=(0.78, 0.70, 0.56), sky=(0.52, 0.56, 0.64), bounce=(0.40, 0.39, 0.37),
        zenith=(0.26, 0.47, 0.76), horizon=(0.76, 0.84, 0.91), cloud=(0.98, 0.98, 0.97), cloud_shade=(0.70, 0.74, 0.80),
        cloud_cover=0.45, fog=0.0016,
    ),
    "dusk": Weather(
        sun_azimuth=205, sun_elevation=17, sun=(0.85, 0.52, 0.28), sky=(0.40, 0.38, 0.46), bounce=(0.25, 0.22, 0.23),
        zenith=(0.28, 0.33, 0.52), horizon=(0.93, 0.69, 0.50), cloud=(0.98, 0.72, 0.56), cloud_shade=(0.55, 0.45, 0.52),
        cloud_cover=0.5, fog=0.003, lamps=0.35, headlights=0.45,
    ),
    "night": Weather(
        sun_azimuth=130, sun_elevation=55, sun=(0.05, 0.06, 0.09), sky=(0.15, 0.16, 0.21), bounce=(0.17, 0.15, 0.12),
        zenith=(0.02, 0.03, 0.07), horizon=(0.10, 0.11, 0.16), cloud=(0.13, 0.13, 0.17), cloud_shade=(0.06, 0.07, 0.10),
        cloud_cover=0.4, fog=0.004, lamps=1.0, headlights=1.0,
    ),
    "rain": Weather(
        sun_azimuth=228, sun_elevation=60, sun=(0.06, 0.06, 0.06), sky=(0.66, 0.69, 0.73), bounce=(0.36, 0.36, 0.36),
        zenith=(0.45, 0.48, 0.52), horizon=(0.64, 0.67, 0.70), cloud=(0.68, 0.70, 0.73), cloud_shade=(0.46, 0.48, 0.52),
        cloud_cover=1.0, fog=0.009, lamps=0.15, headlights=0.4, rain=True, wetness=0.5,
    ),
    "fog": Weather(
        sun_azimuth=228, sun_elevation=60, sun=(0.05, 0.05, 0.05), sky=(0.74, 0.75, 0.77), bounce=(0.44, 0.44, 0.44),
        zenith=(0.72, 0.74, 0.76), horizon=(0.77, 0.79, 0.80), cloud=(0.75, 0.77, 0.78), cloud_shade=(0.72, 0.74, 0.75),
        cloud_cover=1.0, fog=0.022, lamps=0.1, headlights=0.35,
    ),
}  # fmt: skip


def weather_named(name: str) -> Weather:
    """The row called `name`.

    Raises:
        UnknownWeatherError: no such row.
    """
    if name not in WEATHERS:
        raise UnknownWeatherError(f"no weather called '{name}'; choose one of {', '.join(WEATHERS)}")
    return WEATHERS[name]


def shade(normals: F64, weather: Weather) -> F64:
    """Light (N, 3) that falls on surfaces with unit `normals` (N, 3)."""
    up = 0.5 + 0.5 * normals[:, 2:3]
    facing = np.clip(normals @ weather.to_sun, 0.0, None)[:, None]
    ambient = np.asarray(weather.bounce) * (1 - up) + np.asarray(weather.sky) * up
    return ambient + facing * np.asarray(weather.sun)
