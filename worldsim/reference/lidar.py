"""A spinning lidar cast from depth: four depth views around the sensor, read along its beams.

Where the four pixels around a beam show one smooth thing, inverse depth is interpolated, which is exact on planes;
elsewhere, at borders and among leaves, the return sits where the nearest pixel meets the scene (at most 0.1 degrees
off the beam), so that no point floats between two things.  The whole turn is taken at one instant, with no motion
distortion.  What comes back follows a plain lidar equation: reflectance of the class,
angle of incidence on the ground, extinction by fog and rain, 1/r^2, and a keyed draw per beam.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from efficientgen.perception.rig import Camera, Lidar, project
from efficientgen.perception.types import F64, U8
from efficientgen.worldsim.reference.depth import RangeImages
from efficientgen.worldsim.reference.labels import GROUND, Label
from efficientgen.worldsim.reference.noise import keyed
from efficientgen.worldsim.reference.weather import Weather

VIEWS = 4
FOCAL_PX = 320.0
NOISE_M = 0.015  # standard deviation of a range
STEADY = 1.08  # neighbouring depths of one smooth thing differ by less, ground aside
DROPPED = 0.01  # share of beams that never come back, whatever they meet
DETECTED = 0.02  # a target of this reflectance is seen half the time at the lidar's nominal range
REFLECTANCE = {
    Label.TERRAIN: 0.30, Label.ROAD: 0.12, Label.MARKING: 0.55, Label.SIDEWALK: 0.28, Label.BUILDING: 0.45,
    Label.VEGETATION: 0.35, Label.POLE: 0.40, Label.TRAFFIC_LIGHT: 0.50, Label.CAR: 0.45, Label.TRUCK: 0.50,
    Label.BUS: 0.50, Label.BICYCLE: 0.35, Label.PEDESTRIAN: 0.35,
}  # fmt: skip
_REFLECTANCE = np.array([REFLECTANCE.get(label, 0.0) for label in Label])


@dataclass(frozen=True)
class LidarScan:
    """The returns of one turn, ring by ring.  `points` (N, 3) float32 m in the lidar's frame.

    `intensity` (N,) float32 in [0, 255] is the reflectance after extinction, `ring` (N,) counts from the lowest;
    `labels` and `instances` (N,) say what was hit, as in `RangeImages`.
    """

    stamp_ns: int
    lidar: Lidar
    points: NDArray[np.float32]
    intensity: NDArray[np.float32]
    ring: U8
    labels: U8
    instances: NDArray[np.uint16]

    @property
    def on_ground(self) -> NDArray[np.bool_]:
        """(N,) whether a point lies on the ground."""
        return np.isin(self.labels, GROUND)

    @property
    def in_ego(self) -> F64:
        """(N, 3) m in the ego frame."""
        pose = self.lidar.lidar_to_ego
        return self.points @ pose[:3, :3].T + pose[:3, 3]


class Beams:
    """The beams of a lidar as pixels of depth views; `cameras` are what must be drawn."""

    def __init__(self, lidar: Lidar) -> None:
        self.lidar = lidar
        elevation = np.radians(np.linspace(lidar.lowest_deg, lidar.highest_deg, lidar.rings))
        azimuth = np.radians(np.arange(lidar.steps) * 360.0 / lidar.steps)  # ccw from straight ahead of the car
        up, around = (grid.ravel() for grid in np.meshgrid(elevation, azimuth, indexing="ij"))
        directions = np.stack([np.cos(up) * np.cos(around), np.cos(up) * np.sin(around), np.sin(up)], 1)
        self.ring = np.repeat(np.arange(lidar.rings, dtype=np.uint8), lidar.steps)
        nearest = np.round(around / (2 * math.pi / VIEWS)).astype(int) % VIEWS
        pitch = 0.5 * (lidar.lowest_deg + lidar.highest_deg)
        probes = [Camera(f"{lidar.name}_{k}", 2, 2, FOCAL_PX, lidar.mount, 360.0 / VIEWS * k, pitch)
                  for k in range(VIEWS)]  # fmt: skip
        pixels = np.zeros((len(directions), 2))
        for k, probe in enumerate(probes):
            mine = nearest == k
            pixels[mine] = project(directions[mine] + lidar.mount, probe.intrinsics, probe.camera_to_ego)[0] - 1.0
        half = np.ceil(np.abs(pixels).max(0)).astype(int) + 1  # from the principal point to the border
        self.cameras = tuple(replace(probe, width=2 * int(half[0]), height=2 * int(half[1])) for probe in probes)
        self._view = nearest
        self._turns = np.array([camera.camera_to_ego[:3, :3] for camera in self.cameras])
        self._exact = pixels + half  # (N, 2) px
        self._nearest = np.floor(self._exact)  # the pixel that holds the beam
        corner = np.floor(self._exact - 0.5).astype(int)
        self._share = self._exact - 0.5 - corner
        self._around = [(nearest, corner[:, 1] + j, corner[:, 0] + i) for j in (0, 1) for i in (0, 1)]

    def read(self, images: RangeImages, weather: Weather, seed: int) -> LidarScan:
        """The scan that `images` of `cameras` hold; `seed` and the stamp key noise and dropouts."""
        lidar, rng = self.lidar, keyed(self.lidar.name, seed, images.stamp_ns)
        draw, noise = rng.random(len(self.ring)), rng.standard_normal(len(self.ring))
        columns, rows = self._nearest.astype(int).T
        labels, instances = (held[self._view, rows, columns] for held in (images.labels, images.instances))
        steady, between = self._interpolated(images)
        depth = np.where(steady, between, images.depth[self._view, rows, columns])
        rays = self._rays(np.where(steady[:, None], self._exact, self._nearest + 0.5))
        length = np.linalg.norm(rays, axis=1)
        distance = depth * length
        reach = np.where(np.isinf(distance), 0.0, distance)
        signal = self._returned(labels, rays[:, 2] / length, reach, weather)
        strength = signal * (lidar.range_m / np.maximum(reach, 0.1)) ** 2
        seen = (strength * (0.5 + draw) > DETECTED) & (draw > DROPPED) & (distance < 1.4 * lidar.range_m)
        kept = np.flatnonzero(seen)
        in_ego = rays[kept] * ((distance[kept] + NOISE_M * noise[kept]) / length[kept])[:, None]
        return LidarScan(
            images.stamp_ns,
            lidar,
            (in_ego @ lidar.lidar_to_ego[:3, :3]).astype(np.float32),
            np.clip(255 * signal[kept], 0, 255).astype(np.float32),
            self.ring[kept],
            labels[kept],
            instances[kept],
        )

    def _interpolated(self, images: RangeImages) -> tuple[NDArray[np.bool_], F64]:
        """Which beams lie amid one smooth thing, and their depths there."""
        depths = np.stack([images.depth[where] for where in self._around]).astype(np.float64)  # (4, N)
        ground = np.isin(images.labels, GROUND)
        thing = np.where(ground, 1, images.labels.astype(np.int64)) + (images.instances.astype(np.int64) << 8)
        things = np.stack([thing[where] for where in self._around])
        spread = depths.max(0) < np.where(things[0] == 1, 2.0, STEADY) * depths.min(0)
        steady = (things == things[0]).all(0) & spread & np.isfinite(depths).all(0)
        u, v = self._share.T
        weights = np.stack([(1 - v) * (1 - u), (1 - v) * u, v * (1 - u), v * u])
        return steady, 1.0 / np.maximum((weights / depths).sum(0), 1e-9)

    def _rays(self, pixels: F64) -> F64:
        """Rays (N, 3) through pixels (N, 2), in the ego frame, of depth 1."""
        half = np.array([self.cameras[0].width, self.cameras[0].height]) / 2
        away = (pixels - half) / FOCAL_PX
        return np.einsum("nij,nj->ni", self._turns[self._view], np.c_[np.ones(len(away)), -away])

    def _returned(self, labels: U8, upwards: F64, distance: F64, weather: Weather) -> F64:
        """Reflectance times incidence (on the ground) times two-way extinction."""
        ground = np.isin(labels, GROUND)
        shine = np.where(ground, (1 - 0.7 * weather.wetness) * np.clip(-upwards, 0, 1), 1.0)
        return _REFLECTANCE[labels] * shine * np.exp(-2 * weather.fog * distance)
