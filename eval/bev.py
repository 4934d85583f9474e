"""The bird's-eye view of a drive: lanes, route, signals, actors, ego and plan, seen from above with the ego facing up.

The still part of the town around the route is drawn once into a large raster; each frame cuts the turned window around
the ego out of it and draws what moves on top.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw, ImageFilter

from efficientgen.eval.boxes import box_corners
from efficientgen.eval.canvas import ACTOR_COLOUR, INK, ROLLOUT, Colour, disc, fill, stroke
from efficientgen.perception.types import F64, Actor, ActorKind, EgoState, OracleFrame, Route, VehicleParams

LAND: Colour = (24, 31, 38)
PAVEMENT: Colour = (38, 46, 55)
ASPHALT: Colour = (53, 61, 71)
MARK: Colour = (112, 124, 139)
ZEBRA: Colour = (150, 160, 172)
ROUTE: Colour = (64, 96, 150)
_MARGIN_M = 85.0  # of the raster around the route
_MAX_PIXELS = 14e6
_LIGHTS: dict[str, Colour] = {
    **dict.fromkeys("gG", (46, 211, 120)),
    **dict.fromkeys("yY", (250, 200, 60)),
    **dict.fromkeys("rR", (243, 84, 97)),
    "u": (255, 140, 66),
}


class BirdsEye:
    """Draws frames of one drive.

    Args:
        town: a `TownMap`; its lanes, junctions and signals are drawn.
        size: (width, height) px.
        scale: px per m.
        ego_height: where the rear axle stands, as a share of the height from the top.
    """

    def __init__(
        self,
        town: Any,
        route: Route,
        size: tuple[int, int] = (896, 448),
        scale: float = 6.5,
        ego_height: float = 0.74,
        vehicle: VehicleParams | None = None,
    ) -> None:
        self.size, self.scale = size, scale
        self._vehicle = vehicle or VehicleParams()
        self._centre = (size[0] / 2, size[1] * ego_height)
        self._reach = math.hypot(size[0] / 2, size[1] * max(ego_height, 1.0 - ego_height)) / scale + 8.0  # m, in view
        self._signals = town.signals
        low, high = route.points.min(0) - _MARGIN_M, route.points.max(0) + _MARGIN_M
        self._m = min(scale * 1.6, math.sqrt(_MAX_PIXELS / float(np.prod(high - low))))  # raster px per m
        self._left, self._top = float(low[0]), float(high[1])
        self._raster = self._draw_town(town, route, tuple(math.ceil(v) for v in (high - low) * self._m))

    def draw(
        self,
        frame: OracleFrame,
        path: F64 | None = None,
        colour: Colour = INK,
        rollouts: Sequence[F64] = (),
    ) -> Image.Image:
        """One frame (RGB); `path` (M, 2) m in `map` is the trajectory being followed, drawn in `colour`."""
        ego = frame.ego
        image = self._window(ego)
        self._draw_lights(image, frame)
        if path is not None and len(path) > 1 and np.ptp(path, axis=0).max() > 0.2:
            pixels = self.to_pixels(path, ego)
            stroke(image, pixels, 1.7 * self.scale, colour, 0.35)
            stroke(image, pixels, 2.5, colour, 0.95)
        for rollout in rollouts:
            stroke(image, self.to_pixels(rollout, ego), 1.2, ROLLOUT, 0.7)
        for actor in frame.actors:
            self._draw_actor(image, actor, ego)
        self._draw_ego(image, ego, colour)
        return image

    def to_pixels(self, points: F64, ego: EgoState) -> list[tuple[float, float]]:
        """Map points (N, 2) m to image pixels, in the view of this ego pose."""
        c, s = math.cos(ego.yaw), math.sin(ego.yaw)
        local = (np.asarray(points, np.float64) - (ego.x, ego.y)) @ np.array([[c, -s], [s, c]])  # forward, left
        u = self._centre[0] - local[:, 1] * self.scale
        v = self._centre[1] - local[:, 0] * self.scale
        return list(zip(u.tolist(), v.tolist(), strict=True))

    # --- what moves ---

    def _window(self, ego: EgoState) -> Image.Image:
        k, (u0, v0) = self.scale, self._centre
        c, s = math.cos(ego.yaw) / k, math.sin(ego.yaw) / k
        x0 = ego.x + c * v0 - s * u0  # map point of the top left pixel
        y0 = ego.y + s * v0 + c * u0
        m = self._m
        coefficients = (s * m, -c * m, (x0 - self._left) * m, c * m, s * m, (self._top - y0) * m)
        return self._raster.transform(  # nearest: the raster is fine and slightly blurred, bilinear costs 8 times more
            self.size, Image.Transform.AFFINE, coefficients, Image.Resampling.NEAREST, fillcolor=LAND
        )

    def _draw_lights(self, image: Image.Image, frame: OracleFrame) -> None:
        for signal in self._signals:
            state = frame.lights.get(signal.signal, "")
            if signal.link >= len(state) or math.hypot(signal.x - frame.ego.x, signal.y - frame.ego.y) > self._reach:
                continue
            colour = _LIGHTS.get(state[signal.link])
            if colour is None:
                continue
            across = 1.5 * np.array([-math.sin(signal.heading), math.cos(signal.heading)])
            middle = np.array([signal.x, signal.y])
            pixels = self.to_pixels(np.array([middle - across, middle + across]), frame.ego)
            stroke(image, pixels, 9.0, colour, 0.22)
            stroke(image, pixels, 3.6, colour)

    def _draw_actor(self, image: Image.Image, actor: Actor, ego: EgoState) -> None:
        if math.hypot(actor.x - ego.x, actor.y - ego.y) > self._reach:
            return
        colour = ACTOR_COLOUR[actor.kind]
        if actor.kind is ActorKind.PEDESTRIAN:
            ((u, v),) = self.to_pixels(np.array([[actor.x, actor.y]]), ego)
            disc(image, u, v, 6.5, colour, 0.25)
            disc(image, u, v, 3.8, colour)
            return
        width = max(actor.width, 0.9)
        self._draw_box(image, ego, (actor.x, actor.y, actor.yaw, actor.length, width), colour)

    def _draw_ego(self, image: Image.Image, ego: EgoState, colour: Colour) -> None:
        v, d = self._vehicle, self._vehicle.rear_to_centre
        x, y = ego.x + d * math.cos(ego.yaw), ego.y + d * math.sin(ego.yaw)
        halo = _corners(x, y, ego.yaw, v.length + 0.9, v.width + 0.9)
        fill(image, self.to_pixels(halo, ego), colour, 0.45)
        self._draw_box(image, ego, (x, y, ego.yaw, v.length, v.width), (250, 252, 255))

    def _draw_box(
        self, image: Image.Image, ego: EgoState, box: tuple[float, float, float, float, float], colour: Colour
    ) -> None:
        x, y, yaw, length, width = box
        fill(image, self.to_pixels(_corners(x, y, yaw, length, width), ego), colour)
        if length > 3.0:  # a dark windscreen tells the front
            ahead = 0.5 * length - min(0.3 * length, 1.6)
            wx, wy = x + ahead * math.cos(yaw), y + ahead * math.sin(yaw)
            fill(image, self.to_pixels(_corners(wx, wy, yaw, 0.8, 0.78 * width), ego), (28, 34, 42), 0.85)

    # --- the town ---

    def _draw_town(self, town: Any, route: Route, size: tuple[int, ...]) -> Image.Image:
        image = Image.new("RGB", (size[0], size[1]), LAND)
        draw = ImageDraw.Draw(image)
        by_kind: dict[str, list[Any]] = {}
        for lane in town.lanes:
            by_kind.setdefault(lane.kind, []).append(lane)
        for lane in by_kind.get("walkingarea", ()):
            self._polygon(draw, lane.shape, PAVEMENT)
        for lane in by_kind.get("sidewalk", ()):
            self._line(draw, lane.shape, lane.width, PAVEMENT)
        for junction in town.junctions:
            self._polygon(draw, junction.shape, ASPHALT)
        for lane in by_kind.get("walkingarea", ()):
            self._polygon(draw, lane.shape, PAVEMENT)
        for lane in by_kind.get("driving", ()):
            self._line(draw, lane.shape, lane.width + 0.1, ASPHALT)
        for lane in by_kind.get("junction", ()):
            self._line(draw, lane.shape, lane.width, ASPHALT)
        blue = Image.new("L", image.size)
        ImageDraw.Draw(blue).line(
            self._raster_points(route.points), fill=150, width=max(1, round(2.2 * self._m)), joint="curve"
        )
        image.paste(ROUTE, mask=blue)
        for lane in by_kind.get("driving", ()):
            for side in (-0.5, 0.5):
                self._line(draw, _beside(lane.shape, side * lane.width), 0.16, MARK)
        for lane in by_kind.get("crossing", ()):
            self._zebra(draw, lane.shape, lane.width)
        return image.filter(ImageFilter.BoxBlur(0.4 * self._m / self.scale))

    def _zebra(self, draw: ImageDraw.ImageDraw, shape: F64, width: float) -> None:
        """Bars of 0.5 m along the traffic, every metre across the street."""
        steps = np.diff(shape, axis=0)
        arc = np.concatenate([[0.0], np.cumsum(np.hypot(steps[:, 0], steps[:, 1]))])
        for at in np.arange(0.5, arc[-1], 1.0):
            x, y = (float(np.interp(at, arc, shape[:, k])) for k in (0, 1))
            k = min(int(np.searchsorted(arc, at)) - 1, len(steps) - 1)
            heading = math.atan2(steps[k, 1], steps[k, 0])
            self._polygon(draw, _corners(x, y, heading, 0.5, width), ZEBRA)

    def _raster_points(self, points: F64) -> list[tuple[float, float]]:
        u, v = (points[:, 0] - self._left) * self._m, (self._top - points[:, 1]) * self._m
        return list(zip(u.tolist(), v.tolist(), strict=True))

    def _line(self, draw: ImageDraw.ImageDraw, points: F64, width: float, colour: Colour) -> None:
        gaps = np.concatenate([[0.0], np.cumsum(np.hypot(*np.diff(points, axis=0).T))])
        keep = np.concatenate([[True], np.diff(np.floor(gaps / 1.5)) > 0])  # joints of a dense line look frayed
        keep[-1] = True
        points = points[keep]
        draw.line(self._raster_points(points), fill=colour, width=max(1, round(width * self._m)), joint="curve")

    def _polygon(self, draw: ImageDraw.ImageDraw, points: F64, colour: Colour) -> None:
        draw.polygon(self._raster_points(points), fill=colour)


def _corners(x: float, y: float, yaw: float, length: float, width: float) -> F64:
    return box_corners(*(np.array([v], np.float64) for v in (x, y, yaw, length, width)))[0]


def _beside(shape: F64, offset: float) -> F64:
    """A polyline `offset` m to the left of another."""
    tangent = np.gradient(shape, axis=0)
    tangent /= np.maximum(np.hypot(tangent[:, 0], tangent[:, 1]), 1e-9)[:, None]
    return shape + offset * np.stack([-tangent[:, 1], tangent[:, 0]], axis=1)
