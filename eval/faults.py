"""Faults as data: what can break between a camera and a plan, how it is injected, and which check must catch it.

`KINDS` is the table.  `schedule` draws separated faults for one drive, keyed by seed and scenario.  A `Saboteur` wraps
a planner and its observations in process and notes the stamps at which it really changed something; `tamper_plan`,
`blank`, `delay_ns` and `clock_leap_ns` are shared with the ROS 2 nodes, which apply them to messages.  Magnitudes are
far beyond what physics, quantisation and noise allow: no check could tell a plan that is only a little wrong.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from efficientgen.perception.health import FROZEN_MOVED_M, Finding
from efficientgen.perception.types import CHUNK_NS, NS, CameraFrame, Observation, Plan, Planner
from efficientgen.planning.safety import Reason, SafetyParams

Where = Literal["planner", "plan", "camera", "clock"]
TRUNCATED = "truncated answer"  # how `caught` calls an answer that its parser refused


@dataclass(frozen=True)
class Kind:
    """One kind of fault.  `caught_by`: reasons and findings, any of which is the right one."""

    name: str
    where: Where
    words: str
    caught_by: tuple[str, ...]
    needs_motion: bool = False  # without effect, and undetectable, while the car stands
    lasting: bool = False  # until the end of the drive


_SILENT = (Reason.NO_PLAN.value, Reason.NO_NEW_PLAN.value)
_OLD = (Reason.STALE.value, Reason.NO_NEW_PLAN.value, Reason.NO_STATE.value)
_IMPOSSIBLE = tuple(
    reason.value for reason in (Reason.UNREACHABLE, Reason.SPEED, Reason.BACKWARD, Reason.ACCELERATION, Reason.LATERAL)
)

KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("death", "planner", "the planner dies (kill -9) and stays dead", _SILENT, lasting=True),
        Kind("hang", "planner", "it stops (SIGSTOP), then answers what it was asked first", (*_SILENT, *_OLD)),
        Kind("restart", "planner", "it dies and is started again", _SILENT),
        Kind("dds_loss", "planner", "its plans are lost on the wire", _SILENT),
        Kind("truncated", "planner", "its answer breaks off", (TRUNCATED, *_SILENT)),
        Kind("nan", "plan", "some waypoints are NaN or infinite", (Reason.NOT_FINITE.value,)),
        Kind("stale", "plan", "stamped 1 to 4 s in the past", _OLD),
        Kind("jump", "plan", "all waypoints teleport by 4 to 30 m", _IMPOSSIBLE),
        Kind("unreachable", "plan", "12 to 40 m/s faster than the car, in any direction", _IMPOSSIBLE),
        Kind(
            "wrong_frame",
            "plan",
            "in the camera's axes (x right, z forward)",
            (Reason.WRONG_FRAME.value, *_IMPOSSIBLE),
            needs_motion=True,
        ),
        Kind("dropped", "camera", "a camera's frames do not come", (Finding.MISSING.value, *_SILENT)),
        Kind(
            "late",
            "camera",
            "a camera's frames come 0.4 to 2 s late",
            (Finding.STALE.value, Finding.MISSING.value, *_SILENT),
        ),
        Kind("black", "camera", "a camera is black, or white, or grey", (Finding.BLANK.value, *_SILENT)),
        Kind(
            "frozen",
            "camera",
            "a camera shows its last picture with new stamps",
            (Finding.FROZEN.value, *_SILENT),
            needs_motion=True,
        ),
        Kind(
            "clock_jump",
            "clock",
            "the planner's clock leaps by 1 to 60 s, forward or back",
            (Finding.HISTORY_STAMPS.value, Reason.FUTURE.value, *_OLD, *_SILENT),
        ),
    )
}


@dataclass(frozen=True)
class Fault:
    """One fault of one drive.  `size` in [0, 1) and `turn` in [0, 2 pi) choose magnitude, direction, camera."""

    kind: str
    start_ns: int
    duration_ns: int
    size: float
    turn: float

    @property
    def end_ns(self) -> int:
        return self.start_ns + self.duration_ns

    def active(self, stamp_ns: int) -> bool:
        return stamp_ns >= self.start_ns and (KINDS[self.kind].lasting or stamp_ns < self.end_ns)


GAP_NS = 12 * CHUNK_NS  # from the end of one fault to the start of the next: the drive recovers in between


def schedule(kinds: Sequence[str], first_ns: int, key: str) -> tuple[Fault, ...]:
    """Faults of these kinds one after the other from `first_ns` on, lasting kinds last; drawn from `key`."""
    out = []
    at = first_ns
    for i, name in enumerate(sorted(kinds, key=lambda name: KINDS[name].lasting)):
        rng = random.Random(f"fault/{key}/{i}/{name}")
        start = at + rng.randrange(4) * CHUNK_NS
        lasts = rng.choice((1, 1, 2, 3, 4, 6)) * CHUNK_NS
        out.append(Fault(name, start, lasts, rng.random(), rng.uniform(0.0, 2.0 * math.pi)))
        at = start + lasts + GAP_NS
    return tuple(out)


# --- what is done to plans and frames ---


def tamper_plan(fault: Fault, plan: Plan, speed: float) -> Plan:
    """What a "plan" fault makes of a plan; `speed` is the car's, m/s.

    Raises:
        ValueError: the fault acts elsewhere.
    """
    way = np.array(plan.waypoints, np.float64)
    if fault.kind == "nan":
        k = int(fault.size * len(way))
        way[k:, int(fault.turn) % 2] = (math.nan, math.inf, -math.inf)[int(fault.turn) % 3]
        return replace(plan, waypoints=way)
    if fault.kind == "stale":
        return replace(plan, stamp_ns=plan.stamp_ns - round((1.0 + 3.0 * fault.size) * NS))
    if fault.kind == "jump":
        far = 4.0 + 26.0 * fault.size
        return replace(plan, waypoints=way + far * np.array([math.cos(fault.turn), math.sin(fault.turn)]))
    if fault.kind == "unreachable":
        wild = (max(speed, 0.0) + 12.0 + 28.0 * fault.size) * np.asarray(plan.times_s)
        return replace(plan, waypoints=wild[:, None] * np.array([math.cos(fault.turn), math.sin(fault.turn)]))
    if fault.kind == "wrong_frame":
        return replace(plan, waypoints=np.stack([-way[:, 1], way[:, 0]], axis=1))
    raise ValueError(f"'{fault.kind}' does not act on a plan")


def camera_of(fault: Fault, names: Sequence[str]) -> str:
    """The camera that a fault hits."""
    return sorted(names)[int(fault.turn / (2.0 * math.pi) * len(names)) % len(names)]


def blank(fault: Fault, frame: CameraFrame) -> CameraFrame:
    """A "black" fault's picture: black, or an over-exposed white, or grey."""
    return replace(frame, image=np.full_like(frame.image, (0, 0, 255, 128)[int(4.0 * fault.size)]))


