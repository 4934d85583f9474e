"""The privileged expert: what a careful driver would do, from one oracle frame and the route; the imitation target.

`expert_plan` is a pure function.  It gathers leads and halts (`hazards`), then simulates its own bicycle for 3 s along
the route: pure pursuit sideways; lengthwise a speed profile (limits, curvature), the Intelligent Driver Model (Treiber,
Hennecke, Helbing 2000) behind leads and constant-deceleration stops.  Where that meets someone's constant-velocity
prediction, it plans again with a stop before the meeting point.  It knows the truth, yet looks only at what a camera
could show now: nothing beyond 60 m, no signal timing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.route import command_at, locate, point_at
from efficientgen.perception.types import F64, Command, DecodeStats, EgoState, OracleFrame, Plan, Route, VehicleParams
from efficientgen.planning.hazards import (
    Crowd,
    Halt,
    Lead,
    crossing_halts,
    crowd,
    junction_halt,
    leads,
    signal_halt,
)

HORIZON_STEPS = 30  # of 0.1 s
PLAN_STEPS = (5, 10, 15, 20, 25, 30)  # waypoints at 0.5 .. 3.0 s
DT = 0.1


@dataclass(frozen=True)
class ExpertConfig:
    """How the expert drives; SI units."""

    vehicle: VehicleParams = VehicleParams()
    acceleration: float = 1.8
    braking: float = 2.0  # IDM's comfortable deceleration
    max_braking: float = 6.5
    lateral_acceleration: float = 2.0
    profile_braking: float = 1.4  # before curves and lower limits
    halt_braking: float = 1.7  # from here on the expert brakes for a stop
    give_way_speed: float = 4.5
    headway_s: float = 1.3
    standing_gap: float = 2.8
    lookahead_s: float = 0.5
    lookahead_min: float = 2.8
    lookahead_max: float = 8.0


@dataclass(frozen=True)
class _Rollout:
    states: F64  # (HORIZON_STEPS + 1, 4): x, y, yaw, speed
    s: F64  # (HORIZON_STEPS + 1,) arc length
    cause: str
    actor: str
    target_speed: float


def expert_plan(route: Route, frame: OracleFrame, config: ExpertConfig | None = None) -> Plan:
    """The plan for the frame's stamp: waypoints (6, 2) m in the ego frame at 0.5 .. 3.0 s.

    `sections` holds cause ("free_road", "turn", "lead_vehicle", "red_light", "pedestrian", "yield"), cause_actor (an
    actor id or ""), signal ("red", "yellow", "green", "none"), signal_distance (m from the bumper to the stop line, at
    most 60), target_speed (m/s) and command.
    """
    c = config or ExpertConfig()
    ego = frame.ego
    s_ego = where(route, ego)
    who = crowd(route, frame, s_ego)
    ahead = leads(route, who, s_ego, ego.speed, c.vehicle)
    halt, signal, signal_distance = signal_halt(route, frame, s_ego, c.vehicle)
    halts = crossing_halts(route, who, s_ego, ego.speed, c.vehicle)
    halts += [h for h in (halt, junction_halt(route, frame, who, s_ego, c.vehicle)) if h is not None]
    s_grid, limit = _speed_profile(route, s_ego, c)
    rollout = _simulate(route, ego, s_ego, s_grid, limit, ahead, halts, c)
    if meeting := _meeting(route, rollout, who, c):
        rollout = _simulate(route, ego, s_ego, s_grid, limit, ahead, [*halts, meeting], c)
    way = rollout.states[list(PLAN_STEPS), :2] - [ego.x, ego.y]
    cos, sin = math.cos(ego.yaw), math.sin(ego.yaw)
    waypoints = way @ np.array([[cos, -sin], [sin, cos]])
    command = command_at(route, s_ego)
    cause = rollout.cause
    if cause == "free_road" and command is not Command.GO_STRAIGHT:
        cause = "turn"
    sections = {
        "cause": cause,
        "cause_actor": rollout.actor,
        "signal": signal,
        "signal_distance": round(signal_distance, 2),
        "target_speed": round(rollout.target_speed, 2),
        "command": command.value,
    }
    return Plan(
        stamp_ns=frame.stamp_ns,
        waypoints=np.round(waypoints, 6),
        times_s=np.array(PLAN_STEPS) * DT,
        sections=sections,
        stats=DecodeStats(decoder="rule", engine="expert"),
    )


def where(route: Route, ego: EgoState) -> float:
    """Arc length of the ego on its route; where the route passes a place twice, the pass with the ego's heading."""
    offset = route.points - [ego.x, ego.y]
    cost = (offset**2).sum(1) + 40.0 * (1.0 - np.cos(route.headings - ego.yaw))
    return locate(route, ego.x, ego.y, float(cost.argmin()) * route.spacing)[0]


