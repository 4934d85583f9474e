"""Triangle meshes: collected as numpy arrays, lit once, handed to Panda3D in one copy per tile.

A `Mesh` is a list of chunks; every chunk carries positions, normals, albedo (RGBA) and texture coordinates.  Static
meshes lose their normals when they are lit (`static_node`), those of actors keep them (`lit_node`).
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
from numpy.typing import ArrayLike
from panda3d.core import Geom, GeomNode, GeomTriangles, GeomVertexArrayFormat, GeomVertexData, GeomVertexFormat

from efficientgen.perception.types import F64, U8
from efficientgen.worldsim.reference.labels import alpha_of

BAKED = GeomVertexFormat.getV3c4t2()
BAKED_ROW = np.dtype([("position", "<f4", 3), ("colour", "u1", 4), ("uv", "<f4", 2)])
LIT = GeomVertexFormat.getV3n3c4()
LIT_ROW = np.dtype([("position", "<f4", 3), ("normal", "<f4", 3), ("colour", "u1", 4)])

UP = (0.0, 0.0, 1.0)


class Mesh:
    """A growing triangle mesh.  Colours are albedo RGB(A) in [0, 1]; `uv` defaults to the atlas' white spot."""

    def __init__(self, uv: tuple[float, float] = (0.0, 0.0)) -> None:
        self.plain_uv = uv
        self.label = 0  # what the triangles added next are (`labels.Label`), carried in the vertices' alpha; 0: unsaid
        self.count = 0
        self._positions: list[F64] = []
        self._normals: list[F64] = []
        self._colours: list[F64] = []
        self._uvs: list[F64] = []
        self._triangles: list[np.ndarray] = []

    def add(
        self, positions: ArrayLike, normals: ArrayLike, colour: ArrayLike, triangles: ArrayLike,
        uv: ArrayLike | None = None,
    ) -> None:  # fmt: skip
        """Adds vertices (N, 3) with normals and colours (one for all or one each) and triangles (M, 3) over them."""
        points = np.asarray(positions, np.float64).reshape(-1, 3)
        count = len(points)
        colours = np.asarray(colour, np.float64)
        if colours.shape[-1] == 3:
            colours = np.concatenate([colours, np.ones((*colours.shape[:-1], 1))], -1)
        if self.label:
            colours = np.concatenate([colours[..., :3], np.full((*colours.shape[:-1], 1), alpha_of(self.label))], -1)
        self._positions.append(points)
        self._normals.append(np.broadcast_to(np.asarray(normals, np.float64), (count, 3)))
        self._colours.append(np.broadcast_to(colours, (count, 4)))
        self._uvs.append(np.broadcast_to(np.asarray(self.plain_uv if uv is None else uv, np.float64), (count, 2)))
        self._triangles.append(np.asarray(triangles, np.int64).reshape(-1, 3) + self.count)
        self.count += count

    def quads(self, corners: ArrayLike, colour: ArrayLike, uv: ArrayLike | None = None,
              normals: ArrayLike | None = None) -> None:  # fmt: skip
        """Adds quads (N, 4, 3), counter-clockwise from outside; colour one, (N, 3) or (N, 4, 3); uv (N, 4, 2)."""
        points = np.asarray(corners, np.float64).reshape(-1, 4, 3)
        count = len(points)
        if normals is None:
            normals = unit(cross(points[:, 1] - points[:, 0], points[:, 3] - points[:, 0]))
        each = np.broadcast_to(np.asarray(normals, np.float64), (count, 3)).repeat(4, 0)
        colours = np.asarray(colour, np.float64)
        if colours.ndim == 2:
            colours = colours.repeat(4, 0)
        elif colours.ndim == 3:
            colours = colours.reshape(4 * count, -1)
        index = 4 * np.arange(count)[:, None] + np.array([0, 1, 2, 0, 2, 3])
        self.add(points, each, colours, index, None if uv is None else np.asarray(uv, np.float64).reshape(-1, 2))

    def box(
        self, centre: ArrayLike, size: ArrayLike, colour: ArrayLike, yaw: float = 0.0,
        taper: tuple[float, float] = (1.0, 1.0), foot: float = 1.0, uv: ArrayLike | None = None,
    ) -> None:  # fmt: skip
        """Adds a box standing with its base centre at `centre`; the top shrinks by `taper` in x and y.

        `foot` darkens the lower edge of the sides.  `uv` (4, 2) is laid on each side.  There is no bottom face.
        """
        cx, cy, cz = np.asarray(centre, np.float64)
        sx, sy, sz = np.asarray(size, np.float64) / np.array([2, 2, 1])
        square = np.array([[1, -1], [1, 1], [-1, 1], [-1, -1]], np.float64)
        cos, sin = math.cos(yaw), math.sin(yaw)
        turn = np.array([[cos, sin], [-sin, cos]])
        low = np.c_[square * [sx, sy] @ turn + [cx, cy], np.full(4, cz)]
        high = np.c_[square * [sx * taper[0], sy * taper[1]] @ turn + [cx, cy], np.full(4, cz + sz)]
        sides = np.stack([low, np.roll(low, -1, 0), np.roll(high, -1, 0), high], 1)  # (4, 4, 3)
        base = np.asarray(colour, np.float64)
        shades = np.stack([base * foot, base * foot, base, base])
        uvs = None if uv is None else np.broadcast_to(np.asarray(uv, np.float64), (5, 4, 2))
        self.quads(np.concatenate([sides, high[None]]), np.stack([shades] * 4 + [np.stack([base] * 4)]), uvs)

    def tube(self, begin: ArrayLike, end: ArrayLike, radius: float, colour: ArrayLike, sides: int = 6,
             end_radius: float | None = None) -> None:  # fmt: skip
        """Adds an open tube between two points, with smooth normals."""
        a, b = np.asarray(begin, np.float64), np.asarray(end, np.float64)
        side, other = _across(unit(b - a))
        angle = np.linspace(0, 2 * math.pi, sides, endpoint=False)
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * other
        points = np.concatenate([a + radius * ring, b + (radius if end_radius is None else end_radius) * ring])
        i, j = np.arange(sides), (np.arange(sides) + 1) % sides
        self.add(
            points, np.concatenate([ring, ring]), colour, np.r_[np.c_[i, j, j + sides], np.c_[i, j + sides, i + sides]]
        )

    def disc(self, centre: ArrayLike, normal: ArrayLike, radius: float, colour: ArrayLike, sides: int = 10) -> None:
        """Adds a flat disc that faces along `normal`."""
        axis = np.asarray(normal, np.float64)
        side, other = _across(axis)
        angle = np.linspace(0, 2 * math.pi, sides, endpoint=False)[:, None]
        rim = np.asarray(centre, np.float64) + radius * (np.cos(angle) * side + np.sin(angle) * other)
        i = np.arange(sides)
        self.add(np.vstack([rim, [centre]]), axis, colour, np.c_[i, (i + 1) % sides, np.full(sides, sides)])

    def loft(self, rings: ArrayLike, colour: ArrayLike, closed: bool = True) -> None:
        """Adds a smooth skin over rings (N, K, 3), each counter-clockwise when seen from the last ring.

        `colour` is one, one per ring (N, 3), or one per point (N, K, 3).
        """
        points = np.asarray(rings, np.float64)
        n, k = points.shape[:2]
        along = np.gradient(points, axis=0)
        around = np.roll(points, -1, 1) - np.roll(points, 1, 1) if closed else np.gradient(points, axis=1)
        normal = unit(cross(around, along))
        colours = np.asarray(colour, np.float64)
        if colours.ndim == 2:
            colours = colours[:, None]
        colours = np.broadcast_to(colours, (n, k, colours.shape[-1])).reshape(n * k, -1)
        j = np.arange(k if closed else k - 1)
        i = (np.arange(n - 1)[:, None] * k + j).reshape(-1)
        right = (np.arange(n - 1)[:, None] * k + (j + 1) % k).reshape(-1)
        self.add(points, normal.reshape(-1, 3), colours, np.r_[np.c_[i, right, right + k], np.c_[i, right + k, i + k]])

    def instances(self, model: Mesh, places: ArrayLike, yaws: ArrayLike, scales: ArrayLike = 1.0,
                  tints: ArrayLike = 1.0) -> None:  # fmt: skip
        """Adds copies of `model` at places (N, 3), turned by yaws (N,), scaled by scales (N,) and tinted by (N, 3)."""
        where = np.asarray(places, np.float64).reshape(-1, 3)
        count = len(where)
        if not count or not model.count:
            return
        positions, normals, colours, uvs, triangles = model.arrays()
        yaw, scale = np.broadcast_to(np.asarray(yaws), count), np.broadcast_to(np.asarray(scales, np.float64), count)
        cos, sin, zero = np.cos(yaw), np.sin(yaw), np.zeros(count)
        turn = np.stack([np.stack([cos, sin, zero], 1), np.stack([-sin, cos, zero], 1),
                         np.broadcast_to([0.0, 0.0, 1.0], (count, 3))], 1)  # (N, 3, 3), for row vectors  # fmt: skip
        tint = np.broadcast_to(np.asarray(tints, np.float64), (count, 3))
        painted = np.broadcast_to(colours, (count, *colours.shape)).copy()
        painted[..., :3] *= tint[:, None]
        self.add(
            (positions * scale[:, None, None]) @ turn + where[:, None],
            (normals @ turn).reshape(-1, 3),
            painted.reshape(-1, 4),
            (triangles + len(positions) * np.arange(count)[:, None, None]),
            np.broadcast_to(uvs, (count, *uvs.shape)).reshape(-1, 2),
        )

    def arrays(self) -> tuple[F64, F64, F64, F64, np.ndarray]:
        """Positions (N, 3), normals (N, 3), colours (N, 4), uv (N, 2), triangles (M, 3)."""
        lists = (self._positions, self._normals, self._colours, self._uvs, self._triangles)
        position, normal, colour, uv, triangles = (np.concatenate(chunks) for chunks in lists)
        return position, normal, colour, uv, triangles


