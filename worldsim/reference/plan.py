"""The plan of a town: where houses, gardens, trees, hedges and street lamps stand along the roads of a net.

Pure geometry.  Roads differ in character (`_district`): shopping streets with closed fronts on a paved forecourt,
housing blocks, and lanes of detached houses behind hedges.  Nothing stands on a road or in a line of sight to a light.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference import facades, polyline
from efficientgen.worldsim.reference.buildings import Building
from efficientgen.worldsim.reference.noise import keyed
from efficientgen.worldsim.reference.occupancy import Occupancy, roads_taken, widen
from efficientgen.worldsim.reference.signals import Head, Mast, place_signals, sight_lines
from efficientgen.worldsim.reference.streets import Lane, Streets
from efficientgen.worldsim.reference.vegetation import Tree

MARGIN_M = 130.0  # planned ground beyond the net


@dataclass(frozen=True)
class StreetLamp:
    """A lamp post at (x, y) whose arm reaches 1.6 m along `yaw`, over the road."""

    x: float
    y: float
    yaw: float


@dataclass(frozen=True)
class ParkedCar:
    """A car on a driveway."""

    x: float
    y: float
    yaw: float
    variant: int


@dataclass(frozen=True)
class Paving:
    """A paved strip beside a sidewalk or a driveway: a polyline and its width."""

    shape: F64
    width: float


@dataclass(frozen=True)
class TownPlan:
    bounds: tuple[float, float, float, float]
    buildings: tuple[Building, ...]
    trees: tuple[Tree, ...]
    hedges: tuple[tuple[F64, float, int], ...]  # (line, height, variant)
    lamps: tuple[StreetLamp, ...]
    parked: tuple[ParkedCar, ...]
    paving: tuple[Paving, ...]
    heads: tuple[Head, ...]
    masts: tuple[Mast, ...]


STEP_M = 0.5


@dataclass(frozen=True)
class _Side:
    """One side of a road: the border of its outermost lane, walked with the houses on the right.

    `points` (N, 2) lie every `STEP_M` along it, `out` (N, 2) points away from the road.
    """

    points: F64
    out: F64
    length: float
    name: str
    district: str

    def beside(self, s: float, distance: float) -> F64:
        """(2,) place at `s` m along and `distance` m off the border."""
        k = min(max(int(s / STEP_M), 0), len(self.points) - 1)
        return self.points[k] + distance * self.out[k]

    def outward(self, s: float) -> F64:
        """(2,) unit vector away from the road at `s` m."""
        return self.out[min(max(int(s / STEP_M), 0), len(self.out) - 1)]


def plan_town(streets: Streets, seed: int) -> TownPlan:
    """Places everything; the same streets and seed always give the same plan."""
    bounds = widen(streets.bounds, MARGIN_M)
    heads, masts = place_signals(streets, roads_taken(streets, 0.5, bounds, walks=False))
    ground = roads_taken(streets, 0.6, bounds, walks=True)
    for line in sight_lines(streets, heads):
        ground.take_line(line, 1.0)
    for head in heads:
        ground.take_disc(head.x, head.y, 1.0)
    gardens = [tree for island in streets.islands for tree in _island_garden(island, ground, seed)]
    sides = _sides(streets, seed)
    lamps = [lamp for side in sides for lamp in _street_lamps(side, ground)]
    buildings: list[Building] = []
    hedges: list[tuple[F64, float, int]] = []
    parked: list[ParkedCar] = []
    roads = roads_taken(streets, 0.0, bounds, walks=False)
    for island in streets.islands:
        roads.take_polygon(island)
    paving = [piece for side in sides if side.district == "shops" for piece in _forecourt(side, roads)]
    for row in (0, 1):
        for side in sides:
            for house, extras in _row_of_houses(side, row, ground, seed):
                buildings.append(house)
                hedges += extras.hedges
                parked += extras.parked
                paving += extras.paving
    trees = gardens + [tree for side in sides for tree in _street_trees(side, ground, seed)]
    trees += _woods(ground, bounds, streets.bounds, seed)
    return TownPlan(bounds, tuple(buildings), tuple(trees), tuple(hedges), tuple(lamps), tuple(parked), tuple(paving),
                    heads, masts)  # fmt: skip


def _district(x: float, y: float, seed: int) -> str:
    rng = keyed(seed, "district", math.floor(x / 130), math.floor(y / 130))
    return str(rng.choice(["shops", "blocks", "houses"], p=[0.34, 0.33, 0.33]))


def _sides(streets: Streets, seed: int) -> list[_Side]:
    """The right side of every road, and the left side of one-way roads."""
    edges: dict[str, list[Lane]] = {}
    for lane in streets.lanes:
        edges.setdefault(lane.edge, []).append(lane)
    sides = []
    for name, lanes in sorted(edges.items()):
        outer = lanes[0]
        borders = [polyline.offset(outer.shape, -outer.width / 2)]
        if not outer.two_way:
            borders.append(polyline.offset(lanes[-1].shape, lanes[-1].width / 2)[::-1])
        for k, border in enumerate(borders):
            length = float(polyline.stations(border)[-1])
            points, along = polyline.at(border, np.arange(0.0, length, STEP_M))
            middle = points[len(points) // 2]
            district = _district(float(middle[0]), float(middle[1]), seed)
            out = np.stack([along[:, 1], -along[:, 0]], 1)
            sides.append(_Side(points, out, length, f"{name}/{k}", district))
    return sides


def _forecourt(side: _Side, roads: Occupancy) -> list[Paving]:
    """A paved strip between sidewalk and shops, with gaps where other roads are."""
    pieces: list[list[F64]] = [[]]
    for k in range(0, len(side.points), 4):
        across = side.points[k] + np.linspace(-0.2, 5.4, 6)[:, None] * side.out[k]
        if roads.free(across):
            pieces[-1].append(side.points[k] + 2.6 * side.out[k])
        elif pieces[-1]:
            pieces.append([])
    return [Paving(polyline.simplify(np.array(piece), 0.1), 5.4) for piece in pieces if len(piece) > 1]


@dataclass(frozen=True)
class _Extras:
    hedges: list[tuple[F64, float, int]]
    parked: list[ParkedCar]
    paving: list[Paving]


def _row_of_houses(side: _Side, row: int, ground: Occupancy, seed: int) -> list[tuple[Building, _Extras]]:
    """Houses along one side; row 1 stands behind row 0 and fills what is left."""
    rng = keyed(seed, "houses", side.name, row)
    out = []
    s = rng.uniform(1, 4)
    while s < side.length - 5:
        front, depth = _footprint(side.district, rng)
        setback = {"shops": 3.4, "blocks": rng.uniform(4, 7), "houses": rng.uniform(5.5, 8.5)}[side.district] + 27 * row
        house = _house_at(side, s + front / 2, front, depth, setback, rng)
        gap = 0.0 if side.district == "shops" and rng.random() < 0.8 else rng.uniform(3.5, 9)
        if rng.random() < (0.93, 0.5)[row] and ground.free_rectangle(
            house.x, house.y, house.yaw, front - 0.2, depth + 0.6
        ):
            extras = (
                _garden(side, house, setback, ground, rng)
                if side.district == "houses" and row == 0
                else _Extras([], [], [])
            )
            out.append((house, extras))
            ground.take_polygon(house.corners, 0.0)
            s += front + gap
        else:
            s += 4.0
    return out


def _footprint(district: str, rng: np.random.Generator) -> tuple[float, float]:
    bays = {"shops": rng.integers(3, 7), "blocks": rng.integers(4, 8), "houses": rng.integers(3, 5)}[district]
    return float(bays) * facades.BAY_M, float(rng.uniform(9, 13) if district != "houses" else rng.uniform(7.5, 10))


def _house_at(side: _Side, s: float, front: float, depth: float, setback: float, rng: np.random.Generator) -> Building:
    centre, out = side.beside(s, setback + depth / 2), side.outward(s)
    yaw = math.atan2(-out[0], out[1])  # the street on its right
    variant = int(rng.integers(1 << 16))
    if side.district == "houses":
        floors, roof = int(rng.choice([1, 2, 2, 2])), str(rng.choice(["gable", "gable", "hip"]))
        facade, strip = int(rng.choice(facades.HOUSES)), int(rng.choice([4, 6, 7]))
    elif side.district == "blocks":
        floors, roof = int(rng.choice([3, 4, 4, 5, 6])), str(rng.choice(["flat", "flat", "hip"]))
        facade, strip = int(rng.integers(facades.FACADES)), int(rng.integers(4, facades.STRIPS))
    else:
        floors, roof = int(rng.choice([3, 3, 4, 4, 5])), str(rng.choice(["flat", "gable"]))
        facade = int(
            rng.choice([k for k in range(facades.FACADES) if rng.random() < 0.5 or k not in facades.OFFICES] or [0])
        )
        strip = int(rng.choice(facades.SHOPS))
    return Building(float(centre[0]), float(centre[1]), yaw, front, depth, floors, roof, facade, strip, variant)


def _garden(side: _Side, house: Building, setback: float, ground: Occupancy, rng: np.random.Generator) -> _Extras:
    """A hedge along the sidewalk with a gap for the path, and sometimes a driveway with a parked car."""
    extras = _Extras([], [], [])
    along = np.array([math.cos(house.yaw), math.sin(house.yaw)])
    to_street = np.array([along[1], -along[0]])
    middle = np.array([house.x, house.y])
    curb = house.depth / 2 + setback
    line = middle + to_street * (curb - 1.3)
    half = house.length / 2 + 1.2
    height, variant = rng.uniform(0.8, 1.25), int(rng.integers(5))
    for begin, end in ((-half, -1.0), (1.0, half)):
        points = np.array([line + along * begin, line + along * end])
        samples = points[0] + np.linspace(0, 1, 10)[:, None] * (points[1] - points[0])
        if ground.free(samples) and ground.free(samples + to_street * 0.45):
            extras.hedges.append((points, height, variant))
            ground.take_line(points, 0.8)
    path = np.array([middle + to_street * (house.depth / 2), middle + to_street * (curb - 0.1)])
    extras.paving.append(Paving(path, 1.3))
    if rng.random() < 0.65:
        spot = middle + along * (house.length / 2 + 1.9)
        if ground.free_rectangle(spot[0], spot[1], house.yaw + math.pi / 2, 5.6, 2.4):
            ground.take_disc(spot[0], spot[1], 2.6)
            extras.parked.append(
                ParkedCar(float(spot[0]), float(spot[1]), house.yaw - math.pi / 2, int(rng.integers(1 << 16)))
            )
        drive = np.array([spot - to_street * 3.0, spot + to_street * (house.depth / 2 + setback - 0.1)])
        extras.paving.append(Paving(drive, 2.8))
    return extras


def _street_lamps(side: _Side, ground: Occupancy) -> list[StreetLamp]:
    lamps = []
    for s in np.arange(11.0, side.length - 4, 27.0):
        spot, out = side.beside(s, 1.0), side.outward(s)
        if ground.free_disc(spot[0], spot[1], 0.1):
            lamps.append(StreetLamp(float(spot[0]), float(spot[1]), math.atan2(-out[1], -out[0])))
            ground.take_disc(spot[0], spot[1], 0.6)
    return lamps


def _street_trees(side: _Side, ground: Occupancy, seed: int) -> list[Tree]:
    """Trees and bushes close to the road, where the ground is free."""
    rng = keyed(seed, "street trees", side.name)
    avenue = rng.random() < 0.7
    kind = str(rng.choice(["round", "round", "tall"]))
    trees = []
    for s in np.arange(6.0, side.length - 4, 8.5 if avenue else 19.0):
        height = rng.uniform(5.0, 8.0)
        tree_kind = kind if rng.random() < 0.85 else str(rng.choice(["round", "bush", "tall"]))
        if tree_kind == "bush":
            height = rng.uniform(0.8, 1.6)
        spot = side.beside(s + rng.uniform(-1.5, 1.5), rng.uniform(1.3, 1.7))
        tree = Tree(float(spot[0]), float(spot[1]), height, tree_kind, int(rng.integers(25)))
        if ground.free_disc(tree.x, tree.y, 0.5):
            trees.append(tree)
            ground.take_disc(tree.x, tree.y, tree.crown_radius + 0.5)
    return trees


def _island_garden(island: F64, ground: Occupancy, seed: int) -> list[Tree]:
    """A tree amid bushes, low enough to see over: what grows in the middle of a roundabout, in place of houses."""
    middle, size = island.mean(0), float(np.hypot(*(island - island.mean(0)).T).min())
    rng = keyed(seed, "island", *(round(float(c)) for c in middle))
    trees = [Tree(float(middle[0]), float(middle[1]), float(rng.uniform(6.5, 8.0)), "round", int(rng.integers(25)))]
    for k in range(round(0.9 * size)):
        angle, r = 2.4 * k + rng.uniform(-0.4, 0.4), rng.uniform(0.3, 0.62) * size
        spot = middle + r * np.array([math.cos(angle), math.sin(angle)])
        trees.append(Tree(float(spot[0]), float(spot[1]), float(rng.uniform(0.7, 1.2)), "bush", int(rng.integers(25))))
    ground.take_polygon(island)
    return trees


def _woods(
    ground: Occupancy, bounds: tuple[float, float, float, float], town: tuple[float, float, float, float], seed: int
) -> list[Tree]:
    """Garden trees inside the town and groves around it."""
    rng = keyed(seed, "woods")
    trees = []
    area = (bounds[2] - bounds[0]) * (bounds[3] - bounds[1])
    for x, y in rng.uniform(bounds[:2], bounds[2:], (int(area / 650), 2)):
        outside = not (town[0] - 30 < x < town[2] + 30 and town[1] - 30 < y < town[3] + 30)
        kind = str(rng.choice(["round", "round", "tall", "conifer", "bush"]))
        height = rng.uniform(6, 11) if outside else rng.uniform(4, 8)
        tree = Tree(float(x), float(y), 1.3 if kind == "bush" else float(height), kind, int(rng.integers(25)))
        if ground.free_disc(tree.x, tree.y, tree.crown_radius + 0.9):
            trees.append(tree)
            ground.take_disc(tree.x, tree.y, tree.crown_radius * 0.8)
    return trees
