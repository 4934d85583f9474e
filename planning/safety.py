"""Safety: exactly one verdict per plan stamp, from a ladder that never follows a stale, invalid or missing plan.

`judge` is a pure function `(state, plan, ego, now) -> (state, verdict)`; the in-process runner and the ROS 2 node call
the same one.  Rungs, best first:

1. NOMINAL: a fresh plan that `validate` finds nothing wrong with (EXPERT during the hand-over phase);
2. SHIFTED: the last valid trajectory, followed further in time for `bridge_s` after it was taken: one lost plan;
3. BRAKE: braking along the last valid path, continued smoothly where it ends;
4. STOP: standing still; or, moving with no valid path at all, firm braking along the present curvature.

BRAKE trusts the whole last path.  A learned plan's far bends err, yet not following them errs more, and what keeps the
car in its lane is to travel less of them: `eval/braking.py` measures the designs, `docs/results/braking.json` holds the
table.  The deceleration is the most that UN R157 (5.5.1) allows a minimum-risk manoeuvre to demand.

A better rung is taken again as soon as a valid plan arrives.  The limits catch plans that no car could or should
drive, not plans that are merely a little noisy: a learned planner's waypoints carry centimetres of quantisation.  What
a plan may be is measured against the car itself (its speed, its turning circle), which is stricter than measuring it
against the plan before, and lets a planner change its mind.

Every refusal begins with the words of a `Reason`, so that logs and diagnostics can be counted: `Reason.of(words)`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from enum import Enum

import numpy as np

from efficientgen.perception.observation import interpolate
from efficientgen.perception.types import F64, NS, EgoState, Plan, Source, Trajectory, Verdict
from efficientgen.planning.tracker import anchor


class Reason(str, Enum):
    """Why a verdict is not nominal; the words that its `reason` begins with."""

    NO_PLAN = "no plan"  # none ever, or the planner answered that it has none
    NO_NEW_PLAN = "no new plan"  # the newest was judged before
    NO_STATE = "no ego state"
    WRONG_FRAME = "wrong frame"
    FUTURE = "plan from the future"
    STALE = "stale plan"
    MALFORMED = "malformed plan"  # shapes, times
    NOT_FINITE = "plan holds NaN or infinity"
    SHORT = "plan too short"
    UNREACHABLE = "unreachable"  # from where the car is, at its speed
    SPEED = "plan too fast"
    BACKWARD = "plan drives backward"
    ACCELERATION = "plan accelerates too hard"
    LATERAL = "plan turns too hard"
    BUSY = "the planner is busy"  # latency mode: nothing was due

    @staticmethod
    def of(words: str) -> Reason | None:
        """The reason that `words` begin with; None for "" and unknown words."""
        held = [reason for reason in Reason if words.startswith(reason.value)]
        return max(held, key=lambda reason: len(reason.value), default=None)


@dataclass(frozen=True)
class SafetyParams:
    """Limits of the ladder; SI units."""

    enabled: bool = True  # False: every finite plan is followed unchecked, else the last one; to see who drives
    bridge_s: float = 0.8  # SHIFTED for less than this after the last valid plan was taken: one missing plan ...
    max_plan_age_s: float = 1.2  # ... and only while the plan behind the trajectory is younger than this
    max_fresh_age_s: float = 0.9  # an arriving plan older than this is stale (real time: latency + waiting for a stamp)
    min_horizon_s: float = 1.8  # covers max_plan_age_s and one chunk more
    braking: float = 4.0  # along the last path
    firm_braking: float = 5.0  # with no path, or where the last plan meant to stop sooner
    standing_speed: float = 0.1  # m/s; below it the car counts as standing
    max_speed: float = 30.0
    max_acceleration: float = 9.0  # any sign, over windows of `window_s`
    max_lateral_acceleration: float = 9.0
    window_s: float = 0.5
    jump_margin: float = 1.5  # m by which the first waypoint may miss what the speed allows, lengthwise ...
    side_margin: float = 0.5  # ... sideways, and into the turning circle (nano-ddrive: 0.5 and 0.2 m at most)
    turning_radius: float = 4.1  # m, rear axle, at full lock
    max_backward: float = 1.0  # m driven against the path's own direction
    rejoin_time_s: float = 1.5  # BRAKE closes the car's offset from the last path within this time


@dataclass(frozen=True)
class SafetyState:
    """What the ladder remembers between verdicts."""

    last: Trajectory | None = None  # the last valid trajectory
    seen_ns: int = -1  # stamp of the newest plan judged, valid or not
    recent: tuple[EgoState, ...] = ()  # newest last; plans are anchored to the ego state at their own stamp
    taken_ns: int = -1  # when `last` was taken


_RECENT = 24


def remember(state: SafetyState, ego: EgoState) -> SafetyState:
    """Note an ego state between verdicts, so that a late plan is anchored where the car was at the plan's stamp."""
    if state.recent and state.recent[-1].stamp_ns >= ego.stamp_ns:
        return state
    return replace(state, recent=(*state.recent, ego)[-_RECENT:])