Light = Callable[[F64], F64]  # normals (N, 3) -> light (N, 3)


def static_node(name: str, mesh: Mesh, light: Light | None = None) -> GeomNode:
    """Baked geometry as one node; without `light` the albedo stays as it is."""
    positions, normals, colours, uvs, triangles = mesh.arrays()
    return _geom_node(name, _bake(positions, normals, colours, uvs, light), triangles, BAKED)


def static_tiles(name: str, mesh: Mesh, light: Light | None, size: float) -> dict[tuple[int, int], GeomNode]:
    """Baked geometry cut into squares of `size` m by triangle centre, to be culled apart: (column, row) -> node."""
    if not mesh.count:
        return {}
    positions, normals, colours, uvs, triangles = mesh.arrays()
    rows = _bake(positions, normals, colours, uvs, light)
    cells = np.floor(positions[triangles, :2].mean(1) / size).astype(np.int64)
    codes, which = np.unique((cells[:, 0] << 20) + cells[:, 1] + (1 << 19), return_inverse=True)
    order = np.argsort(which.reshape(-1), kind="stable")
    pieces = np.split(triangles[order], np.cumsum(np.bincount(which.reshape(-1)))[:-1])
    flags, local = np.zeros(len(rows), bool), np.zeros(len(rows), np.int64)
    nodes = {}
    for code, piece in zip(codes, pieces, strict=True):
        flags[piece] = True
        used = np.flatnonzero(flags)
        flags[used] = False
        local[used] = np.arange(len(used))
        tile = int(code >> 20), int(code & ((1 << 20) - 1)) - (1 << 19)
        nodes[tile] = _geom_node(name, rows[used], local[piece], BAKED)
    return nodes


