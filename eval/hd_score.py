"""HD-Score: how good were the plans, not only where they led (HUGSIM, `sim/utils/score_calculator.py`).

Per plan NC * DAC * (5 TTC + 2 C) / 7, the mean over plans, times route completion.  Every plan is laid out as it would
be followed for 3 s and held against what the oracle saw happen in that time (`recorded_traffic.py`).

Differences to HUGSIM, each for a reason: road users that touch the ego from behind, or while it stands, do not count
(NAVSIM's at-fault rule: a recorded follower kept its distance to where the ego really went); the drivable area is the
map's, and any corner of the box more than 0.3 m outside is a violation (HUGSIM counts ground points under the box); a
step whose plan is missing or unreadable scores 0 (its planners never fail to answer); what a plan does beyond the end
of the route is nobody's business.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efficientgen.eval.comfort import plan_is_comfortable
from efficientgen.eval.plan_deviation import place_at, planned_path
from efficientgen.eval.recorded_traffic import TICK_S, RecordedTraffic, step_velocity
from efficientgen.eval.route_score import Roads, off_road_poses
from efficientgen.eval.step_log import StepLog, all_ticks, scored_steps
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, TICK_NS, Route, VehicleParams

HORIZON_TICKS = 30
PROBES_S = (0.5, 1.0)
STANDING = 0.1  # m/s
COMFORT_TICKS = 5  # C is judged on poses 0.5 s apart


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
    traffic = RecordedTraffic(all_ticks(log), HORIZON_TICKS)
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
        parts[i, 0] = not _touches(traffic, first, pose, 0.0, vehicle)
        parts[i, 2] = not any(_touches(traffic, first, pose, probe, vehicle) for probe in PROBES_S)
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
    off = off_road_poses(np.concatenate(poses), town, vehicle)
    return np.asarray(np.bincount(which, off, len(poses)) == 0)


def _touches(traffic: RecordedTraffic, first: int, pose: F64, ahead_s: float, vehicle: VehicleParams) -> bool:
    """Whether the ego's box, moved on by `ahead_s` of its velocity from `pose` (K, 3) at tick `first` + k, touches
    anybody where they are at that tick.  Who touches it first from behind, or while it stands, does not count.
    """
    if len(pose) < 2:
        return False
    velocity = step_velocity(pose)  # as in HUGSIM
    hits = traffic.touches(first, pose, velocity, ahead_s, vehicle).first()
    moving = np.hypot(velocity[:, 0], velocity[:, 1])[hits.tick] > STANDING
    return bool((moving & ~hits.on_side("rear")).any())
