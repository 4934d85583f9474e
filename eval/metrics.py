"""Closed-loop metrics of one drive, computed from its step log alone: the oracle's truth, never pixels.

Scoring starts at the hand-over; what the expert did before is not the planner's merit or fault.  Definitions follow
the CARLA leaderboard as Bench2Drive scores it (driving score, success; `statistics_manager.py`, `merge_route_json.py`)
and AlpaSim (event rates, at-fault rule; `src/eval`); each function states its own.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, Protocol

import numpy as np

from efficientgen.eval.boxes import ego_corners, first_contact
from efficientgen.eval.referee import GOAL_MARGIN_M, MAX_LATERAL_M
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, NS, TICK_NS, ActorKind, EgoState, OracleFrame, VehicleParams

PENALTY_PEDESTRIAN = 0.5  # CARLA leaderboard infraction coefficients (static objects, .65, are none in our towns)
PENALTY_VEHICLE = 0.6
PENALTY_RED_LIGHT = 0.7
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


@dataclass(frozen=True)
class Metrics:
    """One drive in numbers.  Shares and completion are fractions; times s, lengths m; None: nothing to measure."""

    scenario: str
    planner: str
    seed: int
    world: str
    mode: str
    transport: str
    chunk_s: float
    deterministic: bool
    end_reason: str
    pose_sha256: str
    seconds: float  # driven after the hand-over
    distance: float
    mean_speed: float
    route_completion: float
    collision: bool
    collision_at_fault: bool
    collision_side: str  # "" | "front" | "lateral" | "rear"
    collision_kind: str  # "" | ActorKind value
    off_road: bool
    off_road_share: float
    wrong_lane_share: float
    red_lights: int
    driving_score: float  # 0 .. 100
    success: bool
    fallback_share: float  # of plan periods
    max_acceleration: float  # |longitudinal|, m/s^2
    max_lateral_acceleration: float
    max_jerk: float  # |longitudinal|, m/s^3, over 0.5 s
    plans: int
    missing_plans: int
    plan_p50_s: float | None
    plan_p99_s: float | None
    acceptance: float | None  # accepted / drafted tokens
    forwards_per_plan: float | None
    ms_per_forward: float | None
    value_tokens_per_cycle: float | None


def score(log: StepLog, town: Roads | None = None, vehicle: VehicleParams | None = None) -> Metrics:
    """All metrics of a drive; `town` is loaded by the log's name unless given."""
    vehicle = vehicle or VehicleParams()
    if town is None:
        from efficientgen.worldsim.town import load_town  # reads map files; not needed when the caller has the town

        town = load_town(log.town)
    ticks = scored_ticks(log)
    egos = [tick.ego for tick in ticks]
    steps = [step for step in log.steps if step.stamp_ns >= log.handover_ns]
    progress = route_progress(log, [tick.ego for tick in all_ticks(log)])
    completion = route_completion(log, progress)
    contact = first_contact(ticks[1:], vehicle)
    off_road = off_road_ticks(egos, town, vehicle)
    reds = red_light_violations(log, vehicle)
    penalty = PENALTY_RED_LIGHT**reds
    if contact:
        penalty *= PENALTY_PEDESTRIAN if contact.actor.kind is ActorKind.PEDESTRIAN else PENALTY_VEHICLE
    off_share = float(off_road[1:].mean()) if len(off_road) > 1 else 0.0
    speeds = np.array([ego.speed for ego in egos])
    accelerations = np.array([ego.acceleration for ego in egos])
    seconds = (ticks[-1].stamp_ns - ticks[0].stamp_ns) / NS
    distance = float(np.hypot(np.diff([e.x for e in egos]), np.diff([e.y for e in egos])).sum())
    plans = [step.plan for step in steps if step.plan is not None]
    walls = [step.plan_wall_s for step in steps if step.plan is not None]
    stats = [plan.stats for plan in plans]
    drafted, forwards, cycles = (sum(getattr(s, n) for s in stats) for n in ("drafted", "forwards", "cycles"))
    spent = sum(decode_seconds(s.seconds) for s in stats)
    return Metrics(
        scenario=log.scenario,
        planner=log.planner,
        seed=log.seed,
        world=log.world,
        mode=log.mode,
        transport=log.transport,
        chunk_s=chunk_seconds(log),
        deterministic=log.deterministic,
        end_reason=log.end_reason,
        pose_sha256=pose_sha256(log),
        seconds=seconds,
        distance=distance,
        mean_speed=distance / seconds if seconds > 0 else 0.0,
        route_completion=completion,
        collision=contact is not None,
        collision_at_fault=contact is not None and contact.at_fault,
        collision_side=contact.side if contact else "",
        collision_kind=contact.actor.kind.value if contact else "",
        off_road=bool(off_road[1:].any()),
        off_road_share=off_share,
        wrong_lane_share=wrong_lane_share(egos, town, vehicle),
        red_lights=reds,
        driving_score=100.0 * completion * (1.0 - off_share) * penalty,
        success=log.end_reason == "completed" and contact is None and reds == 0 and not off_road[1:].any(),
        fallback_share=sum(step.verdict.source.fallback for step in steps) / max(len(steps), 1),
        max_acceleration=float(np.abs(accelerations).max()),
        max_lateral_acceleration=float(np.abs(speeds * np.array([ego.yaw_rate for ego in egos])).max()),
        max_jerk=_max_jerk(accelerations),
        plans=len(plans),
        missing_plans=len(steps) - len(plans),
        plan_p50_s=float(np.percentile(walls, 50)) if walls else None,
        plan_p99_s=float(np.percentile(walls, 99)) if walls else None,
        acceptance=sum(s.accepted for s in stats) / drafted if drafted else None,
        forwards_per_plan=forwards / len(plans) if plans and forwards else None,
        ms_per_forward=1e3 * spent / forwards if forwards else None,
        value_tokens_per_cycle=sum(s.value_tokens for s in stats) / cycles if cycles else None,
    )


