"""The terms of PDMS and EPDMS, one function each, on cars that move for a few seconds (NAVSIM, `pdm_scorer.py`).

Every function says for each of P motions in a scene how it did, 0 .. 1; they hold for rollouts of plans and for what an
expert really drove alike.  Where our towns know less than nuPlan's maps, the difference stands in the docstring.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.eval.comfort import motion_is_comfortable
from efficientgen.eval.pdm_rollout import Motion
from efficientgen.eval.recorded_traffic import TICK_S, RecordedTraffic, pose_corners
from efficientgen.eval.referee import GOAL_MARGIN_M
from efficientgen.eval.route_score import Roads, against_traffic, off_road_poses, red_crossings
from efficientgen.perception.route import locate
from efficientgen.perception.types import F64, EgoState, Route, VehicleParams

STANDING = 5e-3  # m/s; who is slower stands
PROBES_S = (0.0, 0.3, 0.6, 0.9)  # TTC looks 1 s ahead in these steps
AHEAD_RAD, BEHIND_RAD = np.radians(30.0), np.radians(150.0)
ONCOMING_TICKS = 10  # driving direction: over 1 s ...
ONCOMING_HALF_M, ONCOMING_ZERO_M = 2.0, 6.0  # ... as far as this against traffic
PROGRESS_M = 5.0  # where neither gets further than this, progress says nothing
LANE_M, LANE_TICKS = 0.5, 20  # lane keeping: further beside the centre line for 2 s
HISTORY_TICKS = 15  # history comfort looks back 1.5 s
EXTENDED = (0.7, 0.5, 0.1, 0.1)  # rms of acceleration m/s^2, jerk m/s^3, yaw rate rad/s, yaw acceleration rad/s^2


@dataclass(frozen=True)
class Scene:
    """What motions are held against: the drive they began in, and the map."""

    route: Route
    town: Roads
    traffic: RecordedTraffic
    lights: Sequence[Mapping[str, str]]  # at every tick from stamp 0
    vehicle: VehicleParams


@dataclass(frozen=True)
class Tracks:
    """P motions in a scene: the tick each begins at, how many of its poses count (as far as it reaches, and up to the
    end of the route), and `progress` (P, K, 2) m of the rear axle along the route and beside it.
    """

    motion: Motion
    first: Sequence[int]
    ends: Sequence[int]
    progress: F64


def tracks(scene: Scene, motion: Motion, first: Sequence[int], s: Sequence[float]) -> Tracks:
    """`motion` located on the route, each from `s` m on; beyond the end of the route nothing is judged."""
    progress = np.zeros((*motion.pose.shape[:2], 2))
    for p, hint in enumerate(s):
        for k, (x, y, _) in enumerate(motion.pose[p].tolist()):
            progress[p, k] = locate(scene.route, x, y, hint)
            hint = float(progress[p, k, 0])
    beyond = progress[..., 0] > scene.route.length
    ends = np.where(beyond.any(1), np.maximum(beyond.argmax(1), 1), motion.pose.shape[1])
    return Tracks(motion, first, np.minimum(ends, motion.reach + 1).tolist(), progress)


def no_collision(scene: Scene, t: Tracks) -> F64:
    """NC (P,): 0 where the ego is at fault for touching a road user, else 1.

    At fault is who moves and touches somebody standing, or with the front, or with the flank while reaching over the
    edge of its lane.  Who is touched without fault once, or from the start, is forgotten.  (Half a point for static
    objects does not arise: there are none in our towns, and cars that stand are road users.)
    """
    out = np.ones(len(t.first))
    for p, (first, end) in enumerate(zip(t.first, t.ends, strict=True)):
        pose, speed = t.motion.pose[p, :end], t.motion.speed[p, :end]
        hits = scene.traffic.touches(first, pose, _velocity(pose, speed), 0.0, scene.vehicle).first()
        hits = hits.pick((hits.tick > 0) & (speed[hits.tick] > STANDING))
        flank = hits.on_side("lateral")
        over = np.array([_over_the_edge(scene, pose[k], t.progress[p, k, 0]) for k in hits.tick], bool)
        out[p] = not ((hits.speed <= STANDING) | hits.on_side("front") | (flank & over)).any()
    return out


def drivable_area(scene: Scene, t: Tracks) -> F64:
    """DAC (P,): 0 where a corner of the box is ever over 0.3 m off the drivable surface (NAVSIM: at all), else 1."""
    return 1.0 - _any(t, off_road_poses(_all(t), scene.town, scene.vehicle))


def driving_direction(scene: Scene, t: Tracks) -> F64:
    """DDC (P,): 1, 0.5, 0 where the box's middle moves less than 2 m, less than 6 m, or more within any 1 s on a lane
    of opposite direction.  (NAVSIM: off all lanes of the route.)
    """
    wrong = np.split(against_traffic(_all(t), scene.town, scene.vehicle), np.cumsum(t.ends)[:-1])
    return np.array([oncoming_score(pose[:end], w) for pose, end, w in zip(t.motion.pose, t.ends, wrong, strict=True)])


def oncoming_score(pose: F64, wrong: np.ndarray) -> float:
    """1, 0.5 or 0 by the metres moved within 1 s while `wrong` (K,), of poses (K, 3) one tick apart."""
    moved = np.concatenate([[0.0], np.hypot(*np.diff(pose[:, :2], axis=0).T)]) * wrong
    total = np.concatenate([[0.0], np.cumsum(moved)])
    low = np.maximum(np.arange(len(moved)) - ONCOMING_TICKS + 1, 0)
    most = float((total[1:] - total[low]).max())
    return 1.0 if most < ONCOMING_HALF_M else 0.5 if most < ONCOMING_ZERO_M else 0.0


def traffic_lights(scene: Scene, t: Tracks) -> F64:
    """TLC (P,): 0 where the front bumper crosses a stop line of the route while its link shows red, else 1.  Lights are
    those of the drive; where it ends they stay.  (NAVSIM: the box touches a connector whose light is red.)
    """
    out = np.ones(len(t.first))
    last = len(scene.lights) - 1
    for p, (first, end) in enumerate(zip(t.first, t.ends, strict=True)):
        lights = [scene.lights[min(first + k, last)] for k in range(end)]
        out[p] = not red_crossings(scene.route, t.progress[p, :end], lights, scene.vehicle)
    return out


def progress_m(scene: Scene, t: Tracks) -> F64:
    """(P, K) m along the route since the first pose, up to the goal; never negative."""
    s = np.minimum(t.progress[..., 0], scene.route.length - GOAL_MARGIN_M)
    return np.maximum(s - s[:, :1], 0.0)


def ego_progress(own: F64, human: F64) -> F64:
    """EP (P,): progress as a share of the larger of the ego's and the human's; 1 where neither exceeds 5 m."""
    most = np.maximum(own, human)
    return np.where(most > PROGRESS_M, own / np.maximum(most, 1e-9), 1.0)


def time_to_collision(scene: Scene, t: Tracks) -> F64:
    """TTC (P,): 0 where the moving box, moved on along its heading by 0.3, 0.6 or 0.9 s of its speed, would touch
    somebody where they are by then, else 1.

    Only who is ahead (within 30 degrees of the nose) counts, or who is not behind (150 degrees) while the ego reaches
    over the edge of its lane or is inside a junction.  Who is touched otherwise once is forgotten.
    """
    out = np.ones(len(t.first))
    for p, (first, end) in enumerate(zip(t.first, t.ends, strict=True)):
        pose, speed = t.motion.pose[p, :end], t.motion.speed[p, :end]
        velocity = _velocity(pose, speed)
        found = [scene.traffic.touches(first, pose, velocity, probe, scene.vehicle, "recorded") for probe in PROBES_S]
        tick = np.concatenate([each.tick for each in found])
        who = np.concatenate([each.who for each in found])
        bearing = np.abs(np.concatenate([each.bearing for each in found]))
        order = np.argsort(tick, kind="stable")
        order = order[speed[tick[order]] > STANDING]
        firsts = order[np.unique(who[order], return_index=True)[1]]
        for i in firsts.tolist():
            k, s = tick[i], float(t.progress[p, tick[i], 0])
            if k == 0 and i < len(found[0].tick):
                continue  # touched from the start
            wide = bearing[i] <= BEHIND_RAD and (
                _in_junction(scene.route, s, scene.vehicle) or _over_the_edge(scene, pose[k], s)
            )
            if bearing[i] < AHEAD_RAD or wide:
                out[p] = 0.0
                break
    return out


def lane_keeping(scene: Scene, t: Tracks) -> F64:
    """LK (P,): 0 where the rear axle is over 0.5 m beside the route for 2 s on end, junctions left out, else 1."""
    out = np.ones(len(t.first))
    for p, end in enumerate(t.ends):
        run = 0
        for s, lateral in t.progress[p, :end].tolist():
            run = run + 1 if abs(lateral) > LANE_M and not _in_junction(scene.route, s, scene.vehicle) else 0
            if run >= LANE_TICKS:
                out[p] = 0.0
    return out


def comfortable(motion: Motion) -> F64:
    """C (P,): 1 where the whole motion stays within NAVSIM's limits (`comfort.motion_is_comfortable`)."""
    return history_comfort(motion, [[]] * len(motion.reach))


