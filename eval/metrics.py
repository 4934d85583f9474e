"""Closed-loop metrics of one drive, computed from its step log alone: the oracle's truth, never pixels.

Scoring starts at the hand-over; what the expert did before is not the planner's merit or fault.  `score` puts together
what the modules of this room define one by one (docs/metrics.md is the table); `aggregate` takes means over drives.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, astuple, dataclass, fields
from typing import Any

import numpy as np

from efficientgen.eval.answers import answers_of
from efficientgen.eval.boxes import first_contact, minimum_distance
from efficientgen.eval.comfort import comfort
from efficientgen.eval.driving_score import carla_score, driving_score
from efficientgen.eval.event_rates import event_rates
from efficientgen.eval.green_light import PROMPT_S, moves_off_delays
from efficientgen.eval.hd_score import hd_score
from efficientgen.eval.nuplan_score import nuplan_score
from efficientgen.eval.pdms import TERMS as PDM_TERMS
from efficientgen.eval.pdms import pdm_score
from efficientgen.eval.plan_deviation import plan_deviation
from efficientgen.eval.route_score import (
    Roads,
    off_road_ticks,
    progress_m,
    red_light_violations,
    route_completion,
    route_progress,
    wrong_lane_share,
)
from efficientgen.eval.step_log import StepLog, all_ticks, chunk_seconds, scored_steps, scored_ticks
from efficientgen.perception.types import F64, NS, VehicleParams

TIMED = ("plan_p50_s", "plan_p99_s", "ms_per_forward")  # wall time: differs when the same drive is made again


class MetricsFormatError(ValueError):
    """Stored metrics are not those of this version."""


class WrongExpertError(ValueError):
    """The expert's drive to score by is of another scenario or seed."""


@dataclass(frozen=True)
class Metrics:
    """One drive in numbers.  Shares and completion are fractions; times s, lengths m; None: nothing to measure."""

    scenario: str
    town: str
    planner: str
    seed: int
    world: str
    mode: str
    transport: str
    chunk_s: float
    latency_s: float | None  # from observation to effect: by design, 0 in sync mode; None in real time
    deterministic: bool
    end_reason: str
    pose_sha256: str
    seconds: float  # driven after the hand-over
    distance: float
    mean_speed: float
    progress_m: float  # along the route
    progress_rel: float | None  # of the expert's, same scenario and seed; filled in by `compare.with_expert`
    route_completion: float
    collision: bool
    collision_at_fault: bool
    collision_front: bool
    collision_lateral: bool
    collision_rear: bool
    collision_side: str  # "" | "front" | "lateral" | "rear"
    collision_kind: str  # "" | ActorKind value
    min_distance: float | None  # to any road user's box
    off_road: bool
    off_road_share: float
    wrong_lane: bool
    wrong_lane_share: float
    red_lights: int
    driving_score: float  # 0 .. 100
    success: bool
    hd_score: float | None  # 0 .. 1, and the means of its parts
    hd_no_collision: float | None
    hd_drivable: float | None
    hd_time_to_collision: float | None
    hd_comfort: float | None
    plan_deviation: float | None
    fallback_share: float  # of plan periods in which safety drove; holds by design left out
    held_share: float  # of plan periods: the last plan followed on while a slow planner was busy, by design
    comfort: float  # share of ticks within all of NAVSIM's limits
    max_forward_acceleration: float  # these three smoothed as NAVSIM does
    max_braking: float
    max_total_jerk: float
    max_yaw_rate: float
    max_yaw_acceleration: float
    max_acceleration: float  # |longitudinal|, m/s^2, as it is
    max_lateral_acceleration: float
    max_jerk: float  # |longitudinal|, m/s^3, over 0.5 s
    moves_off: int  # times the ego stood first at a red line that turned green
    moves_off_prompt: float | None  # share of them within 4 s
    moves_off_delays_s: tuple[float, ...]
    answers: Mapping[str, tuple[int, int, int, int]]  # critical object -> hits, misses, rejections, false alarms
    plans: int
    missing_plans: int
    plan_p50_s: float | None
    plan_p99_s: float | None
    acceptance: float | None  # accepted / drafted tokens
    forwards_per_plan: float | None
    ms_per_forward: float | None
    value_tokens_per_cycle: float | None
    # Since the closed-loop benchmarks; None in older results, and where no expert's drive was given.
    carla_driving_score: float | None = None  # 0 .. 100
    carla_success: bool | None = None
    outside_lanes_share: float | None = None  # of the distance
    pdms: float | None = None  # 0 .. 1, over plans; `pdm_terms` has the parts
    epdms: float | None = None
    pdm_nc: float | None = None
    pdm_dac: float | None = None
    pdm_ddc: float | None = None
    pdm_tlc: float | None = None
    pdm_ep: float | None = None
    pdm_ttc: float | None = None
    pdm_lk: float | None = None
    pdm_hc: float | None = None
    pdm_ec: float | None = None
    pdm_c: float | None = None
    nuplan_score: float | None = None  # 0 .. 1, of the drive
    nuplan_no_collision: float | None = None
    nuplan_drivable: float | None = None
    nuplan_direction: float | None = None
    nuplan_making_progress: float | None = None
    nuplan_progress: float | None = None
    nuplan_time_to_collision: float | None = None
    nuplan_speed_limit: float | None = None
    nuplan_comfort: float | None = None
    event_collision: bool | None = None  # AlpaSim, up to the first incident
    event_collision_front: bool | None = None
    event_collision_lateral: bool | None = None
    event_collision_rear: bool | None = None
    event_collision_at_fault: bool | None = None
    event_off_road: bool | None = None
    event_wrong_lane: bool | None = None
    event_incident: bool | None = None
    event_incident_at_fault: bool | None = None
    event_progress: float | None = None
    event_progress_rel: float | None = None
    event_distance_to_expert: float | None = None
    event_plan_deviation: float | None = None
    event_min_distance: float | None = None


