"""Log replay: drive as somebody once drove here, with closed eyes.

The baseline of AlpaSim and nuPlan that no traffic can distract: the poses recorded in another drive of the same
scenario, under other traffic, are the plan.  It shows what a planner gains by looking at this traffic rather than
knowing the way.  Plans are the recorded poses ahead of the present stamp, expressed in the ego frame, so tracker and
safety run as ever.
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence

import numpy as np

from efficientgen.perception.types import NS, DecodeStats, EgoState, Observation, Plan

TIMES_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
HEADING_M = 10.0  # a heading the other way counts like this many metres when the recording is entered
SPEED_S = 1.0  # ... a metre per second of speed like this many
SHIFT_MPS = 0.02  # ... a second of time shift like this many; only breaks ties, as at a red light


class EmptyRecordingError(ValueError):
    """A recording without two states in order of time."""


class LogReplay:
    """A `Planner` that replays `states`, recorded ego states in order of time.

    At its first plan of a drive it enters the recording where that is most like the car's present place, heading and
    speed; from there on time runs as it ran then.  After the end it keeps the last speed and heading.

    Raises:
        EmptyRecordingError: fewer than two states, or stamps that do not increase.
    """

    name = "log-replay"
    frames_per_camera = 0  # it does not look

    def __init__(self, states: Sequence[EgoState]) -> None:
        stamps = [state.stamp_ns for state in states]
        if len(stamps) < 2 or any(b <= a for a, b in zip(stamps, stamps[1:], strict=False)):
            raise EmptyRecordingError("log-replay needs at least two recorded states, in order of time")
        self._stamps, self._states = stamps, tuple(states)
        self._shift_ns: int | None = None

    def reset(self, seed: int) -> None:
        """Forget where the recording was entered; the replay draws no random numbers."""
        self._shift_ns = None

    def plan(self, observation: Observation) -> Plan:
        """Waypoints (6, 2) m at 0.5 .. 3.0 s: where the recorded car was, that much after the present stamp."""
        ego, now = observation.history.states[-1], observation.stamp_ns
        if self._shift_ns is None:
            self._shift_ns = self._entry(ego, now) - now
        there = np.array([self._place(now + self._shift_ns + round(t * NS)) for t in TIMES_S]) - (ego.x, ego.y)
        cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
        return Plan(
            stamp_ns=now,
            waypoints=there @ np.array([[cos, -sin], [sin, cos]]),
            times_s=np.array(TIMES_S),
            sections={"recorded_stamp_s": (now + self._shift_ns) / NS},
            stats=DecodeStats(decoder="rule", engine="log-replay"),
        )

    def _entry(self, ego: EgoState, now_ns: int) -> int:
        """The recorded stamp at which the car was most like `ego`."""

        def unlike(state: EgoState) -> float:
            apart = math.hypot(state.x - ego.x, state.y - ego.y)
            turned = HEADING_M * (1.0 - math.cos(state.yaw - ego.yaw))
            shifted = SHIFT_MPS * abs(state.stamp_ns - now_ns) / NS
            return apart + turned + SPEED_S * abs(state.speed - ego.speed) + shifted

        return min(self._states, key=unlike).stamp_ns

    def _place(self, stamp_ns: int) -> tuple[float, float]:
        """The recorded position at a stamp, linear between states, straight on after the last."""
        i = min(max(bisect.bisect_right(self._stamps, stamp_ns) - 1, 0), len(self._stamps) - 1)
        a = self._states[i]
        if i == len(self._stamps) - 1:
            gone = a.speed * (stamp_ns - a.stamp_ns) / NS
            return a.x + gone * math.cos(a.yaw), a.y + gone * math.sin(a.yaw)
        b = self._states[i + 1]
        share = (stamp_ns - a.stamp_ns) / (b.stamp_ns - a.stamp_ns)
        return a.x + share * (b.x - a.x), a.y + share * (b.y - a.y)