# --- what a log covers ---


def all_ticks(log: StepLog) -> list[OracleFrame]:
    """Every oracle frame of the drive, stamp 0 included, oldest first."""
    return [log.start, *(tick for step in log.steps for tick in step.ticks)]


def scored_ticks(log: StepLog) -> list[OracleFrame]:
    """From the hand-over tick on; the last tick alone when the drive ended before."""
    ticks = all_ticks(log)
    return [tick for tick in ticks if tick.stamp_ns >= log.handover_ns] or ticks[-1:]


def chunk_seconds(log: StepLog) -> float:
    """The plan period of this drive; results are compared only at equal chunk."""
    if len(log.steps) < 2:
        return sum(len(step.ticks) for step in log.steps) * TICK_NS / NS
    return (log.steps[1].stamp_ns - log.steps[0].stamp_ns) / NS


def pose_sha256(log: StepLog) -> str:
    """sha256 over the float64 (x, y, yaw) of the ego at every tick, stamp 0 included."""
    poses = np.array([(t.ego.x, t.ego.y, t.ego.yaw) for t in all_ticks(log)], "<f8")
    return hashlib.sha256(poses.tobytes()).hexdigest()


def decode_seconds(seconds: Mapping[str, float]) -> float:
    """Wall seconds a plan spent in its counted forwards: its `decode` stage, or all stages if it names none."""
    return float(seconds["decode"]) if "decode" in seconds else float(sum(seconds.values()))


# --- progress ---


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


def wrong_lane_share(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> float:
    """Share of ticks with the ego's middle on a lane of opposite direction, junctions left out (AlpaSim wrong_lane)."""
    d = (vehicle or VehicleParams()).rear_to_centre
    wrong = 0
    for ego in egos:
        hit = town.lane_at(ego.x + d * math.cos(ego.yaw), ego.y + d * math.sin(ego.yaw), ego.yaw)
        wrong += hit is not None and hit.lane.kind == "driving" and math.cos(hit.heading - ego.yaw) < 0.0
    return wrong / max(len(egos), 1)


# --- roads and lights ---


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


def _max_jerk(accelerations: F64, ticks: int = 5) -> float:
    if len(accelerations) <= ticks:
        return 0.0
    return float(np.abs(accelerations[ticks:] - accelerations[:-ticks]).max() / (0.1 * ticks))


# --- many drives ---


@dataclass(frozen=True)
class Estimate:
    """A mean with its 95 % bootstrap interval; `count` drives had a value."""

    mean: float
    low: float
    high: float
    count: int


def aggregate(drives: Iterable[Metrics], resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Means over drives of every numeric metric, with intervals from resampling whole scenarios.

    Seeds of one scenario are not independent, so a scenario is drawn with all its drives.
    The mean weighs scenarios equally; `None` values are left out.
    """
    held = list(drives)
    out: dict[str, Estimate] = {}
    for field in fields(Metrics):
        groups: dict[str, list[float]] = {}
        for drive in held:
            value = getattr(drive, field.name)
            if isinstance(value, bool | int | float) and field.name != "seed":
                groups.setdefault(drive.scenario, []).append(float(value))
        if not groups:
            continue
        means = np.array([np.mean(groups[name]) for name in sorted(groups)])
        rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(field.name.encode()).digest()[:8], "little")])
        picks = rng.integers(0, len(means), (resamples, len(means)))
        low, high = np.percentile(means[picks].mean(1), [2.5, 97.5])
        out[field.name] = Estimate(float(means.mean()), float(low), float(high), sum(map(len, groups.values())))
    return out
