"""A driving scene in a few English sentences, from what the oracle knows: the corpus of the nano text models.

Efficient-DLM (2512.14067) converts an autoregressive text model to block diffusion; at nano size its text is this.  A
description says what holds now (weather, speed, route, light, road users), why the expert drives as it does, what it
plans, and what has come of it two seconds later.  Each part follows from others, so that a gap can be told from the
text before it, and often better from the text on both sides.
"""

from __future__ import annotations

import math

import numpy as np

from efficientgen.perception.types import Actor, ActorKind, Command, OracleFrame, Plan
from efficientgen.planning.annotate import SENTENCES, VEHICLES, explanation, lateral, longitudinal

LATER_NS = 2_000_000_000
NEAR_M = 40.0
WEATHER = {"day": "It is day.", "dusk": "It is dusk.", "night": "It is night.", "rain": "It is raining.",
           "fog": "It is foggy."}  # fmt: skip
COMMAND = {Command.GO_STRAIGHT: "goes straight on", Command.GO_LEFT: "turns left", Command.GO_RIGHT: "turns right"}
NUMBERS = ("no", "one", "two", "three", "four", "five", "six")
KINDS = {ActorKind.CAR: "car", ActorKind.TRUCK: "truck", ActorKind.BUS: "bus", ActorKind.BICYCLE: "bicycle"}


def scene_text(frame: OracleFrame, plan: Plan, later: tuple[OracleFrame, Plan] | None) -> str:
    """The description of `frame` under the expert's `plan`; `later` is the drive `LATER_NS` on, if it lasted.

    Distances are whole metres from the cameras, speeds whole metres per second.
    """
    s = plan.sections
    goes = plan.waypoints[-1]
    far = round(float(np.linalg.norm(goes)))
    parts = [
        WEATHER[frame.weather],
        f"The car {_motion(frame.ego.speed)} and the route {COMMAND[Command(s['command'])]}.",
        _light(s["signal"], float(s["signal_distance"])),
        _vehicle(frame),
        _people(frame),
        explanation(frame, s, str(s["cause"])),
        f"The plan is to {longitudinal(frame, plan)} and {lateral(plan, Command(s['command']))}, {far} metres in three "
        "seconds.",
    ]
    if later is not None:
        then, its_plan = later
        parts.append(f"Two seconds later the car {_motion(then.ego.speed)}, {_colour(its_plan.sections['signal'])}.")
    return " ".join(parts)


def vocabulary() -> tuple[list[str], list[str]]:
    """(literals, sentences) for `tokenizer.build_tokenizer`: every word that a description or a prompt can hold."""
    sentences = [
        *WEATHER.values(), *SENTENCES,
        "The car stands still drives at metres per second and the route goes straight on turns left turns right.",
        "There is no traffic light. The traffic light is red yellow green, metres away.",
        "No vehicle is near. The next car truck bus bicycle is metres ahead to the left right and drives stands still.",
        "No person one two three four five six many people are near.",
        " ".join(["", *(n.capitalize() for n in NUMBERS), "Many"]),
        "The plan is to keep speed up slow down come to stop and go straight turn left right, metres in three seconds.",
        "Two seconds later the car stands still, with a green red yellow light with no light ahead.",
    ]  # fmt: skip
    starts = {" " + s.split()[0].rstrip(".,") for s in sentences}
    return [], sentences + sorted(starts)


def _motion(speed: float) -> str:
    return "stands still" if speed < 0.5 else f"drives at {round(speed)} metres per second"


def _light(colour: str, distance: float) -> str:
    if colour == "none":
        return "There is no traffic light."
    return f"The traffic light is {colour}, {round(distance)} metres away."


def _colour(colour: str) -> str:
    return "with no light ahead" if colour == "none" else f"with a {colour} light ahead"


def _relative(frame: OracleFrame, actor: Actor) -> tuple[float, float]:
    """(forward, left) of the cameras, m."""
    dx, dy = actor.x - frame.ego.x, actor.y - frame.ego.y
    cos, sin = math.cos(frame.ego.yaw), math.sin(frame.ego.yaw)
    return cos * dx + sin * dy - 1.7, cos * dy - sin * dx


def _vehicle(frame: OracleFrame) -> str:
    """The nearest vehicle or bicycle in view."""
    near = []
    for actor in frame.actors:
        forward, left = _relative(frame, actor)
        distance = math.hypot(forward, left)
        if actor.kind in (*VEHICLES, ActorKind.BICYCLE) and forward > 0 and distance < NEAR_M:
            near.append((distance, actor.id, left / distance, actor))
    if not near:
        return "No vehicle is near."
    distance, _, sine, actor = min(near, key=lambda n: n[:2])
    side = "ahead" if abs(sine) < 0.26 else "to the left" if sine > 0 else "to the right"
    moves = "stands still" if actor.speed < 0.5 else "drives"
    return f"The next {KINDS[actor.kind]} is {round(distance)} metres {side} and {moves}."


def _people(frame: OracleFrame) -> str:
    places = [_relative(frame, a) for a in frame.actors if a.kind is ActorKind.PEDESTRIAN]
    count = sum(forward > 0 and math.hypot(forward, left) < NEAR_M for forward, left in places)
    if count == 0:
        return "No person is near."
    number = NUMBERS[count].capitalize() if count < len(NUMBERS) else "Many"
    return f"{number} {'person is' if count == 1 else 'people are'} near."
