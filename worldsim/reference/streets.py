"""What a SUMO net says about the look of a town, as plain arrays: lanes, crossings, junctions, signalled approaches.

The only module of the renderer that knows sumolib.  Lane shapes are centrelines in the direction of travel.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen import share
from efficientgen.perception.types import F64
from efficientgen.worldsim.reference import polyline

SIMPLIFY_M = 0.05  # lane shapes may move by this much; saves two thirds of the road's vertices


class UnknownTownError(FileNotFoundError):
    """No net of that name ships with efficientgen, and no file of that name exists."""


@dataclass(frozen=True)
class Lane:
    """A lane between junctions; `control` at its end: signal | stop | yield | none; `turns`: SUMO directions."""

    shape: F64  # (N, 2)
    width: float
    use: str  # drive | walk | cycle
    edge: str
    rightmost: bool  # no drivable lane further right
    leftmost: bool
    two_way: bool  # the road also runs the other way
    speed_limit: float
    control: str
    turns: frozenset[str]


@dataclass(frozen=True)
class Approach:
    """One road that meets a signal: lane ends from right to left, and its links grouped by equal light sequences.

    A group is (first link index of the group, its turn directions); the main group comes first.
    """

    signal: str
    stops: F64  # (K, 2) ends of the drivable lanes
    shapes: tuple[F64, ...]
    lane_width: float
    heading: F64  # (2,) unit direction of travel at the stop line
    groups: tuple[tuple[int, frozenset[str]], ...]
    junction: F64  # (M, 2) polygon

    @property
    def right(self) -> F64:
        """(2,) unit vector to the right of the direction of travel."""
        return np.array([self.heading[1], -self.heading[0]])


@dataclass(frozen=True)
class Streets:
    """Everything drawn from the net."""

    lanes: tuple[Lane, ...]
    inner_lanes: tuple[tuple[F64, float], ...]  # (shape, width) inside junctions
    crossings: tuple[tuple[F64, float], ...]
    corners: tuple[F64, ...]  # where people wait and turn
    walked_road: tuple[F64, ...]  # areas for walking that a lane for vehicles runs through
    junctions: tuple[F64, ...]
    approaches: tuple[Approach, ...]
    islands: tuple[F64, ...]  # middles of roundabouts: their outlines, the left border of the ring, counter-clockwise
    bounds: tuple[float, float, float, float]  # x0, y0, x1, y1


def net_file(town: str | Path) -> Path:
    """The file behind a town: a shipped net's name, or a path to any .net.xml(.gz).

    Raises:
        UnknownTownError: neither exists.
    """
    path = Path(town)
    if path.name.endswith((".net.xml", ".net.xml.gz")):
        if not path.is_file():
            raise UnknownTownError(f"there is no net file {path}")
        return path
    towns = share("scenarios/towns")
    shipped = towns / f"{town}.net.xml.gz"
    if not shipped.is_file():
        names = ", ".join(sorted(p.name.removesuffix(".net.xml.gz") for p in towns.glob("*.net.xml.gz")))
        raise UnknownTownError(f"no town called '{town}'; choose one of {names}, or pass a path to a .net.xml file")
    return shipped


@lru_cache(maxsize=4)
def read_streets(path: Path) -> Streets:
    """Reads a net (about 0.1 s for 700 lanes)."""
    import sumolib

    net = sumolib.net.readNet(str(path), withInternal=True, withPrograms=True, withPedestrianConnections=True)
    lanes: list[Lane] = []
    inner, crossings, areas = [], [], []
    approaches = []
    for edge in sorted(net.getEdges(withInternal=True), key=lambda e: str(e.getID())):
        function = edge.getFunction()
        if function == "walkingarea":
            areas.append(_outline(edge.getLanes()[0].getShape()))
        elif function == "crossing":
            lane = edge.getLanes()[0]
            crossings.append((polyline.clean(lane.getShape()), float(lane.getWidth())))
        elif function == "internal":
            shapes = [
                (polyline.simplify(polyline.clean(lane.getShape()), SIMPLIFY_M), float(lane.getWidth()))
                for lane in edge.getLanes()
            ]
            inner += [(shape, width) for shape, width in shapes if len(shape) > 1]
        else:
            lanes += _edge_lanes(edge)
            approach = _approach(net, edge)
            if approach is not None:
                approaches.append(approach)
    junctions = [
        _outline(node.getShape())
        for node in sorted(net.getNodes(), key=lambda n: str(n.getID()))
        if node.getType() != "dead_end" and len(node.getShape()) > 2
    ]
    x0, y0, x1, y1 = net.getBoundary()
    driven = [lane.shape for lane in lanes if lane.use != "walk"] + [shape for shape, _ in inner]
    areas = [area for area in areas if len(area) > 2]
    entered = [any(_enters(shape, area) for shape in driven) for area in areas]
    corners = [area for area, road in zip(areas, entered, strict=True) if not road]
    walked_road = [area for area, road in zip(areas, entered, strict=True) if road]
    return Streets(
        tuple(lanes), tuple(inner), tuple(crossings), tuple(corners), tuple(walked_road),
        tuple(j for j in junctions if len(j) > 2), tuple(approaches),
        tuple(_island(net, ring) for ring in net.getRoundabouts()), (x0, y0, x1, y1),
    )  # fmt: skip


def _outline(shape: Any) -> F64:
    """A simplified polygon: cut at its two ends so that the chord of the simplification is never zero."""
    ring = polyline.ring(shape)
    half = len(ring) // 2
    if half < 2:
        return ring
    back = np.vstack([ring[half:], ring[:1]])
    return np.vstack([polyline.simplify(ring[: half + 1], SIMPLIFY_M)[:-1], polyline.simplify(back, SIMPLIFY_M)[:-1]])


def _island(net: Any, ring: Any) -> F64:
    """What a roundabout goes around, (N, 2)."""
    ids = list(ring.getEdges())
    pieces, here = [], net.getEdge(ids[0])
    for _ in ids:
        lane = next(lane for lane in here.getLanes() if _use(lane) == "drive")
        onward = next(c for c in lane.getOutgoing() if c.getTo().getID() in ids and _use(c.getToLane()) == "drive")
        inner = net.getLane(onward.getViaLaneID())
        pieces += [np.array(shape)[:, :2] for shape in (lane.getShape(), inner.getShape())]
        width, here = float(lane.getWidth()), onward.getTo()
    middle = polyline.ring(np.vstack(pieces))
    return polyline.offset(np.vstack([middle[-1:], middle, middle[:1]]), width / 2)[1:-1]


def _enters(shape: F64, area: F64) -> bool:
    """Whether a point of a polyline lies inside a polygon (N, 2) (crossing number)."""
    near = shape[((shape > area.min(0)) & (shape < area.max(0))).all(1)]
    if not len(near):
        return False
    x, y = near[:, :1], near[:, 1:]
    a, b = area, np.roll(area, -1, 0)
    rise = np.where(np.abs(b[:, 1] - a[:, 1]) < 1e-9, 1e-9, b[:, 1] - a[:, 1])
    left = ((a[:, 1] > y) != (b[:, 1] > y)) & (x < (b[:, 0] - a[:, 0]) * (y - a[:, 1]) / rise + a[:, 0])
    return bool((left.sum(1) % 2 == 1).any())


def _use(lane: Any) -> str:
    if lane.allows("passenger"):
        return "drive"
    if lane.allows("bicycle"):
        return "cycle"
    return "walk"


def _edge_lanes(edge: Any) -> list[Lane]:
    drivable = [lane for lane in edge.getLanes() if _use(lane) == "drive"]
    opposite = any(e.getToNode() is edge.getFromNode() for e in edge.getToNode().getOutgoing())
    out = []
    for lane in edge.getLanes():
        links = [c for c in lane.getOutgoing() if _use(c.getToLane()) == "drive"]
        states = {c.getState() for c in links}
        control = "none"
        if any(c.getTLSID() for c in links):
            control = "signal"
        elif edge.getToNode().getType() in ("priority_stop", "allway_stop"):
            control = "stop"
        elif "m" in states and "M" not in states:
            control = "yield"
        out.append(
            Lane(
                shape=polyline.simplify(polyline.clean(lane.getShape()), SIMPLIFY_M),
                width=float(lane.getWidth()),
                use=_use(lane),
                edge=str(edge.getID()),
                rightmost=bool(drivable) and lane is drivable[0],
                leftmost=bool(drivable) and lane is drivable[-1],
                two_way=opposite,
                speed_limit=float(lane.getSpeed()),
                control=control,
                turns=frozenset(str(c.getDirection()) for c in links),
            )
        )
    return out


def _approach(net: Any, edge: Any) -> Approach | None:
    drivable = [lane for lane in edge.getLanes() if _use(lane) == "drive"]
    links = [c for lane in drivable for c in lane.getOutgoing() if c.getTLSID() and _use(c.getToLane()) == "drive"]
    if not links:
        return None
    signal = str(links[0].getTLSID())
    phases = [
        [phase.state for phase in program.getPhases()] for program in net.getTLS(signal).getPrograms().values()
    ]  # fmt: skip
    groups: dict[tuple[str, ...], list[Any]] = {}
    for link in links:
        index = link.getTLLinkIndex()
        sequence = tuple(state[index].lower() for program in phases for state in program)
        groups.setdefault(sequence, []).append(link)
    order = sorted(
        groups.values(), key=lambda g: ("s" not in {c.getDirection() for c in g}, -len(g), g[0].getTLLinkIndex())
    )
    shapes = tuple(polyline.clean(lane.getShape()) for lane in drivable)
    last = shapes[0][-1] - shapes[0][-2]
    return Approach(
        signal=signal,
        stops=np.array([shape[-1] for shape in shapes]),
        shapes=shapes,
        lane_width=float(drivable[0].getWidth()),
        heading=last / np.hypot(*last),
        groups=tuple((int(g[0].getTLLinkIndex()), frozenset(str(c.getDirection()) for c in g)) for g in order),
        junction=polyline.ring(edge.getToNode().getShape()),
    )