# --- speed ------------------------------------------------------------------------------------------------------------


def _speed_profile(route: Route, s_ego: float, c: ExpertConfig) -> tuple[F64, F64]:
    """(arc lengths, highest comfortable speed there) from the ego on: limits, curvature, braking in time for both."""
    step = 1.0
    s = max(0.0, s_ego) + np.arange(0.0, 70.0, step)
    index = np.minimum((s / route.spacing).astype(int), len(route.points) - 1)
    low, high = np.maximum(index - 3, 0), np.minimum(index + 3, len(route.points) - 1)
    curvature = np.abs(route.headings[high] - route.headings[low]) / np.maximum((high - low) * route.spacing, 1e-6)
    speed = np.minimum(route.speed_limits[index], np.sqrt(c.lateral_acceleration / np.maximum(curvature, 1e-3)))
    for stop in route.stops:
        if stop.must_yield and not stop.signal:  # come up to a give-way line so that stopping there stays easy
            line = stop.s - c.vehicle.rear_to_centre - c.vehicle.length / 2
            speed = np.where(np.abs(s - line) < 2.0, np.minimum(speed, c.give_way_speed), speed)
    square = speed**2
    for k in range(len(s) - 2, -1, -1):
        square[k] = min(square[k], square[k + 1] + 2 * c.profile_braking * step)
    return s, np.sqrt(square)


def _acceleration(
    v: float, v_free: float, front: float, t: float, ahead: Sequence[Lead], halts: Sequence[Halt], c: ExpertConfig
) -> tuple[float, str, str]:
    """(acceleration, binding cause, actor) at speed v with the bumper at arc length `front`, t s from now."""
    free = c.acceleration * (1 - (v / max(v_free, 0.5)) ** 4) if v <= v_free else -min(2.5, 1.5 * (v - v_free))
    best, cause, actor = free, "free_road", ""
    for lead in ahead:
        gap = max(lead.s + lead.speed * t - front, 0.05)
        if v < 0.4 and gap < c.standing_gap + 0.7 and lead.speed < 0.4:
            a = -2.0
        else:
            brake = v * (v - lead.speed) / (2 * math.sqrt(c.acceleration * c.braking))
            wish = c.standing_gap + max(0.0, v * c.headway_s + brake)
            a = min(free, c.acceleration * (1 - (v / max(v_free, 0.5)) ** 4 - (wish / gap) ** 2))
        if a < best - 0.05:
            best, cause, actor = a, lead.cause, lead.actor
    for halt in halts:
        a = _halting(v, halt.s - front, free, c)
        if a < best - 0.05:
            best, cause, actor = a, halt.cause, halt.actor
    return max(best, -c.max_braking), cause, actor


def _halting(v: float, distance: float, free: float, c: ExpertConfig) -> float:
    """Constant deceleration to stop within `distance`, eased in; hold once there."""
    if distance < 0.7 and v < 0.5:
        return -2.0
    needed = v**2 / (2 * max(distance, 0.3))
    ease = min(max((needed - 0.5 * c.halt_braking) / (0.5 * c.halt_braking), 0.0), 1.0)
    ease = ease * ease * (3 - 2 * ease)
    cap = math.sqrt(2 * 1.2 * max(distance, 0.0))  # creeping up to the line from standstill
    return min(free * (1 - ease) - needed * ease, (cap - v) / 0.5 if v < 2.0 else math.inf)


# --- rollout ----------------------------------------------------------------------------------------------------------


