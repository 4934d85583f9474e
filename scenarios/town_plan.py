"""A town as drawn on paper, and SUMO's plain XML of it: junctions, roads that bend, roundabouts.

Nodes of two roads are only curves: the roads that meet there become one, smoothed by a quadratic B-spline.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, field

Point = tuple[float, float]
KMH = 1 / 3.6
RING_KMH = 30  # in roundabouts
RING_CORNER_M = 6.0  # radius of the kerb between a roundabout's ring and its arms


@dataclass(frozen=True)
class Road:
    """A two-way road: bowed towards `control`, or, made of several, a smooth curve along the `corners` between them."""

    a: str
    b: str
    lanes: int  # per direction
    kmh: float
    control: Point
    corners: tuple[Point, ...] = ()

    def seen_from(self, node: str) -> Road:
        if node == self.a:
            return self
        return Road(self.b, self.a, self.lanes, self.kmh, self.control, self.corners[::-1])


@dataclass(frozen=True)
class Roundabout:
    """A one-lane ring about (x, y), driven counter-clockwise, through the `nodes` at `angles` (rad, increasing)."""

    x: float
    y: float
    radius: float  # of the lane's centreline
    nodes: tuple[str, ...]
    angles: tuple[float, ...]

    def edges(self) -> list[tuple[str, str, list[Point]]]:
        """(from, to, arc) of the ring's edges in driving order."""
        out = []
        for k, (node, begin) in enumerate(zip(self.nodes, self.angles, strict=True)):
            end = self.angles[(k + 1) % len(self.angles)] + (2 * math.pi if k + 1 == len(self.angles) else 0.0)
            pieces = max(6, round((end - begin) * self.radius / 2.0))
            steps = [begin + (end - begin) * i / pieces for i in range(pieces + 1)]
            arc = [(self.x + self.radius * math.cos(a), self.y + self.radius * math.sin(a)) for a in steps]
            out.append((node, self.nodes[(k + 1) % len(self.nodes)], arc))
        return out


