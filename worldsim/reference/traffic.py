"""Draws the actors of one `OracleFrame`: cached models, sun shadows, contact shadows, and glow where lamps are on.

A frame's pixels depend on that frame alone: models are chosen by the actor's id, poses by its id and the stamp.
"""

from __future__ import annotations

import math
from functools import cache, lru_cache

import numpy as np
from panda3d.core import AmbientLight, DirectionalLight, GeomNode, NodePath

from efficientgen.perception.types import F64, NS, Actor, ActorKind, OracleFrame
from efficientgen.worldsim.reference import people, vegetation, vehicles
from efficientgen.worldsim.reference.labels import TAG, actor_tag
from efficientgen.worldsim.reference.lightmap import LightMap
from efficientgen.worldsim.reference.mesh import DynamicMesh, Mesh, baked_rows, lit_node, static_node
from efficientgen.worldsim.reference.noise import key
from efficientgen.worldsim.reference.weather import Weather

DRAWN_M = 190.0  # actors further away are not drawn
DETAIL_M = 45.0  # cars and people further away are drawn plain
STOPPED_M_S = 0.3  # below it brake lights are lit and people stand
POSES = 8  # of one stride; the pose after the last one is standing
CADENCE_HZ = {ActorKind.PEDESTRIAN: 0.95, ActorKind.BICYCLE: 1.1}  # strides and pedal turns; the stamp gives the phase
SHADOW_M = (0.02, 0.135)  # height of shadows on roads and on sidewalks
BEAM_M = (30.0, 11.0)  # length and width of headlights on the road
PARKED = 11  # different parked cars
_BUS_PAINTS = ((0.66, 0.14, 0.12), (0.80, 0.62, 0.16), (0.18, 0.38, 0.60), (0.20, 0.42, 0.34))
_BOXES = ((0.86, 0.87, 0.88), (0.72, 0.70, 0.64), (0.30, 0.38, 0.50), (0.84, 0.84, 0.82))


def model_key(actor: Actor, stamp_ns: int, near: bool) -> tuple[ActorKind, int, int, bool]:
    """(kind, variant, pose, near) of the model that stands for an actor at one instant."""
    identity = _identity(actor.id)
    standing = actor.speed < STOPPED_M_S
    if actor.kind not in CADENCE_HZ:
        return actor.kind, identity % (len(vehicles.SHAPES) * len(vehicles.PAINTS)), int(standing), near
    phase = (stamp_ns / NS * CADENCE_HZ[actor.kind] + identity % 97 / 97) % 1.0
    return actor.kind, identity % 288, POSES if standing else int(phase * POSES), near


@lru_cache(maxsize=4096)
def _identity(actor: str) -> int:
    return key("actor", actor)


