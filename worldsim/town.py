"""A SUMO town as geometry: lanes, junctions, signals, the drivable surface.  `lane_routes.py` plans routes through it.

Everything comes from the committed `scenarios/towns/<name>.net.xml.gz` through sumolib, so the renderer, the metrics
and the planners' routes need no running simulation.  Lane index 0 is often the sidewalk in SUMO; here lanes carry their
kind, and a "drivable index" counts from the rightmost lane that cars may use.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import sumolib

from efficientgen import share
from efficientgen.perception.types import F64
from efficientgen.worldsim.roundabouts import Ring, rings
from efficientgen.worldsim.surface import Surface

SCENARIO_DIR = Path(os.environ.get("EFFICIENTGEN_SCENARIOS") or share("scenarios"))


class TownError(ValueError):
    """The town does not exist, or a route through it is impossible."""


@dataclass(frozen=True)
class Lane:
    """One SUMO lane.  `kind`: driving, junction (a car's path inside one), sidewalk, crossing or walkingarea.

    `shape` (N, 2) m is the centreline, for a walkingarea its outline.
    """

    id: str
    edge: str
    kind: str
    shape: F64
    width: float
    speed: float

    @cached_property
    def length(self) -> float:
        return float(np.hypot(*np.diff(self.shape, axis=0).T).sum())


@dataclass(frozen=True)
class Junction:
    """A junction: outline (N, 2) m, SUMO type, id of its signal ("" = none)."""

    id: str
    type: str
    shape: F64
    signal: str


@dataclass(frozen=True)
class SignalLink:
    """One movement that a signal controls: `link` indexes the state string; the stop line is the end of `lane`."""

    signal: str
    link: int
    lane: str
    direction: str
    x: float
    y: float
    heading: float


@dataclass(frozen=True)
class LaneHit:
    """The lane under a point: signed lateral offset from its centreline (left positive) and its heading there."""

    lane: Lane
    lateral: float
    heading: float


@dataclass(frozen=True)
class TownMap:
    """The static map of one town; build it with `load_town`."""

    name: str
    path: Path
    lanes: tuple[Lane, ...]
    junctions: tuple[Junction, ...]
    signals: tuple[SignalLink, ...]
    net: Any = field(repr=False, compare=False)  # the sumolib net, for what is not extracted here

    def drivable_depth(self, points: F64) -> F64:
        """Signed distance (N,) m of map points (N, 2) to the edge of the drivable surface, positive inside.

        The surface is the union of car lanes and junctions (without their sidewalk corners).  Outside, the distance is
        exact down to -`surface.REACH_M`; inside it is that to the edge of the best single lane or junction, a bound.
        """
        return self._surface.depth(points)

    def lane_at(self, x: float, y: float, yaw: float | None = None) -> LaneHit | None:
        """The car lane whose ribbon holds the point; of several (in junctions) the one best aligned with `yaw`."""
        ribbon, offset, heading = self._surface.ribbons_at(x, y)
        if not len(ribbon):
            return None
        cost = np.abs(offset)
        if yaw is not None:
            cost = cost + 4.0 * (1.0 - np.cos(heading - yaw))
        k = int(cost.argmin())
        return LaneHit(self._car_lanes[ribbon[k]], float(offset[k]), float(heading[k]))

    @cached_property
    def rings(self) -> tuple[Ring, ...]:
        """The roundabouts."""
        return rings(self.net)

    @cached_property
    def _car_lanes(self) -> tuple[Lane, ...]:
        return tuple(lane for lane in self.lanes if lane.kind in ("driving", "junction"))

    @cached_property
    def _surface(self) -> Surface:
        return Surface.of(
            [(lane.shape, lane.width) for lane in self._car_lanes],
            [junction.shape for junction in self.junctions],
            [lane.shape for lane in self.lanes if lane.kind == "walkingarea"],
        )


def town_names() -> tuple[str, ...]:
    """Names of the towns on disk, sorted."""
    return tuple(sorted(p.name.removesuffix(".net.xml.gz") for p in (SCENARIO_DIR / "towns").glob("*.net.xml.gz")))


@lru_cache(maxsize=8)
def load_town(name: str) -> TownMap:
    """Read a town of `scenarios/towns`.

    Raises:
        TownError: no town of this name.
    """
    path = SCENARIO_DIR / "towns" / f"{name}.net.xml.gz"
    if not path.is_file():
        raise TownError(f"no town {name!r} in {path.parent}; there are: {', '.join(town_names()) or 'none'}")
    net = sumolib.net.readNet(
        str(path), withInternal=True, withPrograms=True, withPedestrianConnections=True, withFoes=True
    )
    lanes = []
    for edge in net.getEdges(withInternal=True):
        function = edge.getFunction()
        for lane in edge.getLanes():
            cars = lane.allows("passenger")
            kind = {"": "driving" if cars else "sidewalk", "internal": "junction"}.get(function, function)
            shape = np.array([p[:2] for p in lane.getShape()], np.float64)
            lanes.append(Lane(lane.getID(), edge.getID(), kind, shape, lane.getWidth(), lane.getSpeed()))
    signals, signal_of = [], {}
    for light in net.getTrafficLights():
        for lane_in, _, link in light.getConnections():
            connection = next(c for c in lane_in.getOutgoing() if c.getTLLinkIndex() == link)
            signal_of[lane_in.getEdge().getToNode().getID()] = light.getID()
            if lane_in.allows("passenger"):
                (x0, y0), (x1, y1) = (p[:2] for p in lane_in.getShape()[-2:])
                heading = math.atan2(y1 - y0, x1 - x0)
                direction = connection.getDirection()
                signals.append(SignalLink(light.getID(), link, lane_in.getID(), direction, x1, y1, heading))
    signals.sort(key=lambda s: (s.signal, s.link))
    junctions = tuple(
        Junction(n.getID(), n.getType(), np.array([p[:2] for p in n.getShape()]), signal_of.get(n.getID(), ""))
        for n in net.getNodes()
        if n.getType() != "internal" and len(n.getShape()) > 2
    )
    return TownMap(name, path, tuple(lanes), junctions, tuple(signals), net)


def drivable_lanes(town: TownMap, edge: str) -> list[Any]:
    """The sumolib lanes of an edge that cars may use, rightmost first.

    Raises:
        TownError: unknown edge.
    """
    if not town.net.hasEdge(edge):
        raise TownError(f"town {town.name!r} has no edge {edge!r}")
    return [lane for lane in town.net.getEdge(edge).getLanes() if lane.allows("passenger")]