@dataclass
class Plan:
    """A town as drawn on paper: named junctions and roads between them.  A node with two roads is only a curve."""

    nodes: dict[str, tuple[float, float, str]] = field(default_factory=dict)
    roads: list[Road] = field(default_factory=list)
    roundabouts: list[Roundabout] = field(default_factory=list)
    forbidden: list[tuple[str, str, str]] = field(default_factory=list)  # movements (from, at, to) that nobody makes

    def node(self, name: str, x: float, y: float, kind: str = "priority") -> None:
        self.nodes[name] = (x, y, kind)

    def road(
        self, a: str, b: str, lanes: int = 1, kmh: float = 40, bend: float = 0.0, via: Point | None = None
    ) -> None:
        """A road of `lanes` per direction; `bend` bows it sideways (share of its length), `via` pulls it there."""
        (x0, y0, _), (x1, y1, _) = self.nodes[a], self.nodes[b]
        control = via or ((x0 + x1) / 2 - (y1 - y0) * bend, (y0 + y1) / 2 + (x1 - x0) * bend)
        self.roads.append(Road(a, b, lanes, kmh, control))

    def winding(self, a: str, b: str, kmh: float, *corners: Point) -> None:
        """A road of one lane per direction that bends at each of the `corners`."""
        self.roads.append(Road(a, b, 1, kmh, corners[0], corners))

    def roundabout(self, name: str, x: float, y: float, radius: float, arms_deg: dict[str, float]) -> None:
        """A roundabout whose arms join at nodes `<name><arm>`, at these angles from east, increasing."""
        nodes = tuple(name + arm for arm in arms_deg)
        angles = tuple(math.radians(angle) for angle in arms_deg.values())
        for node, angle in zip(nodes, angles, strict=True):
            self.node(node, x + radius * math.cos(angle), y + radius * math.sin(angle))
        self.roundabouts.append(Roundabout(x, y, radius, nodes, angles))

    def forbid(self, a: str, at: str, b: str) -> None:
        """No turning between the roads to `a` and `b` at a junction, either way: too sharp."""
        self.forbidden += [(a, at, b), (b, at, a)]

    def xml(self) -> tuple[str, str, str]:
        """The plain-XML node, edge and connection files."""
        roads = self._joined()
        used = {end for road in roads for end in (road.a, road.b)}
        ring = {node for roundabout in self.roundabouts for node in roundabout.nodes}
        nodes = [
            f'<node id="{n}" x="{x:.2f}" y="{y:.2f}" type="{kind}"' + f' radius="{RING_CORNER_M}"' * (n in ring) + "/>"
            for n, (x, y, kind) in self.nodes.items()
            if n in used
        ]
        edges = []
        for road in roads:
            curve = _spline([self.nodes[road.a][:2], *(road.corners or (road.control,)), self.nodes[road.b][:2]])
            for start, end, points in ((road.a, road.b, curve), (road.b, road.a, curve[::-1])):
                shape = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
                edges.append(
                    f'<edge id="{start}-{end}" from="{start}" to="{end}" numLanes="{road.lanes}" '
                    f'speed="{road.kmh * KMH:.2f}" priority="{2 * road.lanes + (road.kmh > 30)}" spreadType="right" '
                    f'sidewalkWidth="2.2" shape="{shape}"/>'
                )
        for roundabout in self.roundabouts:
            ids = []
            for start, end, points in roundabout.edges():
                ids.append(f"{start}-{end}")
                shape = " ".join(f"{x:.2f},{y:.2f}" for x, y in points)
                edges.append(
                    f'<edge id="{ids[-1]}" from="{start}" to="{end}" numLanes="1" speed="{RING_KMH * KMH:.2f}" '
                    f'priority="9" spreadType="center" sidewalkWidth="2.2" shape="{shape}"/>'
                )
            edges.append(f'<roundabout nodes="{" ".join(roundabout.nodes)}" edges="{" ".join(ids)}"/>')
        deletions = [f'<delete from="{a}-{at}" to="{at}-{b}"/>' for a, at, b in self.forbidden]
        kinds = {"nodes": nodes, "edges": edges, "connections": deletions}
        node_file, edge_file, connection_file = (f"<{k}>\n" + "\n".join(v) + f"\n</{k}>\n" for k, v in kinds.items())
        return node_file, edge_file, connection_file

    def _joined(self) -> list[Road]:
        """The roads, with those that meet at a node of two roads joined into one."""
        roads = list(self.roads)
        for name, (x, y, _) in self.nodes.items():
            here = [road for road in roads if name in (road.a, road.b)]
            if len(here) != 2:
                continue
            first, second = here[0].seen_from(name), here[1].seen_from(name)
            lanes, kmh = min(first.lanes, second.lanes), min(first.kmh, second.kmh)
            corners = (*first.corners[::-1], (x, y), *second.corners)
            roads = [road for road in roads if road not in here]
            roads.append(Road(first.b, second.b, lanes, kmh, (x, y), corners))
        return roads


def _spline(controls: list[Point], step: float = 5.0) -> list[Point]:
    """A quadratic B-spline through the first and last point and the midpoints of the control polygon's inner sides."""
    inner = controls[1:-1]
    joints = [
        controls[0],
        *(((a[0] + b[0]) / 2, (a[1] + b[1]) / 2) for a, b in itertools.pairwise(inner)),
        controls[-1],
    ]
    curve = [controls[0]]
    for a, control, b in zip(joints, inner, joints[1:], strict=False):
        pieces = max(4, round((math.dist(a, control) + math.dist(control, b)) / step))
        for t in (k / pieces for k in range(1, pieces + 1)):
            u, v, w = (1 - t) ** 2, 2 * t * (1 - t), t * t
            curve.append((u * a[0] + v * control[0] + w * b[0], u * a[1] + v * control[1] + w * b[1]))
    return curve
