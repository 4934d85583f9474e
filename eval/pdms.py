"""PDMS and EPDMS of the plans of a closed-loop drive (NAVSIM: Dauner et al. 2024; v2: Cao et al. 2025).

    PDMS  = NC DAC (5 EP + 5 TTC + 2 C) / 12
    EPDMS = NC DAC DDC TLC (5 EP + 5 TTC + 2 LK + 2 HC + 2 EC) / 16, each term 1 where the human fails it

for every plan, driven for 4 s (or as far as it goes) by NAVSIM's tracker against the traffic that was recorded; the
score of a drive is the mean over its plans.  `pdm_terms.py` defines the terms, `pdm_rollout.py` the tracker.

The human is the expert's drive of the same scenario and seed.  The two cars soon are in different places, so a plan is
held against what the expert did from where it was at the plan's place on the route (of several such moments the nearest
in time).  EP is measured against the expert's progress from there; NAVSIM's is against its rule-based planner's.  A
drive is one long scene: NAVSIM's second stage, synthetic scenes around the first one's end, is what a closed loop does
by itself.  A missing or unreadable plan scores 0 in everything.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.eval import pdm_terms
from efficientgen.eval.pdm_rollout import HORIZON_TICKS, Motion, follow_plans
from efficientgen.eval.pdm_terms import HISTORY_TICKS, Scene, Tracks, tracks
from efficientgen.eval.plan_deviation import planned_path
from efficientgen.eval.recorded_traffic import TICK_S, RecordedTraffic
from efficientgen.eval.route_score import Roads, route_progress
from efficientgen.eval.step_log import StepLog, all_ticks, scored_steps
from efficientgen.perception.types import F64, NS, TICK_NS, EgoState, OracleFrame, Route, VehicleParams

TIME_M = 0.02  # metres that a second of difference counts for when the human's moment is chosen
PROBE_TICKS = 10
TERMS = ("nc", "dac", "ddc", "tlc", "ep", "ttc", "lk", "hc", "ec", "c")


@dataclass(frozen=True)
class PDMScore:
    """Means over the plans of a drive, 0 .. 1; the terms as they are, before the human's failures are forgiven."""

    pdms: float
    epdms: float
    nc: float
    dac: float
    ddc: float
    tlc: float
    ep: float
    ttc: float
    lk: float
    hc: float
    ec: float
    c: float
    plans: int


