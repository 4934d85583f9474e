"""Synthetic rater trajectories for WOD-E2E exports: rule-based rollouts, scored by rules, never by people.

WOD-E2E's raters score up to three trajectories per frame from 0 to 10.  A simulated drive has no raters, but it has the
truth about the five seconds that follow, so three rollouts (what was driven, what the rule-based expert would do,
braking at 2 m/s^2 along the driven path) can be held against it.  Scores made this way say how a scorer works, not how
good a planner is; files that hold them are called so.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from efficientgen.eval.boxes import box_corners, boxes_overlap, ego_corners
from efficientgen.eval.overlay import to_map
from efficientgen.perception.types import F64, EgoState, OracleFrame, Route, VehicleParams
from efficientgen.planning.expert import expert_plan
from efficientgen.worldsim.town import TownMap

TIMES_S = np.arange(1, 21) * 0.25
BRAKING = 2.0  # m/s^2
FULL, HIT, OFF_ROAD, SHORT = 10.0, 8.0, 4.0, 3.0
RULE = (
    f"{FULL:.0f} points; {HIT:.0f} off for touching the box of a road user, {OFF_ROAD:.0f} off for leaving the "
    f"drivable surface, up to {SHORT:.0f} off in proportion to the progress that is missing to the longest "
    "trajectory; not below 0"
)


def synthetic_raters(
    now: OracleFrame, driven: F64, future: Mapping[int, OracleFrame], route: Route, town: TownMap
) -> list[tuple[F64, float]]:
    """Three trajectories (20, 2) m in the ego frame at 0.25 .. 5 s, and their scores by `RULE`.

    Args:
        driven: (20, 2) what was driven.
        future: stamp -> frame, at least every 0.5 s of the next 5 s.
    """
    plan = expert_plan(route, now)
    times = np.r_[0.0, plan.times_s]
    points = np.vstack([[0.0, 0.0], plan.waypoints])
    expert = np.stack([np.interp(TIMES_S, times, points[:, k]) for k in (0, 1)], 1)
    rollouts = [driven, expert, _braking(driven, now.ego.speed)]
    lengths = [float(np.hypot(*np.diff(np.vstack([[0.0, 0.0], r]), axis=0).T).sum()) for r in rollouts]
    best = max(*lengths, 1.0)
    return [(r, _score(r, now, future, town, length / best)) for r, length in zip(rollouts, lengths, strict=True)]


def _braking(path: F64, speed: float) -> F64:
    """Points on `path` of a car that brakes from `speed` to a halt."""
    line = np.vstack([[0.0, 0.0], path])
    reach = np.r_[0.0, np.cumsum(np.hypot(*np.diff(line, axis=0).T))]
    t = np.minimum(TIMES_S, speed / BRAKING)
    s = np.minimum(speed * t - 0.5 * BRAKING * t * t, reach[-1])
    return np.stack([np.interp(s, reach + 1e-9 * np.arange(len(reach)), line[:, k]) for k in (0, 1)], 1)


def _score(rollout: F64, now: OracleFrame, future: Mapping[int, OracleFrame], town: TownMap, progress: float) -> float:
    vehicle, ego = VehicleParams(), now.ego
    steps = np.diff(np.vstack([[0.0, 0.0], rollout]), axis=0)
    heading, headings = 0.0, []
    for dx, dy in steps:
        heading = float(np.arctan2(dy, dx)) if np.hypot(dx, dy) > 0.05 else heading
        headings.append(heading)
    places = to_map(rollout, ego)
    hit = False
    for k in range(1, len(TIMES_S), 2):  # every 0.5 s
        frame = future[now.stamp_ns + round(TIMES_S[k] * 1e9)]
        if frame.actors:
            state = EgoState(0, places[k, 0], places[k, 1], ego.yaw + headings[k], 0, 0, 0, 0)
            mine = ego_corners([state], vehicle).repeat(len(frame.actors), 0)
            boxes = np.array([(a.x, a.y, a.yaw, a.length, a.width) for a in frame.actors]).T
            hit |= bool(boxes_overlap(mine, box_corners(*boxes)).any())
    off = bool((town.drivable_depth(places) < -0.3).any())
    return max(0.0, FULL - HIT * hit - OFF_ROAD * off - SHORT * (1 - progress))
