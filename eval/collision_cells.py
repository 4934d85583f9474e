"""Which cells a plan's car and the road users occupy, for the collision rates of open-loop nuScenes.

Everything is painted on a bird's-eye grid of 100 x 100 m, and a collision is a painted cell under the ego's footprint.
UniAD, ST-P3 and VAD use 0.5 m cells and a footprint that never turns; OmniDrive 0.1 m cells and one that turns along
the path.  The grids themselves are never made: boxes far away are left out, and of the others only the rows under a
footprint are looked at (`eval.fill_poly`).  Where the conventions round, truncate and clip, so does this.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from efficientgen.eval.fill_poly import fill, row_spans
from efficientgen.perception.types import F64

STEPS = 6  # of a plan, 0.5 s apart
EGO_LENGTH, EGO_WIDTH, EGO_SHIFT = 4.084, 1.85, 0.5  # m; the box's middle is ahead of the way-point
LIDAR_AHEAD = 0.985793  # m, of LIDAR_TOP before the ego origin, as OmniDrive has it
HALF = 50.0  # m, from the middle of the grid to its rim
CELLS, RESOLUTION = 200, 0.5
_ROWS, _COLUMNS = (97, 104), (98, 101)  # of the footprint at the origin: cells whose centre lies in the ego's box
FINE_CELLS, FINE = 1000, float(np.float32(0.1))
_FIRST = float(np.float32(-HALF + 0.05))  # centre of the first fine cell; single precision, as in the official code
I64 = NDArray[np.int64]
# Of N way-points: the plan's point hits, the plan's box hits, the truth's box hits.
Hits = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]


def collisions(convention: str, plan: F64, truth: F64, boxes: F64, step: I64) -> Hits:
    """Hits of way-points in LIDAR_TOP.

    Args:
        plan, truth: (N, 2) m, N a multiple of six.
        boxes: (M, 5) x, y, yaw, length, width.
        step: (M,) the way-point that each box belongs to.
    """
    if convention == "omnidrive":
        return _fine_grid(plan, truth, boxes, step)
    return _coarse_grid(plan, truth, boxes, step, *_directions(convention))


def footprint_cells(convention: str, path: F64) -> list[I64]:
    """The (column, row) cells under the ego's box at each way-point of one plan (6, 2); for pictures."""
    if convention == "omnidrive":
        way = np.stack([path[:, 1], -path[:, 0]], 1)
        return list(_turned_cells(way, _headings(way)))
    signs, flip = _directions(convention)
    rows, columns = _block(path, signs, flip)
    return [
        np.stack(np.meshgrid(np.arange(c0, c1 + 1), np.arange(r0, r1 + 1)), -1).reshape(-1, 2)
        for r0, r1, c0, c1 in zip(*rows, *columns, strict=True)
    ]


def occupied_cells(convention: str, boxes: F64) -> I64:
    """The (column, row) cells that boxes (A, 5) paint; for pictures."""
    if convention == "omnidrive":
        image = fill(_pixels(_box_corners(_in_ego(boxes)), FINE, _FIRST), (FINE_CELLS, FINE_CELLS))
    else:
        corners = _pixels(_box_corners(boxes) * _directions(convention)[0], RESOLUTION, -HALF + RESOLUTION / 2)
        image = fill(corners, (CELLS, CELLS))
    return np.argwhere(image)[:, ::-1]


def cell_centres(convention: str, cells: I64) -> F64:
    """Where (column, row) cells lie in LIDAR_TOP, (n, 2) m; for pictures.

    Boxes are painted with corners rounded to cell numbers, so cell k stands for what lies around k cells from the rim;
    the footprint is chosen by centres half a cell further.  So it lies up to half a cell off.
    """
    if convention == "omnidrive":
        x, y = (cells * FINE - HALF).T
        return np.stack([-y, x - LIDAR_AHEAD], 1)
    return np.asarray((cells * RESOLUTION - HALF) * _directions(convention)[0])


def _directions(convention: str) -> tuple[F64, bool]:
    """Which way columns and rows run in LIDAR_TOP, and whether rows are counted from the front."""
    flip = convention == "vad"
    return np.array([-1.0 if convention == "stp3" else 1.0, -1.0 if flip else 1.0]), flip