def delay_ns(fault: Fault) -> int:
    """By how much a "late" fault delays frames."""
    return (1 + int(4.0 * fault.size)) * CHUNK_NS


def clock_leap_ns(fault: Fault) -> int:
    """By how much a "clock_jump" moves stamps."""
    leap = round((1.0 + 59.0 * fault.size**2) * NS)
    return leap if fault.turn < math.pi else -leap


# --- in process ---


class SilentPlannerError(RuntimeError):
    """A planner that was made to say nothing."""


class Saboteur:
    """A `Planner` that drives as another one does, but for its faults; also the drive's `transform_observation`.

    `touched` maps each stamp at which something was really changed to the index of its fault; `changed` holds the
    stamps whose observation was, also where that makes no difference (a camera freezes while the car comes to rest).
    """

    def __init__(self, planner: Planner, faults: Sequence[Fault], parser: Truncator | None = None) -> None:
        self.planner, self.faults, self.parser = planner, tuple(faults), parser
        self.name = getattr(planner, "name", type(planner).__name__)
        self.frames_per_camera = getattr(planner, "frames_per_camera", 2)
        self.touched: dict[int, int] = {}
        self.changed: set[int] = set()
        self._true_ns: int | None = None  # of the observation that `transform` was given
        self._unasked: Observation | None = None  # what a hanging planner was asked first
        self._pictures: dict[str, CameraFrame] = {}  # the last ones before a freeze
        self._seed = 0

    def reset(self, seed: int) -> None:
        self._seed = seed
        self.touched.clear()
        self.changed.clear()
        self._unasked = None
        self._pictures.clear()
        self.planner.reset(seed)

    def transform(self, observation: Observation) -> Observation:
        """The observation as broken cameras and clocks would have it."""
        self._true_ns = now = observation.stamp_ns
        for i, fault in enumerate(self.faults):
            if fault.active(now) and KINDS[fault.kind].where in ("camera", "clock"):
                leaps = fault.kind == "clock_jump"
                changed = self._clock(fault, observation) if leaps else self._camera(fault, observation)
                if changed is not observation:
                    self.changed.add(now)
                    if _harmful(fault, observation):
                        self.touched[now] = i
                return changed
        self._pictures = {name: frames[-1] for name, frames in observation.cameras.items() if frames}
        return observation

    def _clock(self, fault: Fault, observation: Observation) -> Observation:
        """Stamps from the leap on are on the new clock, those before it on the old one."""
        leap = clock_leap_ns(fault)

        def moved(stamp_ns: int) -> int:
            return stamp_ns + leap if stamp_ns >= fault.start_ns else stamp_ns

        states = tuple(replace(s, stamp_ns=moved(s.stamp_ns)) for s in observation.history.states)
        cameras = {
            name: tuple(replace(f, stamp_ns=moved(f.stamp_ns)) for f in frames)
            for name, frames in observation.cameras.items()
        }
        history = replace(observation.history, states=states)
        return replace(observation, stamp_ns=moved(observation.stamp_ns), history=history, cameras=cameras)

    def _camera(self, fault: Fault, observation: Observation) -> Observation:
        if not observation.cameras:
            return observation
        name = camera_of(fault, list(observation.cameras))
        frames: tuple[CameraFrame, ...] = observation.cameras[name]
        if fault.kind == "dropped":
            frames = tuple(f for f in frames if f.stamp_ns < fault.start_ns)
        elif fault.kind == "late":
            frames = tuple(replace(f, stamp_ns=f.stamp_ns - delay_ns(fault)) for f in frames)
        elif fault.kind == "black":
            frames = tuple(blank(fault, f) if f.stamp_ns >= fault.start_ns else f for f in frames)
        elif name in self._pictures:  # frozen
            held = self._pictures[name].image
            frames = tuple(replace(f, image=held) if f.stamp_ns >= fault.start_ns else f for f in frames)
        return replace(observation, cameras={**observation.cameras, name: frames})

    def plan(self, observation: Observation) -> Plan:
        now = observation.stamp_ns if self._true_ns is None else self._true_ns
        self._true_ns = None
        for i, fault in enumerate(self.faults):
            if fault.active(now) and KINDS[fault.kind].where in ("planner", "plan"):
                return self._fail(i, fault, observation, now)
        if self._unasked is not None:  # back from a hang: it answers what it was asked first
            asked, self._unasked = self._unasked, None
            if now - asked.stamp_ns > SafetyParams().max_fresh_age_s * NS:  # else it is late, and that is no fault
                self.touched[now] = next(i for i, f in enumerate(self.faults) if f.kind == "hang" and f.end_ns <= now)
            return self.planner.plan(asked)
        if any(fault.kind == "restart" and 0 <= now - fault.end_ns < CHUNK_NS for fault in self.faults):
            self.planner.reset(self._seed)
        return self.planner.plan(observation)

    def _fail(self, i: int, fault: Fault, observation: Observation, now: int) -> Plan:
        if fault.kind == "truncated" and self.parser is not None:
            self.touched[now] = i
            self.parser.refuse(self.planner.plan(observation), fault.size)
        if KINDS[fault.kind].where == "planner":
            self.touched[now] = i
            if fault.kind == "hang" and self._unasked is None:
                self._unasked = observation
            raise SilentPlannerError(KINDS[fault.kind].words)
        plan = tamper_plan(fault, self.planner.plan(observation), observation.history.states[-1].speed)
        reach = float(np.hypot(*np.asarray(plan.waypoints)[-1]))
        if not (fault.kind == "wrong_frame" and reach < 2.0):  # a car that stays where it is has no axes
            self.touched[now] = i
        return plan


