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

from efficientgen.eval.collision_cells import STEPS, collisions
from efficientgen.perception.types import F64

Convention = Literal["uniad", "stp3", "vad", "omnidrive"]
CONVENTIONS: tuple[str, ...] = get_args(Convention)
HORIZONS = {"1s": 2, "2s": 4, "3s": 6}  # how many steps each covers
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
        bool(np.ravel(batch.counted)[0]),
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
    counted = np.all(exists, axis=1) | (convention == "uniad")
    l2 = np.sqrt((((plan - truth) ** 2) * exists[..., None]).sum(-1))
    point, box, truth_box = collisions(convention, plan.reshape(-1, 2), truth.reshape(-1, 2), boxes, step)
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
