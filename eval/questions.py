"""Questions about the scene and their true answers, read from the oracle: what a small Fast-dVLM is taught and asked.

A question type has several wordings, of which the last is never used in training, and a handful of short answers.
`answers_of` gives the true answer of every type that has a clear one at a frame: where the truth lies between two
answers (a light 50 m away, a car rolling at walking pace), the question is not asked.  What counts must stand where the
cameras could show it; what hides behind houses is not tested, so no planner can reach 100 %.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.route import command_at, locate
from efficientgen.perception.types import ActorKind, Command, OracleFrame, Route, VehicleParams
from efficientgen.planning.expert import where
from efficientgen.planning.hazards import Crowd, crossing_halts, crowd, junction_halt, signal_halt

CAR = VehicleParams()
REACH = CAR.rear_to_centre + CAR.length / 2  # rear axle to front bumper
CAMERA_X = 1.7  # of the rig, m ahead of the rear axle
AHEAD_M, FAR_M = 35.0, 45.0  # seen as "ahead" up to the first; between the two nothing is asked
LIGHT_M, JUNCTION_M, ZEBRA_M, PEOPLE_M, SIDE_M = 40.0, 25.0, 20.0, 25.0, 25.0
STOP_M = 15.0  # what makes the car stop counts from here on
SIDE_DEG = (22.0, 88.0)  # bearing of what only the side cameras show
NO_VEHICLE = "There is no vehicle ahead."


@dataclass(frozen=True)
class Question:
    """One type.  `wordings` are normalised (lower case, no mark); the last one is kept out of training."""

    name: str
    wordings: tuple[str, ...]
    answers: tuple[str, ...]
    sides: bool = False  # needs the side cameras
    motion: bool = False  # needs the frame before

    @property
    def taught(self) -> tuple[str, ...]:
        return self.wordings[:-1]

    @property
    def unseen(self) -> str:
        return self.wordings[-1]


_CAUSES = ("the light is red.", "a pedestrian is crossing.", "a vehicle stands ahead.", "other traffic has priority.")

QUESTIONS = (
    Question(
        "ahead",
        ("what is ahead", "what is in front of me", "what do you see ahead in my lane", "who is ahead of me",
         "what is in my lane"),
        ("The lane ahead is clear.", "A car is ahead.", "A truck is ahead.", "A cyclist is ahead.",
         "A pedestrian is ahead."),
    ),
    Question(
        "distance",
        ("how far is the vehicle ahead", "how far away is the vehicle in front",
         "what is the distance to the car ahead", "how close is the vehicle ahead of me",
         "how far is the car in front of me"),
        (NO_VEHICLE, "Less than 10 m.", "10 to 20 m.", "20 to 35 m."),
    ),
    Question(
        "moving",
        ("is the vehicle ahead moving", "does the vehicle in front move",
         "has the vehicle ahead stopped or is it moving", "is the car in front moving"),
        (NO_VEHICLE, "The vehicle ahead is moving.", "The vehicle ahead has stopped."),
        motion=True,
    ),
    Question(
        "light",
        ("which colour is the light", "what colour is the traffic light", "which colour has the light ahead",
         "is the light red or green", "what does the traffic light show", "what colour is the light ahead"),
        ("There is no light ahead.", "The light is red.", "The light is yellow.", "The light is green."),
    ),
    Question(
        "may_go",
        ("may i go", "can i go", "is the way free", "may i drive on", "can i drive on"),
        ("Yes, the way is free.", *(f"No, {cause}" for cause in _CAUSES)),
    ),
    Question(
        "must_stop",
        ("must i stop", "do i have to stop", "is there a reason to stop", "must i wait", "do i have to wait"),
        ("No, the way is free.", *(f"Yes, {cause}" for cause in _CAUSES)),
    ),
    Question(
        "crossing",
        ("is someone crossing", "is anyone crossing the road", "is a pedestrian crossing ahead", "does someone cross",
         "is someone crossing the road"),
        ("No one is crossing.", "Yes, a pedestrian is crossing."),
    ),
    Question(
        "people",
        ("how many people do you see", "how many pedestrians are there", "are there people", "do you see pedestrians",
         "how many pedestrians do you see"),
        ("I see no one.", "I see one pedestrian.", "I see two or three people.", "I see many people."),
        sides=True,
    ),
    Question(
        "left",
        ("is there traffic on the left", "is there a vehicle on the left", "does traffic come from the left",
         "what is on the left", "do you see a vehicle on the left"),
        ("The left is clear.", "There is a vehicle on the left."),
        sides=True,
    ),
    Question(
        "right",
        ("is there traffic on the right", "is there a vehicle on the right", "does traffic come from the right",
         "what is on the right", "do you see a vehicle on the right"),
        ("The right is clear.", "There is a vehicle on the right."),
        sides=True,
    ),
    Question(
        "junction",
        ("is a junction ahead", "is there a junction ahead", "do i come to a junction", "does a junction come",
         "is there a junction in front of me"),
        ("There is no junction ahead.", "A junction is ahead.", "A junction with a light is ahead."),
    ),
    Question(
        "zebra",
        ("is there a zebra crossing ahead", "do i come to a zebra crossing", "is a pedestrian crossing marked ahead",
         "does a zebra crossing come", "is a zebra crossing ahead"),
        ("There is no zebra crossing ahead.", "A zebra crossing is ahead."),
    ),
    Question(
        "weather",
        ("what is the weather", "how is the weather", "is it day or night", "does it rain", "is there fog",
         "what weather is it"),
        ("It is a clear day.", "It is dusk.", "It is night.", "It is raining.", "There is fog."),
    ),
    Question(
        "lane",
        ("am i in my lane", "am i in the middle of my lane", "do i keep my lane", "where am i in my lane",
         "am i in the lane"),
        ("Yes, you are in your lane.", "No, you are too far left.", "No, you are too far right."),
    ),
    Question(
        "route",
        ("which way does the route go", "where does the route go", "do i turn", "which way do i go",
         "where do i go"),
        ("The route goes straight on.", "The route turns left.", "The route turns right."),
    ),
)  # fmt: skip
BY_NAME: Mapping[str, Question] = {question.name: question for question in QUESTIONS}


def answers_of(route: Route, frame: OracleFrame) -> dict[str, str]:
    """The true answer of every question type that has a clear one at `frame`."""
    s_ego = where(route, frame.ego)
    front = s_ego + REACH
    who = crowd(route, frame, s_ego)
    kinds = {a.id: a.kind for a in frame.actors}
    first = _first_on_path(who, front)
    found: dict[str, str | None] = {
        "ahead": _ahead(who, kinds, first),
        "light": _light(route, frame, s_ego),
        "crossing": _crossing(route, who, front),
        "people": _people(frame),
        "left": _side(frame, +1),
        "right": _side(frame, -1),
        "junction": _junction(route, front),
        "zebra": _zebra(route, front),
        "weather": dict(zip(("day", "dusk", "night", "rain", "fog"), BY_NAME["weather"].answers, strict=True))[
            frame.weather
        ],
        "lane": _lane(route, frame, s_ego),
        "route": dict(zip(Command, BY_NAME["route"].answers, strict=True))[command_at(route, s_ego)],
    }
    found |= _lead(who, first)
    cause = _cause(route, frame, who, s_ego, first)
    if cause is not None:
        index = _CAUSES.index(cause) + 1 if cause else 0
        found |= {name: BY_NAME[name].answers[index] for name in ("may_go", "must_stop")}
    return {name: answer for name, answer in found.items() if answer is not None}


# --- helpers: None where there is no clear answer --------------------------------------------------------------------


def _first_on_path(who: Crowd, front: float) -> tuple[int, float] | None:
    """(index, gap in m from the bumper) of the nearest road user whose body is on the ego's path."""
    half = CAR.width / 2 + who.width / 2 + 0.2
    inside = (who.sample_distance < half[:, None]) & (who.sample_s > front)
    if not inside.any():
        return None
    rear = np.where(inside, who.sample_s, np.inf).min(1)
    i = int(rear.argmin())
    return i, float(rear[i]) - front


