"""The condition raster: what the oracle and the map say is in front of the cameras, drawn with numpy in milliseconds.

One cell per 2x2 pixels, six bytes each: class, distance, two coordinates on the surface, style, tone.  Walls (houses,
hedges, the sides of road users) are met by one ray per column; the ground is looked up in the layout's picture; trees,
posts and lights are drawn over both by distance.  The model learns what such things look like; where they are, which
way they face and which light is on it is told.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import F64, U8, Actor, ActorKind, OracleFrame
from efficientgen.worldsim.nano.layout import GROUND_M, KINDS, PAINT0, PLAIN, Kind, Layout, Walls, box_walls
from efficientgen.worldsim.reference.facades import BAY_M
from efficientgen.worldsim.reference.signals import lamps_lit
from efficientgen.worldsim.reference.traffic import STOPPED_M_S, model_key
from efficientgen.worldsim.reference.vehicles import PAINTS

CELL = 2  # px
CHANNELS = 6  # class, distance, along, up, style, tone
SEEN_M = 140.0  # walls further away are not drawn
ACTORS_M, TREES_M, LIGHTS_M = 95.0, 100.0, 130.0
NEAR_M = 0.4
LAYERS = 6  # walls that a column may look over
SUBROWS = 4  # looks at the ground per cell
NEAREST_M, FARTHEST_M = 1.5, 250.0  # of the distance code
OF_ACTOR = {kind: Kind[kind.name] for kind in ActorKind}
_VEHICLES = (ActorKind.CAR, ActorKind.TRUCK, ActorKind.BUS)
_CROWNS = {
    "round": (0.65, 0.33, 1.1),
    "tall": (0.60, 0.38, 1.05),
    "conifer": (0.56, 0.44, 1.0),
    "bush": (0.47, 0.58, 1.1),
}


@dataclass(frozen=True)
class _View:
    """One camera's constants: its cells' columns as slopes, its ground's looks in the ego frame."""

    camera: Camera
    rows: int
    columns: int
    focal: float  # in cells
    slopes: F64  # (W,) metres to the left per metre ahead
    ground: F64  # (rows below the horizon * SUBROWS, W, 2) m in the ego frame
    ground_depth: F64  # (rows below the horizon,) m
    angles: F64  # (W,) rad to the left of the camera's axis


class Raster:
    """Draws condition rasters for a rig of level cameras."""

    def __init__(self, rig: tuple[Camera, ...] = NANO_RIG) -> None:
        self.views = tuple(_view(camera) for camera in rig)

    def draw(self, frame: OracleFrame, layout: Layout) -> U8:
        """(n_cams, H / 2, W / 2, 6) of one tick."""
        walls = _near(layout.walls, frame) + _actor_walls(frame)
        return np.stack([_draw(view, frame, layout, walls) for view in self.views])


def distance_code(metres: F64) -> F64:
    """Distances as bytes, by the logarithm; 255: FARTHEST_M or none."""
    share = np.log(np.maximum(metres, NEAREST_M) / NEAREST_M) / math.log(FARTHEST_M / NEAREST_M)
    return np.clip(255.0 * share, 0, 255)


