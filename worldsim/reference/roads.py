"""The ground a car drives on: asphalt ribbons from lane shapes, sidewalks with kerbs, and every painted marking.

Two meshes lie on the terrain: the road (asphalt and paint) and what is paved (forecourts, corners, sidewalks with kerbs
of 0.12 m).  Each is drawn in the order in which it was built, without writing depth, so that nothing flickers at any
distance.  Texture coordinates of all ground are map metres.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.reference.labels import Label
from efficientgen.worldsim.reference.mesh import UP, Mesh
from efficientgen.worldsim.reference.noise import keyed, sample_tiled, value_noise
from efficientgen.worldsim.reference.streets import Lane, Streets
from efficientgen.worldsim.reference.weather import Colour

KERB_M = 0.12
LINE_M = 0.12  # lane lines
EDGE_INSET_M = 0.25  # edge line from the border of the carriageway
RING_M = 5.2  # width of the asphalt under a roundabout's ring
APRON_M = 3.0  # paved border of a roundabout's island, for the wheels of long trucks
STOP_BAR_M = (0.95, 0.5)  # begin and end of the stop bar before the lane's end

ASPHALT: Colour = (0.37, 0.375, 0.385)
WHITE: Colour = (0.92, 0.92, 0.90)
YELLOW: Colour = (0.86, 0.66, 0.20)
PAVING: Colour = (0.66, 0.645, 0.615)
KERB: Colour = (0.76, 0.755, 0.74)
CYCLEWAY: Colour = (0.48, 0.30, 0.27)


def ribbon(mesh: Mesh, shape: F64, width: float, z: ArrayLike, colour: ArrayLike, across: F64 | None = None) -> None:
    """A band along a polyline.  `across` (K,) in [-1, 1] (right to left) with `colour` (K, 3) paints stripes along it.

    `z` is one height, one per point (N, 1) or one per point and stripe border (N, K).
    """
    if across is None:
        across = np.array([-1.0, 1.0])
    colours = np.broadcast_to(np.asarray(colour, np.float64), (len(across), 3))
    mitre = polyline.normals(shape)
    points = shape[:, None] + (across * width / 2)[None, :, None] * mitre[:, None]  # (N, K, 2)
    n, k = points.shape[:2]
    height = np.broadcast_to(np.asarray(z, np.float64), (n, k))
    i = (np.arange(n - 1)[:, None] * k + np.arange(k - 1)).reshape(-1)
    triangles = np.r_[np.c_[i, i + k, i + k + 1], np.c_[i, i + k + 1, i + 1]]
    mesh.add(
        np.concatenate([points, height[..., None]], -1), UP, np.broadcast_to(colours, (n, k, 3)).reshape(-1, 3),
        triangles, points.reshape(-1, 2),
    )  # fmt: skip


def polygon(mesh: Mesh, outline: F64, z: float, colour: ArrayLike) -> None:
    """A flat polygon, facing up; it may be concave."""
    mesh.add(np.c_[outline, np.full(len(outline), z)], UP, colour, ears(outline), outline)


def ears(outline: F64) -> np.ndarray:
    """Triangles (N - 2, 3), counter-clockwise, over a simple polygon (N, 2) of either sense (ear clipping).

    Where the outline crosses itself, as junction shapes sometimes do, the sharpest convex corner is cut off regardless.
    """
    following = np.roll(outline, -1, 0)
    area = float((outline[:, 0] * following[:, 1] - outline[:, 1] * following[:, 0]).sum())
    left = list(range(len(outline))) if area > 0 else list(range(len(outline)))[::-1]
    triangles = []
    while len(left) > 2:
        points = outline[left]
        before, after = np.roll(points, 1, 0), np.roll(points, -1, 0)
        a, b = points - before, after - points
        turn = a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]
        reflex = points[turn <= 0]
        convex = np.flatnonzero(turn > 0)
        ear = next((k for k in convex if not _holds(before[k], points[k], after[k], reflex)), int(np.argmax(turn)))
        triangles.append((left[ear - 1], left[ear], left[(ear + 1) % len(left)]))
        del left[ear]
    return np.array(triangles, np.int64).reshape(-1, 3)


def _holds(a: F64, b: F64, c: F64, points: F64) -> bool:
    """Whether any of `points`, other than its corners, lies in the triangle."""
    inside = np.ones(len(points), bool)
    for p, q in ((a, b), (b, c), (c, a)):
        inside &= (q[0] - p[0]) * (points[:, 1] - p[1]) - (q[1] - p[1]) * (points[:, 0] - p[0]) > 1e-9
    return bool(inside.any())


def draw_roads(streets: Streets, mesh: Mesh) -> None:
    """Asphalt, then everything painted on it."""
    mesh.label = Label.ROAD
    for outline in streets.junctions:
        polygon(mesh, outline, 0.0, ASPHALT)
    for area in streets.walked_road:
        polygon(mesh, area, 0.0, ASPHALT)
    for island in streets.islands:  # closes the seams between the ring, its junctions and what borders them
        rim = np.vstack([island, island[:2]])
        ribbon(mesh, polyline.offset(rim, -RING_M / 2 + 0.6), RING_M, 0.0, ASPHALT)
    for lane in streets.lanes:
        if lane.use == "drive":
            _carriageway(mesh, lane)
        elif lane.use == "cycle":
            ribbon(mesh, lane.shape, lane.width, 0.0, CYCLEWAY)
    mesh.label = Label.MARKING
    for lane in streets.lanes:
        if lane.use == "drive":
            _markings(mesh, lane)
        elif lane.use == "cycle":
            ribbon(mesh, polyline.offset(lane.shape, lane.width / 2), LINE_M, 0.0, WHITE)
    for shape, width in streets.crossings:
        _zebra(mesh, shape, width)


def draw_paving(streets: Streets, forecourts: Iterable[tuple[F64, float]], mesh: Mesh) -> None:
    """Forecourts and paths (polyline, width), roundabout islands, street corners, sidewalks."""
    mesh.label = Label.SIDEWALK
    for shape, width in forecourts:
        ribbon(mesh, shape, width, 0.0, np.array(PAVING) * 0.9)
    for island in streets.islands:
        rim = np.vstack([island, island[:2]])
        ribbon(mesh, polyline.offset(rim, APRON_M / 2), APRON_M, 0.0, np.array(CYCLEWAY) * 1.25)
        for inwards in (0.1, APRON_M - 0.1):
            ribbon(mesh, polyline.offset(rim, inwards), 0.24, 0.0, KERB)
    for area in streets.corners:
        polygon(mesh, area, 0.0, PAVING)
        ribbon(mesh, np.vstack([area, area[:1]]), 0.24, 0.0, KERB)
    for lane in streets.lanes:
        if lane.use == "walk":
            _sidewalk(mesh, lane)


def _carriageway(mesh: Mesh, lane: Lane) -> None:
    """Asphalt with worn wheel tracks, an oil stripe between them, dirt at the border, and a few repaired patches."""
    across = np.array([-1.0, -0.5, 0.0, 0.5, 1.0])
    tone = np.array([1.02, 0.93, 1.0, 0.93, 1.02])
    if lane.rightmost:
        tone[0] = 0.86
    rng = keyed("lane", lane.edge, lane.rightmost)
    ribbon(mesh, lane.shape, lane.width, 0.0, np.outer(tone * rng.uniform(0.95, 1.04), ASPHALT), across)
    length = polyline.stations(lane.shape)[-1]
    for _ in range(rng.poisson(length / 45)):
        begin = rng.uniform(0, max(length - 6, 1))
        piece = polyline.offset(polyline.cut(lane.shape, begin, begin + rng.uniform(1.5, 5)), rng.uniform(-0.6, 0.6))
        ribbon(mesh, piece, rng.uniform(0.8, 2.0), 0.0, np.array(ASPHALT) * rng.uniform(0.78, 0.9))
    for _ in range(rng.poisson(length / 70)):
        centre, _ = polyline.at(lane.shape, rng.uniform(3, max(length - 3, 4)))
        mesh.disc((*centre[0], 0.0), UP, 0.34, np.array(ASPHALT) * 0.62, sides=10)


def _markings(mesh: Mesh, lane: Lane) -> None:
    """Edge lines, lane dividers (solid where they meet a junction), stop bars, yield teeth and turn arrows."""
    length = float(polyline.stations(lane.shape)[-1])
    half = lane.width / 2
    solid = min(22.0, length / 3) if lane.control == "signal" else 0.0
    if lane.leftmost:
        if lane.two_way:
            ribbon(mesh, polyline.offset(lane.shape, half - 0.13), LINE_M, 0.0, YELLOW)
        else:
            ribbon(mesh, polyline.offset(lane.shape, half - EDGE_INSET_M), LINE_M, 0.0, WHITE)
    else:
        divider = polyline.offset(lane.shape, half)
        for dash in polyline.dashes(divider, 3.0, 6.0, 1.5, length - solid):
            ribbon(mesh, dash, LINE_M, 0.0, WHITE)
        if solid:
            ribbon(mesh, polyline.cut(divider, length - solid, length), LINE_M, 0.0, WHITE)
    if lane.rightmost:
        ribbon(mesh, polyline.offset(lane.shape, -half + EDGE_INSET_M), LINE_M, 0.0, WHITE)
    end, direction = polyline.at(lane.shape, length)
    if lane.control in ("signal", "stop"):
        bar = polyline.cut(lane.shape, length - STOP_BAR_M[0], length - STOP_BAR_M[1])
        ribbon(mesh, bar, lane.width - 0.3, 0.0, WHITE)
    elif lane.control == "yield":
        side = np.array([-direction[0, 1], direction[0, 0]])
        for k in np.arange(-half + 0.45, half - 0.2, 0.65):
            base, tip = end[0] - 0.5 * direction[0] + k * side, end[0] - 1.15 * direction[0] + k * side
            mesh.add([(*(base - 0.22 * side), 0), (*tip, 0), (*(base + 0.22 * side), 0)], UP, WHITE, [(2, 1, 0)])
    if lane.control != "none" and length > 24:
        for back in (6.0, 21.0) if length > 45 else (6.0,):
            _arrow(mesh, end[0] - back * direction[0], direction[0], lane.turns)


def _arrow(mesh: Mesh, tail: F64, along: F64, turns: frozenset[str]) -> None:
    """A turn arrow: a shaft from `tail`, and a head for each direction."""
    left = np.array([-along[1], along[0]])

    def put(points: list[tuple[float, float]], triangles: list[tuple[int, int, int]]) -> None:
        mesh.add([(*(tail + u * along + v * left), 0.0) for u, v in points], UP, WHITE, triangles)

    shaft = 2.6 if "s" in turns else 1.9
    put([(0, -0.09), (shaft, -0.09), (shaft, 0.09), (0, 0.09)], [(0, 1, 2), (0, 2, 3)])
    if "s" in turns:
        put([(2.5, -0.32), (3.7, 0.0), (2.5, 0.32)], [(0, 1, 2)])
    for side, wanted in ((1.0, turns & {"l", "L"}), (-1.0, turns & {"r", "R"})):
        if wanted:
            order = [(0, 1, 2)] if side > 0 else [(2, 1, 0)]
            put([(1.35, 0.55 * side), (2.35, 0.55 * side), (1.85, 1.15 * side)], order)
            bend = [(0, 1, 2), (0, 2, 3)] if side > 0 else [(2, 1, 0), (3, 2, 0)]
            put([(1.55, 0.0), (1.72, 0.0), (1.95, 0.6 * side), (1.75, 0.6 * side)], bend)


def _zebra(mesh: Mesh, shape: F64, width: float) -> None:
    """Bars of 0.5 m along the traffic, the whole crossing wide."""
    length = float(polyline.stations(shape)[-1])
    for s in np.arange(0.3, length - 0.5, 1.0):
        ribbon(mesh, polyline.cut(shape, s, s + 0.5), width - 0.5, 0.0, WHITE)


def _sidewalk(mesh: Mesh, lane: Lane) -> None:
    """A raised slab with kerb stones towards the road, lowered at its ends; the borders' upright faces included."""
    length = float(polyline.stations(lane.shape)[-1])
    ramp = min(0.9, length / 3)
    shape = np.vstack([lane.shape[:1], polyline.cut(lane.shape, ramp, length - ramp), lane.shape[-1:]])
    top = np.full(len(shape), KERB_M)
    top[[0, -1]] = 0.015
    rim = 1 - 0.34 / lane.width
    across = np.array([-1.0, -1.0, rim - 1e-3, rim, 1.0, 1.0])
    z = np.stack([0 * top, top, top, top, top, 0 * top], 1)
    slab, kerb = np.array(PAVING), np.array(KERB)
    ribbon(mesh, shape, lane.width, z, np.stack([slab * 0.5, slab * 0.92, slab, kerb, kerb, kerb * 0.55]), across)