def validate(plan: Plan, ego: EgoState, now_ns: int, params: SafetyParams | None = None) -> str:
    """Why `plan` must not be driven, in words; "" when it may.  `ego` is the state at the plan's stamp."""
    params = params or SafetyParams()
    age = (now_ns - plan.stamp_ns) / NS
    if age < 0.0:
        return f"{Reason.FUTURE.value}, {-age:.2f} s ahead"
    if age > params.max_fresh_age_s:
        return f"{Reason.STALE.value}, {age:.2f} s old"
    way, times = np.asarray(plan.waypoints, np.float64), np.asarray(plan.times_s, np.float64)
    if way.ndim != 2 or way.shape[1:] != (2,) or len(way) < 2 or times.shape != (len(way),):
        return f"{Reason.MALFORMED.value}: shape {way.shape}, times {times.shape}; (T, 2), (T,) with T >= 2 expected"
    if not (np.isfinite(way).all() and np.isfinite(times).all()):
        return Reason.NOT_FINITE.value
    if times[0] <= 0.0 or (np.diff(times) <= 0.0).any():
        return f"{Reason.MALFORMED.value}: times do not increase from above zero"
    if times[-1] < params.min_horizon_s:
        return f"{Reason.SHORT.value}: ends after {times[-1]:.1f} s, at least {params.min_horizon_s:.1f} s needed"
    return _beyond_physics(way, times, ego, params)


def judge(
    state: SafetyState,
    plan: Plan | None,
    ego: EgoState,
    now_ns: int,
    params: SafetyParams | None = None,
    *,
    expert: bool = False,
    refused: str = "",
) -> tuple[SafetyState, Verdict]:
    """The verdict for `now_ns`.

    Args:
        state: what the previous call returned; `SafetyState()` at the start of a drive.
        plan: the newest plan received, None when there is none.  A plan judged before is not fresh again.
        ego: the state at `now_ns`.
        expert: the plan is the hand-over expert's; a valid one is marked `Source.EXPERT`.
        refused: why a plan that came was not passed on, in the words of a `Reason`; told when no other is followed.
    """
    params = params or SafetyParams()
    state = remember(state, ego)
    if not params.enabled:
        return _unchecked(state, plan, ego, now_ns)
    reason, at = refused or Reason.NO_PLAN.value, None
    if plan is not None:
        at = _state_at(state.recent, plan.stamp_ns)
        if plan.stamp_ns < state.seen_ns:
            older = (state.seen_ns - plan.stamp_ns) / NS
            reason = refused or f"{Reason.STALE.value}, {older:.2f} s older than one seen before"
        elif plan.stamp_ns == state.seen_ns:
            reason = refused or Reason.NO_NEW_PLAN.value
        elif at is None and plan.stamp_ns <= now_ns:
            reason = f"{Reason.NO_STATE.value} is known for the plan's stamp {plan.stamp_ns / NS:.2f} s"
        else:
            reason = validate(plan, at or ego, now_ns, params)
        if not reason and at is not None:
            last = anchor(plan, at)
            state = SafetyState(last, plan.stamp_ns, state.recent, now_ns)
            source = Source.EXPERT if expert else Source.NOMINAL
            return state, Verdict(now_ns, last, source, "", (now_ns - last.stamp_ns) / NS)
        if plan.stamp_ns <= now_ns:
            state = replace(state, seen_ns=max(state.seen_ns, plan.stamp_ns))
    return state, _fallback(state, ego, now_ns, reason, params)


