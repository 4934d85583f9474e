"""When is a fault caught, and when has it escaped?  Judged on the step log, against the same drive without the fault.

A fault is counted from the first stamp at which it changed something; its window ends where the next one begins, or
`RECOVERY_S` after its own end.  It **escapes** when any of this holds in its window:

- *followed*: a verdict is NOMINAL at a stamp whose plan or observation the fault had changed: the car was driven by it;
- *silent*: no verdict and no event gives a reason, so that neither the log nor the diagnostics would show it; or every
  reason belongs to another kind of fault (`Kind.caught_by`): then it was caught by luck;
- *lasting*: it ends, and seconds later there still is no nominal verdict (where the drive goes on for so long);
- *harm*: until `AFTER_S` after the planner drives again, a collision at fault, a place off the road or a red light
  crossed, where the twin had none on its whole drive; unless the planner, driving again, does not even brake for it,
  or comes to the same harm then in a drive with the faults before this one alone: another fault, long over, has put
  the car elsewhere than its twin, and this one changed nothing;
- *astray*: the car is out of its lane, more than `ASTRAY_M` further from the route than its twin was at the same place,
  and not on the path of the last valid plan either.  Inside its lane a car that brakes endangers nobody, and half a
  metre is what two undisturbed drives of one scenario differ by.

A car that is out of its lane on the path of a valid plan, or comes to harm on a fresh one without braking, or without
the fault, was led there by its planner, which the ladder has to believe: it knows neither lanes nor cars.  That is no
escape, but it is counted (`led_m`, `led_to`); `eval/braking.py` measures how often a last plan leads out of the lane.

"Caught" therefore means: never driven by, always shown, for the right reason, and without harm.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from efficientgen.eval.faults import KINDS, TRUNCATED, Fault
from efficientgen.eval.metrics import Metrics, score
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.health import Finding
from efficientgen.perception.route import locate
from efficientgen.perception.types import CHUNK_NS, F64, NS, EgoState, Source, Trajectory, VehicleParams
from efficientgen.planning.safety import Reason, SafetyParams

RECOVERY_S = 12.0
AFTER_S = 2.0
UNBRAKED_MPS = 0.5
PATIENCE_S = 2.0
RESTART_S = {"realtime": 15.0, "sync": 100.0}  # a process starts and gathers 4 s of history; a sync drive does not wait
ASTRAY_M = 0.5


@dataclass(frozen=True)
class Outcome:
    """What became of one fault."""

    kind: str
    layer: str  # "in-process" | "ros2"
    mode: str  # "sync" | "realtime"
    planner: str
    scenario: str
    seed: int
    start_s: float  # first stamp that it changed
    stamps: int  # plan stamps that it changed
    caught_by: str  # Reason or Finding, "" when nothing was said
    detection_s: float | None  # from the first stamp changed to the first verdict with a reason
    extra_m: float  # further from the route than the twin at the same place, at most
    escaped: str  # why, "" when caught
    led_m: float = 0.0  # the same where the car was out of its lane on the path of a valid plan
    led_to: str = ""  # harm that the planner drove into after the fault, without braking, or would have without it


def outcomes(
    log: StepLog,
    twin: StepLog,
    faults: Sequence[Fault],
    touched: Mapping[int, int],
    undisturbed: Metrics,
    layer: str = "in-process",
    replay: Callable[[Sequence[Fault]], StepLog] | None = None,
) -> list[Outcome]:
    """One outcome per fault that changed something.

    Args:
        touched: stamp -> index of the fault that changed something there.
        undisturbed: the twin's score.
        replay: drives again with these faults alone; asked only about harm.
    """
    first = {i: min(s for s, k in touched.items() if k == i) for i in set(touched.values())}
    order = sorted(first, key=first.__getitem__)
    out = []
    for place, i in enumerate(order):
        stamps = {s for s, k in touched.items() if k == i}
        patience = _patience_s(faults[i].kind, layer, log.mode)
        end = max(stamps) + CHUNK_NS + round(max(RECOVERY_S, patience + AFTER_S) * NS)
        if place + 1 < len(order):
            end = min(end, first[order[place + 1]])
        earlier = [faults[k] for k in order[:place]]
        without = partial(replay, earlier) if replay is not None and earlier else None
        out.append(_outcome(log, twin, undisturbed, faults[i], stamps, end, layer, without))
    return out


def _patience_s(kind: str, layer: str, mode: str) -> float:
    """Driving time after the end of a fault by which a plan must have been followed again."""
    return RESTART_S[mode] if kind == "restart" and layer == "ros2" else PATIENCE_S


def _outcome(
    log: StepLog,
    twin: StepLog,
    undisturbed: Metrics,
    fault: Fault,
    stamps: set[int],
    end_ns: int,
    layer: str,
    without: Callable[[], StepLog] | None,
) -> Outcome:
    start = min(stamps)
    window = [step for step in log.steps if start <= step.stamp_ns < end_ns]
    told = [(step, said) for step in window if (said := _said(log, step))]
    right = [(step, said) for step, said in told if said in KINDS[fault.kind].caught_by]
    by = (right or told)[0][1] if told else ""
    detection = ((right or told)[0][0].stamp_ns - start) / NS if told else None
    extra, astray, led = _astray(log, twin, window)
    nominal = [s for s in window if s.verdict.source is Source.NOMINAL]
    # A silent planner's late answer is an honest plan while fresh; so is one that waited for late frames on a graph.
    content = KINDS[fault.kind].where != "planner" and not (layer == "ros2" and fault.kind == "late")
    fresh_s = SafetyParams().max_fresh_age_s
    followed = [
        s for s in nominal if content and s.verdict.trajectory.stamp_ns in stamps or s.verdict.plan_age_s > fresh_s
    ]
    since = (window[-1].stamp_ns - max(stamps)) / NS if window else 0.0
    back = [s.stamp_ns for s in nominal if s.stamp_ns > max(stamps)]
    until = min(end_ns, back[0] + round(AFTER_S * NS)) if back else end_ns
    harm = _harm(log, undisturbed, start, until)
    own = bool(harm and back) and _drives_into_it(log, undisturbed, harm, start, back[0])
    if harm and not own and without is not None:
        own = _harm(without(), undisturbed, start, until) == harm
    escaped = ""
    if followed:
        escaped = f"followed at {followed[0].stamp_ns / NS:.1f} s"
    elif not by:
        escaped = "silent"
    elif by not in KINDS[fault.kind].caught_by:
        escaped = f"caught by luck: {by}"
    elif not back and not KINDS[fault.kind].lasting and since > _patience_s(fault.kind, layer, log.mode):
        escaped = f"no nominal verdict within {since:.0f} s of its end"
    elif harm and not own:
        escaped = harm
    elif astray:
        escaped = f"{astray:.2f} m astray"
    return Outcome(
        kind=fault.kind,
        layer=layer,
        mode=log.mode,
        planner=log.planner,
        scenario=log.scenario,
        seed=log.seed,
        start_s=start / NS,
        stamps=len(stamps),
        caught_by=by,
        detection_s=detection,
        extra_m=extra,
        escaped=escaped,
        led_m=led,
        led_to=harm if own else "",
    )


def _said(log: StepLog, step: Step) -> str:
    """What the log gives as the reason at this step: a finding, a truncated answer, or safety's reason; "" for none."""
    reason = Reason.of(step.verdict.reason)
    for event in log.notes.get("events", ()):
        if event["kind"] == "refused_plan" and event["stamp_ns"] == step.stamp_ns:
            reason = Reason.of(event["text"])
    if reason in (Reason.NO_PLAN, Reason.NO_NEW_PLAN):
        for event in log.notes.get("events", ()):
            if event["kind"] == "planner_error" and event["stamp_ns"] == step.stamp_ns:
                if event["text"].startswith("AnswerError"):
                    return TRUNCATED
                for finding in Finding:
                    if finding.value in event["text"]:
                        return finding.value
    if reason is not None:
        return reason.value
    return step.verdict.reason


