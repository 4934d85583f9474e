"""The traffic of a drive as arrays, to hold imagined ego paths against: who would have been touched, when and where.

The traffic reacted to where the ego really went, not to the path held against it (a non-reactive judgement, as in
HUGSIM, NAVSIM and AlpaSim).  Where the recording ends, road users go on straight at their last speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from efficientgen.eval.boxes import SIDES, box_corners, boxes_overlap, contact_sides
from efficientgen.perception.types import F64, NS, TICK_NS, Actor, OracleFrame, VehicleParams

TICK_S = TICK_NS / NS
Others = Literal["there", "recorded", "moved"]


@dataclass(frozen=True)
class Touches:
    """Overlaps of the ego's box with others', one entry for each tick and road user, in order of time.

    `tick` (T,) counts from the path's first pose; `who` (T,) numbers road users; `side` (T,) indexes `boxes.SIDES`, the
    ego's face; `speed` (T,) m/s is theirs; `bearing` (T,) rad is where their middle lies, from the ego's nose.
    """

    tick: NDArray[np.int64]
    who: NDArray[np.int64]
    side: NDArray[np.int64]
    speed: F64
    bearing: F64

    def first(self) -> Touches:
        """Each road user's first touch."""
        return self.pick(np.unique(self.who, return_index=True)[1])

    def pick(self, which: np.ndarray) -> Touches:
        return Touches(self.tick[which], self.who[which], self.side[which], self.speed[which], self.bearing[which])

    def on_side(self, name: str) -> np.ndarray:
        """(T,) bool: the ego is touched there ("front", "lateral", "rear")."""
        return np.isin(self.side, [i for i, side in enumerate(SIDES) if side == name])


class RecordedTraffic:
    """The boxes of all road users at all ticks as one array, and for `beyond` more ticks, in which they go straight."""

    def __init__(self, ticks: Sequence[OracleFrame], beyond: int) -> None:
        groups = [[_row(actor, 0.0) for actor in tick.actors] for tick in ticks]
        groups += [[_row(a, (k + 1) * TICK_S) for a in ticks[-1].actors] for k in range(beyond)]
        actors = [tick.actors for tick in ticks] + [ticks[-1].actors] * beyond
        number: dict[str, int] = {}
        self._rows = np.array([row for group in groups for row in group], np.float64).reshape(-1, 6)
        self._tick = np.repeat(np.arange(len(groups)), [len(group) for group in groups])
        self._who = np.array([number.setdefault(a.id, len(number)) for group in actors for a in group], np.int64)

    def touches(
        self, first: int, pose: F64, velocity: F64, ahead_s: float, vehicle: VehicleParams, others: Others = "there"
    ) -> Touches:
        """Who the ego's box would touch on a path, moved on by `ahead_s` of its velocity.

        Args:
            first: tick of the drive at which the path begins, counted from stamp 0.
            pose: rear-axle poses (K, 3), one a tick.
            velocity: (K, 2) m/s.
            others: where road users are meanwhile: "there", at the pose's own tick; "recorded", where they were
                `ahead_s` later; "moved", `ahead_s` further straight on at their speed.
        """
        at = np.column_stack([pose[:, :2] + velocity * ahead_s, pose[:, 2]])
        shift = round(ahead_s / TICK_S) if others == "recorded" else 0
        low, high = np.searchsorted(self._tick, [first + shift, first + shift + len(pose)])
        rows, k = self._rows[low:high], self._tick[low:high] - first - shift
        if others == "moved":
            away = rows[:, 5] * ahead_s
            rows = rows.copy()
            rows[:, 0] += away * np.cos(rows[:, 2])
            rows[:, 1] += away * np.sin(rows[:, 2])
        reach = 0.5 * rows[:, 3] + vehicle.length
        near = (np.abs(rows[:, 0] - at[k, 0]) < reach) & (np.abs(rows[:, 1] - at[k, 1]) < reach)
        k, rows, who = k[near], rows[near], self._who[low:high][near]
        other = box_corners(*rows[:, :5].T)
        hit = boxes_overlap(pose_corners(at[k], vehicle), other)
        k, rows, who, other = k[hit], rows[hit], who[hit], other[hit]
        offset = rows[:, :2] - at[k, :2]
        bearing = np.arctan2(offset[:, 1], offset[:, 0]) - at[k, 2]
        return Touches(
            k, who, contact_sides(at[k], other, vehicle), rows[:, 5], np.arctan2(np.sin(bearing), np.cos(bearing))
        )


def pose_corners(pose: F64, vehicle: VehicleParams) -> F64:
    """Corners (K, 4, 2) m of the ego's box at rear-axle poses (K, 3)."""
    x, y, yaw = pose.T
    size, d = np.ones(len(pose)), vehicle.rear_to_centre
    return box_corners(x + d * np.cos(yaw), y + d * np.sin(yaw), yaw, vehicle.length * size, vehicle.width * size)


def step_velocity(pose: F64) -> F64:
    """(K, 2) m/s of poses (K, 3) one tick apart: that of the step before, the first as the second."""
    if len(pose) < 2:
        return np.zeros((len(pose), 2))
    move = np.diff(pose[:, :2], axis=0) / TICK_S
    return np.vstack([move[:1], move])


def _row(actor: Actor, after_s: float) -> tuple[float, ...]:
    away = actor.speed * after_s
    x, y = actor.x + away * np.cos(actor.yaw), actor.y + away * np.sin(actor.yaw)
    return x, y, actor.yaw, actor.length, actor.width, actor.speed