def _ahead(who: Crowd, kinds: Mapping[str, ActorKind], first: tuple[int, float] | None) -> str | None:
    clear, car, truck, cyclist, pedestrian = BY_NAME["ahead"].answers
    if first is None or first[1] > FAR_M:
        return clear
    names = {ActorKind.CAR: car, ActorKind.TRUCK: truck, ActorKind.BUS: truck, ActorKind.BICYCLE: cyclist}
    return names.get(kinds[who.ids[first[0]]], pedestrian) if first[1] < AHEAD_M else None


def _lead(who: Crowd, first: tuple[int, float] | None) -> dict[str, str | None]:
    """`distance` and `moving` of the vehicle ahead."""
    if first is None or first[1] > FAR_M:
        return {"distance": NO_VEHICLE, "moving": NO_VEHICLE}
    i, gap = first
    if who.person[i] or gap > AHEAD_M:
        return {}
    _, moves, stands = BY_NAME["moving"].answers
    speed = float(who.speed[i])
    return {
        "distance": BY_NAME["distance"].answers[1 + int(gap >= 10.0) + int(gap >= 20.0)],
        "moving": moves if speed > 1.0 else stands if speed < 0.2 else None,
    }


def _light(route: Route, frame: OracleFrame, s_ego: float) -> str | None:
    _, colour, distance = signal_halt(route, frame, s_ego, CAR)
    if colour == "none":
        return BY_NAME["light"].answers[0]
    return f"The light is {colour}." if distance < LIGHT_M else None


