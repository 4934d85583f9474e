"""Open-loop planning on nuScenes: L2 and collision rate exactly as four official implementations compute them.

Each convention is a different metric under the same name, so none is *the* nuScenes number (docs/offline.md):

- `uniad` (UniAD, 2212.10156): L2 and collision **at** 1, 2, 3 s; steps without ground truth count as 0 and every sample
  counts.
- `stp3` (ST-P3, 2207.07601): the **mean** over the steps up to 1, 2, 3 s; only samples with all six futures.
- `vad` (VAD, 2303.12077): the same means; its grid has the far front in row 0, which rounds borderline cells the other
  way.  Its point collision looks 25 m off and is therefore not reported (NaN).
- `omnidrive` (OmniDrive, 2405.01533): L2 as `vad`; collision is **any** collision up to 1, 2, 3 s, on 0.1 m cells, the
  ego box turned along the path.

In all of them a step at which the ground truth's own box collides counts as 0.  Everything here is in LIDAR_TOP (x
right, y forward); the six steps are 0.5 s apart.  Rates are fractions, not per cent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efficientgen.eval.fill_poly import row_spans
from efficientgen.perception.types import F64

Convention = Literal["uniad", "stp3", "vad", "omnidrive"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
STEPS = 6
HORIZONS = {"1s": 2, "2s": 4, "3s": 6}  # how many steps each covers
EGO_LENGTH, EGO_WIDTH, EGO_SHIFT = 4.084, 1.85, 0.5  # m; the box's middle is ahead of the way-point
LIDAR_AHEAD = 0.985793  # m, of LIDAR_TOP before the ego origin, as OmniDrive has it
HALF = 50.0  # m, from the middle of the grid to its rim
MASK_RULES = {
    "uniad": "all samples count; steps without ground truth count as 0",
    "stp3": "only samples with all six futures",
    "vad": "only samples with all six futures",
    "omnidrive": "only samples with all six futures",
}
I64 = NDArray[np.int64]


class UnknownConventionError(ValueError):
    """A convention that is not one of `CONVENTIONS`."""


class PlanningInputError(ValueError):
    """Arrays of the wrong shape, or numbers that are not finite where they are needed."""


@dataclass(frozen=True)
class PlanningMetrics:
    """One sample, or a batch of B samples with a leading axis.

    `counted` says whether the sample enters the means; where it does not, its numbers are NaN.  `summary` has
    L2_1s|2s|3s|avg (m) and obj_box_col_1s|2s|3s|avg (fraction) over the samples that count.
    """

    convention: str
    counted: bool | NDArray[np.bool_]  # () or (B,)
    l2: F64  # (6,) or (B, 6) m
    obj_col: F64  # (6,) or (B, 6) 0/1: the way-point's cell is occupied; NaN for vad
    obj_box_col: F64  # (6,) or (B, 6) 0/1: a cell of the ego's footprint is occupied
    summary: Mapping[str, float] = field(default_factory=dict)


def planning_metrics(
    prediction: ArrayLike,
    ground_truth: ArrayLike,
    mask: ArrayLike,
    agent_boxes: Sequence[ArrayLike],
    convention: str,
) -> PlanningMetrics:
    """Score one plan.

    Args:
        prediction: (6, 2) m, LIDAR_TOP.
        ground_truth: (6, 2) m, LIDAR_TOP; ignored where `mask` is 0.
        mask: (6,), 0 where the future does not exist.
        agent_boxes: six arrays (A, 5) of x, y, yaw, length, width, LIDAR_TOP, yaw counter-clockwise from +x to the
            length axis; the road users that the convention counts (`eval.io_nuscenes` chooses them).
        convention: one of `CONVENTIONS`.

    Raises:
        UnknownConventionError: another convention.
        PlanningInputError: a wrong shape, or NaN in prediction, boxes or the ground truth that exists.
    """
    batch = planning_metrics_batch(
        np.asarray(prediction, np.float64)[None],
        np.asarray(ground_truth, np.float64)[None],
        np.asarray(mask)[None],
        [agent_boxes],
        convention,
    )
    return PlanningMetrics(
        convention,
        bool(np.asarray(batch.counted)[0]),
        batch.l2[0],
        batch.obj_col[0],
        batch.obj_box_col[0],
        batch.summary,
    )


def planning_metrics_batch(
    predictions: ArrayLike,
    ground_truths: ArrayLike,
    masks: ArrayLike,
    agent_boxes: Sequence[Sequence[ArrayLike]],
    convention: str,
) -> PlanningMetrics:
    """`planning_metrics` of B samples at once: (B, 6, 2), (B, 6, 2), (B, 6), B times six arrays (A, 5)."""
    if convention not in CONVENTIONS:
        raise UnknownConventionError(f"no convention '{convention}'; choose one of {', '.join(CONVENTIONS)}")
    plan, truth, exists = _checked(predictions, ground_truths, masks)
    boxes, step = _flat(agent_boxes, exists)
    counted = np.ones(len(plan), bool) if convention == "uniad" else exists.all(1)
    l2 = np.sqrt((((plan - truth) ** 2) * exists[..., None]).sum(-1))
    point, box, truth_box = _hits(convention, plan.reshape(-1, 2), truth.reshape(-1, 2), boxes, step)
    excluded = truth_box.reshape(-1, STEPS) | ~exists
    obj_col = np.where(excluded, 0.0, point.reshape(-1, STEPS))
    obj_box_col = np.where(excluded, 0.0, box.reshape(-1, STEPS))
    if convention == "vad":
        obj_col = np.full_like(obj_col, np.nan)
    for values in (l2, obj_col, obj_box_col):
        values[~counted] = np.nan
    return PlanningMetrics(
        convention, counted, l2, obj_col, obj_box_col, summarise(convention, counted, l2, obj_box_col)
    )


def summarise(convention: str, counted: ArrayLike, l2: ArrayLike, obj_box_col: ArrayLike) -> dict[str, float]:
    """Means over the samples that count: (B,), (B, 6), (B, 6) -> L2_1s .. obj_box_col_avg; NaN when none counts.

    At 1, 2, 3 s each: the step itself (uniad), the mean of the steps so far (stp3, vad), for collisions of omnidrive
    whether any step so far collides.  `avg` is the mean of the three.
    """
    keep = np.asarray(counted, bool)
    out: dict[str, float] = {}
    for name, values in (("L2", np.asarray(l2)[keep]), ("obj_box_col", np.asarray(obj_box_col)[keep])):
        for horizon, steps in HORIZONS.items():
            if convention == "uniad":
                each = values[:, steps - 1]
            elif convention == "omnidrive" and name == "obj_box_col":
                each = values[:, :steps].max(1, initial=0.0)
            else:
                each = values[:, :steps].mean(1)
            out[f"{name}_{horizon}"] = float(each.mean()) if len(each) else float("nan")
        out[f"{name}_avg"] = float(np.mean([out[f"{name}_{horizon}"] for horizon in HORIZONS]))
    return out


def _checked(predictions: ArrayLike, ground_truths: ArrayLike, masks: ArrayLike) -> tuple[F64, F64, NDArray[np.bool_]]:
    plan, truth = np.asarray(predictions, np.float64), np.asarray(ground_truths, np.float64)
    exists = np.asarray(masks) > 0.5
    if plan.ndim != 3 or plan.shape[1:] != (STEPS, 2) or truth.shape != plan.shape or exists.shape != plan.shape[:2]:
        raise PlanningInputError(
            f"prediction, ground truth and mask are {plan.shape[1:]}, {truth.shape[1:]}, {exists.shape[1:]}; "
            f"they must be ({STEPS}, 2), ({STEPS}, 2), ({STEPS},): way-points at 0.5 .. 3 s"
        )
    if not np.isfinite(plan).all():
        raise PlanningInputError("the prediction holds NaN or infinity")
    truth = np.where(exists[..., None], truth, 0.0)
    if not np.isfinite(truth).all():
        raise PlanningInputError("the ground truth holds NaN or infinity where the mask says that it exists")
    return plan, truth, exists


def _flat(agent_boxes: Sequence[Sequence[ArrayLike]], exists: NDArray[np.bool_]) -> tuple[F64, I64]:
    """All boxes (M, 5), and for each the number sample * 6 + step that it belongs to."""
    if len(agent_boxes) != len(exists) or any(len(six) != STEPS for six in agent_boxes):
        raise PlanningInputError(f"agent_boxes must be {STEPS} arrays (A, 5) for each of the {len(exists)} samples")
    each = [boxes if isinstance(boxes, np.ndarray) else np.asarray(boxes) for six in agent_boxes for boxes in six]
    counts = np.array([len(boxes) for boxes in each], np.int64)
    held = [boxes for boxes in each if len(boxes)]
    if any(boxes.ndim != 2 or boxes.shape[1] != 5 for boxes in held):
        raise PlanningInputError("a box is five numbers: x, y, yaw, length, width")
    boxes = np.concatenate([*held, np.zeros((0, 5))]).astype(np.float64, copy=False)
    if not np.isfinite(boxes).all():
        raise PlanningInputError("an agent's box holds NaN or infinity")
    return boxes, np.repeat(np.arange(len(each)), counts)


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


# Way-points (N, 2) of plan and truth, boxes (M, 5) with the way-point each belongs to -> (N,) each: the plan's point
# hits, the plan's box hits, the truth's box hits.
Hits = tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.bool_]]


def _hits(convention: str, plan: F64, truth: F64, boxes: F64, step: I64) -> Hits:
    if convention == "omnidrive":
        return _fine_grid(plan, truth, boxes, step)
    return _coarse_grid(plan, truth, boxes, step, mirror=convention == "stp3", flip=convention == "vad")


CELLS, RESOLUTION = 200, 0.5
_ROWS, _COLUMNS = (97, 104), (98, 101)  # of the footprint at the origin: cells whose centre lies in the ego's box


def _coarse_grid(plan: F64, truth: F64, boxes: F64, step: I64, mirror: bool, flip: bool) -> Hits:
    """The axis-aligned footprint of UniAD, ST-P3 and VAD on 0.5 m cells.

    `mirror`: columns run to the left (ST-P3); `flip`: rows run backwards (VAD).
    """
    signs = np.array([-1.0 if mirror else 1.0, -1.0 if flip else 1.0])
    near = _near(boxes, step, (plan, truth), reach=6.0)
    corners = _pixels(_box_corners(boxes[near]) * signs, RESOLUTION, -HALF + RESOLUTION / 2)
    step = step[near]
    out = []
    for way in (plan, truth):
        across, forward = way[:, 0] * signs[0] / RESOLUTION, way[:, 1] / RESOLUTION
        columns = [_cell(across + c) for c in _COLUMNS]
        rows = [_cell(CELLS - (forward + r)) if flip else _cell(forward + r) for r in _ROWS]
        out.append(_touched(corners, step, len(way), _ordered(rows), _ordered(columns)))
    at = np.trunc((plan * signs + HALF - RESOLUTION / 2) / RESOLUTION).astype(np.int64)  # VAD's is not reported
    inside = ((at >= 0) & (at < CELLS)).all(1)
    one = np.clip(at, 0, CELLS - 1)
    point = _touched(corners, step, len(plan), (one[:, 1], one[:, 1]), (one[:, 0], one[:, 0])) & inside
    return point, out[0], out[1]


def _ordered(pair: Sequence[I64]) -> tuple[I64, I64]:
    """First and last of two index arrays, whichever way they run."""
    return np.minimum(*pair), np.maximum(*pair)


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


FINE_CELLS, FINE = 1000, float(np.float32(0.1))
_FIRST = float(np.float32(-HALF + 0.05))  # centre of the first fine cell; single precision, as in the official code


def _fine_grid(plan: F64, truth: F64, boxes: F64, step: I64) -> Hits:
    """OmniDrive: the ego frame, 0.1 m cells, and a footprint turned along the path.

    A way-point is how far the car has come, so it is only turned into the ego frame; a box is a place, so it also moves
    by the lidar's distance from the ego origin.
    """
    plan, truth = (np.stack([way[:, 1], -way[:, 0]], 1) for way in (plan, truth))
    near = _near(np.column_stack([boxes[:, 1] + LIDAR_AHEAD, -boxes[:, 0], boxes[:, 2:]]), step, (plan, truth), 8.0)
    moved = boxes[near]
    moved = np.column_stack([moved[:, 1] + LIDAR_AHEAD, -moved[:, 0], moved[:, 2] - np.pi / 2, moved[:, 3:]])
    corners, step = _pixels(_box_corners(moved), FINE, _FIRST), step[near]
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


def _turned_footprint(way: F64, corners: I64, step: I64) -> NDArray[np.bool_]:
    """Which way-points' (N, 2) footprints touch a box (M, 4, 2)."""
    before = np.roll(way, 1, 0)
    before[::STEPS] = 0.0  # the first step starts at the origin
    delta = way - before
    heading = np.where(np.hypot(*delta.T) < 1.0, 0.0, np.arctan2(delta[:, 1], delta[:, 0]))
    touched = np.zeros(len(way), bool)
    low, high = corners.min(1), corners.max(1)
    middle = _cell((way - _FIRST) / FINE, FINE_CELLS)[step]
    reach = 45  # cells from the way-point to the furthest corner of the ego's box
    candidates = np.flatnonzero(((low <= middle + reach) & (high >= middle - reach)).all(1))
    for some in np.array_split(candidates, max(1, len(candidates) // 512)):  # bounded memory
        here = step[some]
        c, s = np.cos(heading[here])[:, None], np.sin(heading[here])[:, None]
        x, y = _fine_cells().T
        turned = np.stack([x * c - y * s, x * s + y * c], -1) - _FIRST / FINE  # (C, 738, 2)
        cells = _cell((way[here] / FINE)[:, None] + np.round(turned), FINE_CELLS)
        top = cells[..., 1].min(1, initial=FINE_CELLS)
        height = int((cells[..., 1].max(1, initial=0) - top).max(initial=0)) + 1
        lo, hi = row_spans(corners[some], top[:, None] + np.arange(height), (FINE_CELLS, FINE_CELLS))
        row = cells[..., 1] - top[:, None]
        column = cells[..., 0]
        hit = (np.take_along_axis(lo, row, 1) <= column) & (np.take_along_axis(hi, row, 1) >= column)
        touched[here[hit.any(1)]] = True
    return touched
