"""Traffic lights: where the heads stand, and their lamps, recoloured each tick from the SUMO state string.

Every approach has low heads at its stop line and, because a car that waits there no longer sees those well, heads
across the junction: low ones, and one per group of links on a mast arm over the lanes that the group rules.  Lamps are
larger than life (`NEAR_LAMP_M`, `FAR_LAMP_M`), so that a 224 x 112 camera resolves them at stopping distance.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64, OracleFrame
from efficientgen.worldsim.reference.labels import Label
from efficientgen.worldsim.reference.mesh import DynamicMesh, Mesh, baked_rows
from efficientgen.worldsim.reference.occupancy import Occupancy
from efficientgen.worldsim.reference.streets import Approach, Streets

NEAR_LAMP_M = 0.25
FAR_LAMP_M = 0.26
SIDES = 9
SEEN_M = 250.0  # lamps further away are not drawn
FLASH_NS = 500_000_000
STEEL = (0.36, 0.37, 0.38)
HOUSING = (0.055, 0.057, 0.06)
_PALETTE = np.array([
    [1.0, 0.10, 0.06], [1.0, 0.70, 0.06], [0.10, 1.0, 0.42],  # lit red, yellow, green
    [0.16, 0.05, 0.045], [0.15, 0.11, 0.04], [0.04, 0.13, 0.08],  # dark
])  # fmt: skip


@dataclass(frozen=True)
class Head:
    """Three lamps on a backplate at (x, y, z of the middle lamp), facing against `heading` (2,)."""

    signal: str
    link: int
    x: float
    y: float
    z: float
    heading: F64
    lamp: float  # radius, m
    foot: bool = False  # stands on a post of its own


@dataclass(frozen=True)
class Mast:
    """A post at (x, y) with an arm at 5.9 m that reaches `reach` (2,) m."""

    x: float
    y: float
    reach: F64


def place_signals(streets: Streets, road: Occupancy) -> tuple[tuple[Head, ...], tuple[Mast, ...]]:
    """Heads and masts of every approach; posts never stand on `road`, to which the view of the near heads is added."""
    heads = [head for approach in streets.approaches for head in _near_heads(approach, road)]
    for head in heads:  # no other post may stand before a head
        at = np.array([head.x, head.y])
        road.take_line(np.array([at + 1.0 * head.heading, at - 30.0 * head.heading]), 1.6)
    masts = []
    for approach in streets.approaches:
        far, mast = _far_heads(approach, road)
        heads += far
        masts.append(mast)
    return tuple(heads), tuple(masts)


def _near_heads(approach: Approach, road: Occupancy) -> list[Head]:
    """A post right of the stop line; further groups have their heads above the main one."""
    edge = approach.stops[0] + approach.right * (approach.lane_width / 2)
    steps = [(side, ahead) for ahead in (0.6, -0.2, -1.0) for side in (0.45, 0.8, 1.2)]
    spots = [edge + approach.right * side + approach.heading * ahead for side, ahead in steps]
    x, y = next((p for p in spots if road.free_disc(p[0], p[1], 0.15)), spots[0])
    return [
        Head(approach.signal, link, x, y, 2.75 + 1.85 * k, approach.heading, NEAR_LAMP_M, foot=True)
        for k, (link, _) in enumerate(approach.groups)
    ]  # fmt: skip


def _far_heads(approach: Approach, road: Occupancy) -> tuple[list[Head], Mast]:
    """A mast at the far right with a low head and an arm over the lanes; further groups' low heads at the far left."""
    along, right = approach.heading, approach.right
    depth = _depth_across(approach.junction, approach.stops.mean(0), along)
    beyond = approach.stops[0] + along * depth
    mast_at = _far_spot(beyond, along, right, approach.lane_width / 2, np.arange(-3.0, 11.0, 0.5), 0.8, road)
    heads = [_far_head(approach, 0, mast_at - along * 0.3, 3.0)]
    width = float((approach.stops[-1] - approach.stops[0]) @ -right)  # between the outer lanes' centrelines
    over = [width / 2 + 0.2] if len(approach.groups) == 1 else [0.0]
    over += [width + 0.4 + 1.3 * k for k in range(len(approach.groups) - 1)]
    base = float((mast_at - approach.stops[0]) @ -right)
    for group, left in enumerate(over):
        heads.append(_far_head(approach, group, mast_at - right * (left - base) - along * 0.25, 5.15))
    for group in range(1, len(approach.groups)):
        left = beyond - right * (width + approach.lane_width / 2)
        spot = _far_spot(left, along, -right, 0.0, np.arange(-1.0, 18.0, 0.5), 1.0 + 0.9 * (group - 1), road)
        heads.append(_far_head(approach, group, spot, 3.0, foot=True))
    return heads, Mast(float(mast_at[0]), float(mast_at[1]), -right * (max(over) - base + 0.3))


