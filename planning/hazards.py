"""What the privileged expert must mind ahead of it: leads to follow and points to stop at.

Everything is read from one `OracleFrame` and the `Route`, within what a camera could see now (`SIGHT_M`); actors are
predicted to keep their velocity.  All functions are pure; actors are handled as arrays.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.route import point_at
from efficientgen.perception.types import F64, ActorKind, OracleFrame, Route, StopLine, VehicleParams

SIGHT_M = 60.0
CORRIDOR_MARGIN_M = 0.3
PEDESTRIAN_MARGIN_M = 0.55
STOP_GAP_M = 1.2  # front bumper to the stop line
CROSSING_GAP_M = 1.5
YELLOW_BRAKING = 3.0  # a yellow is run only if stopping would need more
STANDING = 0.3  # m/s
LATE_BRAKING = 3.0  # m/s^2, for traffic with priority that turns up late
KERB_SPEED = 7.0  # m/s
JOINING_M = 2.5  # someone on a road that joins ours at a sharp angle is at least this far from our path
RING_ENTRY_M = 18.0  # from a roundabout's entry line to where one is well inside
CREEP = 1.5  # m/s, the least speed assumed when asking when the ego gets somewhere


@dataclass(frozen=True)
class Lead:
    """Someone ahead on the route: rear at arc length `s`, moving on at `speed`."""

    s: float
    speed: float
    cause: str
    actor: str


@dataclass(frozen=True)
class Halt:
    """The front bumper must stop at arc length `s`."""

    s: float
    cause: str
    actor: str = ""


@dataclass(frozen=True)
class Crowd:
    """The actors of a frame as arrays over N, and where they are relative to the route ahead (window of P points)."""

    ids: tuple[str, ...]
    xy: F64  # (N, 2)
    yaw: F64
    speed: F64
    length: F64
    width: F64
    person: np.ndarray  # (N,) bool
    samples: F64  # (N, 5, 2) points along each box's axis, rear to front
    sample_s: F64  # (N, 5) arc length of the nearest route point
    sample_distance: F64  # (N, 5)


def crowd(route: Route, frame: OracleFrame, s_ego: float) -> Crowd:
    """Arrays for all actors within sight, measured against the route from 12 m behind the ego to `SIGHT_M` ahead."""
    ego = frame.ego
    near = [a for a in frame.actors if (a.x - ego.x) ** 2 + (a.y - ego.y) ** 2 < SIGHT_M**2]
    n = len(near)
    table = np.array([(a.x, a.y, a.yaw, a.speed, a.length, a.width) for a in near]).reshape(n, 6)
    person = np.array([a.kind is ActorKind.PEDESTRIAN for a in near], bool)
    along = np.linspace(-0.5, 0.5, 5) * np.where(person, 0.0, table[:, 4])[:, None]  # (N, 5)
    direction = np.stack([np.cos(table[:, 2]), np.sin(table[:, 2])], 1)
    samples = table[:, None, :2] + along[..., None] * direction[:, None]
    first, path = _window(route, s_ego)
    distance = np.hypot(samples[..., 0, None] - path[:, 0], samples[..., 1, None] - path[:, 1])  # (N, 5, P)
    k = distance.argmin(2) if n else np.zeros((0, 5), int)
    return Crowd(
        ids=tuple(a.id for a in near),
        xy=table[:, :2],
        yaw=table[:, 2],
        speed=table[:, 3],
        length=table[:, 4],
        width=table[:, 5],
        person=person,
        samples=samples,
        sample_s=(first + 2 * k) * route.spacing,
        sample_distance=np.take_along_axis(distance, k[..., None], 2)[..., 0] if n else np.zeros((0, 5)),
    )


def leads(route: Route, who: Crowd, s_ego: float, speed: float, car: VehicleParams) -> list[Lead]:
    """Everyone whose body is on the ego's path ahead, unless it will have crossed before the ego is there."""
    front = s_ego + car.rear_to_centre + car.length / 2
    walking = who.person & (who.speed > STANDING)  # people who stand at the kerb are passed, as they wait for a gap
    margin = np.where(walking, PEDESTRIAN_MARGIN_M, CORRIDOR_MARGIN_M)
    half = car.width / 2 + who.width / 2 + margin
    inside = (who.sample_distance < half[:, None]) & (who.sample_s > s_ego + car.rear_to_centre)
    out = []
    for i in np.flatnonzero(inside.any(1)):
        s_rear = float(who.sample_s[i][inside[i]].min())
        _, _, heading = point_at(route, s_rear)
        cosine = math.cos(who.yaw[i] - heading)
        across = abs(math.sin(who.yaw[i] - heading))
        s_rear -= 0.5 * float(who.width[i]) * across if cosine < 0.9 else 0.0
        gap = s_rear - front
        if s_rear < front - 1.0 and cosine > 0.5:
            continue  # beside the ego, not ahead of it
        arrival = gap / max(speed, CREEP)
        if (
            cosine < 0.6
            and arrival > 0.8
            and who.speed[i] > 0.5
            and _gone(route, who, int(i), float(half[i]), s_ego, arrival)
        ):
            continue
        cause = "pedestrian" if who.person[i] else "lead_vehicle"
        out.append(Lead(s_rear, float(who.speed[i]) * max(0.0, cosine), cause, who.ids[i]))
    return out