def _view(camera: Camera) -> _View:
    if camera.pitch_deg or camera.width % CELL or camera.height % CELL:
        raise ValueError(f"the raster draws level cameras of even size, {camera.name} is none")
    rows, columns, focal = camera.height // CELL, camera.width // CELL, camera.focal / CELL
    slopes = (columns / 2 - np.arange(columns) - 0.5) / focal
    below = np.arange(rows // 2, rows)
    fine = (below[:, None] + (np.arange(SUBROWS) + 0.5) / SUBROWS).reshape(-1) - rows / 2
    ahead = focal * camera.mount[2] / fine  # (R * SUBROWS,)
    yaw = math.radians(camera.yaw_deg)
    left = ahead[:, None] * slopes
    x = camera.mount[0] + ahead[:, None] * math.cos(yaw) - left * math.sin(yaw)
    y = camera.mount[1] + ahead[:, None] * math.sin(yaw) + left * math.cos(yaw)
    depth = focal * camera.mount[2] / (below + 0.5 - rows / 2)
    return _View(camera, rows, columns, focal, slopes, np.stack([x, y], -1), depth, np.arctan(slopes))


def _near(walls: Walls, frame: OracleFrame) -> Walls:
    x, y = walls.ends[:, 0::2] - frame.ego.x, walls.ends[:, 1::2] - frame.ego.y
    ahead = (x * math.cos(frame.ego.yaw) + y * math.sin(frame.ego.yaw)).max(1) > 0
    return Walls(*(field[ahead & (np.hypot(x, y).min(1) < SEEN_M)] for field in walls.fields))


def _actor_walls(frame: OracleFrame) -> Walls:
    """The sides of everyone but the ego."""
    seen = [a for a in frame.actors if math.hypot(a.x - frame.ego.x, a.y - frame.ego.y) < ACTORS_M]
    boxes = np.array([(a.x, a.y, a.yaw, a.length, a.width, a.height) for a in seen]).reshape(-1, 6)
    kinds = np.array([OF_ACTOR[a.kind] for a in seen], np.uint8)
    return box_walls(boxes, kinds, np.array([_style(a, frame.stamp_ns) for a in seen], np.uint8))


def _style(actor: Actor, stamp_ns: int) -> int:
    """A vehicle's paint, and whether its brake lights are on; whether somebody walks."""
    standing = actor.speed < STOPPED_M_S
    if actor.kind in _VEHICLES:
        variant = model_key(actor, stamp_ns, True)[1]
        return PAINT0 + variant % len(PAINTS) + len(PAINTS) * standing
    return PLAIN + 1 + standing


def _draw(view: _View, frame: OracleFrame, layout: Layout, walls: Walls) -> U8:
    out = np.zeros((view.rows, view.columns, CHANNELS), np.uint8)
    depth = np.full((view.rows, view.columns), np.inf)
    _sky_and_ground(view, frame, layout, out, depth)
    _raise_walls(view, frame, walls, out, depth)
    _put_things(view, frame, layout, out, depth)
    out[..., 1] = distance_code(depth)
    return out


def _sky_and_ground(view: _View, frame: OracleFrame, layout: Layout, out: U8, depth: F64) -> None:
    top = view.rows // 2
    azimuth = frame.ego.yaw + math.radians(view.camera.yaw_deg) + view.angles
    out[..., 2], out[..., 3] = 127.5 + 127.5 * np.cos(azimuth), 127.5 + 127.5 * np.sin(azimuth)
    cos, sin = math.cos(frame.ego.yaw), math.sin(frame.ego.yaw)
    x, y = view.ground[..., 0], view.ground[..., 1]
    across = ((frame.ego.x + cos * x - sin * y - layout.origin[0]) / GROUND_M).astype(np.int32)
    along = ((frame.ego.y + sin * x + cos * y - layout.origin[1]) / GROUND_M).astype(np.int32)
    height, width = layout.ground.shape[:2]
    outside = (across < 0) | (along < 0) | (across >= width) | (along >= height)
    looks = layout.ground.reshape(-1, 4)[np.where(outside, 0, along * width + across)]  # (R SUBROWS, W, 4)
    looks[outside] = (Kind.TERRAIN, 0, 0, 200)
    looks = looks.reshape(-1, SUBROWS, view.columns, 4)
    below = out[top:]
    below[..., 0] = looks[:, SUBROWS // 2, :, 0]
    mean = looks[..., 1:].mean(1)
    below[..., 2], below[..., 5], below[..., 3] = mean[..., 0], mean[..., 1], mean[..., 2]
    below[..., 4] = out[:top, :, 4] = PLAIN
    depth[top:] = view.ground_depth[:, None]


def _raise_walls(view: _View, frame: OracleFrame, walls: Walls, out: U8, depth: F64) -> None:
    ahead, left = _seen_from(view, frame, walls.ends.reshape(-1, 2, 2))  # (M, 2)
    edge = view.columns / 2 / view.focal
    hidden = (ahead.max(1) < NEAR_M) | (left > edge * ahead).all(1) | (left < -edge * ahead).all(1)
    facing = left[:, 0] * (ahead[:, 1] - ahead[:, 0]) - ahead[:, 0] * (left[:, 1] - left[:, 0]) > 0
    keep = np.flatnonzero(~hidden & facing)
    if not len(keep):
        return
    a_f, a_l = ahead[keep, 0], left[keep, 0]
    e_f, e_l = ahead[keep, 1] - a_f, left[keep, 1] - a_l
    slope = view.slopes[:, None]
    across = e_l - slope * e_f
    share = (slope * a_f - a_l) / np.where(np.abs(across) < 1e-9, 1e-9, across)  # (W, M)
    metres = np.where((share >= 0) & (share <= 1), a_f + share * e_f, np.inf)
    metres[metres < NEAR_M] = np.inf
    order = np.argsort(metres, 1)[:, :LAYERS]
    metres, share = np.take_along_axis(metres, order, 1), np.take_along_axis(share, order, 1)
    wall = keep[order]  # (W, LAYERS)
    eye, middle = view.camera.mount[2], view.rows / 2
    tall, roof = walls.tall[wall], walls.roof[wall]
    foot = middle + view.focal * eye / metres
    eaves = middle - view.focal * (tall - eye) / metres
    ridge = middle - view.focal * (tall + roof[..., 0] - eye) / (metres + roof[..., 1])
    row = (np.arange(view.rows) + 0.5)[:, None]
    layer = np.full((view.rows, view.columns), -1)
    above = np.zeros_like(layer, bool)
    for k in range(order.shape[1] - 1, -1, -1):
        met = np.isfinite(metres[:, k]) & (row < foot[:, k])
        wall_rows, roof_rows = met & (row >= eaves[:, k]), met & (row < eaves[:, k]) & (row >= ridge[:, k])
        layer[wall_rows | roof_rows] = k
        above[wall_rows], above[roof_rows] = False, True
    at_row, at_column = np.nonzero(layer >= 0)
    k = layer[at_row, at_column]
    index, far = wall[at_column, k], metres[at_column, k]
    roofed = above[at_row, at_column]
    high = np.maximum(eye - (at_row + 0.5 - middle) * far / view.focal, 0.0)
    length = np.hypot(*(walls.ends[index, 2:] - walls.ends[index, :2]).T)
    run = share[at_column, k] * length
    house = walls.kind[index] == Kind.WALL
    bays = np.maximum(1, np.round(length / BAY_M))
    along = np.where(house, run / length * bays % 1.0, run / length)
    up = np.where(house, high / BAY_M % 1.0, high / walls.tall[index])
    out[at_row, at_column] = np.stack([
        np.where(roofed, np.uint8(Kind.ROOF), walls.kind[index]), np.zeros(len(k)), 255 * along,
        np.clip(255 * up, 0, 255), walls.style[index, (~house | (high > BAY_M)).astype(int)], 255 * walls.tone[index],
    ], 1)  # fmt: skip
    depth[at_row, at_column] = far


def _seen_from(view: _View, frame: OracleFrame, points: F64) -> tuple[F64, F64]:
    """Metres (...,) ahead of the camera and to its left, of map points (..., 2)."""
    yaw = frame.ego.yaw + math.radians(view.camera.yaw_deg)
    turn = math.radians(view.camera.yaw_deg)
    x, y = points[..., 0] - frame.ego.x, points[..., 1] - frame.ego.y
    mx, my, _ = view.camera.mount
    ahead = math.cos(yaw) * x + math.sin(yaw) * y - (math.cos(turn) * mx + math.sin(turn) * my)
    left = -math.sin(yaw) * x + math.cos(yaw) * y - (-math.sin(turn) * mx + math.cos(turn) * my)
    return ahead, left


def _put_things(view: _View, frame: OracleFrame, layout: Layout, out: U8, depth: F64) -> None:
    """Trees, posts and lights, far to near, where nothing is nearer."""
    image = Image.new("I", (view.columns, view.rows), 0)
    draw = ImageDraw.Draw(image)
    table: list[tuple[float, int, int, int]] = [(np.inf, 0, 0, 0)]  # metres, kind, style, tone
    things = sorted([*_trees(view, frame, layout), *_posts(view, frame, layout), *_heads(view, frame, layout)],
                    key=lambda thing: -thing[0])  # fmt: skip
    for metres, kind, style, tone, shape, corners in things:
        table.append((metres, kind, style, tone))
        fill = len(table) - 1
        if shape == "ellipse":
            draw.ellipse(corners, fill=fill)
        elif shape == "polygon":
            draw.polygon(corners, fill=fill)
        else:
            draw.line(corners[:4], fill=fill, width=max(1, round(corners[4])))
    index = np.asarray(image)
    rows = np.array(table)[index]  # (H, W, 4)
    nearer = (index > 0) & (rows[..., 0] < depth)
    depth[nearer] = rows[nearer, 0]
    out[nearer, 0], out[nearer, 4], out[nearer, 5] = rows[nearer, 1], rows[nearer, 2], rows[nearer, 3]
    out[nearer, 2] = out[nearer, 3] = 0


Thing = tuple[float, int, int, int, str, list[float]]


def _trees(view: _View, frame: OracleFrame, layout: Layout) -> list[Thing]:
    ahead, left = _seen_from(view, frame, layout.trees[:, :2])
    reach = layout.trees[:, 3] * 1.2
    wide = view.columns / 2 / view.focal
    near = (ahead > NEAR_M + 0.6) & (ahead < TREES_M) & (np.abs(left) - reach < wide * ahead)
    things: list[Thing] = []
    for k in np.flatnonzero(near).tolist():
        f, height = float(ahead[k]), float(layout.trees[k, 2])
        kind = KINDS[layout.tree_kind[k]]
        middle, half, swell = _CROWNS[kind]
        px = view.focal / f
        u = view.columns / 2 - px * float(left[k])
        foot, eye = view.rows / 2, view.camera.mount[2]
        r, top, low = px * float(layout.trees[k, 3]) * swell, height * (middle + half), height * (middle - half)
        v0, v1 = foot - px * (top - eye), foot - px * (max(low, 0.0) - eye)
        style = int(layout.tree_style[k])
        if kind != "bush":
            trunk = [u, foot + px * eye, u, (v0 + v1) / 2, px * 0.045 * height]
            things.append((f + 0.05, Kind.TRUNK, style, 0, "line", trunk))
        if kind == "conifer":
            things.append((f, Kind.TREE, style, 0, "polygon", [u - r, v1, u + r, v1, u, v0]))
        else:
            things.append((f, Kind.TREE, style, 0, "ellipse", [u - r, v0, u + r, v1]))
    return things


def _posts(view: _View, frame: OracleFrame, layout: Layout) -> list[Thing]:
    ends = layout.posts[:, :6].reshape(-1, 2, 3)
    ahead, left = _seen_from(view, frame, ends[..., :2])
    wide = view.columns / 2 / view.focal
    near = (ahead.min(1) > NEAR_M) & (ahead.min(1) < 80.0) & (np.abs(left).min(1) - 1.0 < wide * ahead.max(1))
    things: list[Thing] = []
    for k in np.flatnonzero(near).tolist():
        u = view.columns / 2 - view.focal * left[k] / ahead[k]
        v = view.rows / 2 - view.focal * (ends[k, :, 2] - view.camera.mount[2]) / ahead[k]
        f = float(ahead[k].mean())
        line = [float(u[0]), float(v[0]), float(u[1]), float(v[1]), 2 * view.focal * float(layout.posts[k, 6]) / f]
        things.append((f, Kind.POLE, PLAIN, 0, "line", line))
    return things


def _heads(view: _View, frame: OracleFrame, layout: Layout) -> list[Thing]:
    ahead, left = _seen_from(view, frame, layout.heads[:, :2])
    wide = view.columns / 2 / view.focal
    away = layout.heads[:, :2] - (frame.ego.x, frame.ego.y)
    faces = (away * layout.heads[:, 3:5]).sum(1) > 0
    near = (ahead > NEAR_M) & (ahead < LIGHTS_M) & (np.abs(left) - 1.0 < wide * ahead)
    things: list[Thing] = []
    for k in np.flatnonzero(near).tolist():
        f, z, radius = float(ahead[k]), float(layout.heads[k, 2]), float(layout.heads[k, 5])
        px = view.focal / f
        u, v = view.columns / 2 - px * float(left[k]), view.rows / 2 - px * (z - view.camera.mount[2])
        half_w, half_h = 1.4 * radius * px, 3.6 * radius * px
        plate = [u - half_w, v - half_h, u + half_w, v - half_h, u + half_w, v + half_h, u - half_w, v + half_h]
        things.append((f, Kind.HEAD, PLAIN, 255 * bool(faces[k]), "polygon", plate))
        signal, link = layout.signals[k]
        state = frame.lights.get(signal, "")
        if not faces[k] or link >= len(state):
            continue
        r = max(radius * px, 0.5)
        for lit, kind, up in zip(lamps_lit(state[link], frame.stamp_ns), (Kind.RED, Kind.YELLOW, Kind.GREEN),
                                 (1, 0, -1), strict=True):  # fmt: skip
            if lit:
                at = v - 2.2 * radius * px * up
                things.append((f - 0.3, kind, PLAIN, 255, "ellipse", [u - r, at - r, u + r, at + r]))
    return things