def _crossing(route: Route, who: Crowd, front: float) -> str | None:
    """Someone walks across the road within 25 m: on the ego's path or up to 4 m beside it."""
    s, beside = who.sample_s[:, 2], who.sample_distance[:, 2]
    heading = route.headings[np.minimum((s / route.spacing).astype(int), len(route.headings) - 1)]
    across = who.person & (who.speed > 0.4) & (np.abs(np.sin(who.yaw - heading)) > 0.6)
    if (across & (s > front) & (s < front + 25.0) & (beside < 4.0)).any():
        return BY_NAME["crossing"].answers[1]
    unclear = across & (s > front - 2.0) & (s < front + 35.0) & (beside < 6.5)
    return None if unclear.any() else BY_NAME["crossing"].answers[0]


def _people(frame: OracleFrame) -> str:
    count = sum(a.kind is ActorKind.PEDESTRIAN and _within(frame, a.x, a.y, PEOPLE_M, (-88, 88)) for a in frame.actors)
    return BY_NAME["people"].answers[0 if count == 0 else 1 if count == 1 else 2 if count <= 3 else 3]


def _side(frame: OracleFrame, sign: int) -> str | None:
    """A vehicle that the left (+1) or right (-1) camera shows."""
    low, high = SIDE_DEG
    span = (low, high) if sign > 0 else (-high, -low)
    wide = (low - 6.0, high + 6.0) if sign > 0 else (-high - 6.0, -low + 6.0)
    vehicles = [a for a in frame.actors if a.kind is not ActorKind.PEDESTRIAN]
    clear, there = BY_NAME["left" if sign > 0 else "right"].answers
    if any(_within(frame, a.x, a.y, SIDE_M, span) for a in vehicles):
        return there
    return None if any(_within(frame, a.x, a.y, SIDE_M + 12.0, wide) for a in vehicles) else clear


def _within(frame: OracleFrame, x: float, y: float, distance: float, bearing_deg: tuple[float, float]) -> bool:
    """Whether (x, y) is that near the cameras and between two bearings, degrees left of straight ahead."""
    ego = frame.ego
    dx, dy = x - ego.x, y - ego.y
    forward = math.cos(ego.yaw) * dx + math.sin(ego.yaw) * dy - CAMERA_X
    left = -math.sin(ego.yaw) * dx + math.cos(ego.yaw) * dy
    return math.hypot(forward, left) < distance and (
        bearing_deg[0] < math.degrees(math.atan2(left, forward)) < bearing_deg[1]
    )


def _junction(route: Route, front: float) -> str | None:
    stop = next((s for s in route.stops if s.s_exit > front), None)
    none, plain, lit = BY_NAME["junction"].answers
    if stop is None or stop.s - front > JUNCTION_M + 20.0:
        return none
    return (lit if stop.signal else plain) if 0.0 < stop.s - front < JUNCTION_M else None


def _zebra(route: Route, front: float) -> str | None:
    gaps = [begin - front for begin, end in route.crossings if end > front]
    none, there = BY_NAME["zebra"].answers
    if not gaps or min(gaps) > ZEBRA_M + 20.0:
        return none
    return there if 0.0 < min(gaps) < ZEBRA_M else None


def _lane(route: Route, frame: OracleFrame, s_ego: float) -> str | None:
    """Where the front axle is across the lane; not asked inside junctions."""
    if any(stop.s - 6.0 < s_ego + REACH and s_ego < stop.s_exit + 2.0 for stop in route.stops):
        return None
    ego = frame.ego
    x, y = ego.x + CAR.wheelbase * math.cos(ego.yaw), ego.y + CAR.wheelbase * math.sin(ego.yaw)
    offset = locate(route, x, y, s_ego)[1]
    inside, left, right = BY_NAME["lane"].answers
    if abs(offset) < 0.35:
        return inside
    return None if abs(offset) < 0.75 else left if offset > 0 else right


def _cause(route: Route, frame: OracleFrame, who: Crowd, s_ego: float, first: tuple[int, float] | None) -> str | None:
    """What makes the ego stop or wait now ("": nothing); the nearest counts."""
    front = s_ego + REACH
    reasons: list[tuple[float, str]] = []
    halt, _, distance = signal_halt(route, frame, s_ego, CAR)
    red, walker, vehicle, priority = _CAUSES
    if halt is not None:
        reasons.append((distance, red))
    for crossing in crossing_halts(route, who, s_ego, frame.ego.speed, CAR):
        reasons.append((crossing.s - front, walker))
    if first is not None and who.person[first[0]]:
        reasons.append((first[1], walker))
    elif first is not None and who.speed[first[0]] < 1.0:
        reasons.append((first[1], vehicle))
    if (give_way := junction_halt(route, frame, who, s_ego, CAR)) is not None:
        reasons.append((give_way.s - front, priority))
    if not reasons:
        return ""
    gap, cause = min(reasons)
    if gap < STOP_M:
        return cause
    return None if gap < FAR_M else ""