def history_comfort(motion: Motion, past: Sequence[Sequence[EgoState]]) -> F64:
    """HC (P,): `comfortable`, with up to 1.5 s of what the car really did before in front."""
    out = np.zeros(len(past))
    now = np.stack([motion.speed, motion.acceleration, motion.yaw_rate], 2)  # (P, K, 3)
    for p, egos in enumerate(past):
        before = np.array([(e.speed, e.acceleration, e.yaw_rate) for e in egos[-HISTORY_TICKS:]]).reshape(-1, 3)
        out[p] = motion_is_comfortable(*np.vstack([before, now[p, : motion.reach[p] + 1]]).T)
    return out


def extended_comfort(motion: Motion, first: Sequence[int]) -> F64:
    """EC (P,): 0 where a rollout and the one before differ, over the seconds that both cover, by more than 0.7 m/s^2,
    0.5 m/s^3, 0.1 rad/s or 0.1 rad/s^2 (root mean squares of acceleration, jerk, yaw rate, yaw acceleration); else 1,
    as for the first.
    """
    out = np.ones(len(first))
    felt = np.stack(
        [
            np.hypot(motion.acceleration, motion.speed * motion.yaw_rate),
            np.gradient(motion.acceleration, TICK_S, axis=1),
            motion.yaw_rate,
            np.gradient(motion.yaw_rate, TICK_S, axis=1),
        ]
    )  # (4, P, K)
    for p in range(1, len(first)):
        later = first[p] - first[p - 1]
        both = min(int(motion.reach[p]), int(motion.reach[p - 1]) - later) + 1
        if later > 0 and both > 1:
            apart = felt[:, p, :both] - felt[:, p - 1, later : later + both]
            out[p] = (np.sqrt((apart**2).mean(1)) <= EXTENDED).all()
    return out


