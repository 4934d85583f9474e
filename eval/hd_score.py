"""HD-Score: how good were the plans, not only where they led (HUGSIM, `sim/utils/score_calculator.py`).

Per plan NC * DAC * (5 TTC + 2 C) / 7, the mean over plans, times route completion.  Every plan is laid out as it would
be followed for 3 s and held against what the oracle saw happen in that time.  The traffic is that of the drive, so it
reacted to what the ego did, not to what this plan would have done; where the log ends, road users go on straight at
their last speed.

Differences to HUGSIM, each for a reason: road users that touch the ego from behind, or while it stands, do not count
(NAVSIM's at-fault rule: a recorded follower kept its distance to where the ego really went); the drivable area is the
map's, and any corner of the box more than 0.3 m outside is a violation (HUGSIM counts ground points under the box); a
step whose plan is missing or unreadable scores 0 (its planners never fail to answer); what a plan does beyond the end
of the route is nobody's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efficientgen.eval.boxes import SIDES, box_corners, boxes_overlap, contact_sides
from efficientgen.eval.comfort import plan_is_comfortable
from efficientgen.eval.plan_deviation import place_at, planned_path
from efficientgen.eval.route_score import OFF_ROAD_M, Roads
from efficientgen.eval.step_log import StepLog, all_ticks, scored_steps
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, NS, TICK_NS, Actor, OracleFrame, Route, VehicleParams

HORIZON_TICKS = 30
PROBES_S = (0.5, 1.0)
STANDING = 0.1  # m/s
COMFORT_TICKS = 5  # C is judged on poses 0.5 s apart
TICK_S = TICK_NS / NS


@dataclass(frozen=True)
class HDScore:
    """Means over the plans of a drive, each 0 .. 1; `score` is that of the products, times route completion."""

    score: float
    no_collision: float
    drivable: float
    time_to_collision: float
    comfort: float
    plans: int


def hd_score(log: StepLog, town: Roads, completion: float, vehicle: VehicleParams | None = None) -> HDScore | None:
    """The HD-Score of a drive's plans from the hand-over on; None when no plan was asked for.

    Args:
        completion: the drive's route completion, 0 .. 1.
    """
    vehicle = vehicle or VehicleParams()
    asked = [step for step in scored_steps(log) if step.asked]
    if not asked:
        return None
    traffic = _Traffic(all_ticks(log))
    parts = np.zeros((len(asked), 4))  # NC, DAC, TTC, C
    readable, poses = [], []
    times = np.linspace(0.0, HORIZON_TICKS * TICK_S, HORIZON_TICKS + 1, dtype=np.float64)
    for i, step in enumerate(asked):
        path = planned_path(step)
        if path is None:
            continue
        pose = _poses(place_at(path, times), step.ego.yaw)
        parts[i, 3] = plan_is_comfortable(pose[::COMFORT_TICKS], COMFORT_TICKS * TICK_S)
        pose = _on_the_route(pose, log.route)
        readable.append(i)
        poses.append(pose)
        first = step.stamp_ns // TICK_NS
        parts[i, 0] = not traffic.touches(first, pose, 0.0, vehicle)
        parts[i, 2] = not any(traffic.touches(first, pose, probe, vehicle) for probe in PROBES_S)
    if poses:
        parts[readable, 1] = _on_the_road(poses, town, vehicle)
    nc, dac, ttc, c = parts.T
    return HDScore(
        score=float((nc * dac * (5 * ttc + 2 * c) / 7).mean()) * min(completion, 1.0),
        no_collision=float(nc.mean()),
        drivable=float(dac.mean()),
        time_to_collision=float(ttc.mean()),
        comfort=float(c.mean()),
        plans=len(asked),
    )


def _poses(points: F64, yaw: float) -> F64:
    """(K, 3) x, y, yaw: the heading of each point is that of the step before it; kept while the car stands."""
    steps = np.diff(points, axis=0)
    headings = [yaw]
    for step in steps:
        headings.append(float(np.arctan2(step[1], step[0])) if np.hypot(*step) > 0.01 else headings[-1])
    return np.column_stack([points, np.unwrap(headings)])


def _on_the_route(pose: F64, route: Route) -> F64:
    """`pose` (K, 3) up to where it passes the end of the route; the present pose at least."""
    for k in range(len(pose), 1, -1):
        if locate(route, *pose[k - 1, :2])[0] <= route.length:
            return pose[:k]
    return pose[:1]


def _on_the_road(poses: list[F64], town: Roads, vehicle: VehicleParams) -> np.ndarray:
    """(P,) bool for P paths (K, 3): no corner of the box is ever more than `OFF_ROAD_M` off the drivable surface."""
    which = np.repeat(np.arange(len(poses)), [len(pose) for pose in poses])
    corners = _corners(np.concatenate(poses), vehicle)  # (sum K, 4, 2)
    off = (np.asarray(town.drivable_depth(corners.reshape(-1, 2))).reshape(-1, 4) < -OFF_ROAD_M).any(1)
    return np.asarray(np.bincount(which, off, len(poses)) == 0)


def _corners(pose: F64, vehicle: VehicleParams) -> F64:
    """Corners (K, 4, 2) m of the ego's box at rear-axle poses (K, 3)."""
    x, y, yaw = pose.T
    size, d = np.ones(len(pose)), vehicle.rear_to_centre
    return box_corners(x + d * np.cos(yaw), y + d * np.sin(yaw), yaw, vehicle.length * size, vehicle.width * size)