@lru_cache(maxsize=1024)
def _model(
    kind: ActorKind, variant: int, pose: int, near: bool
) -> tuple[GeomNode, GeomNode | None, tuple[float, float, float]]:
    """Body, lamps and nominal size."""
    paint = vehicles.PAINTS[variant % len(vehicles.PAINTS)]
    if kind in CADENCE_HZ:
        cycling, phase = kind is ActorKind.BICYCLE, pose / POSES % 1.0
        size = people.CYCLIST_SIZE if cycling else (1.0, 1.0, people.PERSON_M)
        if not near:
            return lit_node("figure", people.plain_figure(variant, phase, cycling)), None, size
        figure = people.cyclist(variant, phase) if cycling else people.pedestrian(variant, phase, pose < POSES)
        return lit_node("figure", figure), None, size
    if kind is ActorKind.TRUCK:
        body, lamps = vehicles.truck(paint, _BOXES[variant % len(_BOXES)], bool(pose))
        size = vehicles.TRUCK_SIZE
    elif kind is ActorKind.BUS:
        body, lamps = vehicles.bus(_BUS_PAINTS[variant % len(_BUS_PAINTS)], bool(pose))
        size = vehicles.BUS_SIZE
    else:
        shape = vehicles.SHAPES[variant // len(vehicles.PAINTS) % len(vehicles.SHAPES)]
        if not near:
            return lit_node("car", vehicles.plain_car(shape, paint, bool(pose))), None, vehicles.CAR_SIZE
        body, lamps = vehicles.car(shape, paint, bool(pose))
        size = vehicles.CAR_SIZE
    return lit_node(kind.value, body), static_node("lamps", lamps), size


@cache
def parked_car(variant: int, plain: bool) -> Mesh:
    """A car without lit lamps, for the mesh of street furniture; there are `PARKED` different ones."""
    shape = vehicles.SHAPES[variant % len(vehicles.SHAPES)]
    whole = Mesh(vegetation.WHITE)
    paint = vehicles.PAINTS[variant * 3 % len(vehicles.PAINTS)]
    for part in [vehicles.plain_car(shape, paint, False)] if plain else vehicles.car(shape, paint, False):
        whole.add(*part.arrays()[:3], part.arrays()[4])
    return whole


class Traffic:
    """The moving part of a scene: `root` holds the bodies; the three meshes are placed by the scene.

    `shadows` multiply the ground, `beams` and `glows` add to what is there (both empty in daylight).
    """

    def __init__(self, weather: Weather, light: LightMap) -> None:
        self._weather, self._light = weather, light
        self.root = NodePath("traffic")
        self.shadows, self.beams, self.glows = DynamicMesh("shadows"), DynamicMesh("beams"), DynamicMesh("glows")
        self._nodes: dict[str, tuple[NodePath, tuple[ActorKind, int, int, bool]]] = {}
        # the share of the sun in the light on open ground: how dark a shadow is
        self._sunshine = 1.0 - float(np.mean(weather.sky) / np.mean(weather.lit_ground))
        self._add_lights()

    def _add_lights(self) -> None:
        """The hemisphere and sun of `weather.shade`, as lights for turning bodies."""
        sky, bounce = np.asarray(self._weather.sky), np.asarray(self._weather.bounce)
        ambient = AmbientLight("ambient")
        ambient.setColor((*((bounce + sky) / 2), 1))
        self.root.setLight(NodePath(ambient))
        for name, colour, to_light in (("sky", (sky - bounce) / 2, np.array([0.0, 0, 1])),
                                       ("sun", np.asarray(self._weather.sun), self._weather.to_sun)):  # fmt: skip
            light = DirectionalLight(name)
            light.setColor((*colour, 1))
            light.setDirection(tuple(-to_light))
            self.root.setLight(self.root.attachNewNode(light))

    def show(self, frame: OracleFrame) -> None:
        """Moves everything to where it is in `frame`."""
        away = {a.id: math.hypot(a.x - frame.ego.x, a.y - frame.ego.y) for a in frame.actors}
        near = sorted((a for a in frame.actors if away[a.id] < DRAWN_M), key=lambda a: a.id)
        for gone in self._nodes.keys() - {a.id for a in near}:
            self._nodes.pop(gone)[0].removeNode()
        sun = self._light.sun_at(np.array([a.x for a in near]), np.array([a.y for a in near]))
        for k, actor in enumerate(near):
            self._place(actor, model_key(actor, frame.stamp_ns, away[actor.id] < DETAIL_M), float(sun[k]))
        self._draw_shadows(near, sun)
        if self._weather.headlights > 0:
            moving = [a for a in near if a.kind in (ActorKind.CAR, ActorKind.TRUCK, ActorKind.BUS)]
            self._draw_beams(moving, frame)
            self._draw_glows(moving)

    def close(self) -> None:
        """Lets go of the lights: they are below the node that they light, a cycle that would keep the town alive."""
        self.root.clearLight()
        for node, _ in self._nodes.values():
            node.removeNode()
        self._nodes.clear()
        self.root.removeNode()

    def _place(self, actor: Actor, wanted: tuple[ActorKind, int, int, bool], sun: float) -> None:
        known = self._nodes.get(actor.id)
        node = known[0] if known else NodePath("actor")
        if known is None:
            node.setTag(TAG, actor_tag(actor))
        body, lamps, size = _model(*wanted)
        if known is None or known[1] != wanted:
            node.node().removeAllChildren()
            node.node().addChild(body)
            if lamps is not None:
                NodePath(node.attachNewNode("lamps")).setLightOff(1)
                node.getChild(1).node().addChild(lamps)
            node.reparentTo(self.root)
            self._nodes[actor.id] = node, wanted
        node.setPosHpr(actor.x, actor.y, 0.0, math.degrees(actor.yaw), 0.0, 0.0)
        if actor.kind is ActorKind.PEDESTRIAN:
            node.setScale(actor.height / size[2] if actor.height > 0.8 else 1.0)
        else:
            tall = actor.height / size[2] if actor.height > 0.8 else 1.0
            node.setScale(actor.length / size[0], actor.width / size[1], tall)
        tone = 1 - 0.7 * self._sunshine * (1 - round(sun * 4) / 4)
        node.setColorScale(tone, tone, tone, 1)

    def _draw_shadows(self, actors: list[Actor], sun: F64) -> None:
        """A soft dark rectangle under each body, and the outline of its box swept along the sun's direction."""
        if not actors:
            self.shadows.update(baked_rows(np.zeros((0, 3)), np.zeros((0, 4))), np.zeros((0, 3), np.int64))
            return
        half = np.array([[max(a.length, 0.4) / 2, max(a.width, 0.4) / 2] for a in actors])
        yaw = np.array([a.yaw for a in actors])
        heights = np.array([a.height * (0.92 if a.kind is not ActorKind.CAR else 0.85) for a in actors])
        thin = np.array([a.kind in CADENCE_HZ for a in actors])
        walking = np.array([a.kind is ActorKind.PEDESTRIAN for a in actors])
        cos, sin = np.cos(yaw), np.sin(yaw)
        sweep = self._weather.shadow_per_metre * heights[:, None]  # (N, 2) in map
        local = np.stack([cos * sweep[:, 0] + sin * sweep[:, 1], -sin * sweep[:, 0] + cos * sweep[:, 1]], 1)
        sign = np.where(local >= 0, 1.0, -1.0)
        a, b = (half * np.where(thin[:, None], 0.7, 0.97)).T
        swept = np.abs(local)
        # the hexagon for a shadow that falls forward and left; other directions mirror it
        u = np.stack([-a, a, a + swept[:, 0], a + swept[:, 0], -a + swept[:, 0], -a], 1)
        v = np.stack([-b, -b, -b + swept[:, 1], b + swept[:, 1], b + swept[:, 1], b], 1)
        cast = _soft_polygons(
            np.stack([u, v], 2) * sign[:, None], 0.08, self._sunshine * sun * np.where(thin, 0.85, 1.0)
        )
        corner = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half[:, None]
        contact = _soft_polygons(corner * np.where(thin, 0.75, 0.9)[:, None, None], 0.22, np.where(thin, 0.35, 0.62))
        rows, triangles, count = [], [], 0
        place = np.array([[a.x, a.y] for a in actors])
        for points, alpha, index in (cast, contact):
            x = place[:, :1] + cos[:, None] * points[..., 0] - sin[:, None] * points[..., 1]
            y = place[:, 1:] + sin[:, None] * points[..., 0] + cos[:, None] * points[..., 1]
            height = np.broadcast_to(np.where(walking, SHADOW_M[1], SHADOW_M[0])[:, None], x.shape)
            flat = np.stack([x, y, height], -1).reshape(-1, 3)
            colours = np.zeros((len(flat), 4))
            colours[:, 3] = alpha.reshape(-1)
            rows.append(baked_rows(flat, colours))
            each = np.arange(len(actors))[:, None, None] * points.shape[1] + index
            triangles.append(each.reshape(-1, 3) + count)
            count += len(flat)
        self.shadows.update(np.concatenate(rows), np.concatenate(triangles))

    def _draw_beams(self, vehicles_near: list[Actor], frame: OracleFrame) -> None:
        lit = [(a.x, a.y, a.yaw, a.length / 2) for a in vehicles_near] + [
            (frame.ego.x, frame.ego.y, frame.ego.yaw, 3.6)
        ]
        x, y, yaw, nose = np.array(lit).T
        u = np.stack([nose, nose + BEAM_M[0], nose + BEAM_M[0], nose], 1)
        v = np.array([-0.5, -0.5, 0.5, 0.5]) * BEAM_M[1]
        cos, sin = np.cos(yaw)[:, None], np.sin(yaw)[:, None]
        flat = np.stack([x[:, None] + cos * u - sin * v, y[:, None] + sin * u + cos * v, np.full_like(u, 0.03)], -1)
        colour = np.array([1.0, 1.0, 1.0, 1.0]) * self._weather.headlights * 0.75
        _show_quads(self.beams, flat, np.broadcast_to(colour, (len(lit), 4)), ((0, 0), (1, 0), (1, 1), (0, 1)))

    def _draw_glows(self, vehicles_near: list[Actor]) -> None:
        quads, colours = [], []
        size = 0.2 + 0.3 * self._weather.headlights
        for a in vehicles_near:
            cos, sin = math.cos(a.yaw), math.sin(a.yaw)
            tail = (1.0, 0.10, 0.06) if a.speed < STOPPED_M_S else (0.5, 0.04, 0.03)
            for ahead, colour in ((1, (1.0, 0.95, 0.82)), (-1, tail)):
                for side in (-1, 1):
                    u, v = ahead * (a.length / 2 + 0.08), side * (a.width / 2 - 0.28)
                    left = np.array([-sin, cos, 0.0]) * size * ahead
                    centre = np.array(
                        [a.x + cos * u - sin * v, a.y + sin * u + cos * v, 0.7 if a.height < 2.2 else 0.9]
                    )
                    up = np.array([0.0, 0.0, size])
                    quads.append([centre - left - up, centre + left - up, centre + left + up, centre - left + up])
                    colours.append((*(np.array(colour) * min(1.0, 0.35 + self._weather.headlights)), 1.0))
        _show_quads(self.glows, np.array(quads).reshape(-1, 4, 3), np.array(colours).reshape(-1, 4),
                    ((0, 0), (1, 0), (1, 1), (0, 1)))  # fmt: skip


def _show_quads(mesh: DynamicMesh, quads: F64, colours: F64, uv: tuple[tuple[float, float], ...]) -> None:
    count = len(quads)
    rows = baked_rows(quads.reshape(-1, 3), colours.repeat(4, 0), np.tile(np.array(uv, np.float64), (count, 1)))
    mesh.update(rows, (4 * np.arange(count)[:, None] + [0, 1, 2, 0, 2, 3]).reshape(-1, 3))


def _soft_polygons(outlines: F64, skirt: float, alpha: F64) -> tuple[F64, F64, np.ndarray]:
    """Convex outlines (N, K, 2) with a rim of `skirt` m that fades: points (N, 2K, 2), alphas (N, 2K), triangles."""
    n, k = outlines.shape[:2]
    middle = outlines.mean(1, keepdims=True)
    away = outlines - middle
    away /= np.linalg.norm(away, axis=2, keepdims=True) + 1e-9
    points = np.concatenate([outlines - away * skirt, outlines + away * skirt], 1)
    alphas = np.concatenate([np.broadcast_to(alpha[:, None], (n, k)), np.zeros((n, k))], 1)
    i, j = np.arange(k), (np.arange(k) + 1) % k
    fan = np.c_[np.zeros(k - 2), np.arange(1, k - 1), np.arange(2, k)].astype(int)
    return points, alphas, np.r_[fan, np.c_[i, i + k, j + k], np.c_[i, j + k, j]]
