"""Boxes on the ground plane: corners, overlap, and the first contact of the ego with a road user.

Everything is vectorised over ticks, in `map`, on oriented boxes at their centre poses; heights play no part.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.perception.types import F64, Actor, EgoState, OracleFrame, VehicleParams


@dataclass(frozen=True)
class Contact:
    """The first touch of the ego box and an actor's."""

    stamp_ns: int
    actor: Actor
    side: str  # of the ego: "front" | "lateral" | "rear"

    @property
    def at_fault(self) -> bool:
        """AlpaSim's rule: front and lateral contacts are the ego's fault, being hit from behind is not."""
        return self.side in ("front", "lateral")


def box_corners(x: F64, y: F64, yaw: F64, length: F64, width: F64) -> F64:
    """Corners (N, 4, 2) m of boxes given by centre pose and size, counter-clockwise from the front left."""
    along = np.stack([np.cos(yaw), np.sin(yaw)], -1) * np.asarray(length)[..., None] / 2
    across = np.stack([-np.sin(yaw), np.cos(yaw)], -1) * np.asarray(width)[..., None] / 2
    centre = np.stack([x, y], -1)
    front, back = centre + along, centre - along
    return np.stack([front + across, back + across, back - across, front - across], -2)


def ego_corners(egos: Sequence[EgoState], vehicle: VehicleParams) -> F64:
    """Corners (N, 4, 2) m of the ego's box."""
    x, y, yaw = np.array([(e.x, e.y, e.yaw) for e in egos], np.float64).T
    size = np.ones(len(egos))
    d = vehicle.rear_to_centre
    return box_corners(x + d * np.cos(yaw), y + d * np.sin(yaw), yaw, vehicle.length * size, vehicle.width * size)


def boxes_overlap(a: F64, b: F64) -> np.ndarray:
    """Whether boxes touch, pair by pair: corners (N, 4, 2) each -> (N,) bool.  Separating axes of both boxes."""
    apart = np.zeros(len(a), bool)
    for box in (a, b):
        for axis in (box[:, 0] - box[:, 1], box[:, 0] - box[:, 3]):  # along and across, (N, 2)
            pa = np.einsum("nkd,nd->nk", a, axis)
            pb = np.einsum("nkd,nd->nk", b, axis)
            apart |= (pa.max(1) < pb.min(1)) | (pb.max(1) < pa.min(1))
    return ~apart


def first_contact(ticks: Sequence[OracleFrame], vehicle: VehicleParams | None = None) -> Contact | None:
    """The first overlap of the ego's box with an actor's (oriented boxes on the ground plane), or None."""
    vehicle = vehicle or VehicleParams()
    pairs = [(tick, actor) for tick in ticks for actor in tick.actors]
    reach = 0.5 * math.hypot(vehicle.length, vehicle.width) + abs(vehicle.rear_to_centre) + 8.0
    pairs = [(t, a) for t, a in pairs if abs(a.x - t.ego.x) < reach and abs(a.y - t.ego.y) < reach]
    if not pairs:
        return None
    ego = ego_corners([tick.ego for tick, _ in pairs], vehicle)
    boxes = np.array([(a.x, a.y, a.yaw, a.length, a.width) for _, a in pairs], np.float64).T
    other = box_corners(*boxes)
    hits = np.flatnonzero(boxes_overlap(ego, other))
    if not len(hits):
        return None
    tick, actor = pairs[int(hits[0])]
    return Contact(tick.stamp_ns, actor, _contact_side(tick.ego, other[hits[0]], vehicle))


def _contact_side(ego: EgoState, corners: F64, vehicle: VehicleParams) -> str:
    """Which face of the ego the other box is nearest to: the face whose outward penetration is smallest."""
    c, s = math.cos(ego.yaw), math.sin(ego.yaw)
    local = (corners - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]]) - (vehicle.rear_to_centre, 0.0)
    depth = {
        "front": vehicle.length / 2 - local[:, 0].min(),
        "rear": local[:, 0].max() + vehicle.length / 2,
        "left": vehicle.width / 2 - local[:, 1].min(),
        "right": local[:, 1].max() + vehicle.width / 2,
    }
    side = min(depth, key=lambda name: depth[name])
    return "lateral" if side in ("left", "right") else side