def _coarse_grid(plan: F64, truth: F64, boxes: F64, step: I64, signs: F64, flip: bool) -> Hits:
    """UniAD, ST-P3 (columns run to the left) and VAD (rows are counted from the front): a footprint along the axes."""
    near = _near(boxes, step, (plan, truth), reach=6.0)
    corners = _pixels(_box_corners(boxes[near]) * signs, RESOLUTION, -HALF + RESOLUTION / 2)
    step = step[near]
    box, truth_box = (_touched(corners, step, len(way), *_block(way, signs, flip)) for way in (plan, truth))
    at = np.trunc((plan * signs + HALF - RESOLUTION / 2) / RESOLUTION).astype(np.int64)  # VAD's is not reported
    inside = ((at >= 0) & (at < CELLS)).all(1)
    one = np.clip(at, 0, CELLS - 1)
    point = _touched(corners, step, len(plan), (one[:, 1], one[:, 1]), (one[:, 0], one[:, 0])) & inside
    return point, box, truth_box


def _block(way: F64, signs: F64, flip: bool) -> tuple[tuple[I64, I64], tuple[I64, I64]]:
    """First and last row, first and last column of the footprint at each way-point."""
    across, forward = way[:, 0] * signs[0] / RESOLUTION, way[:, 1] / RESOLUTION
    columns = [_cell(across + c) for c in _COLUMNS]
    rows = [_cell(CELLS - (forward + r)) if flip else _cell(forward + r) for r in _ROWS]
    return (np.minimum(*rows), np.maximum(*rows)), (np.minimum(*columns), np.maximum(*columns))


def _cell(index: F64, cells: int = CELLS) -> I64:
    """Truncated towards zero and clipped into the grid, as the official code does both."""
    return np.clip(np.trunc(index), 0, cells - 1).astype(np.int64)


def _touched(corners: I64, step: I64, n: int, rows: tuple[I64, I64], columns: tuple[I64, I64]) -> NDArray[np.bool_]:
    """Which of n blocks of cells (first and last row and column, (n,) each) a painted box touches."""
    low, high = corners.min(1), corners.max(1)  # (M, 2) column, row
    first, last = np.stack([columns[0], rows[0]], 1)[step], np.stack([columns[1], rows[1]], 1)[step]
    candidates = np.flatnonzero(((low <= last) & (high >= first)).all(1))
    here = step[candidates]
    height = int((rows[1] - rows[0]).max(initial=0)) + 1
    look = np.minimum(rows[0][here, None] + np.arange(height), rows[1][here, None])  # (C, height)
    lo, hi = row_spans(corners[candidates], look, (CELLS, CELLS))
    hit = ((lo <= columns[1][here, None]) & (hi >= columns[0][here, None])).any(1)
    touched = np.zeros(n, bool)
    touched[here[hit]] = True
    return touched


def _fine_grid(plan: F64, truth: F64, boxes: F64, step: I64) -> Hits:
    """OmniDrive: the ego frame, 0.1 m cells, and a footprint turned along the path.

    A way-point is how far the car has come, so it is only turned into the ego frame; a box is a place, so it also moves
    by the lidar's distance from the ego origin.
    """
    plan, truth = (np.stack([way[:, 1], -way[:, 0]], 1) for way in (plan, truth))
    boxes = _in_ego(boxes)
    near = _near(boxes, step, (plan, truth), reach=8.0)
    corners, step = _pixels(_box_corners(boxes[near]), FINE, _FIRST), step[near]
    box, truth_box = (_turned_footprint(way, corners, step) for way in (plan, truth))
    at = np.trunc((plan - _FIRST) / FINE).astype(np.int64)
    inside = ((at >= 0) & (at < FINE_CELLS)).all(1)
    one = np.clip(at, 0, FINE_CELLS - 1)[step]  # (M, 2) of each box
    lo, hi = row_spans(corners, one[:, 1:], (FINE_CELLS, FINE_CELLS))
    hit = (lo[:, 0] <= one[:, 0]) & (hi[:, 0] >= one[:, 0])
    point = np.zeros(len(plan), bool)
    point[step[hit]] = True
    return point & inside, box, truth_box


