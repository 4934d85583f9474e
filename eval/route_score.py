"""Where the car went: progress along its route, lanes, the edge of the road, red lights.

Definitions follow the CARLA leaderboard as Bench2Drive scores it (`statistics_manager.py`) and AlpaSim (event rates;
`src/eval`); everything is judged on the oracle's ticks, never on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np

from efficientgen.eval.recorded_traffic import pose_corners
from efficientgen.eval.referee import GOAL_MARGIN_M, MAX_LATERAL_M
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, EgoState, Route, StopLine, VehicleParams

OFF_ROAD_M = 0.3  # a box corner this far outside the drivable surface is off the road
RED_STATES = "rRu"  # SUMO: red, and red-yellow before green


class Roads(Protocol):
    """The part of `worldsim.town.TownMap` that scoring needs."""

    def drivable_depth(self, points: F64) -> F64:
        """How deep inside the drivable surface each of (N, 2) m points lies, (N,) m, negative outside."""
        ...

    def lane_at(self, x: float, y: float, yaw: float | None = None) -> Any:
        """The car lane under a point (`.lane.kind`, `.heading`), or None."""
        ...


def route_progress(log: StepLog, egos: Sequence[EgoState]) -> F64:
    """(N, 2) m: arc length of the rear axle along the route and its signed lateral offset, for consecutive states."""
    out = np.zeros((len(egos), 2))
    hint = None
    for i, ego in enumerate(egos):
        out[i] = locate(log.route, ego.x, ego.y, hint)
        hint = float(out[i, 0])
    return out


def route_completion(log: StepLog, progress: F64) -> float:
    """Share of the route between the hand-over and the goal (`GOAL_MARGIN_M` before its end) that was driven.

    Progress counts where the rear axle is at most `MAX_LATERAL_M` from the route, at its furthest.  CARLA leaderboard's
    route completion, with the start moved to the hand-over.
    """
    if log.end_reason == "completed":
        return 1.0
    stamps = np.array([tick.stamp_ns for tick in all_ticks(log)])
    after = stamps >= log.handover_ns
    if not after.any():
        return 0.0
    s = progress[after]
    start, goal = float(s[0, 0]), log.route.length - GOAL_MARGIN_M
    near = s[np.abs(s[:, 1]) <= MAX_LATERAL_M, 0]
    furthest = float(near.max()) if len(near) else start
    return float(np.clip((furthest - start) / max(goal - start, 1e-6), 0.0, 1.0))


def progress_m(log: StepLog, progress: F64) -> float:
    """Route metres from the hand-over to the furthest place reached within `MAX_LATERAL_M` of the route (AlpaSim
    progress, in metres); never negative.
    """
    after = np.array([tick.stamp_ns >= log.handover_ns for tick in all_ticks(log)])
    s = progress[after]
    near = s[np.abs(s[:, 1]) <= MAX_LATERAL_M, 0] if len(s) else np.zeros(0)
    return max(0.0, float(near.max() - s[0, 0])) if len(near) else 0.0


def against_traffic(pose: F64, town: Roads, vehicle: VehicleParams | None = None) -> np.ndarray:
    """(N,) bool for rear-axle poses (N, 3): the box's middle is on a lane of opposite direction, junctions left out."""
    d = (vehicle or VehicleParams()).rear_to_centre
    out = np.zeros(len(pose), bool)
    for i, (x, y, yaw) in enumerate(pose.tolist()):
        hit = town.lane_at(x + d * math.cos(yaw), y + d * math.sin(yaw), yaw)
        out[i] = hit is not None and hit.lane.kind == "driving" and math.cos(hit.heading - yaw) < 0.0
    return out


def wrong_lane_share(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> float:
    """Share of ticks with the ego's middle on a lane of opposite direction, junctions left out (AlpaSim wrong_lane)."""
    return float(against_traffic(poses_of(egos), town, vehicle).sum()) / max(len(egos), 1)


def off_road_poses(pose: F64, town: Roads, vehicle: VehicleParams) -> np.ndarray:
    """(N,) bool for rear-axle poses (N, 3): any corner of the ego's box lies over `OFF_ROAD_M` outside the drivable
    surface (AlpaSim offroad; the 0.3 m are nuPlan's).
    """
    corners = pose_corners(pose, vehicle)
    depth = np.asarray(town.drivable_depth(corners.reshape(-1, 2)))
    return np.asarray((depth.reshape(-1, 4) < -OFF_ROAD_M).any(axis=1))


def off_road_ticks(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> np.ndarray:
    """`off_road_poses` of ego states."""
    return off_road_poses(poses_of(egos), town, vehicle or VehicleParams())


def poses_of(egos: Sequence[EgoState]) -> F64:
    """(N, 3) x, y, yaw."""
    return np.array([(ego.x, ego.y, ego.yaw) for ego in egos], np.float64).reshape(-1, 3)


def lamp_at(lights: Mapping[str, str], stop: StopLine) -> str:
    """SUMO's letter for the link of a stop line; "" where the signal is not in view."""
    state = lights.get(stop.signal, "")
    return state[stop.link] if stop.link < len(state) else ""


def red_crossings(
    route: Route, progress: F64, lights: Sequence[Mapping[str, str]], vehicle: VehicleParams
) -> tuple[int, ...]:
    """Ticks at which the front bumper crossed a stop line of the route while that link showed red (amber is allowed),
    at most one for each line.

    Args:
        progress: (N, 2) m, of the rear axle along the route and beside it, one a tick.
        lights: signal states at these ticks.
    """
    front = vehicle.rear_to_centre + vehicle.length / 2
    out = []
    for stop in route.stops:
        if not stop.signal:
            continue
        ahead = progress[:, 0] + front >= stop.s
        crossings = np.flatnonzero(ahead[1:] & ~ahead[:-1]) + 1
        for i in crossings[:1].tolist():
            state = lamp_at(lights[i], stop)
            if state and state in RED_STATES and abs(progress[i, 1]) < MAX_LATERAL_M:
                out.append(i)
    return tuple(out)


def red_light_violations(log: StepLog, vehicle: VehicleParams | None = None) -> int:
    """How often the ego ran a red light of its route after the hand-over, by `red_crossings`."""
    ticks = all_ticks(log)
    progress = route_progress(log, [tick.ego for tick in ticks])
    crossings = red_crossings(log.route, progress, [tick.lights for tick in ticks], vehicle or VehicleParams())
    return sum(ticks[i].stamp_ns > log.handover_ns for i in crossings)