def _far_head(approach: Approach, group: int, at: F64, z: float, foot: bool = False) -> Head:
    link = approach.groups[group][0]
    return Head(approach.signal, link, float(at[0]), float(at[1]), z, approach.heading, FAR_LAMP_M, foot)


def _far_spot(
    border: F64, along: F64, sideways: F64, start: float, sides: F64, wanted: float, road: Occupancy
) -> F64:  # fmt: skip
    """The free place for a post behind the junction nearest to `wanted` m sideways of `border`."""
    best, found = math.inf, border + along * 1.0 + sideways * (start + wanted)
    for ahead in np.arange(0.5, 9.0, 0.75):
        for side in sides:
            spot = border + along * ahead + sideways * (start + side)
            cost = abs(side - wanted) + 0.6 * ahead
            if cost < best and road.free_disc(spot[0], spot[1], 0.3):
                best, found = cost, spot
    return found


def _depth_across(junction: F64, start: F64, along: F64) -> float:
    """Length of the ray from `start` to the far border of the junction polygon, m."""
    a, b = junction, np.roll(junction, -1, 0)
    edge = b - a
    cross = along[0] * edge[:, 1] - along[1] * edge[:, 0]
    safe = np.where(np.abs(cross) < 1e-9, np.inf, cross)
    to = a - start
    distance = (to[:, 0] * edge[:, 1] - to[:, 1] * edge[:, 0]) / safe
    share = (to[:, 0] * along[1] - to[:, 1] * along[0]) / safe
    hits = distance[(share >= 0) & (share <= 1) & (distance > 2.0) & np.isfinite(cross)]
    return float(hits.max()) if len(hits) else 15.0


def sight_lines(streets: Streets, heads: tuple[Head, ...]) -> list[F64]:
    """Segments (2, 2) from the last 45 m of each approach lane to the heads that rule it; keep trees off them."""
    lines = []
    for approach in streets.approaches:
        mine = [h for h in heads if h.signal == approach.signal and h.heading @ approach.heading > 0.999]
        for shape in approach.shapes:
            back = np.r_[0.0, np.cumsum(np.hypot(*np.diff(shape[::-1], axis=0).T))]
            eyes = [
                np.array([np.interp(d, back, shape[::-1, 0]), np.interp(d, back, shape[::-1, 1])]) for d in (4, 20, 45)
            ]
            lines += [np.array([eye, [head.x, head.y]]) for head in mine for eye in eyes]
    return lines


def draw_posts(heads: tuple[Head, ...], masts: tuple[Mast, ...], mesh: Mesh, detail: int) -> None:
    """Everything that does not shine, near (0) to far (2)."""
    mesh.label = Label.POLE
    for mast in masts:
        mesh.tube((mast.x, mast.y, 0), (mast.x, mast.y, 6.0), 0.11, STEEL, end_radius=0.08)
        end = np.array([mast.x, mast.y]) + mast.reach
        mesh.tube((mast.x, mast.y, 5.9), (*end, 5.95), 0.07, STEEL, sides=5, end_radius=0.05)
    for head in heads:
        mesh.label = Label.POLE
        r, yaw = head.lamp, math.atan2(head.heading[1], head.heading[0])
        if head.foot:
            mesh.tube((head.x, head.y, 0), (head.x, head.y, head.z + 3.6 * r), 0.07, STEEL, sides=(6, 4, 3)[detail])
        elif head.z > 4:
            mesh.tube((head.x, head.y, head.z), (head.x, head.y, 5.95), 0.04, STEEL, sides=4)
        mesh.label = Label.TRAFFIC_LIGHT
        face = np.array([head.x, head.y]) - 0.12 * head.heading
        mesh.box((*face, head.z - 3.6 * r), (0.05, 2.8 * r, 7.2 * r), HOUSING, yaw)  # backplate
        if detail > 0:
            continue
        mesh.box((*(face - 0.05 * head.heading), head.z - 3.4 * r), (0.12, 2.3 * r, 6.8 * r), (0.075, 0.078, 0.08), yaw)
        for k in (-1, 0, 1):  # visors
            lip = face - 0.22 * head.heading
            mesh.box((*lip, head.z + 2.2 * r * k + 0.98 * r), (0.3, 1.9 * r, 0.03), HOUSING, yaw)


