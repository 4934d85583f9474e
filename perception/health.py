"""Is this observation fit to plan on?  Checks that cost less than a millisecond, made once per plan before the planner.

A planner believes its pictures.  `findings` looks for what broken sensors, drivers and clocks do to an observation:
a camera that is missing, black or uniform, one whose frames are old, or that shows the same picture twice while the car
moves; and a history whose stamps or poses leap.  `unreadable` looks for what a model could not even be fed with: a
picture that is none, a calibration that maps nothing, states that no car has.  All checks are pure functions of the
observation; `require_fit` and `require_readable` turn findings into an error, so that the planner is not asked and the
safety ladder acts.  The limits are far from what night
and fog look like: over all towns and weathers the flattest picture has a standard deviation of 9.9 grey levels, and
every fault campaign counts false alarms.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum

import numpy as np

from efficientgen.perception.types import (
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    NS,
    TICK_NS,
    CameraFrame,
    EgoHistory,
    EgoState,
    Observation,
)

BLANK_STD = 2.0  # grey levels over the sampled pixels; less is no picture of any road
FROZEN_MOVED_M = 0.25  # two pictures taken so far apart are never the same, bit for bit (1.6 grey levels at night)
STALE_NS = TICK_NS  # the newest frame may be this much older than the observation
LEAP_M = 1.0  # a pose may miss where the speeds around it lead by so much
FARTHEST_M, FASTEST_M_S, HARDEST_M_S2, QUICKEST_RAD_S = 1e7, 150.0, 100.0, 20.0  # beyond: no map, and no car
LEAST_DETERMINANT = 1e-9  # of intrinsics (px^2): less and pixels have no direction
SAMPLE = 3  # every third row and column is looked at for blankness


class Finding(str, Enum):
    """What is wrong with an observation."""

    MISSING = "camera missing"
    SURPLUS = "camera unknown"
    NOT_A_PICTURE = "camera picture malformed"
    CALIBRATION = "camera calibration unusable"
    BLANK = "camera black or uniform"
    STALE = "camera frames are old"
    FROZEN = "camera frozen"
    NO_STATE = "ego state missing"
    HISTORY_STAMPS = "ego history leaps in time"
    HISTORY_POSES = "ego history leaps in space"
    NOT_FINITE = "ego history holds NaN or infinity"
    HISTORY_SHORT = "ego history too short"
    ABSURD = "ego state of no car"


class UnfitObservationError(ValueError):
    """An observation that no plan may be based on; `findings` says why."""

    def __init__(self, found: tuple[tuple[Finding, str], ...]) -> None:
        super().__init__("; ".join(f"{finding.value}: {words}" for finding, words in found))
        self.findings = tuple(finding for finding, _ in found)


@dataclass(frozen=True)
class Expected:
    """What an observation should hold: `frames` per camera, 0 for a planner without eyes, and ego `states`."""

    cameras: tuple[str, ...]
    frames: int
    states: int = HISTORY_STATES


def require_fit(observation: Observation, expected: Expected) -> None:
    """Raises:
    UnfitObservationError: `findings` has any.
    """
    found = findings(observation, expected)
    if found:
        raise UnfitObservationError(found)


def require_readable(observation: Observation, expected: Expected) -> None:
    """Raises:
    UnfitObservationError: `unreadable` finds anything.
    """
    found = unreadable(observation, expected)
    if found:
        raise UnfitObservationError(found)


def findings(observation: Observation, expected: Expected) -> tuple[tuple[Finding, str], ...]:
    """Everything that is wrong, each with what and how much; () for a healthy observation."""
    found = _states(observation.history, expected) or _history(observation.history, observation.stamp_ns)
    if expected.frames:
        for name in expected.cameras:
            frames = observation.cameras.get(name, ())
            found += _form(name, frames, expected) or _camera(name, frames, observation)
        for name in sorted(observation.cameras.keys() - set(expected.cameras)):
            found.append((Finding.SURPLUS, f"{name}; the rig has {', '.join(expected.cameras)}"))
    return tuple(found)


def unreadable(observation: Observation, expected: Expected) -> tuple[tuple[Finding, str], ...]:
    """What keeps the observation from being read at all; old, frozen or leaping ones are readable."""
    found = _states(observation.history, expected)
    for name in expected.cameras if expected.frames else ():
        found += _form(name, observation.cameras.get(name, ()), expected)
    return tuple(found)


def _form(name: str, frames: tuple[CameraFrame, ...], expected: Expected) -> list[tuple[Finding, str]]:
    if len(frames) < expected.frames:
        return [(Finding.MISSING, f"{name} has {len(frames)} of {expected.frames} frames")]
    for frame in frames[-expected.frames :]:
        image = frame.image
        if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3:
            kind = f"{getattr(image, 'dtype', type(image).__name__)} {getattr(image, 'shape', '')}"
            return [(Finding.NOT_A_PICTURE, f"{name} gives {kind.strip()}; uint8 (H, W, 3) RGB is wanted")]
        if image.size == 0:
            return [(Finding.NOT_A_PICTURE, f"{name} gives an empty picture of {image.shape[1]}x{image.shape[0]} px")]
    if len({frame.image.shape for frame in frames[-expected.frames :]}) > 1:
        return [(Finding.NOT_A_PICTURE, f"{name} changes its size within one observation")]
    return _calibration(name, frames[-1])


def _calibration(name: str, frame: CameraFrame) -> list[tuple[Finding, str]]:
    for what, matrix, side in (("intrinsics", frame.intrinsics, 3), ("camera_to_ego", frame.camera_to_ego, 4)):
        if np.shape(matrix) != (side, side) or not np.isfinite(np.asarray(matrix, np.float64)).all():
            return [(Finding.CALIBRATION, f"{name}'s {what} must be finite ({side}, {side})")]
    if abs(float(np.linalg.det(frame.intrinsics))) < LEAST_DETERMINANT:
        return [(Finding.CALIBRATION, f"{name}'s intrinsics cannot be inverted: no focal length?")]
    return []


def _camera(name: str, frames: tuple[CameraFrame, ...], observation: Observation) -> list[tuple[Finding, str]]:
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


def _states(history: EgoHistory, expected: Expected) -> list[tuple[Finding, str]]:
    states = history.states
    if len(states) < expected.states:
        return [(Finding.HISTORY_SHORT, f"{len(states)} of {expected.states} states")]
    if not states:
        return []
    rows = np.array([(s.x, s.y, s.yaw, s.speed, s.acceleration, s.yaw_rate, s.steering) for s in states], np.float64)
    if not np.isfinite(rows).all():
        return [(Finding.NOT_FINITE, "x, y, yaw, speed, acceleration, yaw rate or steering")]
    limits = (FARTHEST_M, FARTHEST_M, FARTHEST_M, FASTEST_M_S, HARDEST_M_S2, QUICKEST_RAD_S, QUICKEST_RAD_S)
    beyond = np.abs(rows) > limits
    if beyond.any():
        row, column = np.argwhere(beyond)[0]
        name = ("x", "y", "yaw", "speed", "acceleration", "yaw rate", "steering")[column]
        return [(Finding.ABSURD, f"{name} {rows[row, column]:g}, at most {limits[column]:g} (SI units) is believed")]
    return []


def _history(history: EgoHistory, stamp_ns: int) -> list[tuple[Finding, str]]:
    states = history.states
    if not states:
        return []
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
