"""Houses: walls that show the facade atlas bay by bay, roofs, and the small things that give them scale."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference import facades
from efficientgen.worldsim.reference.facades import BAY_M, cell_uv, strip_uv
from efficientgen.worldsim.reference.mesh import Mesh
from efficientgen.worldsim.reference.noise import keyed
from efficientgen.worldsim.reference.occupancy import rectangle

PLAIN = np.tile(facades.WHITE, (4, 1))


@dataclass(frozen=True)
class Building:
    """A block with its middle at (x, y); `yaw` points along the street, which lies on its right.

    `roof` is flat | gable | hip; `facade` and `strip` index the atlas.
    """

    x: float
    y: float
    yaw: float
    length: float  # along the street
    depth: float
    floors: int
    roof: str
    facade: int
    strip: int
    variant: int

    @property
    def height(self) -> float:
        """To the eaves, m."""
        return self.floors * BAY_M

    @property
    def top(self) -> float:
        """The height that throws the shadow, m."""
        return self.height + (0.5 * self.rise if self.roof != "flat" else 0.5)

    @property
    def rise(self) -> float:
        """Of a pitched roof, m."""
        return min(0.36 * self.depth, 4.2)

    @property
    def corners(self) -> F64:
        """(4, 2) of the footprint, counter-clockwise from the rear right; the street side comes first."""
        return rectangle(self.x, self.y, self.yaw, self.length, self.depth)


class _Faces:
    """Quads of many houses, added to a mesh in one go: numpy is quick only in bulk."""

    def __init__(self) -> None:
        self.corners: list[F64] = []
        self.colours: list[F64] = []
        self.uvs: list[F64] = []

    def add(self, corners: ArrayLike, colours: F64, uv: F64 = PLAIN) -> None:
        """Corners (4, 3), one colour (3,) or four (4, 3), texture corners (4, 2)."""
        self.corners.append(np.asarray(corners, np.float64))
        self.colours.append(colours if colours.ndim == 2 else np.tile(colours, (4, 1)))
        self.uvs.append(uv)


def build_plain(houses: tuple[Building, ...], mesh: Mesh) -> None:
    """All houses for the distant view: one piece of facade per wall, no trimmings."""
    faces = _Faces()
    for house in houses:
        rng = keyed("house", round(house.x, 2), round(house.y, 2))
        tint = rng.uniform(0.93, 1.05) * np.array([1.0, rng.uniform(0.97, 1.02), rng.uniform(0.94, 1.02)])
        a = np.c_[house.corners, np.zeros(4)]
        b = np.roll(a, -1, 0)
        up = np.array([0, 0, house.height])
        uv = cell_uv(house.facade, 0.0, 0.0, 1.0, min(1.0, house.floors / 4))
        for k in range(4):
            faces.add([a[k], b[k], b[k] + up, a[k] + up], tint * np.array([[0.75], [0.75], [1.0], [1.0]]), uv)
        if house.roof == "flat":
            faces.add(a + up, np.full(3, 0.9), cell_uv(facades.GRAVEL))
        else:
            _pitched_roof(house, faces, mesh, tint, rng, chimney=False)
    if faces.corners:
        mesh.quads(np.array(faces.corners), np.array(faces.colours), np.array(faces.uvs))


def build(houses: tuple[Building, ...], mesh: Mesh) -> None:
    """Adds all houses of a town."""
    faces = _Faces()
    for house in houses:
        rng = keyed("house", round(house.x, 2), round(house.y, 2))
        tint = rng.uniform(0.93, 1.05) * np.array([1.0, rng.uniform(0.97, 1.02), rng.uniform(0.94, 1.02)])
        corners = house.corners
        for side in range(4):
            _wall(house, faces, corners[side], corners[(side + 1) % 4], tint, rng)
        if house.roof == "flat":
            _flat_roof(house, faces, mesh, rng)
        else:
            _pitched_roof(house, faces, mesh, tint, rng)
        if house.strip in facades.SHOPS:
            _awnings(house, faces, rng)
    if faces.corners:
        mesh.quads(np.array(faces.corners), np.array(faces.colours), np.array(faces.uvs))


def _wall(house: Building, faces: _Faces, a: F64, b: F64, tint: F64, rng: np.random.Generator) -> None:
    """One wall from corner `a` to `b` (outside on the right), cut into pieces of at most four bays by four floors."""
    (ax, ay), (bx, by) = a, b
    bays = max(1, round(math.hypot(bx - ax, by - ay) / BAY_M))

    def piece(column: int, count: int, z0: float, z1: float, uv: F64) -> None:
        s0, s1 = column / bays, (column + count) / bays
        px, py, qx, qy = ax + (bx - ax) * s0, ay + (by - ay) * s0, ax + (bx - ax) * s1, ay + (by - ay) * s1
        low, high = (0.66 + 0.34 * min(1.0, z / 7.0) for z in (z0, z1))
        shades = np.array([[low], [low], [high], [high]]) * tint
        faces.add([(px, py, z0), (qx, qy, z0), (qx, qy, z1), (px, py, z1)], shades, uv)

    for column in range(0, bays, 4):
        count = min(4, bays - column)
        first = int(rng.random() * (5 - count))
        piece(column, count, 0.0, BAY_M, strip_uv(house.strip, first, count))
        for floor in range(1, house.floors, 4):
            rows = min(4, house.floors - floor)
            uv = cell_uv(house.facade, first / 4, 1 - rows / 4, (first + count) / 4, 1.0)
            piece(column, count, BAY_M * floor, BAY_M * (floor + rows), uv)


def _flat_roof(house: Building, faces: _Faces, mesh: Mesh, rng: np.random.Generator) -> None:
    top = house.height
    trim = np.array([0.72, 0.70, 0.67]) * rng.uniform(0.7, 1.1)
    slab = rectangle(house.x, house.y, house.yaw, house.length + 0.5, house.depth + 0.5)
    upper, lower = np.c_[slab, np.full(4, top + 0.55)], np.c_[slab, np.full(4, top - 0.15)]
    for k in range(4):
        j = (k + 1) % 4
        faces.add([lower[k], lower[j], upper[j], upper[k]], trim)
    faces.add(upper, np.full(3, 0.9), cell_uv(facades.GRAVEL))
    faces.add(lower[::-1], trim * 0.55)  # the cornice seen from below
    along = np.array([math.cos(house.yaw), math.sin(house.yaw)])
    for _ in range(int(rng.integers(1, 3))):  # lift houses and fans
        u, v = rng.uniform(-0.32, 0.32, 2) * [house.length, house.depth]
        spot = np.array([house.x, house.y]) + along * u + np.array([-along[1], along[0]]) * v
        size = (*rng.uniform(1.2, 3.2, 2), rng.uniform(0.9, 2.4))
        mesh.box((*spot, top + 0.5), size, (0.6, 0.6, 0.6), house.yaw)


def _pitched_roof(house: Building, faces: _Faces, mesh: Mesh, tint: F64, rng: np.random.Generator,
                  chimney: bool = True) -> None:  # fmt: skip
    """A gable or hip roof with eaves; the ridge runs along the street."""
    eaves, top = 0.45, house.height
    low = top - eaves * house.rise / (house.depth / 2)
    slab = rectangle(house.x, house.y, house.yaw, house.length + 2 * eaves, house.depth + 2 * eaves)
    rr, fr, fl, rl = np.c_[slab, np.full(4, low)]
    pull = 0.0 if house.roof == "gable" else min(0.42, 0.5 * house.depth / house.length)
    rear, front = (rr + rl) / 2, (fr + fl) / 2
    ridge_rear, ridge_front = rear + (front - rear) * pull, front + (rear - front) * pull
    ridge_rear[2] = ridge_front[2] = top + house.rise
    cover = cell_uv(facades.RED_TILES if rng.random() < 0.6 else facades.SLATE)
    shade = np.full(3, rng.uniform(0.9, 1.1))
    faces.add([rr, fr, ridge_front, ridge_rear], shade, cover)
    faces.add([fl, rl, ridge_rear, ridge_front], shade, cover)
    faces.add([rl, fl, fr, rr], np.array([0.42, 0.39, 0.36]))  # eaves from below
    gable = np.array([0.80, 0.77, 0.72]) * tint
    for a, b, ridge in ((rl, rr, ridge_rear), (fr, fl, ridge_front)):
        corners = [a, b, ridge, ridge]  # a triangle; the normal comes from its first edge and its last
        if house.roof == "gable":
            faces.add(corners, gable)
        else:
            faces.add(corners, shade, cover[[0, 1, 2, 2]])
    if chimney and rng.random() < 0.7:
        spot = ridge_rear + (ridge_front - ridge_rear) * rng.uniform(0.2, 0.8)
        mesh.box((spot[0], spot[1], top + house.rise - 1.2), (0.75, 0.6, 2.3), (0.52, 0.36, 0.30), house.yaw)


def _awnings(house: Building, faces: _Faces, rng: np.random.Generator) -> None:
    """Sloping cloth over some of the shop windows on the street side."""
    rear_right, front_right = house.corners[0], house.corners[1]
    along = (front_right - rear_right) / house.length
    out = np.array([along[1], -along[0]])
    bays = max(1, round(house.length / BAY_M))
    cloth = np.array(
        [(0.55, 0.16, 0.13), (0.16, 0.30, 0.24), (0.20, 0.24, 0.36), (0.72, 0.66, 0.54)][int(rng.integers(4))]
    )
    for bay in np.flatnonzero(rng.random(bays) < 0.5):
        a = rear_right + along * (house.length * (bay + 0.06) / bays)
        b = rear_right + along * (house.length * (bay + 0.94) / bays)
        (px, py), (qx, qy), upper, lower, rim = a + out * 1.1, b + out * 1.1, 2.75, 2.3, 2.1
        faces.add([(px, py, lower), (qx, qy, lower), (*b, upper), (*a, upper)], cloth)
        faces.add([(px, py, rim), (qx, qy, rim), (qx, qy, lower), (px, py, lower)], cloth * 0.9)