def pdm_score(log: StepLog, human: StepLog, town: Roads, vehicle: VehicleParams | None = None) -> PDMScore | None:
    """PDMS and EPDMS of a drive's plans from the hand-over on; None when no plan was asked for.

    Args:
        human: the expert's drive of the same scenario and seed.
    """
    vehicle = vehicle or VehicleParams()
    asked = [step for step in scored_steps(log) if step.asked]
    if not asked:
        return None
    ticks, theirs = all_ticks(log), all_ticks(human)
    paths = [planned_path(step) for step in asked]
    readable = [i for i, path in enumerate(paths) if path is not None]
    values = {name: np.zeros(len(asked)) for name in (*TERMS, "pdms", "epdms")}
    if readable:
        steps = [asked[i] for i in readable]
        motion = follow_plans([path for path in paths if path is not None], [step.ego for step in steps], vehicle)
        first = [step.stamp_ns // TICK_NS for step in steps]
        s = route_progress(log, [tick.ego for tick in ticks])
        own = _terms(_scene(log.route, town, ticks, vehicle), motion, first, s[first, 0].tolist(), ticks)
        at = _same_place(s[first, 0], np.array([step.stamp_ns for step in steps]), human)
        which, back = np.unique(at, return_inverse=True)
        t = route_progress(human, [tick.ego for tick in theirs])
        scene = _scene(human.route, town, theirs, vehicle)
        longest = int(motion.reach.max())
        reference = _terms(scene, _driven(theirs, which, longest), which.tolist(), t[which, 0].tolist(), theirs)
        reference = {name: value[back] for name, value in reference.items()}
        end = (np.arange(len(readable)), motion.reach)
        own["ep"] = pdm_terms.ego_progress(own["progress"][end], reference["progress"][end])
        reference["ep"] = np.ones(len(readable))  # measured against the human already
        for name in TERMS:
            values[name][readable] = own[name]
        values["pdms"][readable] = pdms_of(own)
        values["epdms"][readable] = epdms_of(own, reference)
    return PDMScore(**{name: float(value.mean()) for name, value in values.items()}, plans=len(asked))


def pdms_of(own: dict[str, F64]) -> F64:
    """PDMS (P,) from its terms."""
    return own["nc"] * own["dac"] * (5 * own["ep"] + 5 * own["ttc"] + 2 * own["c"]) / 12


def epdms_of(own: dict[str, F64], human: dict[str, F64]) -> F64:
    """EPDMS (P,) from its terms and the human's: a term that the human fails (0) counts as 1."""
    v = {name: np.where(human[name] == 0.0, 1.0, own[name]) for name in TERMS if name != "c"}
    weighted = (5 * v["ep"] + 5 * v["ttc"] + 2 * v["lk"] + 2 * v["hc"] + 2 * v["ec"]) / 16
    return np.asarray(v["nc"] * v["dac"] * v["ddc"] * v["tlc"] * weighted)


def _terms(
    scene: Scene, motion: Motion, first: Sequence[int], s: Sequence[float], ticks: Sequence[OracleFrame]
) -> dict[str, F64]:
    """Every term but EP of motions that begin at ticks `first` and `s` m along the route; their `progress` (P, K)."""
    t: Tracks = tracks(scene, motion, first, s)
    past: list[list[EgoState]] = [[tick.ego for tick in ticks[max(0, k - HISTORY_TICKS) : k]] for k in first]
    return {
        "nc": pdm_terms.no_collision(scene, t),
        "dac": pdm_terms.drivable_area(scene, t),
        "ddc": pdm_terms.driving_direction(scene, t),
        "tlc": pdm_terms.traffic_lights(scene, t),
        "ttc": pdm_terms.time_to_collision(scene, t),
        "lk": pdm_terms.lane_keeping(scene, t),
        "hc": pdm_terms.history_comfort(motion, past),
        "ec": pdm_terms.extended_comfort(motion, first),
        "c": pdm_terms.comfortable(motion),
        "progress": pdm_terms.progress_m(scene, t),
    }


def _scene(route: Route, town: Roads, ticks: Sequence[OracleFrame], vehicle: VehicleParams) -> Scene:
    traffic = RecordedTraffic(ticks, HORIZON_TICKS + PROBE_TICKS)
    return Scene(route, town, traffic, [tick.lights for tick in ticks], vehicle)


def _same_place(s: F64, stamps_ns: F64, human: StepLog) -> np.ndarray:
    """(P,) ticks of the human's drive at which it was nearest to `s` (P,) m along the route, after its hand-over."""
    ticks = all_ticks(human)
    theirs = route_progress(human, [tick.ego for tick in ticks])[:, 0]
    when = np.array([tick.stamp_ns for tick in ticks])
    cost = np.abs(theirs - s[:, None]) + TIME_M * np.abs(when - stamps_ns[:, None]) / NS  # (P, N)
    cost[:, when < min(human.handover_ns, when[-1])] = np.inf
    return np.asarray(cost.argmin(1))


def _driven(ticks: Sequence[OracleFrame], first: np.ndarray, reach: int) -> Motion:
    """What the ego really did for `reach` ticks from `first` on; straight on at its last speed where the drive ends."""
    states = np.array([(t.ego.x, t.ego.y, t.ego.yaw, t.ego.speed, t.ego.acceleration, t.ego.yaw_rate) for t in ticks])
    k = first[:, None] + np.arange(HORIZON_TICKS + 1)
    over = np.maximum(k - (len(ticks) - 1), 0) * TICK_S
    held = states[np.minimum(k, len(ticks) - 1)]  # (P, 41, 6)
    still = over > 0
    yaw, v = held[..., 2], held[..., 3]
    pose = np.stack([held[..., 0] + over * v * np.cos(yaw), held[..., 1] + over * v * np.sin(yaw), yaw], 2)
    acceleration, yaw_rate = (np.where(still, 0.0, held[..., i]) for i in (4, 5))
    return Motion(pose, v, acceleration, yaw_rate, np.full(len(first), reach))
