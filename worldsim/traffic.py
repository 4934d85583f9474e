"""Seeded traffic demand: who drives and walks where, as a SUMO route file.

Cars wander from junction to junction (our towns have no dead ends), so a town stays filled for minutes without flows.
People who keep crossing at one place of a scenario and cars that keep coming along one route are demand too; scripted
vehicles are in `script`.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from xml.sax.saxutils import quoteattr

from efficientgen.perception.types import ActorKind, VehicleParams
from efficientgen.worldsim.town import TownMap, drivable_lanes

HEIGHTS = {
    ActorKind.CAR: 1.5,
    ActorKind.TRUCK: 3.2,
    ActorKind.BUS: 3.1,
    ActorKind.BICYCLE: 1.7,
    ActorKind.PEDESTRIAN: 1.72,
}
VEHICLE_MIX = {ActorKind.CAR: 0.82, ActorKind.TRUCK: 0.08, ActorKind.BUS: 0.05, ActorKind.BICYCLE: 0.05}
_CAREFUL = 'jmIgnoreFoeProb="0" jmTimegapMinor="1.5" emergencyDecel="8"'
_TYPES = f"""
<vType id="car" vClass="passenger" length="4.6" width="1.82" sigma="0.3" speedDev="0.1" minGap="2.3" tau="1.2"
 accel="2.2" decel="4" {_CAREFUL}/>
<vType id="truck" vClass="truck" length="8.2" width="2.4" maxSpeed="22" speedDev="0.05" accel="1.2" decel="3.5"
 {_CAREFUL}/>