def _astray(log: StepLog, twin: StepLog, window: Sequence[Step]) -> tuple[float, float, float]:
    """How much further from the route than the twin at the same place, m: at most; out of the lane and off the path of
    any valid plan (0 up to `ASTRAY_M`); out of the lane on such a path.
    """
    if not window:
        return 0.0, 0.0, 0.0
    place, offset = _track(log, window)
    twin_place, twin_offset = _track(twin, twin.steps)
    order = np.argsort(twin_place, kind="stable")
    extra = np.abs(offset) - np.interp(place, twin_place[order], np.abs(twin_offset)[order])
    index = np.clip((place / log.route.spacing).astype(int), 0, len(log.route.half_widths) - 1)
    wrong = np.abs(offset) + 0.5 * VehicleParams().width > log.route.half_widths[index]
    wrong &= extra > ASTRAY_M
    planned = _off_plan(log, window) <= ASTRAY_M
    return (
        max(0.0, float(extra.max())),
        float(extra[wrong & ~planned].max(initial=0.0)),
        float(extra[wrong & planned].max(initial=0.0)),
    )


def _off_plan(log: StepLog, window: Sequence[Step]) -> np.ndarray:
    """m between the rear axle at every tick of `window` and the path of the last valid plan until then."""
    valid = (Source.EXPERT, Source.NOMINAL)
    path: Trajectory | None = None
    for step in log.steps:
        if step.stamp_ns < window[0].stamp_ns and step.verdict.source in valid:
            path = step.verdict.trajectory
    out = []
    for step in window:
        if step.verdict.source in valid:
            path = step.verdict.trajectory
        for tick in step.ticks:
            out.append(math.inf if path is None else _distance(path.points, tick.ego))
    return np.array(out)