def _harmful(fault: Fault, observation: Observation) -> bool:
    """A frozen camera of a standing car shows what there is."""
    if fault.kind != "frozen":
        return True
    return observation.history.states[-1].speed * CHUNK_NS / NS > 2.0 * FROZEN_MOVED_M


class Truncator:
    """Answers that break off, put to the parser of the shipped schema."""

    def __init__(self, template: Any, tokenizer: Any) -> None:
        self._template, self._tokenizer = template, tokenizer

    @staticmethod
    def shipped() -> Truncator:
        """With the tokenizer and the schema of the shipped planner."""
        from efficientgen.planning.load import DEFAULT, model_directory
        from efficientgen.planning.schema import SCHEMAS, compile_template
        from efficientgen.planning.tokenizer import Tokenizer

        tokenizer = Tokenizer.load(model_directory(DEFAULT))
        return Truncator(compile_template(SCHEMAS["nano"], tokenizer, bd_size=8), tokenizer)

    def refuse(self, plan: Plan, keep: float) -> None:
        """Parse the first `keep` of the answer that says `plan`.

        Raises:
            AnswerError: always, or the parser takes a part for a whole.
        """
        from efficientgen.planning.schema import decode_answer, encode_answer

        ids = encode_answer(self._template, self._tokenizer, _answer(plan, len(self._template.schema.times_s)))
        decode_answer(self._template, self._tokenizer, [int(i) for i in ids[: int(keep * len(ids))]])


def _answer(plan: Plan, steps: int) -> Mapping[str, Any]:
    """Sections that the schema can write, with the plan's own trajectory."""
    from efficientgen.planning.schema import CRITICAL_OBJECTS, LATERAL, LONGITUDINAL

    sections: dict[str, Any] = {
        "critical_objects": dict.fromkeys(CRITICAL_OBJECTS, "no"),
        "explanation": "",
        "future_meta_behavior": {"longitudinal": LONGITUDINAL[0], "lateral": LATERAL[0]},
    }
    sections |= {name: plan.sections[name] for name in sections if name in plan.sections}
    return sections | {"trajectory": np.asarray(plan.waypoints)[:steps]}