class Lamps:
    """The lamps that the ego can see, in one mesh, and their halos (for additive drawing) in another."""

    def __init__(self, heads: tuple[Head, ...], halo: float) -> None:
        self.discs, self.halos = DynamicMesh("lamps"), DynamicMesh("halos")
        self._halo = halo
        self._heads = heads
        self._at = np.array([(head.x, head.y) for head in heads]).reshape(-1, 2)
        self._facing = np.array([head.heading for head in heads]).reshape(-1, 2)
        self._points = np.array([_disc_points(head) for head in heads]).reshape(-1, 3, SIDES + 1, 3)
        self._corners = np.array([_halo_corners(head) for head in heads]).reshape(-1, 3, 4, 3)

    def show(self, frame: OracleFrame) -> None:
        """Lights the lamps for the frame's SUMO states (a flashing `o` depends on the stamp)."""
        away = self._at - (frame.ego.x, frame.ego.y)
        seen = np.flatnonzero(((away * self._facing).sum(1) > 0) & (np.hypot(*away.T) < SEEN_M))
        lit = np.zeros((len(seen), 3), bool)
        for row, k in enumerate(seen):
            head = self._heads[k]
            state = frame.lights.get(head.signal, "")
            if head.link < len(state):
                lit[row] = lamps_lit(state[head.link], frame.stamp_ns)
        colours = np.ones((lit.size, 4))
        colours[:, :3] = _PALETTE[(np.where(lit, 0, 3) + np.arange(3)).reshape(-1)]
        fan = np.c_[np.arange(SIDES), (np.arange(SIDES) + 1) % SIDES, np.full(SIDES, SIDES)]
        first = np.arange(lit.size)[:, None, None]
        discs = baked_rows(self._points[seen].reshape(-1, 3), colours.repeat(SIDES + 1, 0))
        self.discs.update(discs, (fan + first * (SIDES + 1)).reshape(-1, 3))
        if self._halo > 0:
            glow = (colours * lit.reshape(-1, 1) * self._halo).repeat(4, 0)
            uv = np.tile([[0.0, 0.0], [1, 0], [1, 1], [0, 1]], (lit.size, 1))
            halos = baked_rows(self._corners[seen].reshape(-1, 3), glow, uv)
            self.halos.update(halos, (np.array([[0, 1, 2], [0, 2, 3]]) + 4 * first).reshape(-1, 3))


def _lamp_centres(head: Head) -> tuple[F64, F64]:
    """Centres (3, 3) of the red, yellow and green lamp, and the unit vector to the right for who looks at them."""
    x, y = np.array([head.x, head.y]) - 0.25 * head.heading
    heights = head.z + 2.2 * head.lamp * np.array([1, 0, -1])
    return np.c_[np.full(3, x), np.full(3, y), heights], np.array([head.heading[1], -head.heading[0], 0.0])


def _disc_points(head: Head) -> F64:
    """(3, SIDES + 1, 3): rims and centres."""
    centres, side = _lamp_centres(head)
    angle = np.linspace(0, 2 * math.pi, SIDES, endpoint=False)[:, None]
    rim = np.vstack([np.cos(angle) * side + np.sin(angle) * [0.0, 0.0, 1.0], np.zeros((1, 3))])
    return centres[:, None] + head.lamp * rim


def _halo_corners(head: Head) -> F64:
    """(3, 4, 3): squares just before the lamps."""
    centres, side = _lamp_centres(head)
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 3.2 * head.lamp
    before = np.array([*(-0.12 * head.heading), 0.0])
    return centres[:, None] + before + square[:, :1] * side + square[:, 1:] * [0.0, 0.0, 1.0]


def lamps_lit(state: str, stamp_ns: int) -> tuple[bool, bool, bool]:
    """(red, yellow, green) for one SUMO link state."""
    flash = (stamp_ns // FLASH_NS) % 2 == 0
    return state in "rsu", state in "yYu" or (state == "o" and flash), state in "gG"