def _velocity(pose: F64, speed: F64) -> F64:
    return np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1) * speed[:, None]


def _over_the_edge(scene: Scene, pose: F64, s: float) -> bool:
    """Whether a corner of the box at this pose lies outside the route's lane (NAVSIM: in several lanes, or in none)."""
    route = scene.route
    at = np.arange(len(route.half_widths)) * route.spacing
    corners = pose_corners(pose[None], scene.vehicle)[0].tolist()
    places = (locate(route, x, y, s) for x, y in corners)
    return any(abs(lateral) > np.interp(along, at, route.half_widths) for along, lateral in places)


def _in_junction(route: Route, s: float, vehicle: VehicleParams) -> bool:
    """Whether the rear axle, or what is ahead of it to the bumper, is between a stop line and the junction's exit."""
    front = vehicle.rear_to_centre + vehicle.length / 2
    return any(stop.s - front <= s <= max(stop.s_exit, stop.s) for stop in route.stops)


def _all(t: Tracks) -> F64:
    """(sum of ends, 3): the poses that count."""
    return np.concatenate([pose[:end] for pose, end in zip(t.motion.pose, t.ends, strict=True)])


def _any(t: Tracks, flags: np.ndarray) -> F64:
    which = np.repeat(np.arange(len(t.ends)), t.ends)
    return np.asarray(np.bincount(which, flags, len(t.ends)) > 0, np.float64)