def _distance(points: F64, ego: EgoState) -> float:
    """m from the rear axle to a polyline that goes straight on beyond its end."""
    keep = np.concatenate([[True], np.hypot(*np.diff(points, axis=0).T) > 1e-3])
    path = points[keep]
    here = np.array([ego.x, ego.y])
    if len(path) < 2:
        return float(np.hypot(*(here - path[0])))
    legs = np.diff(path, axis=0)
    share = ((here - path[:-1]) * legs).sum(1) / (legs * legs).sum(1)
    share[:-1] = np.clip(share[:-1], 0.0, 1.0)
    share[-1] = max(share[-1], 0.0)
    return float(np.hypot(*(here - path[:-1] - share[:, None] * legs).T).min())


def _track(log: StepLog, steps: Sequence[Step]) -> tuple[np.ndarray, np.ndarray]:
    """(arc length, signed offset) of the rear axle at every tick of `steps`."""
    hint: float | None = None
    rows = []
    for step in steps:
        for tick in step.ticks:
            hint, lateral = locate(log.route, tick.ego.x, tick.ego.y, hint)
            rows.append((hint, lateral))
    held = np.array(rows)
    return held[:, 0], held[:, 1]


def _harm(log: StepLog, undisturbed: Metrics, start_ns: int, end_ns: int) -> str:
    """What befell the car between two stamps that never befell its twin."""
    before, after = (score(_until(log, stamp)) for stamp in (start_ns, end_ns))
    if after.collision_at_fault and not before.collision_at_fault and not undisturbed.collision_at_fault:
        return f"collision with a {after.collision_kind}"
    if after.red_lights > before.red_lights and not undisturbed.red_lights:
        return "red light"
    if after.off_road and not before.off_road and not undisturbed.off_road:
        return "off the road"
    return ""


def _drives_into_it(log: StepLog, undisturbed: Metrics, harm: str, start_ns: int, back_ns: int) -> bool:
    """Whether the harm came with a fresh plan in force, and no slower than the car was when the planner drove again."""
    speed = next(step.ego.speed for step in log.steps if step.stamp_ns == back_ns)
    for step in log.steps:
        if step.stamp_ns >= start_ns and _harm(log, undisturbed, start_ns, step.stamp_ns + CHUNK_NS) == harm:
            nominal = step.stamp_ns >= back_ns and step.verdict.source is Source.NOMINAL
            return nominal and step.ticks[-1].ego.speed > speed - UNBRAKED_MPS
    return False


def _until(log: StepLog, stamp_ns: int) -> StepLog:
    steps = tuple(step for step in log.steps if step.stamp_ns < stamp_ns)
    return replace(log, steps=steps, end_reason=log.end_reason if len(steps) == len(log.steps) else "interrupted")


def false_alarms(log: StepLog, changed: Iterable[int] = ()) -> list[str]:
    """Findings about observations that no fault had changed; `changed` are the stamps of those that one had."""
    broken = set(changed)
    return [
        f"{log.scenario}/{log.seed} at {event['stamp_ns'] / NS:.1f} s: {event['text']}"
        for event in log.notes.get("events", ())
        if "UnfitObservationError" in event["text"] and event["stamp_ns"] not in broken
    ]


# --- the table ---


def table(held: Sequence[Outcome]) -> dict[str, dict[str, Any]]:
    """Per kind: how many were injected, what caught them, how many escaped, offsets and times to detection."""
    rows = {}
    for name in KINDS:
        mine = [o for o in held if o.kind == name]
        if not mine:
            continue
        times = [o.detection_s for o in mine if o.detection_s is not None]
        rows[name] = {
            "injected": len(mine),
            "caught_by": dict(Counter(o.caught_by for o in mine if o.caught_by).most_common()),
            "escaped": sum(bool(o.escaped) for o in mine),
            "extra_p95_m": float(np.percentile([o.extra_m for o in mine], 95)),
            "extra_max_m": max(o.extra_m for o in mine),
            "led_by_planner": sum(o.led_m > 0.0 or bool(o.led_to) for o in mine),
            "detection_max_s": max(times, default=None),
            "detection_mean_s": float(np.mean(times)) if times else None,
        }
    return rows