def _simulate(
    route: Route,
    ego: EgoState,
    s_ego: float,
    s_grid: F64,
    limit: F64,
    ahead: Sequence[Lead],
    halts: Sequence[Halt],
    c: ExpertConfig,
) -> _Rollout:
    """Drive the expert's own bicycle for the horizon."""
    car = c.vehicle
    reach = car.rear_to_centre + car.length / 2
    x, y, yaw, v, steer, s = ego.x, ego.y, ego.yaw, ego.speed, ego.steering, s_ego
    speeds, s_first = limit.tolist(), float(s_grid[0])
    previous = min(max(ego.acceleration, -3.0), c.acceleration)
    states, arc = [(x, y, yaw, v)], [s]
    votes: dict[tuple[str, str], float] = {}
    free: list[float] = []
    for k in range(HORIZON_STEPS):
        at = min(max(int(s + 0.4 * v - s_first), 0), len(speeds) - 1)
        v_free = speeds[at]
        a, cause, actor = _acceleration(v, v_free, s + reach, k * DT, ahead, halts, c)
        if k < 15:
            votes[cause, actor] = votes.get((cause, actor), 0.0) + 1.0
        free.append(v_free)
        if a > -3.5:
            a = min(max(a, previous - 0.8), previous + 0.6)
        previous = a
        px, py, heading = point_at(route, s)
        lateral = -math.sin(heading) * (x - px) + math.cos(heading) * (y - py)
        lookahead = min(max(c.lookahead_s * v, c.lookahead_min), c.lookahead_max) + 1.5 * abs(lateral)
        tx, ty, _ = point_at(route, s + lookahead)
        forward = math.cos(yaw) * (tx - x) + math.sin(yaw) * (ty - y)
        left = -math.sin(yaw) * (tx - x) + math.cos(yaw) * (ty - y)
        curvature = 2 * left / max(forward**2 + left**2, 1.0)
        cap = 4.0 / max(v, 1.0) ** 2
        wanted = math.atan(car.wheelbase * min(max(curvature, -cap), cap))
        turn = min(max(wanted - steer, -car.max_steering_rate * DT), car.max_steering_rate * DT)
        middle = min(max(steer + 0.5 * turn, -car.max_steering), car.max_steering)
        steer = min(max(steer + turn, -car.max_steering), car.max_steering)
        v_next = max(0.0, v + a * DT)
        mean = 0.5 * (v + v_next)
        swing = mean * math.tan(middle) / car.wheelbase * DT
        x += mean * math.cos(yaw + 0.5 * swing) * DT
        y += mean * math.sin(yaw + 0.5 * swing) * DT
        yaw += swing
        v = v_next
        s += math.cos(heading) * (x - px) + math.sin(heading) * (y - py)
        states.append((x, y, yaw, v))
        arc.append(s)
    binding, actor = max(votes, key=lambda key: votes[key] + (3.0 if key[0] != "free_road" else 0.0))
    return _Rollout(np.array(states), np.array(arc), binding, actor, min(free[:15]) if binding == "free_road" else v)


def _meeting(route: Route, rollout: _Rollout, who: Crowd, c: ExpertConfig) -> Halt | None:
    """A halt before the first place where someone's straight prediction would touch the ego's rollout.

    Cars that could still stop comfortably before the ego's path are trusted to (the ego has priority there, or has
    found its gap), and so is traffic from behind.
    """
    if not len(who.ids):
        return None
    car = c.vehicle
    steps = np.arange(4, HORIZON_STEPS + 1, 2)
    x, y, yaw, _ = rollout.states[steps].T
    circles = np.array([-0.3, 1.35, 3.0])  # m ahead of the rear axle, radius 1.05
    own = np.stack([x[:, None] + circles * np.cos(yaw)[:, None], y[:, None] + circles * np.sin(yaw)[:, None]], -1)
    t = steps * DT
    heading = np.stack([np.cos(who.yaw), np.sin(who.yaw)], 1)
    move = who.speed[:, None, None] * t[:, None] * heading[:, None]  # (N, K, 2)
    theirs = who.samples[:, None] + move[:, :, None]  # (N, K, 5, 2)
    distance = np.sqrt(((theirs[:, :, :, None] - own[None, :, None]) ** 2).sum(-1)).min((2, 3))  # (N, K)
    touch = distance < (1.05 + who.width / 2 + np.where(who.person, 0.35, 0.1))[:, None]
    # What comes at the flank cannot be dodged by stopping: keep who is ahead of the ego's middle at that time.
    middle = theirs[:, :, 2] - np.stack([x, y], 1)  # (N, K, 2), from the rear axle
    touch &= middle[..., 0] * np.cos(yaw) + middle[..., 1] * np.sin(yaw) > car.rear_to_centre + 0.3 * car.length
    soon = np.where(who.person, 2.6, 3.0)[:, None] >= t
    x0, y0, yaw0, _ = rollout.states[0]
    forward = (who.xy - [x0, y0]) @ [math.cos(yaw0), math.sin(yaw0)]
    same_way = np.cos(who.yaw - yaw0) > 0.7
    index = np.minimum((who.sample_s[:, 2] / route.spacing).astype(int), len(route.points) - 1)
    parallel = np.abs(np.cos(who.yaw - route.headings[index])) > 0.92  # in a lane beside the route, bends included
    in_lane = parallel & (who.sample_distance[:, 2] > 1.0 + who.width / 2) & ~who.person
    mind = (touch & soon).any(1) & (who.speed > 0.3) & (forward > -1.0) & ~same_way & ~in_lane
    first: Halt | None = None
    for i in np.flatnonzero(mind):
        k = int(np.argmax(touch[i] & soon[i]))
        could_stop = who.speed[i] ** 2 / (2 * 3.0) + 1.0 < who.speed[i] * t[k]
        if could_stop and not who.person[i]:
            continue
        s = float(rollout.s[steps[k]]) + car.rear_to_centre + car.length / 2 - 2.5
        if first is None or s < first.s:
            first = Halt(s, "pedestrian" if who.person[i] else "yield", who.ids[i])
    return first