<vType id="bus" vClass="bus" length="11.5" width="2.5" speedDev="0.05" accel="1.1" decel="3" {_CAREFUL}/>
<vType id="bicycle" vClass="bicycle" length="1.8" width="0.65" maxSpeed="5" latAlignment="right" {_CAREFUL}/>
<vType id="pedestrian" vClass="pedestrian" length="0.4" width="0.5"/>
"""
_WALK_KINDS = {"s": 1.0, "r": 0.8, "R": 0.8, "l": 0.6, "L": 0.6}


@dataclass(frozen=True)
class Walkers:
    """People who cross the road where `edge` ends (its crossing at the stop line), one every `every_s`."""

    edge: str
    every_s: float


@dataclass(frozen=True)
class Stream:
    """Cars that drive along `edges`, one every `every_s`: traffic that the ego is to meet."""

    edges: tuple[str, ...]
    every_s: float


def successors(town: TownMap, edge: str) -> list[tuple[str, str]]:
    """(next edge, direction) of every movement that cars can make from `edge`, sorted, without U-turns."""
    found = set()
    for lane in drivable_lanes(town, edge):
        for link in lane.getOutgoing():
            if link.getDirection() != "t" and link.getToLane().allows("passenger"):
                found.add((link.getTo().getID(), link.getDirection()))
    return sorted(found)


def wander(town: TownMap, start: str, length_m: float, rng: random.Random) -> list[str]:
    """A random drive from `start`, at least `length_m` long."""
    edges, total = [start], town.net.getEdge(start).getLength()
    while total < length_m:
        options = successors(town, edges[-1])
        edges.append(rng.choices([e for e, _ in options], [_WALK_KINDS.get(d, 0.5) for _, d in options])[0])
        total += town.net.getEdge(edges[-1]).getLength()
    return edges


def demand(
    town: TownMap,
    seed: int,
    vehicles: int,
    pedestrians: int,
    begin_s: float,
    duration_s: float,
    walkers: Sequence[Walkers] = (),
    vehicle: VehicleParams | None = None,
    streams: Sequence[Stream] = (),
) -> str:
    """The route file (XML text) for [begin, begin + duration]: `vehicles` and `pedestrians` at the beginning, and as
    much again as arrives meanwhile.  Holds the vehicle types "ego" and "lead_*" for the oracle to use."""
    rng = random.Random(f"{seed}/{town.name}/demand")
    ego = vehicle or VehicleParams()
    streets = sorted({lane.edge for lane in town.lanes if lane.kind == "driving"})
    weights = [sum(lane.getLength() for lane in drivable_lanes(town, edge)) for edge in streets]
    trips: list[tuple[float, str]] = []
    for k in range(vehicles + vehicles // 3):
        kind = rng.choices(list(VEHICLE_MIX), list(VEHICLE_MIX.values()))[0].value
        depart = begin_s if k < vehicles else begin_s + rng.uniform(0.2, 0.8) * duration_s
        route = wander(town, rng.choices(streets, weights)[0], 14.0 * duration_s, rng)
        trips.append((depart, _vehicle(f"{kind}_{k}", kind, depart, route)))
    walks = sorted({lane.edge for lane in town.lanes if lane.kind == "sidewalk"})
    for k in range(pedestrians + pedestrians // 2):
        depart = begin_s if k < pedestrians else begin_s + rng.uniform(0.1, 0.8) * duration_s
        trips.append((depart, _stroll(town, f"pedestrian_{k}", depart, walks, rng)))
    for n, stream in enumerate(walkers):
        depart, k = begin_s + rng.uniform(0.0, stream.every_s), 0
        while depart < begin_s + duration_s:
            trips.append((depart, _crosser(town, f"pedestrian_w{n}_{k}", depart, stream.edge, bool(k % 2), rng)))
            depart, k = depart + stream.every_s * rng.uniform(0.8, 1.2), k + 1
    for n, flow in enumerate(streams):
        depart, k = begin_s + rng.uniform(0.0, flow.every_s), 0
        while depart < begin_s + duration_s:
            onward = wander(town, flow.edges[-1], 14.0 * duration_s, rng)
            text = _vehicle(f"car_s{n}_{k}", "car", depart, [*flow.edges[:-1], *onward])
            trips.append((depart, text.replace('departPos="random_free"', 'departPos="base"')))
            depart, k = depart + flow.every_s * rng.uniform(0.7, 1.3), k + 1
    trips.sort(key=lambda trip: trip[0])
    types = _TYPES + f'<vType id="ego" vClass="passenger" length="{ego.length}" width="{ego.width}" sigma="0"/>\n'
    return "<routes>\n" + types + "\n".join(text for _, text in trips) + "\n</routes>\n"


def _vehicle(name: str, kind: str, depart: float, edges: Sequence[str]) -> str:
    return (
        f'<vehicle id={quoteattr(name)} type="{kind}" depart="{depart:.1f}" departLane="best" '
        f'departPos="random_free" departSpeed="desired"><route edges={quoteattr(" ".join(edges))}/></vehicle>'
    )


def _stroll(town: TownMap, name: str, depart: float, walks: Sequence[str], rng: random.Random) -> str:
    """A walk of two legs between sidewalks that lie within some 250 m of each other."""
    here = rng.choice(walks)
    x, y = town.net.getEdge(here).getToNode().getCoord()[:2]
    start = rng.uniform(0.05, 0.95) * town.net.getEdge(here).getLength()
    legs = []
    for _ in range(2):
        ends = [(edge, town.net.getEdge(edge).getToNode().getCoord()) for edge in walks if edge != here]
        there = rng.choice([edge for edge, c in ends if abs(c[0] - x) + abs(c[1] - y) < 250] or [ends[0][0]])
        legs.append(f'<walk from={quoteattr(here)} to={quoteattr(there)} speedFactor="{rng.uniform(0.85, 1.15):.2f}"/>')
        here = there
    return (
        f'<person id={quoteattr(name)} type="pedestrian" depart="{depart:.1f}" departPos="{start:.1f}">'
        + "".join(legs)
        + "</person>"
    )


def _crosser(town: TownMap, name: str, depart: float, edge: str, back: bool, rng: random.Random) -> str:
    """Someone who starts on one side of the road near the end of `edge` and walks to the other side."""
    road: Any = town.net.getEdge(edge)
    other = next(e for e in road.getToNode().getOutgoing() if e.getToNode() == road.getFromNode())
    near, far = road.getLength() - rng.uniform(3.0, 10.0), rng.uniform(3.0, 10.0)
    start, goal = ((edge, near), (other.getID(), far)) if not back else ((other.getID(), far), (edge, near))
    return (
        f'<person id={quoteattr(name)} type="pedestrian" depart="{depart:.1f}" departPos="{start[1]:.1f}">'
        f'<walk from={quoteattr(start[0])} to={quoteattr(goal[0])} arrivalPos="{goal[1]:.1f}"/></person>'
    )