def _bake(positions: F64, normals: F64, colours: F64, uvs: F64, light: Light | None) -> np.ndarray:
    lit = colours
    if light is not None:
        lit = colours.copy()
        lit[:, :3] *= light(normals)
    return baked_rows(positions, lit, uvs)


def lit_node(name: str, mesh: Mesh) -> GeomNode:
    """Geometry that keeps its normals, for lights that Panda3D computes each frame."""
    positions, normals, colours, _, triangles = mesh.arrays()
    rows = np.zeros(len(positions), LIT_ROW)
    rows["position"], rows["normal"], rows["colour"] = positions, normals, to_bytes(colours)
    return _geom_node(name, rows, triangles, LIT)


def cross(a: F64, b: F64) -> F64:
    """Cross products of (..., 3); np.cross is ten times slower on few vectors."""
    return np.stack([
        a[..., 1] * b[..., 2] - a[..., 2] * b[..., 1],
        a[..., 2] * b[..., 0] - a[..., 0] * b[..., 2],
        a[..., 0] * b[..., 1] - a[..., 1] * b[..., 0],
    ], -1)  # fmt: skip


def unit(vectors: F64) -> F64:
    """Vectors (..., 3) at length 1; zero stays zero."""
    return vectors / (np.sqrt((vectors**2).sum(-1, keepdims=True)) + 1e-12)


