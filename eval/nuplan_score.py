"""A closed-loop score in nuPlan's manner: the drive as driven, not its plans (nuPlan devkit, `planning/metrics`).

    score = NC DAC DD MP (5 EP + 5 TTC + 4 SL + 2 C) / 16

No at-fault collision, drivable area, driving direction and making progress multiply; progress along the expert's route,
time to collision, speed limit and comfort are weighed.  It is "in nuPlan's manner" because its maps are not ours; each
part says what differs.  The expert is that of the same scenario and seed.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from efficientgen.eval.comfort import motion_is_comfortable
from efficientgen.eval.pdm_rollout import Motion
from efficientgen.eval.pdm_terms import AHEAD_RAD, STANDING, Scene, no_collision, oncoming_score, tracks
from efficientgen.eval.recorded_traffic import TICK_S, RecordedTraffic
from efficientgen.eval.route_score import Roads, against_traffic, off_road_poses, route_progress
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.types import F64, VehicleParams

LEAST_PROGRESS_M = 0.1  # a drive that goes less far is taken to have gone this far
MAKING_PROGRESS = 0.2  # of the expert's
TTC_S = 0.95
OVERSPEED = 2.23  # m/s too fast all the time: nothing left of SL


@dataclass(frozen=True)
class NuPlanScore:
    """The score and its parts, 0 .. 1 each."""

    score: float
    no_collision: float
    drivable: float
    direction: float
    making_progress: float
    progress: float
    time_to_collision: float
    speed_limit: float
    comfort: float


def nuplan_score(log: StepLog, expert: StepLog, town: Roads, vehicle: VehicleParams | None = None) -> NuPlanScore:
    """The score of a drive from the hand-over on.

    NC: 0 after an at-fault collision (`pdm_terms.no_collision`; nuPlan halves it for one with a static object).  DAC: 0
    if a corner is ever over 0.3 m off the drivable surface.  DD: 1, .5, 0 by the metres within 1 s on an oncoming lane
    (2, 6).  EP: route metres as a share of the expert's in the same time, each at least 0.1 m, at most 1; MP: 1 if that
    is 0.2.  TTC: 0 if, moved on at its speed and theirs for up to 0.9 s, the moving ego would touch somebody ahead.
    SL: 1 less the mean metres per second over the route's limit by 2.23.  C: all ticks within the comfort limits.
    """
    vehicle = vehicle or VehicleParams()
    ticks = all_ticks(log)
    states = np.array([(t.ego.x, t.ego.y, t.ego.yaw, t.ego.speed, t.ego.acceleration, t.ego.yaw_rate) for t in ticks])
    first = next((k for k, tick in enumerate(ticks) if tick.stamp_ns >= log.handover_ns), len(ticks) - 1)
    s = route_progress(log, [tick.ego for tick in ticks])
    pose, speed = states[first:, :3], states[first:, 3]
    traffic = RecordedTraffic(ticks, 0)
    scene = Scene(log.route, town, traffic, [tick.lights for tick in ticks], vehicle)
    motion = Motion(
        pose[None], speed[None], states[None, first:, 4], states[None, first:, 5], np.array([len(pose) - 1])
    )
    ratio = _progress_ratio(s[first:, 0], len(ticks) - first, expert)
    limits = log.route.speed_limits[np.clip(s[first:, 0] / log.route.spacing, 0, len(log.route.points) - 1).astype(int)]
    parts = {
        "no_collision": float(no_collision(scene, tracks(scene, motion, [first], [float(s[first, 0])]))[0]),
        "drivable": float(not off_road_poses(pose, town, vehicle)[1:].any()),
        "direction": oncoming_score(pose, against_traffic(pose, town, vehicle)),
        "making_progress": float(ratio >= MAKING_PROGRESS),
        "progress": ratio,
        "time_to_collision": float(not _collides_soon(traffic, first, pose, speed, vehicle)),
        "speed_limit": max(0.0, 1.0 - float(np.maximum(speed - limits, 0.0).mean()) / OVERSPEED),
        "comfort": float(motion_is_comfortable(*states[first:, 3:].T)),
    }
    product = parts["no_collision"] * parts["drivable"] * parts["direction"] * parts["making_progress"]
    weighed = (
        5 * parts["progress"] + 5 * parts["time_to_collision"] + 4 * parts["speed_limit"] + 2 * parts["comfort"]
    ) / 16
    return NuPlanScore(score=product * weighed, **parts)


def _progress_ratio(s: F64, ticks: int, expert: StepLog) -> float:
    """Route metres after the hand-over as a share of the expert's within as many ticks, or all that it has."""
    frames = all_ticks(expert)
    theirs = route_progress(expert, [tick.ego for tick in frames])[:, 0]
    first = next((k for k, tick in enumerate(frames) if tick.stamp_ns >= expert.handover_ns), len(frames) - 1)
    own, reference = s.max() - s[0], theirs[first : first + ticks].max() - theirs[first]
    return float(min(1.0, max(own, LEAST_PROGRESS_M) / max(reference, LEAST_PROGRESS_M)))


def _collides_soon(traffic: RecordedTraffic, first: int, pose: F64, speed: F64, vehicle: VehicleParams) -> bool:
    velocity = np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1) * speed[:, None]
    for ahead_s in np.arange(TICK_S, TTC_S, TICK_S):
        hits = traffic.touches(first, pose, velocity, float(ahead_s), vehicle, "moved")
        if ((speed[hits.tick] > STANDING) & (np.abs(hits.bearing) < AHEAD_RAD)).any():
            return True
    return False
