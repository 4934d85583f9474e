"""What a drive says in words: the planner's decoded answer, verdict sources, and how and why a drive ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientgen.eval.boxes import ego_corners
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.route import locate
from efficientgen.perception.types import NS, EgoState, Plan, Source, VehicleParams

SOURCE_WORDS: dict[Source, str] = {
    Source.EXPERT: "expert drives",
    Source.NOMINAL: "following the plan",
    Source.SHIFTED: "holding the last plan",
    Source.BRAKE: "braking on the last path",
    Source.STOP: "stopped",
}


@dataclass(frozen=True)
class Words:
    """A plan's answer for people: objects answered yes, the explanation, the announced behaviour; empty if absent."""

    objects: tuple[str, ...] = ()
    explanation: str = ""
    meta: str = ""


def words_of(plan: Plan | None) -> Words:
    """The words in a plan's sections, whoever made it: a learned planner, or the expert with its cause."""
    if plan is None:
        return Words()
    sections = plan.sections
    objects = sections.get("critical_objects")
    named = tuple(_say(k) for k, v in objects.items() if str(v).lower() == "yes") if isinstance(objects, dict) else ()
    explanation = sections.get("explanation") or sections.get("cause") or ""
    meta = sections.get("future_meta_behavior")
    if isinstance(meta, dict):
        meta = ", ".join(_say(v) for v in meta.values() if v)
    return Words(named, _sentence(explanation), _say(meta or ""))


def ending(log: StepLog) -> str:
    """One honest sentence on how the drive ended."""
    steps = log.steps
    if not steps or not steps[-1].ticks:
        return "The drive ended before it began."
    t = steps[-1].ticks[-1].stamp_ns / NS
    died = planner_death(log)
    if log.end_reason == "completed":
        text = f"Reached the end of the route after {t:.1f} s."
    elif log.end_reason == "collision":
        text = f"Collided at {t:.1f} s."
    elif log.end_reason == "off_route":
        text = f"Left the route at {t:.1f} s."
    elif log.end_reason == "stopped":
        text = f"Time was up at {t:.1f} s; the car was standing."
    elif log.end_reason == "timeout":
        text = f"Time was up at {t:.1f} s, before the end of the route."
    elif log.end_reason == "interrupted":
        text = f"Interrupted from outside at {t:.1f} s."
    else:
        text = f"Ended at {t:.1f} s: {log.end_reason}."
    if died is None:
        return text
    stood = next((tick for step in steps for tick in step.ticks if tick.stamp_ns > died and tick.ego.speed < 0.1), None)
    lost = f"The planner died at {died / NS:.1f} s"
    if stood is None:
        return f"{lost}. {text}"
    where = "in its lane" if within_lane(log, stood.ego) else "partly outside its lane"
    return f"{lost}; the car stopped {where} at {stood.stamp_ns / NS:.1f} s. {text}"


def within_lane(log: StepLog, ego: EgoState, tolerance_m: float = 0.1) -> bool:
    """Whether all four corners of the ego's box lie within the route's lane."""
    places = [locate(log.route, float(x), float(y)) for x, y in ego_corners([ego], VehicleParams())[0]]
    at = np.arange(len(log.route.half_widths)) * log.route.spacing
    return all(abs(lateral) <= np.interp(s, at, log.route.half_widths) + tolerance_m for s, lateral in places)


def planner_death(log: StepLog) -> int | None:
    """The stamp from which on no plan came any more, to the drive's end; None if the planner lived.

    Steps at which a planner was still busy and was not asked (latency mode) say nothing about its health.
    """
    after = [step for step in log.steps if step.stamp_ns >= log.handover_ns and getattr(step, "asked", True)]
    silent = 0
    while silent < len(after) and after[-1 - silent].plan is None:
        silent += 1
    return after[-silent].stamp_ns if silent >= 3 else None


def _sentence(value: Any) -> str:
    text = _say(value)
    return text[:1].upper() + text[1:]


def _say(value: Any) -> str:
    return str(value).replace("_", " ").strip()