def _across(axis: F64) -> tuple[F64, F64]:
    """Two unit vectors across `axis` (3,), right-handed with it."""
    side = unit(cross(axis, np.array([1.0, 0.0, 0.0] if abs(axis[0]) < 0.8 else [0.0, 1.0, 0.0])))
    return side, cross(axis, side)


def to_bytes(colours: F64) -> U8:
    """[0, 1] to uint8, clipped."""
    return (np.clip(colours, 0.0, 1.0) * 255 + 0.5).astype(np.uint8)


class DynamicMesh:
    """A node whose triangles are rewritten every frame; rows have the dtype `BAKED_ROW`."""

    def __init__(self, name: str) -> None:
        self.node = GeomNode(name)
        self._triangles = np.zeros((0, 3), np.uint32)
        geom = Geom(GeomVertexData(name, BAKED, Geom.UHDynamic))
        primitive = GeomTriangles(Geom.UHDynamic)
        primitive.setIndexType(Geom.NTUint32)
        geom.addPrimitive(primitive)
        self.node.addGeom(geom)

    def update(self, rows: np.ndarray, triangles: np.ndarray) -> None:
        """Shows `triangles` (M, 3) over `rows` (N,)."""
        geom = self.node.modifyGeom(0)
        data = geom.modifyVertexData()
        if data.getNumRows() != len(rows):
            data.uncleanSetNumRows(len(rows))
        if len(rows):
            data.modifyArrayHandle(0).copyDataFrom(np.ascontiguousarray(rows).view(np.uint8))
        if triangles.shape != self._triangles.shape or (triangles != self._triangles).any():
            index = geom.modifyPrimitive(0).modifyVertices()
            index.uncleanSetNumRows(triangles.size)
            if triangles.size:
                index.modifyHandle().copyDataFrom(np.ascontiguousarray(triangles, np.uint32).reshape(-1).view(np.uint8))
            self._triangles = np.array(triangles, np.uint32)


def baked_rows(positions: F64, colours: F64, uv: F64 | None = None) -> np.ndarray:
    """Rows (N,) of dtype `BAKED_ROW` from positions (N, 3), RGBA (N, 4) in [0, 1] and texture coordinates (N, 2)."""
    rows = np.zeros(len(positions), BAKED_ROW)
    rows["position"], rows["colour"] = positions, to_bytes(colours)
    if uv is not None:
        rows["uv"] = uv
    return rows


def _geom_node(name: str, rows: np.ndarray, triangles: np.ndarray, layout: GeomVertexArrayFormat) -> GeomNode:
    data = GeomVertexData(name, layout, Geom.UHStatic)
    data.uncleanSetNumRows(len(rows))
    data.modifyArrayHandle(0).copyDataFrom(np.ascontiguousarray(rows).view(np.uint8))
    primitive = GeomTriangles(Geom.UHStatic)
    primitive.setIndexType(Geom.NTUint32)
    index = primitive.modifyVertices()
    index.uncleanSetNumRows(triangles.size)
    index.modifyHandle().copyDataFrom(np.ascontiguousarray(triangles, np.uint32).reshape(-1).view(np.uint8))
    geom = Geom(data)
    geom.addPrimitive(primitive)
    node = GeomNode(name)
    node.addGeom(geom)
    return node