class _Traffic:
    """The boxes of all road users at all ticks as one array, and `HORIZON_TICKS` more in which they go straight on."""

    def __init__(self, ticks: list[OracleFrame]) -> None:
        groups = [[_row(actor, 0.0) for actor in tick.actors] for tick in ticks]
        groups += [[_row(a, (k + 1) * TICK_S) for a in ticks[-1].actors] for k in range(HORIZON_TICKS)]
        actors = [tick.actors for tick in ticks] + [ticks[-1].actors] * HORIZON_TICKS
        number: dict[str, int] = {}
        self._rows = np.array([row for group in groups for row in group], np.float64).reshape(-1, 5)
        self._tick = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._who = np.array([number.setdefault(a.id, len(number)) for group in actors for a in group], np.int64)

    def touches(self, first: int, pose: F64, ahead_s: float, vehicle: VehicleParams) -> bool:
        """Whether the ego's box, moved on by `ahead_s` of its velocity from `pose` (K, 3) at tick `first` + k, touches
        anybody where they are at that tick.  Who touches it first from behind, or while it stands, does not count.
        """
        move = np.diff(pose[:, :2], axis=0) / TICK_S
        if not len(move):
            return False
        velocity = np.vstack([move[:1], move])  # (K, 2), that of the step before, as in HUGSIM
        at = np.column_stack([pose[:, :2] + velocity * ahead_s, pose[:, 2]])
        moving = np.hypot(velocity[:, 0], velocity[:, 1]) > STANDING
        low, high = np.searchsorted(self._tick, [first, first + len(pose)])
        rows, k = self._rows[low:high], self._tick[low:high] - first
        reach = 0.5 * rows[:, 3] + vehicle.length
        near = (np.abs(rows[:, 0] - at[k, 0]) < reach) & (np.abs(rows[:, 1] - at[k, 1]) < reach)
        k, other, who = k[near], box_corners(*rows[near].T), self._who[low:high][near]
        hits = np.flatnonzero(boxes_overlap(_corners(at[k], vehicle), other))
        hits = hits[np.unique(who[hits], return_index=True)[1]]  # each road user's first touch
        from_behind = contact_sides(at[k[hits]], other[hits], vehicle) == SIDES.index("rear")
        return bool((moving[k[hits]] & ~from_behind).any())


def _row(actor: Actor, after_s: float) -> tuple[float, ...]:
    away = actor.speed * after_s
    x, y = actor.x + away * np.cos(actor.yaw), actor.y + away * np.sin(actor.yaw)
    return x, y, actor.yaw, actor.length, actor.width