def terrain(bounds: tuple[float, float, float, float], mesh: Mesh, seed: int) -> None:
    """Grass in the town and fields up to the horizon, in coarse squares of slowly changing tone."""
    mesh.label = Label.TERRAIN
    tones = value_noise(64, ((4, 1.0), (8, 0.8), (16, 0.5)), keyed(seed, "terrain"))
    far = 700.0
    inner_x, inner_y = np.linspace(bounds[0], bounds[2], 25), np.linspace(bounds[1], bounds[3], 25)
    xs = np.r_[bounds[0] - far, bounds[0] - far / 3, inner_x, bounds[2] + far / 3, bounds[2] + far]
    ys = np.r_[bounds[1] - far, bounds[1] - far / 3, inner_y, bounds[3] + far / 3, bounds[3] + far]
    grid_x, grid_y = np.meshgrid(xs, ys)
    tone = sample_tiled(tones, grid_x / 400, grid_y / 400)[..., None]
    colour = np.array([0.34, 0.43, 0.20]) * (1 - tone) + np.array([0.46, 0.49, 0.26]) * tone
    n, k = grid_x.shape
    i = (np.arange(n - 1)[:, None] * k + np.arange(k - 1)).reshape(-1)
    points = np.stack([grid_x, grid_y, np.full((n, k), -0.02)], -1)
    uv = np.stack([grid_x, grid_y], -1).reshape(-1, 2)
    mesh.add(points, UP, colour.reshape(-1, 3), np.r_[np.c_[i, i + 1, i + k + 1], np.c_[i, i + k + 1, i + k]], uv)
