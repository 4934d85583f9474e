"""What the model should say: critical objects, explanation and meta behaviour, derived from the oracle.

The trajectory of a training answer is the expert's plan; this module adds the three sections before it.  They are
templated from what the oracle knows and the cameras could show: an object counts when it stands in the 180 degree
field of view within the distances below (occlusion is not tested).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from efficientgen.perception.types import Actor, ActorKind, Command, OracleFrame, Plan
from efficientgen.planning.schema import CRITICAL_OBJECTS

VEHICLES = (ActorKind.CAR, ActorKind.TRUCK, ActorKind.BUS)
NEAR_VEHICLE_M, NEAR_PERSON_M, SIGNAL_M = 30.0, 25.0, 45.0

EXPLANATIONS: Mapping[str, str] = {
    "free_road": "The road ahead is clear, driving on.",
    "turn": "The road is clear, slowing for the turn.",
    "lead_vehicle": "A vehicle ahead in the lane, keeping a safe distance.",
    "lead_vehicle.stopped": "A vehicle has stopped ahead, stopping behind it.",
    "red_light": "The traffic light is red, stopping at the line.",
    "yellow_light": "The traffic light is yellow, stopping at the line.",
    "pedestrian": "A pedestrian is crossing ahead, giving way.",
    "yield": "Crossing traffic has priority, giving way at the junction.",
    "conflict": "Another road user is close to the path, slowing down.",
}
SENTENCES = tuple(EXPLANATIONS.values())


def describe(frame: OracleFrame, plan: Plan, command: Command) -> dict[str, Any]:
    """The first three sections of the answer for the expert's `plan` at `frame`.

    `plan.sections` must hold the expert's `cause`, `signal` and `signal_distance`.
    """
    cause = str(plan.sections.get("cause", "free_road"))
    return {
        "critical_objects": critical_objects(frame, plan.sections),
        "explanation": explanation(frame, plan.sections, cause),
        "future_meta_behavior": {
            "longitudinal": longitudinal(frame, plan),
            "lateral": lateral(plan, command),
        },
    }


def critical_objects(frame: OracleFrame, cause: Mapping[str, Any]) -> dict[str, str]:
    """yes/no for each of the 12 WOD-E2E classes; classes the reference world never shows are always "no"."""
    seen = [(a, *_in_view(frame, a)) for a in frame.actors]
    near = [(a, d) for a, d, visible in seen if visible]
    present = {
        "nearby_vehicle": any(a.kind in VEHICLES and d < NEAR_VEHICLE_M for a, d in near),
        "pedestrian": any(a.kind is ActorKind.PEDESTRIAN and d < NEAR_PERSON_M for a, d in near),
        "cyclist": any(a.kind is ActorKind.BICYCLE and d < NEAR_PERSON_M for a, d in near),
        "traffic_element": cause.get("signal", "none") != "none" and cause.get("signal_distance", 1e9) < SIGNAL_M,
        "weather_condition": frame.weather != "day",
        "special_vehicle": any(a.kind in (ActorKind.TRUCK, ActorKind.BUS) and d < NEAR_VEHICLE_M for a, d in near),
        "conflicting_vehicle": cause.get("cause") in ("yield", "conflict"),
    }
    return {name: "yes" if present.get(name, False) else "no" for name in CRITICAL_OBJECTS}


def _in_view(frame: OracleFrame, actor: Actor) -> tuple[float, bool]:
    """Distance in m from the cameras, and whether the actor's centre lies in the 180 degrees ahead of them."""
    dx, dy = actor.x - frame.ego.x, actor.y - frame.ego.y
    forward = math.cos(frame.ego.yaw) * dx + math.sin(frame.ego.yaw) * dy - 1.7
    return math.hypot(dx, dy), forward > 0


def explanation(frame: OracleFrame, sections: Mapping[str, Any], cause: str) -> str:
    """One templated sentence for the constraint that binds."""
    if cause == "red_light" and sections.get("signal") == "yellow":
        return EXPLANATIONS["yellow_light"]
    if cause == "lead_vehicle":
        speeds = [a.speed for a in frame.actors if a.id == sections.get("cause_actor")]
        return EXPLANATIONS["lead_vehicle.stopped" if speeds and speeds[0] < 0.5 else "lead_vehicle"]
    return EXPLANATIONS[cause]


def longitudinal(frame: OracleFrame, plan: Plan) -> str:
    """From the planned mean speed of the last second against the speed now."""
    end = float(np.linalg.norm(plan.waypoints[-1] - plan.waypoints[-3]) / (plan.times_s[-1] - plan.times_s[-3]))
    if end < 0.5:
        return "come to stop"
    change = end - frame.ego.speed
    return "keep speed" if abs(change) < 0.8 else "speed up" if change > 0 else "slow down"


def lateral(plan: Plan, command: Command) -> str:
    """From the direction of the planned path's end; a turn needs the route to turn that way, too."""
    last = plan.waypoints[-1] - plan.waypoints[-2]
    heading = math.atan2(last[1], last[0]) if float(np.linalg.norm(last)) > 0.2 else 0.0
    if heading > 0.2 and command is Command.GO_LEFT:
        return "turn left"
    if heading < -0.2 and command is Command.GO_RIGHT:
        return "turn right"
    return "go straight"
