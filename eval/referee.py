"""When a drive is over, and why: judged on the oracle, tick by tick, in process and in the ROS 2 graph alike."""

from __future__ import annotations

import math
from typing import Protocol

import numpy as np

from efficientgen.eval.boxes import ego_corners, first_contact
from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import F64, NS, OracleFrame, Route, Source, VehicleParams

GOAL_MARGIN_M = 5.0  # a route is completed this far before its end
MAX_LATERAL_M = 6.0  # rear axle further from the route than this: off_route
AWAY_RAD = math.radians(110.0)  # heading this far from the route's, for `AWAY_S`: off_route
AWAY_S = 1.0
OFF_ROAD_S = 2.0  # all four box corners off the road for longer: off_route
STANDING_MPS = 0.1
STOPPED_S = 5.0  # a drive whose time runs out after standing this long under STOP ended "stopped"


class Road(Protocol):
    """The part of `worldsim.town.TownMap` that the referee needs."""

    def drivable_depth(self, points: F64) -> F64: ...


class Referee:
    """Watches one drive.  Feed `observe` every chunk's ticks in order; it answers why the drive is over, or ""."""

    def __init__(self, route: Route, town: Road, duration_ns: int, vehicle: VehicleParams | None = None) -> None:
        self._route, self._town, self._duration_ns = route, town, duration_ns
        self._vehicle = vehicle or VehicleParams()
        self._s: float | None = None
        self._away_since: int | None = None
        self._off_road_since: int | None = None
        self._stopped_since: int | None = None

    @property
    def progress_m(self) -> float:
        """Arc length along the route at the last tick observed."""
        return self._s or 0.0

    def observe(self, ticks: tuple[OracleFrame, ...], source: Source | None = None) -> str:
        """The reason to end after these ticks, driven under a verdict of `source`: "completed", "collision",
        "off_route", "stopped", "timeout", or "" to go on.  A planner's death alone ends nothing.
        """
        if first_contact(ticks, self._vehicle) is not None:
            return "collision"
        for tick in ticks:
            reason = self._tick(tick, source)
            if reason:
                return reason
        if ticks and ticks[-1].stamp_ns >= self._duration_ns:
            since = self._stopped_since
            stopped = since is not None and ticks[-1].stamp_ns - since >= STOPPED_S * NS
            return "stopped" if stopped else "timeout"
        return ""

    def _tick(self, tick: OracleFrame, source: Source | None) -> str:
        ego = tick.ego
        self._s, lateral = locate(self._route, ego.x, ego.y, self._s)
        if self._s >= self._route.length - GOAL_MARGIN_M:
            return "completed"
        turned = math.remainder(ego.yaw - point_at(self._route, self._s)[2], 2 * math.pi)
        self._away_since = _since(self._away_since, abs(turned) > AWAY_RAD, tick.stamp_ns)
        outside = bool((np.asarray(self._town.drivable_depth(ego_corners([ego], self._vehicle)[0])) < 0.0).all())
        self._off_road_since = _since(self._off_road_since, outside, tick.stamp_ns)
        standing = source is Source.STOP and ego.speed < STANDING_MPS
        self._stopped_since = _since(self._stopped_since, standing, tick.stamp_ns)
        away = self._away_since is not None and tick.stamp_ns - self._away_since > AWAY_S * NS
        lost = self._off_road_since is not None and tick.stamp_ns - self._off_road_since > OFF_ROAD_S * NS
        return "off_route" if away or lost or abs(lateral) > MAX_LATERAL_M else ""


def _since(since: int | None, holds: bool, stamp_ns: int) -> int | None:
    """Since when a condition has held without a break."""
    return (stamp_ns if since is None else since) if holds else None