def _unchecked(state: SafetyState, plan: Plan | None, ego: EgoState, now_ns: int) -> tuple[SafetyState, Verdict]:
    """Whatever the planner says, as far as a tracker can follow it, anchored where the car is."""
    if plan is not None:
        try:
            state = replace(state, last=anchor(replace(plan, stamp_ns=now_ns), ego), taken_ns=now_ns)
        except ValueError:  # no numbers, or times that do not increase: nothing to follow
            plan = None
    last = state.last
    if last is None:
        here = np.array([[ego.x, ego.y], [ego.x, ego.y]])
        return state, Verdict(now_ns, Trajectory(now_ns, here, np.array([0.0, 1.0])), Source.STOP, Reason.NO_PLAN.value)
    if plan is None:
        return state, Verdict(now_ns, last, Source.SHIFTED, Reason.NO_PLAN.value, (now_ns - last.stamp_ns) / NS)
    return state, Verdict(now_ns, last, Source.NOMINAL)


def _fallback(state: SafetyState, ego: EgoState, now_ns: int, reason: str, params: SafetyParams) -> Verdict:
    last = state.last
    age = 0.0 if last is None else (now_ns - last.stamp_ns) / NS
    if last is not None and age < params.max_plan_age_s and (now_ns - state.taken_ns) / NS < params.bridge_s:
        return Verdict(now_ns, last, Source.SHIFTED, reason, age)
    if ego.speed < params.standing_speed:
        here = np.array([[ego.x, ego.y], [ego.x, ego.y]])
        return Verdict(now_ns, Trajectory(now_ns, here, np.array([0.0, 1.0])), Source.STOP, reason, age)
    path = None if last is None else _path_ahead(last, ego, params)
    if last is None or path is None:
        path = _curvature_path(ego, params.firm_braking)
        return Verdict(now_ns, _braking(path, ego, now_ns, params.firm_braking), Source.STOP, reason, age)
    braking = _deceleration(last, ego, params)
    return Verdict(now_ns, _braking(path, ego, now_ns, braking), Source.BRAKE, reason, age)


# --- plans that no car could drive ---


