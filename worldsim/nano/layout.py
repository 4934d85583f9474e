"""What a map with houses and trees says about a town: the static half of the nano world's condition.

A layout holds the ground as a picture seen from above (class, white and yellow paint, light), everything upright with a
flat front as wall segments (houses, hedges, parked cars), trees, posts, and the heads of traffic lights.  It comes from
the SUMO net and the reference world's town plan, so that a model told of it can be held against the reference world's
pictures.  It has no textures: those the model has to dream.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from efficientgen.perception.types import F64, U8
from efficientgen.worldsim.reference import facades
from efficientgen.worldsim.reference.labels import Label
from efficientgen.worldsim.reference.lightmap import light_map
from efficientgen.worldsim.reference.mesh import Mesh
from efficientgen.worldsim.reference.occupancy import widen
from efficientgen.worldsim.reference.plan import TownPlan, plan_town
from efficientgen.worldsim.reference.roads import draw_paving, draw_roads
from efficientgen.worldsim.reference.streets import Streets, net_file, read_streets
from efficientgen.worldsim.reference.vegetation import GREENS, MODELS
from efficientgen.worldsim.reference.vehicles import CAR_SIZE, PAINTS
from efficientgen.worldsim.reference.weather import Weather, shade, weather_named

GROUND_M = 0.2  # a pixel of the ground
MARGIN_M = 15.0  # of the ground beyond the net
KINDS = ("round", "tall", "conifer", "bush")
STRIP0 = facades.FACADES  # styles: facades, then strips, paints of moving and of standing vehicles, trees, hedges
PAINT0 = STRIP0 + facades.STRIPS
TREE0 = PAINT0 + 2 * len(PAINTS)
HEDGE0 = TREE0 + len(KINDS) * len(GREENS)
PLAIN = HEDGE0 + 5
STYLES = PLAIN + 3  # people: moving, standing


class Kind(IntEnum):
    """Classes of the condition raster."""

    SKY = 0
    TERRAIN = 1
    ROAD = 2
    CROSSING = 3
    SIDEWALK = 4
    WALL = 5
    ROOF = 6
    HEDGE = 7
    TREE = 8
    TRUNK = 9
    POLE = 10
    HEAD = 11
    RED = 12
    YELLOW = 13
    GREEN = 14
    CAR = 15
    TRUCK = 16
    BUS = 17
    BICYCLE = 18
    PEDESTRIAN = 19
    PARKED = 20


_GROUND = {Label.TERRAIN: Kind.TERRAIN, Label.ROAD: Kind.ROAD, Label.MARKING: Kind.ROAD, Label.SIDEWALK: Kind.SIDEWALK}


@dataclass(frozen=True)
class Walls:
    """Upright rectangles: feet `ends` (M, 4) x0, y0, x1, y1 m with the outside on the right, and what they look like.

    `tall` (M,) m; `roof` (M, 2) rise above the wall and how far behind it the ridge lies, m; `kind` (M,);
    `style` (M, 2) of the ground floor and of what is above; `tone` (M,) in [0, 1]: light, or which side of a vehicle.
    """

    ends: F64
    tall: F64
    roof: F64
    kind: U8
    style: U8
    tone: F64

    def __add__(self, other: Walls) -> Walls:
        pairs = zip(self.fields, other.fields, strict=True)
        return Walls(*(np.concatenate(pair) for pair in pairs))

    @property
    def fields(self) -> tuple[np.ndarray, ...]:
        return self.ends, self.tall, self.roof, self.kind, self.style, self.tone


@dataclass(frozen=True)
class Layout:
    """One town in one weather, with the houses and trees of one seed.

    `ground` (H, W, 4): Kind, white paint, yellow paint, light; row 0 south, `origin` its lower left corner.
    `trees` (N, 4) x, y, height, crown radius m with `tree_kind` and `tree_style` (N,).
    `posts` (P, 7): two ends x, y, z and a radius, m.  `heads` (K, 6): x, y, z, heading x, heading y, lamp radius, with
    `signals`: (signal, link) of each.
    """

    ground: U8
    origin: tuple[float, float]
    walls: Walls
    trees: F64
    tree_kind: U8
    tree_style: U8
    posts: F64
    heads: F64
    signals: tuple[tuple[str, int], ...]


@lru_cache(maxsize=4)
def layout_of(town: str | Path, weather: str, seed: int) -> Layout:
    """The layout of a town; a second or two, then kept.

    Raises:
        UnknownTownError, UnknownWeatherError: no such thing; the message lists what there is.
    """
    streets, style = read_streets(net_file(town)), weather_named(weather)
    plan = plan_town(streets, seed)
    ground, origin = _ground(streets, plan, style)
    trees = np.array([(t.x, t.y, t.height, t.crown_radius) for t in plan.trees]).reshape(-1, 4)
    styles = [TREE0 + KINDS.index(t.kind) * len(GREENS) + t.variant // MODELS % len(GREENS) for t in plan.trees]
    heads = [(h.x, h.y, h.z, h.heading[0], h.heading[1], h.lamp) for h in plan.heads]
    return Layout(
        ground,
        origin,
        _houses(plan, style) + _hedges(plan, style) + _parked(plan),
        trees,
        np.array([KINDS.index(t.kind) for t in plan.trees], np.uint8),
        np.array(styles, np.uint8),
        _posts(plan),
        np.array(heads).reshape(-1, 6),
        tuple((h.signal, h.link) for h in plan.heads),
    )


def box_walls(boxes: F64, kind: U8, style: U8) -> Walls:
    """The four sides of upright boxes (N, 6) x, y, yaw, length, width, height; `tone` names the side."""
    n = len(boxes)
    cos, sin = np.cos(boxes[:, 2]), np.sin(boxes[:, 2])
    half_l, half_w = boxes[:, 3] / 2, boxes[:, 4] / 2
    corner = [(-1, -1), (1, -1), (1, 1), (-1, 1)]  # counter-clockwise from the rear right
    x = np.stack([boxes[:, 0] + i * half_l * cos - j * half_w * sin for i, j in corner], 1)
    y = np.stack([boxes[:, 1] + i * half_l * sin + j * half_w * cos for i, j in corner], 1)
    ends = np.stack([x, y, np.roll(x, -1, 1), np.roll(y, -1, 1)], -1).reshape(-1, 4)
    tone = np.tile([0.6, 0.3, 0.6, 1.0], n)  # right, front, left, rear
    styles = np.repeat(style, 4)
    return Walls(ends, np.repeat(boxes[:, 5], 4), np.zeros((4 * n, 2)), np.repeat(kind, 4),
                 np.stack([styles, styles], 1), tone)  # fmt: skip


def _houses(plan: TownPlan, weather: Weather) -> Walls:
    ends, tall, roof, style, normals = [], [], [], [], []
    for house in plan.buildings:
        a = house.corners
        b = np.roll(a, -1, 0)
        along = (b - a) / np.hypot(*(b - a).T)[:, None]
        ends.append(np.c_[a, b])
        normals.append(np.c_[along[:, 1], -along[:, 0], np.zeros(4)])
        tall += [house.height] * 4
        pitched = house.roof != "flat"
        deep = [house.depth / 2, house.length / 2 if house.roof == "hip" else 1.0] * 2
        roof += [(house.rise, d) if pitched else (0.5, 0.0) for d in deep]
        style += [(STRIP0 + house.strip, house.facade)] * 4
    light = shade(np.concatenate(normals or [np.zeros((0, 3))]), weather).mean(1)
    return Walls(np.concatenate(ends or [np.zeros((0, 4))]), np.array(tall), np.array(roof, float).reshape(-1, 2),
                 np.full(len(tall), Kind.WALL, np.uint8), np.array(style, np.uint8).reshape(-1, 2),
                 np.clip(light / 1.6, 0, 1))  # fmt: skip


def _hedges(plan: TownPlan, weather: Weather) -> Walls:
    """Both sides of each hedge."""
    ends, tall, style = [], [], []
    for line, height, variant in plan.hedges:
        for a, b in ((line[0], line[-1]), (line[-1], line[0])):
            ends.append([*a, *b])
            tall.append(height * 1.05)
            style.append((HEDGE0 + variant % 5, HEDGE0 + variant % 5))
    n = len(tall)
    kind, tone = np.full(n, Kind.HEDGE, np.uint8), np.full(n, 0.5)
    return Walls(np.array(ends, float).reshape(-1, 4), np.array(tall, float), np.zeros((n, 2)), kind,
                 np.array(style, np.uint8).reshape(-1, 2), tone)  # fmt: skip


def _parked(plan: TownPlan) -> Walls:
    boxes = np.array([(c.x, c.y, c.yaw, *CAR_SIZE) for c in plan.parked]).reshape(-1, 6)
    return box_walls(boxes, np.full(len(boxes), Kind.PARKED, np.uint8), np.full(len(boxes), PLAIN, np.uint8))


def _posts(plan: TownPlan) -> F64:
    """Lamp posts with their arms, masts with theirs, and the posts of heads that stand alone."""
    posts = []
    for lamp in plan.lamps:
        reach = 1.6 * math.cos(lamp.yaw), 1.6 * math.sin(lamp.yaw)
        posts.append((lamp.x, lamp.y, 0.0, lamp.x, lamp.y, 6.1, 0.07))
        posts.append((lamp.x, lamp.y, 6.1, lamp.x + reach[0], lamp.y + reach[1], 6.4, 0.05))
    for mast in plan.masts:
        posts.append((mast.x, mast.y, 0.0, mast.x, mast.y, 6.0, 0.1))
        posts.append((mast.x, mast.y, 5.9, mast.x + mast.reach[0], mast.y + mast.reach[1], 5.95, 0.07))
    for head in plan.heads:
        if head.foot:
            posts.append((head.x, head.y, 0.0, head.x, head.y, head.z, 0.07))
        elif head.z > 4:
            posts.append((head.x, head.y, head.z, head.x, head.y, 5.95, 0.04))
    return np.array(posts, float).reshape(-1, 7)


def _ground(streets: Streets, plan: TownPlan, weather: Weather) -> tuple[U8, tuple[float, float]]:
    """The ground of `Layout`, drawn from the very triangles that the reference world draws."""
    x0, y0, x1, y1 = widen(streets.bounds, MARGIN_M)
    size = math.ceil((x1 - x0) / GROUND_M), math.ceil((y1 - y0) / GROUND_M)
    picture = Image.new("RGB", size, (int(Kind.TERRAIN), 0, 0))
    draw = ImageDraw.Draw(picture)
    road, paved = Mesh(), Mesh()
    draw_roads(streets, road)
    draw_paving(streets, [(piece.shape, piece.width) for piece in plan.paving], paved)
    for mesh in (road, paved):
        points, _, colours, _, triangles = mesh.arrays()
        at = (points[:, :2] - (x0, y0)) / GROUND_M
        labels = np.rint(255 - 255 * colours[triangles[:, 0], 3]).astype(int)
        yellow = colours[triangles[:, 0], 2] < 0.5
        for corners, label, is_yellow in zip(at[triangles].reshape(-1, 6).tolist(), labels.tolist(), yellow.tolist(),
                                             strict=True):  # fmt: skip
            paint = 255 if label == Label.MARKING else 0
            kind = int(_GROUND.get(Label(label), Kind.ROAD))
            draw.polygon(corners, fill=(kind, 0 if is_yellow else paint, paint if is_yellow else 0))
    zebra = Image.new("L", size, 0)
    over = ImageDraw.Draw(zebra)
    for shape, width in streets.crossings:
        line = [tuple(p) for p in ((shape - (x0, y0)) / GROUND_M).tolist()]
        over.line(line, fill=1, width=max(1, round(width / GROUND_M)))
    out = np.empty((size[1], size[0], 4), np.uint8)
    out[..., :3] = np.asarray(picture)
    out[..., 0][(np.asarray(zebra) > 0) & (out[..., 0] == Kind.ROAD)] = Kind.CROSSING
    light = light_map(plan, weather)
    scale = light.image.shape[0] / light.extent
    rows = ((np.arange(size[1]) * GROUND_M + y0 - light.y0) * scale).astype(int)
    columns = ((np.arange(size[0]) * GROUND_M + x0 - light.x0) * scale).astype(int)
    out[..., 3] = light.image.mean(2).astype(np.uint8)[np.ix_(rows, columns)]
    return out, (x0, y0)
