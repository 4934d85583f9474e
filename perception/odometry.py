"""From a foreign car's odometry, at whatever rate it comes, to one `EgoState` per 0.1 s tick.

A state at a tick lies between two messages and is interpolated between exactly these two; where they are too far
apart there is none, and nothing is extrapolated.  What odometry does not tell is derived from the past alone, as a
planner in the car would have to: acceleration from the speeds of the last 0.3 s, steering from the yaw rate by the
bicycle model; with poses only, speed and yaw rate by three-point backward differences over 0.4 s.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import replace

import numpy as np

from efficientgen.perception.foreign_messages import PoseSample
from efficientgen.perception.types import F64, NS, TICK_NS, EgoState

ACCELERATION_TICKS = 3
DIFFERENCE_TICKS = 2  # h of the backward difference (3 f(t) - 4 f(t - h) + f(t - 2 h)) / 2 h
CRAWL_M_S = 0.5  # slower than this, a yaw rate says nothing about the steering


class TickStates:
    """Samples in, states on the ticks `origin_ns + k * TICK_NS` out, with stamps from the origin.

    Args:
        origin_ns: stamp of tick 0.
        gap_ns: samples further apart are not bridged.
        derived: speed and yaw rate from poses.
        rear_axle: (x, y) m of the rear axle in the frame that the odometry moves.
    """

    def __init__(self, origin_ns: int, gap_ns: int, derived: bool, rear_axle: tuple[float, float], wheelbase: float):
        self._origin_ns, self._gap_ns, self._derived = origin_ns, gap_ns, derived
        self._rear_axle, self._wheelbase = rear_axle, wheelbase
        self._before: PoseSample | None = None
        self._next_ns: int | None = None  # the tick that comes next, absolute
        self._past: deque[EgoState] = deque(maxlen=2 * DIFFERENCE_TICKS)  # consecutive ticks, newest last
        self.unordered = 0  # samples that came out of order, and were dropped

    def add(self, sample: PoseSample) -> list[EgoState]:
        """The states that this sample completes, in order."""
        before = self._before
        if before is not None and sample.stamp_ns <= before.stamp_ns:
            self.unordered += 1
            return []
        self._before = sample
        first = sample.stamp_ns if before is None else before.stamp_ns
        tick = self._origin_ns + -(-(first - self._origin_ns) // TICK_NS) * TICK_NS
        tick = tick if self._next_ns is None else max(tick, self._next_ns)
        out = []
        while tick <= sample.stamp_ns:
            if before is None or sample.stamp_ns - before.stamp_ns <= self._gap_ns:
                state = self._complete(at_rear_axle(between(before or sample, sample, tick), self._rear_axle))
                out += [state] if state is not None else []
            tick += TICK_NS
        self._next_ns = tick
        return out

    def _complete(self, sample: PoseSample) -> EgoState | None:
        """The state of a tick from its pose and the ticks before; None while these are too few."""
        stamp = sample.stamp_ns - self._origin_ns
        if self._past and self._past[-1].stamp_ns != stamp - TICK_NS:
            self._past.clear()
        past = list(self._past)
        state = EgoState(stamp, sample.x, sample.y, sample.yaw, sample.speed or 0.0, 0.0, sample.yaw_rate or 0.0, 0.0)
        whole = len(past) == 2 * DIFFERENCE_TICKS if self._derived else bool(past)
        if self._derived and whole:
            state = _with_motion(state, past)
        used = past[-ACCELERATION_TICKS:]
        if used:
            acceleration = (state.speed - used[0].speed) / ((stamp - used[0].stamp_ns) / NS)
            steering = used[-1].steering
            if abs(state.speed) > CRAWL_M_S:
                steering = math.atan(self._wheelbase * state.yaw_rate / state.speed)
            state = replace(state, acceleration=acceleration, steering=steering)
        self._past.append(state)
        return state if whole else None


def between(before: PoseSample, after: PoseSample, stamp_ns: int) -> PoseSample:
    """Linear between two samples, yaw along the shorter way round; a sample itself where the stamp is its own."""
    if stamp_ns == after.stamp_ns:
        return after
    if stamp_ns == before.stamp_ns:
        return before
    a = (stamp_ns - before.stamp_ns) / (after.stamp_ns - before.stamp_ns)

    def mix(p: float | None, q: float | None) -> float | None:
        return None if p is None or q is None else p + a * (q - p)

    yaw = before.yaw + a * math.remainder(after.yaw - before.yaw, math.tau)
    return PoseSample(
        stamp_ns,
        before.x + a * (after.x - before.x),
        before.y + a * (after.y - before.y),
        math.remainder(yaw, math.tau),
        mix(before.speed, after.speed),
        mix(before.yaw_rate, after.yaw_rate),
    )


def at_rear_axle(sample: PoseSample, rear_axle: tuple[float, float]) -> PoseSample:
    """The sample moved from the odometry's frame to the rear axle at (x, y) m of it: a rigid body's."""
    x, y = rear_axle
    if not x and not y:
        return sample
    c, s = math.cos(sample.yaw), math.sin(sample.yaw)
    speed = None if sample.speed is None or sample.yaw_rate is None else sample.speed - sample.yaw_rate * y
    return replace(sample, x=sample.x + c * x - s * y, y=sample.y + s * x + c * y, speed=speed)


def _with_motion(state: EgoState, past: list[EgoState]) -> EgoState:
    """Speed along the car and yaw rate from the poses of the last ticks."""
    older, old = past[0], past[DIFFERENCE_TICKS]
    span = 2 * DIFFERENCE_TICKS * TICK_NS / NS
    vx = (3.0 * state.x - 4.0 * old.x + older.x) / span
    vy = (3.0 * state.y - 4.0 * old.y + older.y) / span
    d1, d2 = (math.remainder(state.yaw - then.yaw, math.tau) for then in (old, older))
    speed = vx * math.cos(state.yaw) + vy * math.sin(state.yaw)
    return replace(state, speed=speed, yaw_rate=(4.0 * d1 - d2) / span)


class DrivenPath:
    """Where the car went: all samples of a recording, to compare plans with.

    Args:
        samples: of the rear axle, in order of time.
        gap_ns: between samples further apart the path is not known.
    """

    def __init__(self, samples: list[PoseSample], gap_ns: int) -> None:
        self.stamps = np.array([s.stamp_ns for s in samples], np.int64)
        self.points: F64 = np.array([(s.x, s.y) for s in samples], np.float64).reshape(-1, 2)
        self.yaws: F64 = np.unwrap(np.array([s.yaw for s in samples], np.float64))
        self._gap_ns = gap_ns
        self.along: F64 = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(self.points, axis=0).T))])

    def at(self, stamps_ns: list[int]) -> F64:
        """(N, 2) m in the fixed frame at these stamps; NaN before the first, after the last and in gaps."""
        wanted = np.asarray(stamps_ns, np.int64)
        after = np.searchsorted(self.stamps, wanted)
        inside = (after < len(self.stamps)) & (wanted >= (self.stamps[0] if len(self.stamps) else 1))
        j = np.minimum(after, max(len(self.stamps) - 1, 0))
        i = np.where(self.stamps[j] == wanted, j, np.maximum(j - 1, 0)) if len(self.stamps) else j
        known = inside & (self.stamps[j] - self.stamps[i] <= self._gap_ns)
        share = (wanted - self.stamps[i]) / np.maximum(self.stamps[j] - self.stamps[i], 1)
        out = self.points[i] + share[:, None] * (self.points[j] - self.points[i])
        return np.where(known[:, None], out, np.nan)

    def turn_ahead(self, stamp_ns: int, metres: float) -> float | None:
        """rad that the car turns left within the next `metres` it drives; None where the recording ends before."""
        k = int(np.searchsorted(self.stamps, stamp_ns))
        if k >= len(self.stamps):
            return None
        end = int(np.searchsorted(self.along, self.along[k] + metres))
        return float(self.yaws[min(end, len(self.yaws) - 1)] - self.yaws[k])
