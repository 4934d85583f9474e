"""Roundabouts as one junction each: to a driver, entering, going around and leaving are a single manoeuvre.

SUMO knows a roundabout as several junctions on a ring.  A route sees one `StopLine` at the entry whose direction is the
sense of the whole: leaving at the first exit of four is a right turn, straight over is straight, the third is left.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efficientgen.perception.types import F64, StopLine

STRAIGHT_RAD = math.radians(45.0)  # a roundabout that turns the route by less is driven straight over


@dataclass(frozen=True)
class Ring:
    """A roundabout's lane, driven counter-clockwise: its circle, m, and its edges."""

    x: float
    y: float
    radius: float
    edges: frozenset[str]


def rings(net: Any) -> tuple[Ring, ...]:
    """The roundabouts of a sumolib net."""
    return tuple(_fitted(net, frozenset(ring.getEdges())) for ring in net.getRoundabouts())


def _fitted(net: Any, edges: frozenset[str]) -> Ring:
    """The least-squares circle (Kasa 1976) through the car lanes of a ring."""
    lanes = [lane for edge in sorted(edges) for lane in net.getEdge(edge).getLanes() if lane.allows("passenger")]
    points = np.array([p[:2] for lane in lanes for p in lane.getShape()])
    (x, y, c), *_ = np.linalg.lstsq(np.c_[2 * points, np.ones(len(points))], (points**2).sum(1), rcond=None)
    return Ring(float(x), float(y), math.sqrt(c + x * x + y * y), edges)


def merged(
    stops: Sequence[StopLine],
    passages: Sequence[tuple[str, str]],
    known: Sequence[Ring],
    headings: F64,
    spacing: float,
) -> tuple[StopLine, ...]:
    """A route's stop lines with those of each roundabout made one.

    Args:
        passages: (edge before, edge after) of every stop.
        known: the town's roundabouts.
        headings: (N,) rad, unwrapped, of the route every `spacing` m.
    """
    out: list[StopLine] = []
    inside: Ring | None = None
    for stop, passage in zip(stops, passages, strict=True):
        ring = next((r for r in known if r.edges & set(passage)), None)
        if ring is None:
            out.append(stop)
        elif ring is inside:
            out[-1] = replace(out[-1], s_exit=stop.s_exit)
        else:
            out.append(replace(stop, ring_x=ring.x, ring_y=ring.y, ring_radius=ring.radius))
        inside = ring if ring is not None and passage[1] in ring.edges else None
    return tuple(_with_sense(stop, headings, spacing) if stop.ring_radius else stop for stop in out)


def _with_sense(stop: StopLine, headings: F64, spacing: float) -> StopLine:
    begin, end = (headings[min(max(int(s / spacing), 0), len(headings) - 1)] for s in (stop.s, stop.s_exit))
    turned = float(end - begin)
    return replace(stop, direction="s" if abs(turned) < STRAIGHT_RAD else "l" if turned > 0 else "r", must_yield=True)
