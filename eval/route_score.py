"""Where the car went: progress along its route, lanes, the edge of the road, red lights.

Definitions follow the CARLA leaderboard as Bench2Drive scores it (`statistics_manager.py`) and AlpaSim (event rates;
`src/eval`); everything is judged on the oracle's ticks, never on pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from efficientgen.eval.boxes import ego_corners
from efficientgen.eval.referee import GOAL_MARGIN_M, MAX_LATERAL_M
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, EgoState, VehicleParams

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


def wrong_lane_share(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> float:
    """Share of ticks with the ego's middle on a lane of opposite direction, junctions left out (AlpaSim wrong_lane)."""
    d = (vehicle or VehicleParams()).rear_to_centre
    wrong = 0
    for ego in egos:
        hit = town.lane_at(ego.x + d * math.cos(ego.yaw), ego.y + d * math.sin(ego.yaw), ego.yaw)
        wrong += hit is not None and hit.lane.kind == "driving" and math.cos(hit.heading - ego.yaw) < 0.0
    return wrong / max(len(egos), 1)


def off_road_ticks(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> np.ndarray:
    """(N,) bool: any corner of the ego's box lies over `OFF_ROAD_M` outside the drivable surface (AlpaSim offroad)."""
    corners = ego_corners(egos, vehicle or VehicleParams())
    depth = np.asarray(town.drivable_depth(corners.reshape(-1, 2)))
    return np.asarray((depth.reshape(-1, 4) < -OFF_ROAD_M).any(axis=1))


def red_light_violations(log: StepLog, vehicle: VehicleParams | None = None) -> int:
    """How often the front bumper crossed a stop line of the route while that link showed red (amber is allowed)."""
    vehicle = vehicle or VehicleParams()
    front = vehicle.rear_to_centre + vehicle.length / 2
    ticks = all_ticks(log)
    progress = route_progress(log, [tick.ego for tick in ticks])
    violations = 0
    for stop in log.route.stops:
        if not stop.signal:
            continue
        ahead = progress[:, 0] + front >= stop.s
        crossings = np.flatnonzero(ahead[1:] & ~ahead[:-1]) + 1
        for i in crossings[:1]:
            state = ticks[i].lights.get(stop.signal, "")
            red = stop.link < len(state) and state[stop.link] in RED_STATES
            if red and ticks[i].stamp_ns > log.handover_ns and abs(progress[i, 1]) < MAX_LATERAL_M:
                violations += 1
    return violations
