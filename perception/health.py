"""Is this observation fit to plan on?  Checks that cost less than a millisecond, made once per plan before the planner.

A planner believes its pictures.  `findings` looks for what broken sensors, drivers and clocks do to an observation:
a camera that is missing, black or uniform, one whose frames are old, or that shows the same picture twice while the car
moves; and a history whose stamps or poses leap.  All checks are pure functions of the observation; `require_fit` turns
findings into an error, so that the planner is not asked and the safety ladder acts.  The limits are far from what night
and fog look like: over all towns and weathers the flattest picture has a standard deviation of 9.9 grey levels, and
every fault campaign counts false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from efficientgen.perception.types import HISTORY_PERIOD_NS, NS, TICK_NS, CameraFrame, EgoHistory, EgoState, Observation

BLANK_STD = 2.0  # grey levels over the sampled pixels; less is no picture of any road
FROZEN_MOVED_M = 0.25  # two pictures taken so far apart are never the same, bit for bit (1.6 grey levels at night)
STALE_NS = TICK_NS  # the newest frame may be this much older than the observation
LEAP_M = 1.0  # a pose may miss where the speeds around it lead by so much
SAMPLE = 3  # every third row and column is looked at for blankness


class Finding(str, Enum):
    """What is wrong with an observation."""

    MISSING = "camera missing"
    BLANK = "camera black or uniform"
    STALE = "camera frames are old"
    FROZEN = "camera frozen"
    NO_STATE = "ego state missing"
    HISTORY_STAMPS = "ego history leaps in time"
    HISTORY_POSES = "ego history leaps in space"
    NOT_FINITE = "ego history holds NaN or infinity"


class UnfitObservationError(ValueError):
    """An observation that no plan may be based on; `findings` says why."""

    def __init__(self, found: tuple[tuple[Finding, str], ...]) -> None:
        super().__init__("; ".join(f"{finding.value}: {words}" for finding, words in found))
        self.findings = tuple(finding for finding, _ in found)


@dataclass(frozen=True)
class Expected:
    """What an observation should hold: `frames` per camera, 0 for a planner without eyes."""

    cameras: tuple[str, ...]
    frames: int


def require_fit(observation: Observation, expected: Expected) -> None:
    """Raises:
    UnfitObservationError: `findings` has any.
    """
    found = findings(observation, expected)
    if found:
        raise UnfitObservationError(found)


def findings(observation: Observation, expected: Expected) -> tuple[tuple[Finding, str], ...]:
    """Everything that is wrong, each with what and how much; () for a healthy observation."""
    found = list(_history(observation.history, observation.stamp_ns))
    if expected.frames:
        for name in expected.cameras:
            frames = observation.cameras.get(name, ())
            found += _camera(name, frames, observation, expected)
    return tuple(found)


def _camera(
    name: str, frames: tuple[CameraFrame, ...], observation: Observation, expected: Expected
) -> list[tuple[Finding, str]]:
    if len(frames) < expected.frames:
        return [(Finding.MISSING, f"{name} has {len(frames)} of {expected.frames} frames")]
    found = []
    newest = frames[-1]
    age = observation.stamp_ns - newest.stamp_ns
    if not 0 <= age <= STALE_NS:
        found.append((Finding.STALE, f"{name}'s newest is {age / NS:.2f} s old"))
    spread = float(newest.image[::SAMPLE, ::SAMPLE].std())
    if spread < BLANK_STD:
        mean = float(newest.image.mean())
        found.append((Finding.BLANK, f"{name} at {mean:.0f} of 255, standard deviation {spread:.1f}"))
    elif len(frames) > 1:
        moved = _moved(observation.history, frames[-2].stamp_ns, newest.stamp_ns)
        if moved >= FROZEN_MOVED_M and np.array_equal(newest.image, frames[-2].image):
            found.append((Finding.FROZEN, f"{name} shows the same picture {moved:.1f} m further on"))
    return found


def _history(history: EgoHistory, stamp_ns: int) -> list[tuple[Finding, str]]:
    states = history.states
    if not states:
        return []
    rows = np.array([(s.x, s.y, s.yaw, s.speed, s.acceleration, s.yaw_rate, s.steering) for s in states])
    if not np.isfinite(rows).all():
        return [(Finding.NOT_FINITE, "x, y, yaw, speed, acceleration, yaw rate or steering")]
    if states[-1].stamp_ns != stamp_ns:
        return [(Finding.HISTORY_STAMPS, f"ends {(stamp_ns - states[-1].stamp_ns) / NS:.2f} s before the observation")]
    for before, after in zip(states, states[1:], strict=False):
        gap = after.stamp_ns - before.stamp_ns
        if gap != HISTORY_PERIOD_NS:
            return [(Finding.HISTORY_STAMPS, f"{gap / NS:.2f} s between two states at {after.stamp_ns / NS:.2f} s")]
        miss = _miss(before, after)
        if miss > LEAP_M:
            return [(Finding.HISTORY_POSES, f"by {miss:.1f} m at {after.stamp_ns / NS:.2f} s")]
    return []


def _miss(before: EgoState, after: EgoState) -> float:
    """m between `after` and where the mean speed and heading of both lead from `before`."""
    dt = (after.stamp_ns - before.stamp_ns) / NS
    way = 0.5 * (before.speed + after.speed) * dt
    heading = before.yaw + 0.5 * math.remainder(after.yaw - before.yaw, 2.0 * math.pi)
    return math.hypot(after.x - before.x - way * math.cos(heading), after.y - before.y - way * math.sin(heading))


def _moved(history: EgoHistory, since_ns: int, until_ns: int) -> float:
    """m driven between two stamps, from the speeds of the history."""
    stamps = [s.stamp_ns / NS for s in history.states]
    speeds = [abs(s.speed) for s in history.states]
    if not stamps:
        return 0.0
    at = np.linspace(since_ns / NS, until_ns / NS, 5)
    return float(np.interp(at, stamps, speeds).mean() * (until_ns - since_ns) / NS)
