"""Towns as a nuScenes map: the expansion JSON (version 1.3) with its lanes, and the mask of the drivable surface.

nuScenes knows four maps by name and derives the rule of the road from the name, so every town goes into
`boston-seaport`, where one drives on the right; several towns lie side by side.  Lanes keep SUMO's geometry: a lane is
the ribbon around its centreline, a connector a car's path inside a junction, an arcline path a chain of straight
pieces.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from efficientgen.perception.types import F64, U8
from efficientgen.worldsim.reference import polyline
from efficientgen.worldsim.town import Lane, TownMap

LOCATION = "boston-seaport"
LOCATIONS = (LOCATION, "singapore-onenorth", "singapore-hollandvillage", "singapore-queenstown")
RESOLUTION_M = 0.1  # of the mask, as the devkit expects it
MARGIN_M = 60.0
STOP_DEPTH_M = 2.0
_LISTS = (
    "polygon line node drivable_area road_segment road_block lane ped_crossing walkway stop_line carpark_area "
    "road_divider lane_divider traffic_light lane_connector"
).split()


def token(*names: object) -> str:
    """32 hexadecimal digits that depend on `names` only."""
    return hashlib.blake2b(repr(names).encode(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Placed:
    """A town and where its origin lies on the map, whole metres."""

    town: TownMap
    dx: float
    dy: float

    def put(self, points: F64) -> F64:
        return np.asarray(points, np.float64) + (self.dx, self.dy)


def place(towns: Sequence[TownMap]) -> tuple[tuple[Placed, ...], tuple[float, float]]:
    """Towns side by side in positive coordinates, and the size of the canvas (m)."""
    placed, left, height = [], 0.0, 0.0
    for town in towns:
        points = np.concatenate([lane.shape for lane in town.lanes])
        low, high = np.floor(points.min(0) - MARGIN_M), np.ceil(points.max(0) + MARGIN_M)
        placed.append(Placed(town, float(left - low[0]), float(-low[1])))
        left, height = left + float(high[0] - low[0]), max(height, float(high[1] - low[1]))
    return tuple(placed), (left, height)


def expansion(placed: Sequence[Placed], canvas: tuple[float, float]) -> dict[str, Any]:
    """The content of `maps/expansion/<location>.json`; without towns a valid map of nothing."""
    out = _Expansion()
    for each in placed:
        out.add(each)
    return {
        "version": "1.3",
        "canvas_edge": [float(canvas[0]), float(canvas[1])],
        **out.records,
        "connectivity": out.connectivity,
        "arcline_path_3": out.arclines,
    }


def drivable_mask(placed: Sequence[Placed], canvas: tuple[float, float]) -> U8:
    """(H, W) 255 where one may drive, 0 elsewhere; row 0 is the far north, `RESOLUTION_M` per pixel."""
    from PIL import Image, ImageDraw

    size = round(canvas[0] / RESOLUTION_M), round(canvas[1] / RESOLUTION_M)
    image = Image.new("L", size)
    draw = ImageDraw.Draw(image)
    for each in placed:
        for outline in _surface(each):
            x, y = outline.T / RESOLUTION_M
            draw.polygon(list(zip(x.tolist(), (size[1] - y).tolist(), strict=True)), fill=255)
    return np.asarray(image)


@dataclass
class _Expansion:
    records: dict[str, list[dict[str, Any]]] = field(default_factory=lambda: {name: [] for name in _LISTS})
    connectivity: dict[str, dict[str, list[str]]] = field(default_factory=dict)
    arclines: dict[str, list[dict[str, Any]]] = field(default_factory=dict)

    def add(self, placed: Placed) -> None:
        town = placed.town
        name = town.name
        area = token("area", name)
        outlines = [self.polygon(outline, "area", name, k) for k, outline in enumerate(_surface(placed))]
        self.put("drivable_area", token=area, polygon_tokens=outlines)
        for junction in town.junctions:
            outline = self.polygon(placed.put(junction.shape), "junction", name, junction.id)
            self.put("road_segment", token=token("segment", name, junction.id), polygon_token=outline,
                     is_intersection=True, drivable_area_token=area)  # fmt: skip
        roads: dict[str, list[Lane]] = {}
        for lane in _lanes(town):
            if lane.kind == "driving":
                roads.setdefault(lane.edge, []).append(lane)
        for edge, lanes in roads.items():
            self.road(placed, edge, lanes, area)
        for lane in _lanes(town):
            which = name, lane.id
            if lane.kind == "junction":
                self.put("lane_connector", token=token("lane", *which),
                         polygon_token=self.polygon(placed.put(_ribbon(lane)), "connector", *which))  # fmt: skip
            elif lane.kind in ("sidewalk", "walkingarea"):
                walked = lane.shape if lane.kind == "walkingarea" else _ribbon(lane)
                if len(walked) > 2:
                    self.put("walkway", token=token("walkway", *which),
                             polygon_token=self.polygon(placed.put(walked), "walkway", *which))  # fmt: skip
            elif lane.kind == "crossing":
                self.put("ped_crossing", token=token("crossing", *which), road_segment_token="",
                         polygon_token=self.polygon(placed.put(_ribbon(lane)), "crossing", *which))  # fmt: skip
            if lane.kind in ("driving", "junction"):
                self.arclines[token("lane", *which)] = list(_pieces(placed.put(lane.shape)))
                self.connectivity[token("lane", *which)] = {"incoming": [], "outgoing": []}
        self.connect(town)
        self.signals(placed)

    def road(self, placed: Placed, edge: str, lanes: list[Lane], area: str) -> None:
        """One direction of a road: its lanes from right to left, the block around them, the lines between them."""
        name, block = placed.town.name, token("block", placed.town.name, edge)
        rights = [placed.put(polyline.offset(lane.shape, -lane.width / 2)) for lane in lanes]
        lefts = [placed.put(polyline.offset(lane.shape, lane.width / 2)) for lane in lanes]
        outline = self.polygon(np.vstack([rights[0], lefts[-1][::-1]]), "block", name, edge)
        ends = [self.line(np.stack([rights[0][k], lefts[-1][k]]), "end", name, edge, k) for k in (0, -1)]
        segment = token("segment", name, edge)
        self.put("road_segment", token=segment, polygon_token=outline, is_intersection=False, drivable_area_token=area)
        self.put("road_block", token=block, polygon_token=outline, from_edge_line_token=ends[0],
                 to_edge_line_token=ends[1], road_segment_token=segment)  # fmt: skip
        for k, lane in enumerate(lanes):
            which = name, lane.id
            edges = [self.line(np.stack([rights[k][j], lefts[k][j]]), "lane end", *which, j) for j in (0, -1)]
            inner = k + 1 < len(lanes)
            left = self.line(lefts[k], "left", *which)
            self.put("lane_divider" if inner else "road_divider", token=token("divider", *which), line_token=left,
                     **({} if inner else {"road_segment_token": segment}))  # fmt: skip
            right = self.line(rights[k], "right", *which)
            kinds = "DOUBLE_DASHED_WHITE" if inner else "SINGLE_SOLID_YELLOW", \
                "DOUBLE_DASHED_WHITE" if k else "SINGLE_SOLID_WHITE"  # fmt: skip
            nodes = [self.nodes_of(line) for line in (left, right)]
            segments = [[{"node_token": node, "segment_type": kind} for node in held]
                        for held, kind in zip(nodes, kinds, strict=True)]  # fmt: skip
            self.put("lane", token=token("lane", *which), lane_type="CAR",
                     polygon_token=self.polygon(np.vstack([rights[k], lefts[k][::-1]]), "lane", *which),
                     from_edge_line_token=edges[0], to_edge_line_token=edges[1],
                     left_lane_divider_segments=segments[0], right_lane_divider_segments=segments[1])  # fmt: skip

    def connect(self, town: TownMap) -> None:
        """Which lane leads into which, through the paths inside junctions."""
        known = {lane.id for lane in _lanes(town) if lane.kind in ("driving", "junction")}
        for here in sorted(known):
            for connection in town.net.getLane(here).getOutgoing():
                there = connection.getViaLaneID() or connection.getToLane().getID()
                if there in known:
                    a, b = token("lane", town.name, here), token("lane", town.name, there)
                    if b not in self.connectivity[a]["outgoing"]:
                        self.connectivity[a]["outgoing"].append(b)
                        self.connectivity[b]["incoming"].append(a)

    def signals(self, placed: Placed) -> None:
        """A stop line and a traffic light for every lane that a signal rules."""
        town = placed.town
        lanes = {lane.id: lane for lane in town.lanes}
        for link in {signal.lane: signal for signal in town.signals}.values():
            lane, which = lanes[link.lane], (town.name, link.lane)
            along = np.array([math.cos(link.heading), math.sin(link.heading)])
            left = np.array([-along[1], along[0]]) * lane.width / 2
            end = np.array([link.x, link.y])
            bar = placed.put(np.stack([end - left, end + left]))
            light = token("light", *which)
            self.put("traffic_light", token=light, line_token=self.line(bar, "light", *which),
                     traffic_light_type="VERTICAL", from_road_block_token=token("block", town.name, lane.edge),
                     items=[{"color": colour, "shape": "CIRCLE", "rel_pos": {"tx": 0.0, "ty": 0.0, "tz": z, "rx": 0.0,
                             "ry": 0.0, "rz": 0.0}, "to_road_block_tokens": []}
                            for colour, z in (("RED", 0.6), ("YELLOW", 0.0), ("GREEN", -0.6))],
                     pose={"tx": float(bar[0, 0]), "ty": float(bar[0, 1]), "tz": 2.75, "rx": 0.0, "ry": 0.0,
                           "rz": link.heading})  # fmt: skip
            area = np.vstack([bar, (bar - STOP_DEPTH_M * along)[::-1]])
            self.put("stop_line", token=token("stop", *which), stop_line_type="TRAFFIC_LIGHT", ped_crossing_tokens=[],
                     polygon_token=self.polygon(area, "stop", *which), traffic_light_tokens=[light],
                     road_block_token=token("block", town.name, lane.edge))  # fmt: skip

    def put(self, layer: str, **record: Any) -> None:
        self.records[layer].append(record)

    def nodes(self, points: F64, *names: object) -> list[str]:
        tokens = [token("node", *names, k) for k in range(len(points))]
        for node, (x, y) in zip(tokens, points.tolist(), strict=True):
            self.put("node", token=node, x=x, y=y)
        return tokens

    def polygon(self, points: F64, *names: object) -> str:
        name = token("polygon", *names)
        self.put("polygon", token=name, exterior_node_tokens=self.nodes(points, "polygon", *names), holes=[])
        return name

    def line(self, points: F64, *names: object) -> str:
        name = token("line", *names)
        self.put("line", token=name, node_tokens=self.nodes(points, "line", *names))
        return name

    def nodes_of(self, line: str) -> list[str]:
        return next(record["node_tokens"] for record in reversed(self.records["line"]) if record["token"] == line)


def _surface(placed: Placed) -> list[F64]:
    """The outlines whose union is drivable: car lanes, paths through junctions, junctions."""
    ribbons = [_ribbon(lane) for lane in _lanes(placed.town) if lane.kind in ("driving", "junction")]
    return [placed.put(outline) for outline in (*ribbons, *(j.shape for j in placed.town.junctions))]


def _lanes(town: TownMap) -> list[Lane]:
    """The lanes that have a length; SUMO's nets hold a few inside junctions that have none."""
    return [lane for lane in town.lanes if lane.length > 0.05]


def _ribbon(lane: Lane) -> F64:
    """The outline (2N, 2) of a lane."""
    shape = polyline.clean(lane.shape)
    return np.vstack([polyline.offset(shape, -lane.width / 2), polyline.offset(shape, lane.width / 2)[::-1]])


def _pieces(shape: F64) -> Iterator[dict[str, Any]]:
    """A centreline as arcline paths that are straight."""
    for (x0, y0), (x1, y1) in zip(shape[:-1].tolist(), shape[1:].tolist(), strict=True):
        length, yaw = math.hypot(x1 - x0, y1 - y0), math.atan2(y1 - y0, x1 - x0)
        if length > 1e-3:
            yield {"start_pose": [x0, y0, yaw], "end_pose": [x1, y1, yaw], "shape": "LSL", "radius": 999.999,
                   "segment_length": [0.0, length, 0.0]}  # fmt: skip
