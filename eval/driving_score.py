"""Driving score and success, as the CARLA leaderboard and Bench2Drive count them (`statistics_manager.py`,
`merge_route_json.py`).

Two scores share the penalties.  `driving_score` is this repository's headline: completion, less the share of ticks off
the road.  `carla_score` is the leaderboard's to the letter, where driving outside the lanes, the oncoming one included,
costs its share of the distance, and Bench2Drive's success forgives no infraction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.eval.boxes import Contact
from efficientgen.eval.route_score import Roads, against_traffic, poses_of
from efficientgen.perception.types import ActorKind, EgoState, VehicleParams

PENALTY_PEDESTRIAN = 0.5
PENALTY_VEHICLE = 0.6
PENALTY_RED_LIGHT = 0.7
# The leaderboard's others have no occasion in our towns: static objects .65, stop signs .8, scenario timeouts .7, not
# yielding to an emergency vehicle .7.  Its route timeout costs completion only; Bench2Drive counts no minimum speed.


@dataclass(frozen=True)
class CarlaScore:
    """The leaderboard's figures of one drive; `outside_lanes` is a share of the distance."""

    driving_score: float  # 0 .. 100
    success: bool
    outside_lanes: float


def driving_score(completion: float, off_road_share: float, contact: Contact | None, red_lights: int) -> float:
    """0 .. 100: route completion, less the share of ticks off the road, times a penalty for every infraction (CARLA
    leaderboard: pedestrian .5, vehicle .6, red light .7).  A drive ends at its first collision.
    """
    return 100.0 * completion * (1.0 - off_road_share) * penalty(contact, red_lights)


def carla_score(
    completion: float,
    egos: Sequence[EgoState],
    town: Roads,
    contact: Contact | None,
    red_lights: int,
    completed: bool,
    vehicle: VehicleParams | None = None,
) -> CarlaScore:
    """CARLA's driving score: completion x (1 - share of the distance outside the lanes) x penalties, 0 .. 100; and
    Bench2Drive's success: the route completed with no infraction at all, leaving the lanes included.
    """
    outside = outside_lanes_share(egos, town, vehicle)
    return CarlaScore(
        driving_score=100.0 * completion * (1.0 - outside) * penalty(contact, red_lights),
        success=completed and contact is None and red_lights == 0 and outside == 0.0,
        outside_lanes=outside,
    )


def penalty(contact: Contact | None, red_lights: int) -> float:
    """The product of a drive's infraction coefficients."""
    out = PENALTY_RED_LIGHT**red_lights
    if contact:
        out *= PENALTY_PEDESTRIAN if contact.actor.kind is ActorKind.PEDESTRIAN else PENALTY_VEHICLE
    return out


def outside_lanes_share(egos: Sequence[EgoState], town: Roads, vehicle: VehicleParams | None = None) -> float:
    """Share of the distance, over ticks, at whose end the box's middle is off the drivable surface, or on a lane of
    opposite direction (junctions left out).  CARLA's OutsideRouteLanesTest, without its 1.3 m of grace.
    """
    vehicle = vehicle or VehicleParams()
    pose = poses_of(egos)
    moved = np.hypot(*np.diff(pose[:, :2], axis=0).T)
    if not moved.sum():
        return 0.0
    d = vehicle.rear_to_centre
    middle = pose[:, :2] + d * np.stack([np.cos(pose[:, 2]), np.sin(pose[:, 2])], 1)
    outside = (np.asarray(town.drivable_depth(middle)) < 0.0) | against_traffic(pose, town, vehicle)
    return float(moved[outside[1:]].sum() / moved.sum())
