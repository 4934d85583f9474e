"""Boxes on the ground plane: corners, overlap, distance, and the first contact of the ego with a road user.

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
    pose = np.array([[tick.ego.x, tick.ego.y, tick.ego.yaw]])
    return Contact(tick.stamp_ns, actor, SIDES[int(contact_sides(pose, other[hits[:1]], vehicle)[0])])


SIDES = ("front", "rear", "lateral", "lateral")


def contact_sides(egos: F64, corners: F64, vehicle: VehicleParams) -> np.ndarray:
    """(N,) indices into `SIDES`: the ego's face that the other box is nearest to, by the least outward penetration.

    Args:
        egos: rear-axle poses (N, 3).
        corners: of the other boxes, (N, 4, 2).
    """
    c, s = np.cos(egos[:, 2])[:, None], np.sin(egos[:, 2])[:, None]
    offset = corners - egos[:, None, :2]
    along = offset[..., 0] * c + offset[..., 1] * s - vehicle.rear_to_centre  # (N, 4)
    left = -offset[..., 0] * s + offset[..., 1] * c
    half_length, half_width = vehicle.length / 2, vehicle.width / 2
    depth = (
        half_length - along.min(1),
        along.max(1) + half_length,
        half_width - left.min(1),
        left.max(1) + half_width,
    )
    return np.asarray(np.stack(depth, 1).argmin(1))


def box_distances(a: F64, b: F64) -> F64:
    """How far boxes are apart, pair by pair: corners (N, 4, 2) each -> (N,) m, 0 where they touch.

    Rectangles that do not touch are nearest at a corner of one of them.
    """
    nearest = np.minimum(_corner_distance(a, b), _corner_distance(b, a))
    return np.where(boxes_overlap(a, b), 0.0, nearest)


def _corner_distance(points: F64, box: F64) -> F64:
    """From the corners `points` (N, 4, 2) to the rectangles `box` (N, 4, 2), the least of each four: (N,)."""
    centre = box.mean(1, keepdims=True)
    outside = np.zeros(points.shape[:2])
    for axis in (box[:, 0] - box[:, 1], box[:, 0] - box[:, 3]):  # across and along, (N, 2)
        size = np.hypot(axis[:, 0], axis[:, 1])
        reach = np.abs(np.einsum("nkd,nd->nk", points - centre, axis / size[:, None])) - size[:, None] / 2
        outside += np.maximum(reach, 0.0) ** 2
    return np.asarray(np.sqrt(outside.min(1)))


def minimum_distance(ticks: Sequence[OracleFrame], vehicle: VehicleParams | None = None) -> float | None:
    """The least distance between the ego's box and any road user's over the ticks, m (AlpaSim's
    min_distance_to_obstacle_m); None when there never was anybody.
    """
    vehicle = vehicle or VehicleParams()
    pairs = [(tick.ego, actor) for tick in ticks for actor in tick.actors]
    if not pairs:
        return None
    centres = np.array([(a.x - e.x, a.y - e.y) for e, a in pairs])
    # Only who may be nearest is measured exactly: a box reaches no further from its centre than half its diagonal, the
    # ego's no further from its axle than its length.
    slack = np.array([0.5 * math.hypot(a.length, a.width) for _, a in pairs]) + vehicle.length
    away = np.hypot(centres[:, 0], centres[:, 1])
    near = np.flatnonzero(away - slack <= away.min())
    chosen = [pairs[i] for i in near]
    boxes = np.array([(a.x, a.y, a.yaw, a.length, a.width) for _, a in chosen], np.float64).T
    return float(box_distances(ego_corners([e for e, _ in chosen], vehicle), box_corners(*boxes)).min())