def _beyond_physics(way: F64, times: F64, ego: EgoState, params: SafetyParams) -> str:
    points = np.vstack([np.zeros((1, 2)), way])  # (T + 1, 2), from the rear axle
    stamps = np.concatenate([[0.0], times])
    steps, dt = np.diff(points, axis=0), np.diff(stamps)
    lengths = np.hypot(steps[:, 0], steps[:, 1])

    top = max(ego.speed, 0.0) * dt[0] + 0.5 * params.max_acceleration * dt[0] ** 2 + params.jump_margin
    low = max(ego.speed, 0.0) * dt[0] - 0.5 * params.max_acceleration * dt[0] ** 2 - params.jump_margin
    if lengths[0] > top or way[0, 0] < min(low, -params.max_backward):
        return f"{Reason.UNREACHABLE.value}: ({way[0, 0]:.1f}, {way[0, 1]:.1f}) m after {dt[0]:.2f} s"
    if way[0, 0] < low:
        return f"{Reason.UNREACHABLE.value}: first waypoint {way[0, 0]:.1f} m ahead, the car cannot slow down that fast"
    if abs(way[0, 1]) > 0.5 * params.max_lateral_acceleration * dt[0] ** 2 + params.side_margin:
        return f"{Reason.UNREACHABLE.value}: {abs(way[0, 1]):.1f} m to the side after {dt[0]:.2f} s"
    travelled = np.cumsum(lengths)
    deep = params.turning_radius - np.hypot(way[:, 0], np.abs(way[:, 1]) - params.turning_radius)  # m inside the circle
    inside = (deep > params.side_margin) & (travelled < math.pi * params.turning_radius)
    if inside.any():
        k = int(inside.argmax())
        return f"{Reason.UNREACHABLE.value}: ({way[k, 0]:.1f}, {way[k, 1]:.1f}) m lies inside the turning circle"
    speeds = lengths / dt
    if speeds.max() > params.max_speed:
        return f"{Reason.SPEED.value}: {speeds.max():.0f} m/s"

    moving = np.concatenate([[True], lengths[1:] > 0.05])  # direction of very short steps is noise
    headings = np.arctan2(steps[:, 1], steps[:, 0])
    ahead = np.array([1.0, 0.0])
    backward = 0.0
    for step, length, moves in zip(steps, lengths, moving, strict=True):
        backward += max(0.0, -float(step @ ahead))
        if moves and length > 0.3 and float(step @ ahead) >= 0.0:
            ahead = step / length
    if backward > params.max_backward:
        return f"{Reason.BACKWARD.value}: {backward:.1f} m"

    # Accelerations over windows of at least window_s between segment mid-times; single steps are too noisy to judge.
    mid = np.concatenate([[0.0], 0.5 * (stamps[1:] + stamps[:-1])])
    v = np.concatenate([[max(ego.speed, 0.0)], speeds])
    turn = np.unwrap(np.concatenate([[0.0], headings]))
    for i in range(len(mid)):
        j = int(np.searchsorted(mid, mid[i] + params.window_s - 1e-9))
        if j >= len(mid):
            break
        span = mid[j] - mid[i]
        slack = 2.0 * 0.15 / (span * dt[max(j - 1, 0)])  # what 0.15 m of noise at both ends of the window may fake
        along = (v[j] - v[i]) / span
        if abs(along) > params.max_acceleration + min(slack, params.max_acceleration):
            return f"{Reason.ACCELERATION.value}: {along:.0f} m/s^2 after {mid[i]:.1f} s"
        slow = float(v[i : j + 1].min())
        if slow > 2.0:  # m/s; slower, the direction of a chord is noise
            lateral = slow * abs(turn[j] - turn[i]) / span
            slack = slow * 2.0 * 0.15 / (slow * dt[max(j - 1, 0)] * span)
            if lateral > params.max_lateral_acceleration + min(slack, params.max_lateral_acceleration):
                return f"{Reason.LATERAL.value}: {lateral:.0f} m/s^2 lateral acceleration after {mid[i]:.1f} s"
    return ""


# --- paths for braking ---


def _state_at(recent: tuple[EgoState, ...], stamp_ns: int) -> EgoState | None:
    """The ego state at `stamp_ns`, interpolated between neighbours at most one plan period apart; None if unknown."""
    for before, after in zip(recent, recent[1:], strict=False):
        if before.stamp_ns <= stamp_ns <= after.stamp_ns:
            close = after.stamp_ns - before.stamp_ns <= NS // 2 or stamp_ns in (before.stamp_ns, after.stamp_ns)
            return interpolate(before, after, stamp_ns) if close else None
    return recent[-1] if recent and recent[-1].stamp_ns == stamp_ns else None