def signal_halt(route: Route, frame: OracleFrame, s_ego: float, car: VehicleParams) -> tuple[Halt | None, str, float]:
    """(where to stop for a red or yellow, colour of the next signal, m from the front bumper to its stop line)."""
    front = s_ego + car.rear_to_centre + car.length / 2
    stop = next((s for s in route.stops if s.signal and s.s > front - 0.3), None)
    if stop is None or stop.s - front > SIGHT_M:
        return None, "none", SIGHT_M
    colour = {"r": "red", "u": "red", "y": "yellow", "Y": "yellow"}.get(_lamp(frame, stop), "green")
    distance = stop.s - front
    if colour == "green":
        return None, colour, distance
    needed = frame.ego.speed**2 / (2 * max(distance - 0.3, 0.1))
    if colour == "yellow" and needed > YELLOW_BRAKING:
        return None, colour, distance
    return Halt(max(stop.s - STOP_GAP_M, min(front, stop.s - 0.3)), "red_light"), colour, distance


def crossing_halts(route: Route, who: Crowd, s_ego: float, speed: float, car: VehicleParams) -> list[Halt]:
    """Stop before a pedestrian crossing for people on it or about to step into the ego's way."""
    front = s_ego + car.rear_to_centre + car.length / 2
    people = np.flatnonzero(who.person)
    out = []
    for begin, end in route.crossings:
        if not len(people) or not front - 0.5 < begin < front + 35.0:
            continue
        x, y, heading = point_at(route, (begin + end) / 2)
        offset = who.xy[people] - [x, y]
        cos, sin = math.cos(heading), math.sin(heading)
        along, left = offset @ [cos, sin], offset @ [-sin, cos]
        drift = who.speed[people] * np.sin(who.yaw[people] - heading)
        edge = car.width / 2 + np.where(who.speed[people] > STANDING, 0.9, 0.55)
        reach = np.where(drift * left < 0, (np.abs(left) - edge) / np.maximum(np.abs(drift), 0.05), np.inf)
        until = (end + car.length - front) / max(speed, 2.5) + 1.0  # when the ego would have cleared the crossing
        on_road = np.abs(left) < edge
        walking_away = (drift * left > 0) & (np.abs(left) > 0.5 * car.width + 0.3)
        if speed < KERB_SPEED:  # turning or rolling: mind those who walk up to the kerb of the crossing, too
            velocity = who.speed[people, None] * np.stack([np.cos(who.yaw[people]), np.sin(who.yaw[people])], 1)
            closing = -(velocity * offset).sum(1) / np.maximum(np.hypot(*offset.T), 0.1)
            on_road |= (np.abs(left) < 3.0) & (closing > 0.3) & (np.abs(along) < (end - begin) / 2 + 1.5)
        coming = (np.abs(left) < 9.0) & (reach < max(until, 2.0)) & (np.abs(drift) > 0.4)
        blocks = (np.abs(along) < (end - begin) / 2 + 1.5) & ((on_road & ~walking_away) | coming)
        for i in people[blocks][:1]:
            out.append(Halt(begin - CROSSING_GAP_M, "pedestrian", who.ids[i]))
    return out


