"""One picture of all that the reference world can sense at one tick of a drive: colour, classes, depth, lidar."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.export_scene import Drive, ExportError, jpeg, looking_world, with_parked
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.rig import NUSCENES_RIG, scaled
from efficientgen.perception.types import F64, NS, U8, Actor, EgoState

ORDER = ("CAM_FRONT_LEFT", "CAM_FRONT", "CAM_FRONT_RIGHT", "CAM_BACK_LEFT", "CAM_BACK", "CAM_BACK_RIGHT")
REACH_M = 45.0  # of the view from above
NEAR_M, FAR_M = 2.0, 120.0  # ends of the grey scale of depth


def write_still(drive: Drive, at_s: float, path: Path, width: int = 320) -> Path:
    """Write a JPEG: six cameras in colour, classes and depth, and the lidar from above with the oracle's boxes.

    Args:
        width: of one camera's picture, px.

    Raises:
        ExportError: the drive has no tick then.
        DepthUnsupportedError: no renderer that measures depth.
    """
    log, rig = drive.log, scaled(NUSCENES_RIG, width)
    tick = next((tick for tick in all_ticks(log) if tick.stamp_ns == round(at_s * 10) * NS // 10), None)
    if tick is None:
        raise ExportError(f"{drive.directory} has no tick at {at_s} s; it lasts {all_ticks(log)[-1].stamp_ns / NS} s")
    with looking_world(rig) as world:
        from efficientgen.worldsim.reference.labels import painted

        world.reset(log.town, log.start.weather, log.seed)
        colour, images, scan = world.render(tick), world.measure(tick), world.scan(tick)
        where = [[camera.name for camera in rig].index(name) for name in ORDER]
        panels = [_tiled(view[where]) for view in (colour, painted(images.labels), _grey(images.depth))]
        boxes = with_parked(tick, world, REACH_M)
        above = _from_above(scan, painted(scan.labels), boxes, tick.ego, panels[0].shape[:2])
    still = np.vstack([np.hstack([panels[0], panels[1]]), np.hstack([panels[2], above])])
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}")
    draft.write_bytes(jpeg(still))
    os.replace(draft, path)
    return path


def _tiled(views: U8) -> U8:
    """Six pictures (6, H, W, 3) as two rows of three."""
    return np.vstack([np.hstack(list(views[:3])), np.hstack(list(views[3:]))])


def _grey(depth: np.ndarray) -> U8:
    """Depth (..., ) as grey (..., 3): near bright, far dark, on a logarithmic scale; nothing is black."""
    share = np.log(np.clip(depth, NEAR_M, FAR_M) / NEAR_M) / np.log(FAR_M / NEAR_M)
    grey = np.where(np.isinf(depth), 0, 255 - 215 * share).astype(np.uint8)
    return np.repeat(grey[..., None], 3, -1)


def _from_above(scan: Any, colours: U8, boxes: tuple[Actor, ...], ego: EgoState, size: tuple[int, int]) -> U8:
    """Lidar points (ahead is up) in their class's colour, and the outlines of the road users' boxes."""
    from PIL import Image, ImageDraw

    from efficientgen.eval.boxes import box_corners
    from efficientgen.eval.overlay import to_ego

    height, width = size
    zoom = height / (2 * REACH_M)

    def pixels(points: F64) -> F64:
        return np.stack([width / 2 - points[:, 1] * zoom, height / 2 - points[:, 0] * zoom], 1)

    canvas = np.full((height, width, 3), 18, np.uint8)
    columns, rows = np.floor(pixels(scan.in_ego)).astype(int).T
    there = (columns >= 0) & (columns < width) & (rows >= 0) & (rows < height)
    canvas[rows[there], columns[there]] = colours[there]
    image = Image.fromarray(canvas)
    draw = ImageDraw.Draw(image)
    for actor in boxes:
        corners = box_corners(*(np.array([v]) for v in (actor.x, actor.y, actor.yaw, actor.length, actor.width)))[0]
        draw.polygon([tuple(p) for p in pixels(to_ego(corners, ego)).tolist()], outline=(255, 255, 255))
    return np.asarray(image)
