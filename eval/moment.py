"""One moment of a drive as a question model sees it: pictures of the three cameras, the command, and the truth.

Pictures are a pure function of the oracle's frames, so they are drawn anew whether or not the drive kept any.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from efficientgen.eval.questions import QUESTIONS, answers_of
from efficientgen.eval.runner import FRAME_GAP_NS, World, drive
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.route import command_at
from efficientgen.perception.types import NS, TICK_NS, U8, Command, OracleFrame, Route
from efficientgen.planning.expert import where
from efficientgen.planning.question_prompt import normalised
from efficientgen.worldsim.scenario import Scenario


class MomentError(ValueError):
    """A time at which the drive has no picture."""


@dataclass(frozen=True)
class SeenMoment:
    """Pictures uint8 (2, H, W, 3) of FRONT_LEFT, FRONT, FRONT_RIGHT, oldest first, with what the oracle knows."""

    pictures: tuple[U8, ...]
    command: Command
    frame: OracleFrame
    route: Route

    def truth(self, question: str) -> str | None:
        """The oracle's answer, where the question is in a wording that it knows and has a clear one."""
        name = next((q.name for q in QUESTIONS if normalised(question) in q.wordings), None)
        return answers_of(self.route, self.frame).get(name) if name else None


def moment_of_scenario(scenario: Scenario, seed: int, at_s: float, world: World) -> SeenMoment:
    """What the cameras show `at_s` seconds into the expert's drive of `scenario`.

    Raises:
        MomentError: the drive is over by then, or has only just begun.
    """
    if not 0 < at_s <= scenario.duration_s:
        raise MomentError(f"{at_s:g} s is outside of {scenario.name}'s {scenario.duration_s:g} s")
    short = replace(scenario, duration_s=min(scenario.duration_s, at_s + 0.5))
    return moment_of_log(drive(short, seed, "expert"), at_s, world)


def moment_of_log(log: StepLog, at_s: float, world: World) -> SeenMoment:
    """What the cameras showed `at_s` seconds into a recorded drive.

    Raises:
        MomentError: there is no such moment with a frame before it.
    """
    frames = {f.stamp_ns: f for f in (log.start, *(tick for step in log.steps for tick in step.ticks))}
    stamp = round(at_s * NS / TICK_NS) * TICK_NS
    if stamp not in frames or stamp - FRAME_GAP_NS not in frames:
        last = max(frames) / NS
        raise MomentError(
            f"{log.scenario} has pictures from {FRAME_GAP_NS / NS:.1f} to {last:.1f} s, not at {at_s:g} s"
        )
    now = frames[stamp]
    world.reset(log.start.town, log.start.weather, log.seed)
    drawn = world.step((frames[stamp - FRAME_GAP_NS], now))
    pictures = tuple(np.stack([f.image for f in drawn.cameras[name]]) for name in _ordered(drawn.cameras))
    return SeenMoment(pictures, command_at(log.route, where(log.route, now.ego)), now, log.route)


def _ordered(cameras: Mapping[str, object]) -> list[str]:
    return [name for name in ("FRONT_LEFT", "FRONT", "FRONT_RIGHT") if name in cameras]