def _fine_cells() -> F64:
    """Cells (738, 2) of the footprint at the origin, (x, y) in cells from the ego origin."""
    shift = EGO_SHIFT + LIDAR_AHEAD
    ends = (np.array([shift - EGO_LENGTH / 2, shift + EGO_LENGTH / 2]) - _FIRST) / FINE
    sides = (np.array([-EGO_WIDTH / 2, EGO_WIDTH / 2]) - _FIRST) / FINE
    x, y = (np.arange(np.ceil(a), np.floor(b) + 1) for a, b in (ends, sides))
    return np.stack(np.meshgrid(x, y, indexing="ij"), -1).reshape(-1, 2) + _FIRST / FINE


def _in_ego(boxes: F64) -> F64:
    """Boxes of LIDAR_TOP in the ego frame."""
    return np.column_stack([boxes[:, 1] + LIDAR_AHEAD, -boxes[:, 0], boxes[:, 2] - np.pi / 2, boxes[:, 3:]])


def _headings(way: F64) -> F64:
    """(N,) rad: the direction from the way-point before (the origin at first); 0 if that is less than a metre away."""
    before = np.roll(way, 1, 0)
    before[::STEPS] = 0.0
    delta = way - before
    return np.where(np.hypot(*delta.T) < 1.0, 0.0, np.arctan2(delta[:, 1], delta[:, 0]))


def _turned_cells(way: F64, heading: F64) -> I64:
    """(N, 738, 2) columns and rows of the turned footprint at way-points (N, 2) with headings (N,)."""
    c, s = np.cos(heading)[:, None], np.sin(heading)[:, None]
    x, y = _fine_cells().T
    turned = np.stack([x * c - y * s, x * s + y * c], -1) - _FIRST / FINE
    return _cell((way / FINE)[:, None] + np.round(turned), FINE_CELLS)


def _turned_footprint(way: F64, corners: I64, step: I64) -> NDArray[np.bool_]:
    """Which way-points' (N, 2) footprints touch a box (M, 4, 2)."""
    heading = _headings(way)
    touched = np.zeros(len(way), bool)
    low, high = corners.min(1), corners.max(1)
    middle = _cell((way - _FIRST) / FINE, FINE_CELLS)[step]
    reach = 45  # cells from the way-point to the furthest corner of the ego's box
    candidates = np.flatnonzero(((low <= middle + reach) & (high >= middle - reach)).all(1))
    for some in np.array_split(candidates, max(1, len(candidates) // 512)):  # bounded memory
        here = step[some]
        cells = _turned_cells(way[here], heading[here])
        top = cells[..., 1].min(1, initial=FINE_CELLS)
        height = int((cells[..., 1].max(1, initial=0) - top).max(initial=0)) + 1
        lo, hi = row_spans(corners[some], top[:, None] + np.arange(height), (FINE_CELLS, FINE_CELLS))
        row, column = cells[..., 1] - top[:, None], cells[..., 0]
        hit = (np.take_along_axis(lo, row, 1) <= column) & (np.take_along_axis(hi, row, 1) >= column)
        touched[here[hit.any(1)]] = True
    return touched


def _box_corners(boxes: F64) -> F64:
    """(M, 4, 2) m, around the box."""
    c, s = np.cos(boxes[:, 2]), np.sin(boxes[:, 2])
    along = np.stack([c, s], -1) * boxes[:, 3:4] / 2
    across = np.stack([-s, c], -1) * boxes[:, 4:5] / 2
    middle = boxes[:, :2]
    return np.stack([middle + along + across, middle - along + across, middle - along - across,
                     middle + along - across], 1)  # fmt: skip


def _pixels(corners: F64, resolution: float, first_centre: float) -> I64:
    """The grid's corners (column, row) of boxes; halves round to even."""
    return np.round((corners - first_centre + resolution / 2) / resolution).astype(np.int64)


def _near(boxes: F64, step: I64, ways: Sequence[F64], reach: float) -> I64:
    """Which boxes can touch a footprint at all: a quick look before the exact one."""
    far = np.hypot(boxes[:, 3], boxes[:, 4]) / 2 + reach
    close = np.zeros(len(boxes), bool)
    for way in ways:
        at = np.clip(way, -HALF, HALF)[step]  # footprints are clipped into the grid
        close |= (np.abs(boxes[:, 0] - at[:, 0]) <= far) & (np.abs(boxes[:, 1] - at[:, 1]) <= far)
    return np.flatnonzero(close)