def _path_ahead(last: Trajectory, ego: EgoState, params: SafetyParams) -> F64 | None:
    """The geometry of `last` from the car onwards: (M, 2) m, starting at the rear axle; None when it has no geometry.

    The car's offset from the path fades out over `rejoin_time_s`; past its end the path's final curvature decays to
    straight, so that a car that cannot stop within it stays on a smooth continuation.
    """
    keep = np.concatenate([[True], np.hypot(*np.diff(last.points, axis=0).T) > 1e-3])
    path = last.points[keep]
    if len(path) < 2 or np.hypot(*(path[-1] - path[0])) < 1.0:
        return None
    need = ego.speed**2 / (2.0 * params.braking) + 10.0
    path = np.vstack([path, _extension(path, need)])
    seg = np.diff(path, axis=0)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(seg[:, 0], seg[:, 1]))])
    here = np.array([ego.x, ego.y])
    t = np.clip(((here - path[:-1]) * seg).sum(1) / np.maximum((seg * seg).sum(1), 1e-12), 0.0, 1.0)
    foot = path[:-1] + t[:, None] * seg
    i = int(np.argmin(((here - foot) ** 2).sum(1)))
    s0 = float(arc[i] + t[i] * (arc[i + 1] - arc[i]))
    s = np.arange(0.0, min(need, arc[-1] - s0), 0.5)
    if len(s) < 2:
        return None
    ahead = np.stack([np.interp(s0 + s, arc, path[:, k]) for k in (0, 1)], axis=1)
    fade = np.clip(s / max(params.rejoin_time_s * ego.speed, 4.0), 0.0, 1.0)
    offset = here - ahead[0]
    return ahead + offset * (1.0 - fade * fade * (3.0 - 2.0 * fade))[:, None]


def _extension(path: F64, length: float) -> F64:
    """`length` m beyond the end of `path`: its mean curvature over the last metres, decaying to straight."""
    seg = np.diff(path, axis=0)
    heading = np.unwrap(np.arctan2(seg[:, 1], seg[:, 0]))
    lengths = np.hypot(seg[:, 0], seg[:, 1])
    back = np.cumsum(lengths[::-1])[::-1]  # distance from each segment's start to the end
    first = int(np.searchsorted(-back, -8.0))  # the last 8 m
    first = min(first, len(seg) - 1)
    span = max(float(back[first]), 2.0)
    curvature = float(np.clip((heading[-1] - heading[first]) / span, -0.2, 0.2))
    return _arc(path[-1], float(heading[-1]), curvature, length)


def _curvature_path(ego: EgoState, braking: float) -> F64:
    """Straight on from the car, its present curvature decaying: (M, 2) m."""
    curvature = float(np.clip(ego.yaw_rate / max(ego.speed, 1.0), -0.2, 0.2))
    start = np.array([ego.x, ego.y])
    return np.vstack([start, _arc(start, ego.yaw, curvature, ego.speed**2 / (2.0 * braking) + 2.0)])


def _arc(start: F64, heading: float, curvature: float, length: float, decay: float = 10.0) -> F64:
    s = np.arange(0.5, length + 0.5, 0.5)
    angles = heading + curvature * decay * (1.0 - np.exp(-(s - 0.25) / decay))
    return start + np.cumsum(0.5 * np.stack([np.cos(angles), np.sin(angles)], axis=1), axis=0)


def _deceleration(last: Trajectory, ego: EgoState, params: SafetyParams) -> float:
    """`params.braking`, or firmer where the last plan ended standing nearer than that."""
    tail = last.points[-1] - last.points[-2]
    end_speed = float(np.hypot(*tail) / max(last.times_s[-1] - last.times_s[-2], 1e-6))
    if end_speed > 0.5:
        return params.braking
    to_go = last.points[-1] - np.array([ego.x, ego.y])
    distance = max(float(to_go @ np.array([math.cos(ego.yaw), math.sin(ego.yaw)])), 0.1)
    return float(np.clip(ego.speed**2 / (2.0 * distance), params.braking, params.firm_braking))


def _braking(path: F64, ego: EgoState, now_ns: int, braking: float) -> Trajectory:
    """Constant deceleration along `path` to standstill, every 0.1 s."""
    duration = ego.speed / braking
    times = np.concatenate([np.arange(0.0, max(duration - 0.05, 0.05), 0.1), [duration, duration + 1.0]])
    t = np.minimum(times, duration)
    s = ego.speed * t - 0.5 * braking * t * t
    seg = np.diff(path, axis=0)
    arc = np.concatenate([[0.0], np.cumsum(np.hypot(seg[:, 0], seg[:, 1]))])
    return Trajectory(now_ns, np.stack([np.interp(s, arc, path[:, k]) for k in (0, 1)], axis=1), times)
