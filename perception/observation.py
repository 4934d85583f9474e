"""Building observations: the one way from a car's frames and states to what a planner may know.

Driving, recording, training and replay all feed the same `ObservationBuilder` in stamp order and ask it for the
observation at a plan stamp.  It keeps bounded buffers, holds no clock and draws no random numbers, so equal inputs give
equal observations.  History is the 16 states at 4 Hz that end at the stamp (WOD-E2E); instants that fall between two
0.1 s ticks are linearly interpolated between exactly those two ticks, and nothing is ever extrapolated or repeated: a
drive starts under the expert until enough has really happened.
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque

from efficientgen.perception.types import (
    CHUNK_NS,
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    NS,
    TICK_NS,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
    SensorFrames,
)

HISTORY_NS = (HISTORY_STATES - 1) * HISTORY_PERIOD_NS  # 3.75 s


class NotEnoughHistoryError(LookupError):
    """A state or camera frame that the observation needs has not been added; the message names what is missing."""


class StampOrderError(ValueError):
    """States or frames were added out of stamp order."""


class ObservationBuilder:
    """Collects ego states (one per 0.1 s tick, stamp 0 included) and camera frames; builds observations from them.

    Args:
        frames_per_camera: per camera in an observation: the newest at the stamp, the others each a gap earlier.
        frame_gap_ns: time between those frames.
        cameras: names every observation must hold; by default the names seen so far.  Give it where cameras arrive one
            by one (ROS 2 topics).
    """

    def __init__(self, frames_per_camera: int = 2, frame_gap_ns: int = CHUNK_NS, cameras: tuple[str, ...] = ()) -> None:
        if frames_per_camera < 0 or frame_gap_ns <= 0:
            raise ValueError("frames_per_camera must be >= 0 (0: a planner that sees no pixels), frame_gap_ns > 0")
        self.frames_per_camera = frames_per_camera
        self.frame_gap_ns = frame_gap_ns
        slack = 4 * CHUNK_NS  # a late planner may still ask for a few stamps back
        self._states: deque[EgoState] = deque(maxlen=(HISTORY_NS + slack) // TICK_NS + 2)
        self._frames_kept = (max(frames_per_camera - 1, 0) * frame_gap_ns + slack) // TICK_NS + 1
        self._frames: dict[str, OrderedDict[int, CameraFrame]] = {name: OrderedDict() for name in cameras}

    def expect(self, cameras: tuple[str, ...]) -> None:
        """From now on an observation holds exactly these cameras."""
        self._frames = {name: self._frames.get(name, OrderedDict()) for name in cameras}

    def add_state(self, state: EgoState) -> None:
        """Append the ego state of the next tick.

        Raises:
            StampOrderError: the stamp is not after the newest one held.
        """
        if self._states and state.stamp_ns <= self._states[-1].stamp_ns:
            raise StampOrderError(
                f"ego state at {state.stamp_ns} ns after {self._states[-1].stamp_ns} ns: add states once, in order; "
                "start a new ObservationBuilder for a new drive"
            )
        self._states.append(state)

    def add_frames(self, frames: SensorFrames) -> None:
        """Append what a world drew (any number of ticks and cameras).

        Raises:
            StampOrderError: a frame's stamp is not after the newest one of its camera.
        """
        for name, sequence in frames.cameras.items():
            held = self._frames.setdefault(name, OrderedDict())
            for frame in sequence:
                if held and frame.stamp_ns <= next(reversed(held)):
                    raise StampOrderError(
                        f"{name} frame at {frame.stamp_ns} ns after {next(reversed(held))} ns: add each once, in order"
                    )
                held[frame.stamp_ns] = frame
                if len(held) > self._frames_kept:
                    held.popitem(last=False)

    def ready(self, stamp_ns: int) -> bool:
        """Whether `build(stamp_ns, ...)` would succeed."""
        return not self.missing(stamp_ns)

    def missing(self, stamp_ns: int) -> str:
        """What `build(stamp_ns, ...)` still lacks, in words; "" when nothing."""
        by_stamp = {state.stamp_ns for state in self._states}
        for k in range(HISTORY_STATES):
            for need in _ticks_around(stamp_ns - k * HISTORY_PERIOD_NS):
                if need not in by_stamp:
                    return f"ego state at {need / NS:.1f} s" + (" (before the drive began)" if need < 0 else "")
        if self.frames_per_camera and not self._frames:
            return "camera frames (none were ever added)"
        for name in sorted(self._frames):
            for need in self._frame_stamps(stamp_ns):
                if need not in self._frames[name]:
                    return f"{name} frame at {need / NS:.1f} s"
        return ""

    def build(self, stamp_ns: int, command: Command) -> Observation:
        """The observation at `stamp_ns`.

        Raises:
            NotEnoughHistoryError: a needed state or frame is absent; keep the expert driving and ask again later.
        """
        missing = self.missing(stamp_ns)
        if missing:
            raise NotEnoughHistoryError(
                f"observation at {stamp_ns / NS:.1f} s lacks: {missing}; an observation needs "
                f"{HISTORY_NS / NS:.2f} s of ego states and {self.frames_per_camera} frames per camera"
            )
        stamps = self._frame_stamps(stamp_ns)
        cameras = {name: tuple(held[s] for s in stamps) for name, held in sorted(self._frames.items()) if stamps}
        return Observation(stamp_ns, cameras, self._history(stamp_ns), command)

    def _frame_stamps(self, stamp_ns: int) -> list[int]:
        return [stamp_ns - k * self.frame_gap_ns for k in reversed(range(self.frames_per_camera))]

    def _history(self, stamp_ns: int) -> EgoHistory:
        by_stamp = {state.stamp_ns: state for state in self._states}
        newest_first: list[EgoState] = []
        for k in range(HISTORY_STATES):
            instant = stamp_ns - k * HISTORY_PERIOD_NS
            pair = [by_stamp[s] for s in _ticks_around(instant)]
            state = interpolate(pair[0], pair[-1], instant)
            if newest_first:  # yaw continuous backwards from the newest state
                turn = _wrap(state.yaw - newest_first[-1].yaw)
                state = _with_yaw(state, newest_first[-1].yaw + turn)
            newest_first.append(state)
        return EgoHistory(tuple(reversed(newest_first)))


def interpolate(before: EgoState, after: EgoState, stamp_ns: int) -> EgoState:
    """The state at `stamp_ns` between two states, linear in every quantity (yaw along the shorter way round)."""
    if stamp_ns == before.stamp_ns:
        return before
    if stamp_ns == after.stamp_ns:
        return after
    a = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)

    def mix(p: float, q: float) -> float:
        return p + a * (q - p)

    return EgoState(
        stamp_ns=stamp_ns,
        x=mix(before.x, after.x),
        y=mix(before.y, after.y),
        yaw=before.yaw + a * _wrap(after.yaw - before.yaw),
        speed=mix(before.speed, after.speed),
        acceleration=mix(before.acceleration, after.acceleration),
        yaw_rate=mix(before.yaw_rate, after.yaw_rate),
        steering=mix(before.steering, after.steering),
    )


def _ticks_around(instant_ns: int) -> tuple[int, ...]:
    """The tick at `instant_ns`, or the two around it."""
    floor = instant_ns // TICK_NS * TICK_NS
    return (floor,) if floor == instant_ns else (floor, floor + TICK_NS)


def _wrap(angle: float) -> float:
    return math.remainder(angle, 2.0 * math.pi)


def _with_yaw(state: EgoState, yaw: float) -> EgoState:
    return EgoState(
        state.stamp_ns, state.x, state.y, yaw, state.speed, state.acceleration, state.yaw_rate, state.steering
    )
