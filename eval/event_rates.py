"""AlpaSim's event rates of one drive (`src/eval` of NVlabs/alpasim, its default modifiers).

Nothing after the first incident counts: a drive is cut off at the tick at which the ego first touches somebody or
leaves the road, and every figure is of what went before, that tick included.  Means over drives are the rates.
AlpaSim drops rollouts with black pictures; ours are scored on the oracle, which has no pictures.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efficientgen.eval.boxes import first_contact, minimum_distance
from efficientgen.eval.plan_deviation import plan_deviation
from efficientgen.eval.route_score import Roads, off_road_ticks, poses_of, route_progress, wrong_lane_share
from efficientgen.eval.step_log import StepLog, all_ticks, scored_steps, scored_ticks
from efficientgen.perception.types import F64, VehicleParams

MOVED_M = 1.0  # relative progress is asked for once the expert has moved this far


@dataclass(frozen=True)
class Events:
    """What happened up to the first incident; None: nothing to measure, or no expert's drive to measure by."""

    collision: bool  # collision_any
    collision_front: bool
    collision_lateral: bool
    collision_rear: bool
    collision_at_fault: bool  # front or lateral
    off_road: bool
    wrong_lane: bool
    incident: bool  # offroad_or_collision
    incident_at_fault: bool  # offroad_or_collision_at_fault
    progress: float | None  # share of the expert's whole way, at the end
    progress_rel: float | None  # share of the expert's way up to the same time, at its least
    distance_to_expert: (
        float | None
    )  # m, of the box's middle from the expert's path, at its most (dist_to_gt_trajectory)
    plan_deviation: float | None  # m
    min_distance: float | None  # m, to any road user (min_distance_to_obstacle_m)


def event_rates(
    log: StepLog, town: Roads, expert: StepLog | None = None, vehicle: VehicleParams | None = None
) -> Events:
    """The events of a drive from the hand-over to its first incident.

    Args:
        expert: the expert's drive of the same scenario and seed, AlpaSim's recorded ground truth.
    """
    vehicle = vehicle or VehicleParams()
    ticks = scored_ticks(log)
    contact = first_contact(ticks[1:], vehicle)
    off_road = off_road_ticks([tick.ego for tick in ticks], town, vehicle)[1:]
    ends = [tick.stamp_ns for tick, off in zip(ticks[1:], off_road, strict=True) if off][:1]
    ends += [contact.stamp_ns] if contact else []
    end = min(ends, default=ticks[-1].stamp_ns)
    ticks = [tick for tick in ticks if tick.stamp_ns <= end]
    touched = contact is not None and contact.stamp_ns <= end
    side = contact.side if contact is not None and touched else ""
    left = bool(off_road[: len(ticks) - 1].any())
    steps = [step for step in scored_steps(log) if step.stamp_ns < end]
    progress = None if expert is None else _progress(log, expert, end)
    return Events(
        collision=touched,
        collision_front=side == "front",
        collision_lateral=side == "lateral",
        collision_rear=side == "rear",
        collision_at_fault=side in ("front", "lateral"),
        off_road=left,
        wrong_lane=wrong_lane_share([tick.ego for tick in ticks], town, vehicle) > 0.0,
        incident=touched or left,
        incident_at_fault=side in ("front", "lateral") or left,
        progress=progress[0] if progress else None,
        progress_rel=progress[1] if progress else None,
        distance_to_expert=None
        if expert is None
        else _distance(poses_of([tick.ego for tick in ticks]), expert, vehicle),
        plan_deviation=plan_deviation(steps),
        min_distance=minimum_distance(ticks, vehicle),
    )


def _progress(log: StepLog, expert: StepLog, end_ns: int) -> tuple[float, float] | None:
    """(share of the expert's whole way at `end_ns`, least share of its way so far), along the route; 1 at most."""
    own, theirs = _way(log, end_ns), _way(expert, None)
    whole = float(theirs[:, 1].max())
    if whole < MOVED_M:
        return None
    by_then = np.interp(own[:, 0], theirs[:, 0], np.maximum.accumulate(theirs[:, 1]))
    asked = by_then >= MOVED_M
    shares = np.clip(own[asked, 1] / by_then[asked], 0.0, 1.0)
    return float(np.clip(own[-1, 1] / whole, 0.0, 1.0)), float(shares.min()) if len(shares) else 1.0


def _way(log: StepLog, end_ns: int | None) -> F64:
    """(N, 2): stamp ns and metres along the route since the hand-over, at every scored tick up to `end_ns`."""
    ticks = all_ticks(log)
    s = route_progress(log, [tick.ego for tick in ticks])[:, 0]
    stamps = np.array([tick.stamp_ns for tick in ticks])
    after = stamps >= min(log.handover_ns, stamps[-1])
    rows = np.stack([stamps[after], s[after] - s[after][0]], 1)
    return rows if end_ns is None else rows[rows[:, 0] <= end_ns]


def _distance(pose: F64, expert: StepLog, vehicle: VehicleParams) -> float:
    """The largest distance of the box's middle from the path of the expert's, m, its ends included."""
    path = _middles(poses_of([tick.ego for tick in all_ticks(expert)]), vehicle)
    points = _middles(pose, vehicle)
    a, along = path[:-1], np.diff(path, axis=0)
    share = ((points[:, None] - a) * along).sum(2) / np.maximum((along**2).sum(1), 1e-12)  # (N, M)
    nearest = a + np.clip(share, 0.0, 1.0)[..., None] * along
    return float(np.sqrt(((points[:, None] - nearest) ** 2).sum(2)).min(1).max())


def _middles(pose: F64, vehicle: VehicleParams) -> F64:
    return pose[:, :2] + vehicle.rear_to_centre * np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1)
