"""Moving off after green: a driver who waits at a red light must also notice that it is over.

A planner that has learned "standing cars stand" passes every red light test and never gets home.  So every time the
ego stood first at a red stop line of its route and the light turned green, the seconds are counted until it moves,
for as long as nobody is in its way.
"""

from __future__ import annotations

import numpy as np

from efficientgen.eval.route_score import RED_STATES, lamp_at, route_progress
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.route import point_at
from efficientgen.perception.types import F64, NS, TICK_NS, OracleFrame, Route, StopLine, VehicleParams

PROMPT_S = 4.0
STANDING = 0.3  # m/s
MOVING = 0.5  # m/s
MOVED_M = 1.0
AT_LINE_M = (-1.0, 12.0)  # from the front bumper to the line
BESIDE_M = 2.0  # lateral offset of an ego that stands in its lane
BEYOND_M = 5.0  # the way must be clear to this far behind the junction
MARGIN_M = 0.3
LOOK_AHEAD_S = (0.0, 1.0, 2.0, 3.0)
TICK_S = TICK_NS / NS


def moves_off_delays(log: StepLog, vehicle: VehicleParams | None = None) -> tuple[float, ...]:
    """Seconds from green to moving, one for each time the ego was first at a red stop line of its route.

    It was first when it stood (below 0.3 m/s) within 12 m of the line, with nobody in its lane up to the line, as the
    signal of its link turned from red to green after the hand-over.  Moving is 0.5 m/s, or 1 m gone.  Only seconds
    count in which the way is clear: nobody is on the route from the bumper to 5 m beyond the junction, nor would be
    within 3 s going straight on (so oncoming traffic that a left turn must let pass stops the count).  If the drive or
    the green ends first, the seconds count if they are 4 or more (it did not move off in time); else nothing can be
    said, and there is no entry.
    """
    vehicle = vehicle or VehicleParams()
    front = vehicle.rear_to_centre + vehicle.length / 2
    ticks = all_ticks(log)
    progress = route_progress(log, [tick.ego for tick in ticks])
    delays = []
    for stop in log.route.stops:
        if not stop.signal:
            continue
        lamps = [lamp_at(tick.lights, stop) for tick in ticks]
        for i in range(1, len(ticks)):
            if not (lamps[i - 1] in RED_STATES and lamps[i] in "Gg" and lamps[i] and lamps[i - 1]):
                continue
            gap = stop.s - front - progress[i, 0]
            stood = ticks[i].ego.speed < STANDING and AT_LINE_M[0] <= gap <= AT_LINE_M[1]
            if not stood or abs(progress[i, 1]) > BESIDE_M or ticks[i].stamp_ns <= log.handover_ns:
                continue
            bumper = float(progress[i, 0]) + front
            if gap > 0 and _blocked(log.route, ticks[i], bumper, stop.s, LOOK_AHEAD_S[:1], vehicle):
                continue  # somebody stands before it
            delay = _delay(log.route, ticks[i:], lamps[i:], bumper, stop, vehicle)
            if delay is not None:
                delays.append(delay)
    return tuple(delays)


def _delay(
    route: Route, ticks: list[OracleFrame], lamps: list[str], bumper: float, stop: StopLine, vehicle: VehicleParams
) -> float | None:
    waited = 0
    start = ticks[0].ego
    for tick, lamp in zip(ticks, lamps, strict=True):
        ego = tick.ego
        if ego.speed > MOVING or np.hypot(ego.x - start.x, ego.y - start.y) > MOVED_M:
            return round(waited * TICK_S, 1)
        if lamp not in "Gg":
            break
        end = max(stop.s_exit, stop.s) + BEYOND_M
        waited += not _blocked(route, tick, bumper, end, LOOK_AHEAD_S, vehicle)
    return round(waited * TICK_S, 1) if waited * TICK_S >= PROMPT_S else None


def _blocked(
    route: Route, tick: OracleFrame, s_from: float, s_to: float, after_s: tuple[float, ...], vehicle: VehicleParams
) -> bool:
    """Whether anybody not behind the ego is on the ego's way between two arc lengths, now or going straight on."""
    ego = tick.ego
    forward = np.array([np.cos(ego.yaw), np.sin(ego.yaw)])
    path = np.array([point_at(route, s)[:2] for s in np.arange(s_from, s_to + 0.5, 0.5)])
    for actor in tick.actors:
        heading = np.array([np.cos(actor.yaw), np.sin(actor.yaw)])
        centre = np.array([actor.x, actor.y])
        if float((centre - (ego.x, ego.y)) @ forward) < 0.0:
            continue
        if np.hypot(*(centre - path[0])) > 60.0:
            continue
        body = centre + np.linspace(-0.5, 0.5, 5)[:, None] * actor.length * heading  # (5, 2)
        reach = 0.5 * (vehicle.width + actor.width) + MARGIN_M
        if any(_near(body + actor.speed * t * heading, path, reach) for t in after_s):
            return True
    return False


def _near(body: F64, path: F64, reach: float) -> bool:
    offset = body[:, None] - path[None]
    return bool((np.hypot(offset[..., 0], offset[..., 1]) < reach).any())
