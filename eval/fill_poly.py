"""Filled quadrilaterals on a pixel grid, exactly as OpenCV's `fillPoly` paints them, without painting.

The open-loop collision rates of nuScenes rasterise every road user with `cv2.fillPoly` and look up the cells of the
ego's footprint.  Which cells are painted at the rim decides close passes, so the rule matters: the outline is drawn
with Bresenham lines (8-connected, always from left to right, clipped to the image first), then each row is filled
between its two edges in 16.16 fixed point.  A quadrilateral with integer corners is thus one run of columns per row;
`row_spans` computes those runs in closed form for many quadrilaterals at once, only for the rows that are asked for.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

I64 = NDArray[np.int64]
_ONE = 1 << 16
_FAR = 1 << 30  # no column of any image: the run of a row that is not painted is [_FAR, -_FAR]


def row_spans(corners: I64, rows: I64, shape: tuple[int, int]) -> tuple[I64, I64]:
    """First and last painted column of some rows; first > last where nothing is painted.

    Args:
        corners: (M, 4, 2) integer (column, row) of the corners, in order around a convex quadrilateral.
        rows: (M, K) rows to look at.
        shape: rows and columns of the image.
    """
    lo = np.full(rows.shape, _FAR, np.int64)
    hi = np.full(rows.shape, -_FAR, np.int64)
    left = np.full(rows.shape, _FAR * _ONE, np.int64)  # fixed point, of the edges that cross a row
    right = np.full(rows.shape, -_FAR * _ONE, np.int64)
    for k in range(4):
        p, q = corners[:, k], corners[:, (k + 1) % 4]
        clipped_p, clipped_q, visible = _clip(p, q, shape)
        first, last = _line(clipped_p, clipped_q, rows)
        drawn = visible[:, None] & (first <= last)
        np.minimum(lo, first, out=lo, where=drawn)
        np.maximum(hi, last, out=hi, where=drawn)
        x, crossing = _edge(p, q, clipped_p, clipped_q, rows)
        np.minimum(left, x, out=left, where=crossing)
        np.maximum(right, x, out=right, where=crossing)
    first = np.maximum((left + _ONE - 1) >> 16, 0)
    last = np.minimum(right >> 16, shape[1] - 1)
    filled = (left <= right) & (first <= last)
    np.minimum(lo, first, out=lo, where=filled)
    np.maximum(hi, last, out=hi, where=filled)
    outside = (rows < 0) | (rows >= shape[0])
    lo[outside], hi[outside] = _FAR, -_FAR
    return lo, hi


def fill(corners: I64, shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The union of M quadrilaterals (M, 4, 2) as an image of `shape`; for pictures and tests."""
    image = np.zeros(shape, bool)
    rows = np.broadcast_to(np.arange(shape[0]), (len(corners), shape[0]))
    lo, hi = row_spans(np.asarray(corners, np.int64), rows, shape)
    columns = np.arange(shape[1])
    for first, last in zip(lo, hi, strict=True):
        image |= (columns >= first[:, None]) & (columns <= last[:, None])
    return image


def _line(p: I64, q: I64, rows: I64) -> tuple[I64, I64]:
    """First and last column that the Bresenham line p-q (M, 2) paints in each row (M, K); none: first > last."""
    swap = p[:, 0] > q[:, 0]
    start, end = np.where(swap[:, None], q, p), np.where(swap[:, None], p, q)
    dx, dy = end[:, 0] - start[:, 0], end[:, 1] - start[:, 1]
    x, y = start[:, :1], start[:, 1:]  # (M, 1)
    down = np.where(dy < 0, -1, 1)[:, None]
    dx, dy = dx[:, None], np.abs(dy)[:, None]
    j = (rows - y) * down  # rows from the start, (M, K)
    steep = dy > dx
    # After k steps along the longer axis the line has made floor((2 k short + long - 1) / (2 long)) steps aside.
    column = x + (2 * j * dx + dy - 1) // np.maximum(2 * dy, 1)
    first = np.maximum(-((dx - 1 - 2 * dx * j) // np.maximum(2 * dy, 1)), 0)  # ceil((2 dx j - dx + 1) / (2 dy))
    last = np.minimum(-((dx - 1 - 2 * dx * (j + 1)) // np.maximum(2 * dy, 1)) - 1, dx)
    flat = dy == 0
    first = x + np.where(flat, 0, first)
    last = x + np.where(flat, dx, last)
    inside = (j >= 0) & (j <= dy)
    first, last = np.where(steep, column, first), np.where(steep, column, last)
    return np.where(inside, first, _FAR), np.where(inside, last, -_FAR)


def _edge(p: I64, q: I64, clipped_p: I64, clipped_q: I64, rows: I64) -> tuple[I64, NDArray[np.bool_]]:
    """Where the edge p-q crosses each row, in 16.16 fixed point, and whether it does.

    The slope is that of the clipped edge where clipping has left it any height.
    """
    flat = (clipped_p[:, 1] == clipped_q[:, 1])[:, None]
    cp, cq = clipped_p.copy(), clipped_q.copy()
    cp[:, 1:], cq[:, 1:] = np.where(flat, p[:, 1:], cp[:, 1:]), np.where(flat, q[:, 1:], cq[:, 1:])
    rise = cq[:, 1] - cp[:, 1]
    run = (cq[:, 0] - cp[:, 0]) * _ONE
    slope = np.sign(run) * np.sign(rise) * (np.abs(run) // np.maximum(np.abs(rise), 1))  # C's division truncates
    top_is_p = p[:, 1] < q[:, 1]
    top, clipped_top = np.where(top_is_p[:, None], p, q), np.where(top_is_p[:, None], cp, cq)
    bottom = np.maximum(p[:, 1], q[:, 1])[:, None]
    x = (clipped_top[:, 0] * _ONE)[:, None] + (rows - clipped_top[:, 1:]) * slope[:, None]
    return x, (rows >= top[:, 1:]) & (rows < bottom)


def _clip(p: I64, q: I64, shape: tuple[int, int]) -> tuple[I64, I64, NDArray[np.bool_]]:
    """Cohen-Sutherland as OpenCV does it, rounding towards the end points: ends (M, 2) and whether anything is left."""
    p, q = p.copy(), q.copy()
    limit = np.array([shape[1] - 1, shape[0] - 1])
    code_p, code_q = _outcode(p, limit), _outcode(q, limit)
    busy = ((code_p & code_q) == 0) & ((code_p | code_q) != 0)
    if not busy.any():
        return p, q, (code_p | code_q) == 0
    for axis, bits in ((1, 12), (0, 3)):
        for near, far, code in ((p, q, code_p), (q, p, code_q)):
            move = busy & ((code & bits) != 0)
            if not move.any():
                continue
            border = np.where((code & bits) <= (4 if axis else 1), 0, limit[axis])
            other = 1 - axis
            length = (far - near)[:, axis]
            share = (border - near[:, axis]).astype(np.float64) * (far - near)[:, other] / np.where(length, length, 1)
            near[move, other] += np.trunc(share).astype(np.int64)[move]
            near[move, axis] = border[move]
            code[move] = _outcode(near[move], limit) & (3 if axis else 0)
        busy &= ((code_p & code_q) == 0) & ((code_p | code_q) != 0)
    return p, q, (code_p | code_q) == 0


def _outcode(point: I64, limit: I64) -> I64:
    x, y = point[:, 0], point[:, 1]
    return (x < 0) * 1 + (x > limit[0]) * 2 + (y < 0) * 4 + (y > limit[1]) * 8