def junction_halt(route: Route, frame: OracleFrame, who: Crowd, s_ego: float, car: VehicleParams) -> Halt | None:
    """Give way at the next junction: to traffic with priority, and to a queue that would strand the ego inside."""
    front = s_ego + car.rear_to_centre + car.length / 2
    stop = next((s for s in route.stops if s.s_exit > front), None)
    if stop is None or stop.s - front > 25.0:
        return None
    entered = front > stop.s + 2.5
    at = stop.s - STOP_GAP_M
    if not entered and (blocker := _queue_beyond(route, who, stop, car)):
        return Halt(max(at, front), "yield", blocker)
    must = _lamp(frame, stop) == "g" if stop.signal else stop.must_yield
    if not must or not len(who.ids):
        return None
    find = _ring_conflict if stop.ring_radius else _priority_conflict
    conflict = find(route, frame, who, stop, s_ego, car)
    if conflict is None:
        return None
    s_conflict, actor = conflict
    if entered:
        place = s_conflict - 3.0
        return Halt(place, "yield", actor) if place > front + 0.3 else None
    late = min(front + frame.ego.speed**2 / (2 * LATE_BRAKING), s_conflict - 3.5)  # seen late: use the room there is
    return Halt(max(at, late), "yield", actor)


# --- helpers ----------------------------------------------------------------------------------------------------------


def _window(route: Route, s_ego: float) -> tuple[int, F64]:
    """(index of the first point, every second route point around the ego)."""
    first = max(0, int((s_ego - 12.0) / route.spacing))
    first = min(first, len(route.points) - 2)
    return first, route.points[first : int((s_ego + SIGHT_M) / route.spacing) + 2 : 2]


def _lamp(frame: OracleFrame, stop: StopLine) -> str:
    state = frame.lights.get(stop.signal, "")
    return state[stop.link] if 0 <= stop.link < len(state) else "G"


def _gone(route: Route, who: Crowd, i: int, half: float, s_ego: float, after: float) -> bool:
    """Whether actor i, going on as it does, has left the path when the ego arrives."""
    _, path = _window(route, s_ego)
    for t in (max(0.4, after - 0.5), after, after + 0.6):
        step = who.speed[i] * t * np.array([math.cos(who.yaw[i]), math.sin(who.yaw[i])])
        away = np.hypot(*(who.samples[i][:, None] + step - path).transpose(2, 0, 1))
        if away.min() < half:
            return False
    return True


def _queue_beyond(route: Route, who: Crowd, stop: StopLine, car: VehicleParams) -> str:
    """Id of a standing vehicle right behind the junction that leaves the ego no room, or ""."""
    beyond = min(stop.s_exit, stop.s + RING_ENTRY_M) if stop.ring_radius else stop.s_exit
    room = beyond + car.length + 3.0
    standing = (who.speed < 0.5) & ~who.person
    inside = (who.sample_distance < 1.2) & (who.sample_s > stop.s + 3.0) & (who.sample_s < room)
    blocked = np.flatnonzero(standing & inside.any(1))
    return who.ids[int(blocked[0])] if len(blocked) else ""


def _priority_conflict(
    route: Route, frame: OracleFrame, who: Crowd, stop: StopLine, s_ego: float, car: VehicleParams
) -> tuple[float, str] | None:
    """(arc length, actor) of the first conflict with a vehicle that reaches the ego's path when the ego does."""
    ego = frame.ego
    front = s_ego + car.rear_to_centre + car.length / 2
    _, _, approach = point_at(route, stop.s)
    turn = stop.direction.lower()
    relative = np.remainder(who.yaw - approach + math.pi, math.tau) - math.pi  # 0: same way, +-pi: oncoming
    oncoming, from_left = np.abs(relative) > 2.3, (relative < -0.5) & (relative > -2.3)
    from_right = (relative > 0.5) & (relative < 2.3)
    minds = {"l": oncoming | from_left | from_right, "r": from_left}.get(turn, from_left | from_right)
    if stop.signal:
        minds = oncoming  # the others have red
    elif turn == "s":  # a road that joins at a sharp angle
        beside = who.sample_distance[:, -1] > JOINING_M
        minds |= beside & (np.abs(relative) > 0.15) & (np.abs(relative) <= 0.5)
    candidates = np.flatnonzero(minds & ~who.person & (who.speed > 0.5))
    if not len(candidates):
        return None
    begin, end = max(stop.s, front - 1.0), stop.s_exit + (4.0 if turn != "s" else 0.0)
    zone_s = np.arange(begin, end, 1.0)
    if not len(zone_s):
        return None
    zone = np.array([point_at(route, float(s))[:2] for s in zone_s])  # (Z, 2)
    noses = who.samples[candidates, -1]
    r = zone[None] - noses[:, None]  # (C, Z, 2)
    cos, sin = np.cos(who.yaw[candidates])[:, None], np.sin(who.yaw[candidates])[:, None]
    along, aside = r[..., 0] * cos + r[..., 1] * sin, np.abs(-r[..., 0] * sin + r[..., 1] * cos)
    cost = np.where(along > -who.length[candidates][:, None], aside, np.inf)
    best = cost.argmin(1)
    out: tuple[float, str] | None = None
    for c, (i, k) in enumerate(zip(candidates, best, strict=True)):
        distance = float(along[c, k])
        if not cost[c, k] < 2.2 + 0.1 * max(distance, 0.0):
            continue
        reaches = _times(max(distance - 2.0, 0.0), float(who.speed[i]), 12.0, 1.0)
        leaves = (distance + float(who.length[i]) + 2.0) / max(float(who.speed[i]), 1.0)
        enters = _times(float(zone_s[k]) - front - 2.0, ego.speed, 7.0, 1.8)
        clears = _times(float(zone_s[k]) - front + car.length + 2.5, ego.speed, 6.0, 1.5)
        if front > stop.s + 2.5:  # inside already: to stop in someone's way is worse than to be gone a moment before
            clears = _times(float(zone_s[k]) - front + car.length + 1.0, ego.speed, 8.0, 1.8) - 0.7
        if reaches < clears + 0.7 and leaves > enters - 0.3 and reaches < 7.0:
            if out is None or zone_s[k] < out[0]:
                out = (float(zone_s[k]), who.ids[i])
    return out


