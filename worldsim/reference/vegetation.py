"""Trees, bushes and hedges: a leafy core with loose leaf clusters around it, alpha-tested, lit like everything else.

Crowns are shaded as if they were balls of leaves (normals from the crown's middle, darker below and inside).  There are
three levels of detail, because vertices are what the software rasteriser pays for.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import numpy as np

from efficientgen.perception.types import F64
from efficientgen.worldsim.reference.mesh import Mesh, cross, unit
from efficientgen.worldsim.reference.noise import keyed

LEAF_CLUSTER = (0.01, 0.01, 0.49, 0.99)  # u0, v0, u1, v1 in the foliage texture
LEAF_MASS = (0.51, 0.01, 0.99, 0.78)
WHITE = (0.75, 0.93)  # a plain spot of the same texture, for wood and street furniture
BARK = (0.33, 0.27, 0.215)
CROWN = {"round": 0.30, "tall": 0.17, "conifer": 0.2, "bush": 0.55}  # crown radius by height
GREENS = ((0.40, 0.50, 0.20), (0.47, 0.54, 0.22), (0.34, 0.46, 0.22), (0.52, 0.53, 0.24), (0.38, 0.44, 0.19))


@dataclass(frozen=True)
class Tree:
    """A tree at (x, y); `kind` is round | tall | conifer | bush."""

    x: float
    y: float
    height: float
    kind: str
    variant: int

    @property
    def crown_radius(self) -> float:
        return self.height * CROWN[self.kind]


@cache
def _ball(level: int) -> tuple[F64, np.ndarray]:
    """An icosphere: unit vertices and triangles."""
    p = (1 + 5**0.5) / 2
    corners = [(-1, p, 0), (1, p, 0), (-1, -p, 0), (1, -p, 0), (0, -1, p), (0, 1, p), (0, -1, -p), (0, 1, -p),
               (p, 0, -1), (p, 0, 1), (-p, 0, -1), (-p, 0, 1)]  # fmt: skip
    points = [np.array(c, np.float64) / math.hypot(1, p) for c in corners]
    faces = [(0, 11, 5), (0, 5, 1), (0, 1, 7), (0, 7, 10), (0, 10, 11), (1, 5, 9), (5, 11, 4), (11, 10, 2), (10, 7, 6),
             (7, 1, 8), (3, 9, 4), (3, 4, 2), (3, 2, 6), (3, 6, 8), (3, 8, 9), (4, 9, 5), (2, 4, 11), (6, 2, 10),
             (8, 6, 7), (9, 8, 1)]  # fmt: skip
    for _ in range(level):
        middles: dict[tuple[int, int], int] = {}
        finer = []
        for a, b, c in faces:
            ab, bc, ca = (_middle(points, middles, i, j) for i, j in ((a, b), (b, c), (c, a)))
            finer += [(a, ab, ca), (b, bc, ab), (c, ca, bc), (ab, bc, ca)]
        faces = finer
    return np.array(points), np.array(faces)


def _middle(points: list[F64], known: dict[tuple[int, int], int], i: int, j: int) -> int:
    pair = (min(i, j), max(i, j))
    if pair not in known:
        point = points[i] + points[j]
        points.append(point / np.linalg.norm(point))
        known[pair] = len(points) - 1
    return known[pair]


def _mass_uv(directions: F64) -> F64:
    u = np.abs(np.arctan2(directions[:, 1], directions[:, 0]) / math.pi)
    v = 0.5 + 0.5 * directions[:, 2]
    return np.stack(
        [LEAF_MASS[0] + u * (LEAF_MASS[2] - LEAF_MASS[0]), LEAF_MASS[1] + v * (LEAF_MASS[3] - LEAF_MASS[1])], 1
    )


def _clump(mesh: Mesh, centre: F64, radii: F64, green: F64, rng: np.random.Generator, level: int, cards: int,
           card_size: float) -> None:  # fmt: skip
    """One ball of leaves: a lumpy core and `cards` leaf clusters that break up its outline."""
    directions, faces = _ball(level)
    lumps = 1 + 0.16 * rng.standard_normal((len(directions), 1)).clip(-1.5, 1.5)
    low = 0.5 + 0.5 * directions[:, 2:]
    tone = (0.50 + 0.5 * low) * rng.uniform(0.86, 1.1, (len(directions), 1))
    mesh.add(
        centre + directions * radii * 0.86 * lumps, _up_normals(directions), green * tone, faces, _mass_uv(directions)
    )
    if not cards:
        return
    z = rng.uniform(-0.75, 1.0, cards)
    angle = rng.uniform(0, 2 * math.pi, cards)
    flat = np.sqrt(1 - z**2)
    outward = np.stack([flat * np.cos(angle), flat * np.sin(angle), z], 1)
    middle = centre + outward * radii * rng.uniform(0.78, 1.0, (cards, 1))
    # card axes: tilted at random around the outward direction
    axis_a = unit(cross(outward, rng.standard_normal((cards, 3))))
    axis_b = unit(cross(outward + 0.9 * rng.standard_normal((cards, 3)), axis_a))
    half = (card_size * rng.uniform(0.75, 1.25, (cards, 1)))[:, None]
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]])
    corners = middle[:, None] + half * (square[:, :1] * axis_a[:, None] + square[:, 1:] * axis_b[:, None])
    shade = (0.72 + 0.38 * (0.5 + 0.5 * outward[:, 2:])) * rng.uniform(0.85, 1.2, (cards, 1))
    u0, v0, u1, v1 = LEAF_CLUSTER
    uv = np.broadcast_to([[u0, v0], [u1, v0], [u1, v1], [u0, v1]], (cards, 4, 2))
    mesh.quads(corners, green * shade, uv, _up_normals(outward))


def _up_normals(directions: F64) -> F64:
    """Leaves let light through: normals lean to the sky."""
    return unit(directions + [0.0, 0.0, 0.45])


MODELS = 5  # different trees of each kind


MODELS = 5  # different trees of each kind


def plant(trees: tuple[Tree, ...], levels: tuple[Mesh, Mesh, Mesh]) -> None:
    """Adds trees to meshes for the near, middle and far view; these use the foliage texture."""
    groups: dict[tuple[str, int], list[Tree]] = {}
    for tree in trees:
        groups.setdefault((tree.kind, tree.variant % MODELS), []).append(tree)
    for (kind, variant), same in sorted(groups.items()):
        rng = keyed("trees", kind, variant)
        places = np.array([[tree.x, tree.y, 0.0] for tree in same])
        heights = np.array([tree.height for tree in same])
        yaws = np.array([(tree.x * 7.3 + tree.y * 3.1) % (2 * math.pi) for tree in same])
        tints = np.array(GREENS)[[tree.variant // MODELS % len(GREENS) for tree in same]]
        tints = tints * rng.uniform(0.9, 1.08, (len(same), 1))
        for detail, mesh in enumerate(levels):
            leaves, wood = _model(kind, variant, detail)
            mesh.instances(leaves, places, yaws, heights, tints)
            mesh.instances(wood, places, yaws, heights)


@cache
def _model(kind: str, variant: int, detail: int) -> tuple[Mesh, Mesh]:
    """Leaves and wood of a tree of height 1, near (0) to far (2); leaves are white, to be tinted."""
    rng = keyed("tree model", kind, variant)
    leaves, wood = Mesh(), Mesh(WHITE)
    white, r = np.ones(3), CROWN[kind]
    ball, swell = (1, 0, 0)[detail], (1.0, 1.06, 1.12)[detail]
    if kind == "bush":
        _clump(
            leaves,
            np.array([0, 0, 0.45]),
            np.array([r, r, 0.55]) * 1.1 * swell,
            white,
            rng,
            ball,
            (10, 3, 0)[detail],
            0.4,
        )
        return leaves, wood
    if detail < 2:
        wood.tube((0, 0, -0.02), (0, 0, 0.55), 0.027, BARK, sides=(6, 4)[detail], end_radius=0.013)
    else:
        wood.tube((0, 0, 0), (0, 0, 0.5), 0.03, BARK, sides=3)
    if kind == "conifer":
        dark = np.array([0.58, 0.70, 0.82])
        for k in range(5):
            size = r * (1.05 - 0.21 * k) * swell
            middle = np.array([0, 0, 0.24 + 0.165 * k])
            if detail == 0:
                _clump(leaves, middle, np.array([size, size, 0.11]), dark, rng, 0, 8, 0.55 * size + 0.03)
            elif k % 2 == 0:
                _clump(leaves, middle, np.array([size * 1.1, size * 1.1, 0.2]), dark, rng, 0, (0, 3, 0)[detail], 0.1)
        return leaves, wood
    if detail == 2:
        height, radii = (0.63, [r, r, r * 0.95]) if kind == "round" else (0.58, [r, r, 0.4])
        _clump(leaves, np.array([0, 0, height]), np.array(radii), white, rng, 0, 0, 0.0)
        return leaves, wood
    for k in range(4 if kind == "round" else 3):
        if kind == "round":
            turn = 2 * math.pi * k / 3 + _jitter(variant, k, 0.6)
            out = 0.46 * r if k < 3 else 0.0
            size = r * (0.72 if k < 3 else 0.66) * (1 + _jitter(variant, k + 10, 0.14))
            middle_at = np.array(
                [out * math.cos(turn), out * math.sin(turn), (0.58 if k < 3 else 0.76) + _jitter(variant, k, 0.05)]
            )
            radii_at = np.array([size, size, size * 0.88])
            if detail == 0 and k < 3:
                wood.tube((0, 0, 0.3), middle_at * [0.8, 0.8, 1.0], 0.013, BARK, sides=4, end_radius=0.006)
        else:
            middle_at = np.array([_jitter(variant, k, 0.05), _jitter(variant, k + 10, 0.05), 0.38 + 0.22 * k])
            radii_at = np.array([r, r, 0.17]) * (1.05 - 0.2 * k)
        _clump(leaves, middle_at, radii_at * swell, white, rng, ball, (12, 3)[detail], (0.115, 0.15)[detail])
    return leaves, wood


def _jitter(variant: int, index: int, size: float) -> float:
    """The same small offset at every level of detail."""
    return float(keyed("jitter", variant, index).uniform(-size, size))


HEDGE_PIECE_M = 1.3


def plant_hedges(hedges: tuple[tuple[F64, float, int], ...], near: Mesh, middle: Mesh) -> None:
    """Clipped hedges, each (straight line (2, 2), height, variant): rows of short pieces, plain boxes further away."""
    for variant in range(MODELS):
        places, yaws, heights, tints = [], [], [], []
        for line, height, which in hedges:
            if which % MODELS != variant:
                continue
            step = line[1] - line[0]
            count = max(1, round(float(np.hypot(*step)) / HEDGE_PIECE_M))
            spots = line[0] + (np.arange(count)[:, None] + 0.5) / count * step
            places += [(x, y, 0.0) for x, y in spots]
            yaws += [math.atan2(step[1], step[0]) + math.pi * (k % 2) for k in range(count)]
            heights += [height] * count
            tints += [np.array(GREENS[which // MODELS % len(GREENS)]) * [0.85, 0.92, 0.9]] * count
        near.instances(_hedge_piece(variant), places, yaws, heights, tints)
    u0, v0, u1, v1 = LEAF_MASS
    leaves = np.array([(u0, v0), (u1, v0), (u1, v1), (u0, v1)])
    for line, height, which in hedges:
        centre, step = line.mean(0), line[1] - line[0]
        green = np.array(GREENS[which // MODELS % len(GREENS)]) * 0.88
        size = (float(np.hypot(*step)), 0.7, height)
        middle.box((*centre, 0.0), size, green, math.atan2(step[1], step[0]), foot=0.6, uv=leaves)


@cache
def _hedge_piece(variant: int) -> Mesh:
    """A lumpy box of leaves of height 1, a little longer than `HEDGE_PIECE_M`, so that pieces overlap."""
    rng = keyed("hedge", variant)
    mesh = Mesh()
    half_length, half_width = HEDGE_PIECE_M * 0.55, 0.36
    u0, v0, u1, v1 = LEAF_MASS
    stations = np.linspace(-half_length, half_length, 3)
    section = np.array([(-half_width, 0), (-half_width * 1.04, 0.55), (-half_width * 0.9, 1), (half_width * 0.9, 1),
                        (half_width * 1.04, 0.55), (half_width, 0)])  # fmt: skip
    rings = np.array([np.c_[np.full(6, x), section + rng.normal(size=(6, 2)) * 0.035] for x in stations])
    tones = np.array([0.55, 0.85, 1.05, 1.1, 0.85, 0.55])
    for k in range(2):
        for j in range(5):
            corners = [rings[k, j], rings[k, j + 1], rings[k + 1, j + 1], rings[k + 1, j]][::-1]
            uv = np.array(
                [(u0, v0 + 0.18 * j), (u0, v0 + 0.18 * j + 0.16), (u1, v0 + 0.18 * j + 0.16), (u1, v0 + 0.18 * j)]
            )[::-1]
            uv[:, 0] = u0 + (uv[:, 0] - u0) * 0.45 + 0.2 * k
            mesh.quads([corners], np.array([tones[[j, j + 1, j + 1, j]][::-1, None] * np.ones(3)]), uv[None])
    for k, order in ((0, slice(None, None, -1)), (-1, slice(None))):
        mesh.quads(
            [rings[k][[0, 2, 3, 5]][order]],
            np.full(3, 0.7),
            np.array([[(0.6, 0.1), (0.6, 0.5), (0.75, 0.5), (0.75, 0.1)]]),
        )
    return mesh