def metrics_from(held: Mapping[str, Any]) -> Metrics:
    """Metrics from what JSON makes of them; figures that are newer than what stored them are None.

    Raises:
        MetricsFormatError: stored by a version with other metrics.
    """
    names = {field.name for field in fields(Metrics)}
    later = {field.name for field in fields(Metrics) if field.default is not MISSING}
    if odd := (set(held) - names) | (names - later - set(held)):
        raise MetricsFormatError(f"the metrics differ from this version's in {sorted(odd)}")
    answers = {name: tuple(counts) for name, counts in held["answers"].items()}
    return Metrics(**{**held, "moves_off_delays_s": tuple(held["moves_off_delays_s"]), "answers": answers})


def score(
    log: StepLog, town: Roads | None = None, vehicle: VehicleParams | None = None, expert: StepLog | None = None
) -> Metrics:
    """All metrics of a drive.

    Args:
        town: loaded by the log's name unless given.
        expert: the expert's drive of the same scenario and seed; without it what is measured by it stays None.

    Raises:
        WrongExpertError: it is of another.
    """
    if expert is not None and (expert.scenario, expert.seed) != (log.scenario, log.seed):
        raise WrongExpertError(
            f"the expert drove {expert.scenario}, seed {expert.seed}, and the drive to score is {log.scenario}, seed "
            f"{log.seed}: drive the expert on the same"
        )
    vehicle = vehicle or VehicleParams()
    if town is None:
        from efficientgen.worldsim.town import load_town  # reads map files; not needed when the caller has the town

        town = load_town(log.town)
    ticks = scored_ticks(log)
    egos = [tick.ego for tick in ticks]
    steps = scored_steps(log)
    progress = route_progress(log, [tick.ego for tick in all_ticks(log)])
    completion = route_completion(log, progress)
    contact = first_contact(ticks[1:], vehicle)
    side = contact.side if contact else ""
    off_road = off_road_ticks(egos, town, vehicle)
    off_share = float(off_road[1:].mean()) if len(off_road) > 1 else 0.0
    wrong_share = wrong_lane_share(egos, town, vehicle)
    reds = red_light_violations(log, vehicle)
    felt = comfort(egos)
    hd = hd_score(log, town, completion, vehicle)
    carla = carla_score(completion, egos, town, contact, reds, log.end_reason == "completed", vehicle)
    events = asdict(event_rates(log, town, expert, vehicle))
    delays = moves_off_delays(log, vehicle)
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
        town=log.town,
        planner=log.planner,
        seed=log.seed,
        world=log.world,
        mode=log.mode,
        transport=log.transport,
        chunk_s=chunk_seconds(log),
        latency_s=latency_seconds(log),
        deterministic=log.deterministic,
        end_reason=log.end_reason,
        pose_sha256=pose_sha256(log),
        seconds=seconds,
        distance=distance,
        mean_speed=distance / seconds if seconds > 0 else 0.0,
        progress_m=progress_m(log, progress),
        progress_rel=None,
        route_completion=completion,
        collision=contact is not None,
        collision_at_fault=contact is not None and contact.at_fault,
        collision_front=side == "front",
        collision_lateral=side == "lateral",
        collision_rear=side == "rear",
        collision_side=side,
        collision_kind=contact.actor.kind.value if contact else "",
        min_distance=minimum_distance(ticks, vehicle),
        off_road=bool(off_road[1:].any()),
        off_road_share=off_share,
        wrong_lane=wrong_share > 0.0,
        wrong_lane_share=wrong_share,
        red_lights=reds,
        driving_score=driving_score(completion, off_share, contact, reds),
        success=log.end_reason == "completed" and contact is None and reds == 0 and not off_road[1:].any(),
        hd_score=hd.score if hd else None,
        hd_no_collision=hd.no_collision if hd else None,
        hd_drivable=hd.drivable if hd else None,
        hd_time_to_collision=hd.time_to_collision if hd else None,
        hd_comfort=hd.comfort if hd else None,
        plan_deviation=plan_deviation(steps),
        fallback_share=sum(step.fallback for step in steps) / max(len(steps), 1),
        held_share=sum(step.held for step in steps) / max(len(steps), 1),
        comfort=felt.share,
        max_forward_acceleration=felt.max_forward,
        max_braking=felt.max_braking,
        max_total_jerk=felt.max_jerk,
        max_yaw_rate=felt.max_yaw_rate,
        max_yaw_acceleration=felt.max_yaw_acceleration,
        max_acceleration=float(np.abs(accelerations).max()),
        max_lateral_acceleration=float(np.abs(speeds * np.array([ego.yaw_rate for ego in egos])).max()),
        max_jerk=_max_jerk(accelerations),
        moves_off=len(delays),
        moves_off_prompt=sum(d <= PROMPT_S for d in delays) / len(delays) if delays else None,
        moves_off_delays_s=delays,
        answers={name: astuple(counts) for name, counts in answers_of(log).items()},
        plans=len(plans),
        missing_plans=sum(step.asked for step in steps) - len(plans),
        plan_p50_s=float(np.percentile(walls, 50)) if walls else None,
        plan_p99_s=float(np.percentile(walls, 99)) if walls else None,
        acceptance=sum(s.accepted for s in stats) / drafted if drafted else None,
        forwards_per_plan=forwards / len(plans) if plans and forwards else None,
        ms_per_forward=1e3 * spent / forwards if forwards else None,
        value_tokens_per_cycle=sum(s.value_tokens for s in stats) / cycles if cycles else None,
        carla_driving_score=carla.driving_score,
        carla_success=carla.success,
        outside_lanes_share=carla.outside_lanes,
        **{f"event_{name}": value for name, value in events.items()},
        **({} if expert is None else _beside_the_expert(log, expert, town, vehicle)),
    )