def _ring_conflict(
    route: Route, frame: OracleFrame, who: Crowd, stop: StopLine, s_ego: float, car: VehicleParams
) -> tuple[float, str] | None:
    """(arc length of the merge, actor) for a vehicle on the roundabout that gets to the ego's merge when the ego does.

    Vehicles are followed around the circle; those that steer off it are leaving.
    """
    front = s_ego + car.rear_to_centre + car.length / 2
    centre, radius = np.array([stop.ring_x, stop.ring_y]), stop.ring_radius
    first = int(max(stop.s, 0.0) / route.spacing)
    path = route.points[first : int(stop.s_exit / route.spacing) + 1] - centre
    joins = np.flatnonzero(np.abs(np.hypot(path[:, 0], path[:, 1]) - radius) < 1.0)
    if not len(joins):
        return None
    s_merge = (first + int(joins[0])) * route.spacing
    if front > s_merge + 1.0:
        return None
    noses = who.samples[:, -1] - centre
    r, angle = np.hypot(noses[:, 0], noses[:, 1]), np.arctan2(noses[:, 1], noses[:, 0])
    outward = np.cos(who.yaw - angle)  # the radial part of the heading
    onward = np.sin(who.yaw - angle) > 0.2  # counter-clockwise, as everyone drives here
    round_it = (np.abs(r - radius) < 2.6) & (outward < 0.4) & onward
    coming_in = (r > radius) & (r < radius + 9.0) & (outward < -0.4)
    turn = 2 * math.pi
    ahead = np.remainder(math.atan2(path[joins[0], 1], path[joins[0], 0]) - angle, turn)  # (N,) rad still to go
    ahead = np.where(ahead > 0.85 * turn, ahead - turn, ahead)
    distance = np.where(round_it, radius * ahead, radius * ahead + 0.4 * (r - radius))
    candidates = (round_it & (ahead < 0.6 * turn)) | (coming_in & (0.35 < ahead) & (ahead < 0.35 * turn))
    enters = _times(s_merge - front - 2.0, frame.ego.speed, 5.0, 1.6)
    clears = _times(s_merge - front + car.length, frame.ego.speed, 5.0, 1.6)
    for i in np.flatnonzero(candidates & ~who.person & (who.speed > 0.5)):
        reaches = _times(max(float(distance[i]) - 2.0, 0.0), float(who.speed[i]), 8.5, 1.0)
        leaves = (float(distance[i]) + float(who.length[i]) + 2.0) / max(float(who.speed[i]), 1.0)
        if reaches < clears + 0.7 and leaves > enters - 0.3:
            return s_merge, who.ids[i]
    return None


def _times(distance: float, speed: float, top: float, acceleration: float) -> float:
    """Seconds to go `distance` m when speeding up from `speed` to `top`."""
    if distance <= 0:
        return 0.0
    top = max(top, speed, 0.5)
    ramp = (top**2 - speed**2) / (2 * acceleration)
    if distance < ramp:
        return (math.sqrt(speed**2 + 2 * acceleration * distance) - speed) / acceleration
    return (top - speed) / acceleration + (distance - ramp) / top