def _beside_the_expert(log: StepLog, expert: StepLog, town: Roads, vehicle: VehicleParams) -> dict[str, Any]:
    """The scores that hold a drive against the expert's, by their names in `Metrics`."""
    nuplan = asdict(nuplan_score(log, expert, town, vehicle))
    out = {f"nuplan_{name}": value for name, value in nuplan.items()}
    plans = pdm_score(log, expert, town, vehicle)
    if plans is not None:
        out |= {"pdms": plans.pdms, "epdms": plans.epdms}
        out |= {f"pdm_{name}": getattr(plans, name) for name in PDM_TERMS}
    return out


def latency_seconds(log: StepLog) -> float | None:
    """From an observation to the effect of its plan, by design: 0 in sync mode, what a latency drive was told, None in
    real time (where it is whatever the wall clock made of it: `plan_p50_s`).
    """
    if log.mode == "latency":
        return float(log.notes["latency"]["seconds"])
    return 0.0 if log.mode == "sync" else None


def pose_sha256(log: StepLog) -> str:
    """sha256 over the float64 (x, y, yaw) of the ego at every tick, stamp 0 included."""
    poses = np.array([(t.ego.x, t.ego.y, t.ego.yaw) for t in all_ticks(log)], "<f8")
    return hashlib.sha256(poses.tobytes()).hexdigest()


def decode_seconds(seconds: Mapping[str, float]) -> float:
    """Wall seconds a plan spent in its counted forwards: its `decode` stage, or all stages if it names none."""
    return float(seconds["decode"]) if "decode" in seconds else float(sum(seconds.values()))


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
        picks = resampling(len(means), field.name, resamples, seed)
        out[field.name] = estimate(float(means.mean()), means[picks].mean(1), sum(map(len, groups.values())))
    return out


def resampling(scenarios: int, name: str, resamples: int, seed: int) -> np.ndarray:
    """(resamples, scenarios) indices: bootstrap draws of scenarios with replacement, keyed by (seed, name)."""
    rng = np.random.default_rng([seed, int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")])
    return rng.integers(0, scenarios, (resamples, scenarios))


def estimate(value: float, resampled: F64, count: int) -> Estimate:
    """`value` with the 95 % percentile interval of its bootstrap resamples."""
    low, high = np.percentile(resampled, [2.5, 97.5])
    return Estimate(value, float(low), float(high), count)
