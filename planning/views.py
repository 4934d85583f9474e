"""What each family of checkpoints is shown: cameras, frames in time, picture size, and the answer that it writes.

`nano` sees three cameras of the rig as they are, each as a pair of frames 0.4 s apart that fills the tower's temporal
patch.  The released planners see single pictures (both temporal halves alike), resized to a fixed area: three cameras
now (WOD-E2E), or three frames of the front camera over the last second (nuScenes).  They get what the rig has;
`shortfall` says how that differs from what they were trained on.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.health import Expected
from efficientgen.perception.patches import TEMPORAL_PATCH, grid_of, patchify
from efficientgen.perception.resize import RELEASED_PIXELS, resize, smart_size
from efficientgen.perception.resize_device import resampled
from efficientgen.perception.types import NS, U8, Observation
from efficientgen.perception.vision import Grid
from efficientgen.planning.schema import NANO, NUSCENES, WOD_E2E, Schema

SPAN_SLACK_S = 0.05


class UnknownSchemaError(ValueError):
    """A name that no answer schema has; text-only and question models have none."""


class PictureLimitsError(ValueError):
    """Picture limits of a checkpoint directory that make no sense."""


@dataclass(frozen=True)
class View:
    """What a planner looks at, and the answer that it writes about it."""

    schema: Schema
    cameras: tuple[str, ...]  # in the prompt's order
    frames: int  # per camera, oldest first
    span_s: float  # from the first frame to the last
    paired: bool = False  # the frames are the two halves of one moving picture
    pixels: tuple[int, int] | None = (RELEASED_PIXELS, RELEASED_PIXELS)  # least and largest area; None: as it comes


VIEWS = {
    view.schema.name: view
    for view in (
        View(NANO, ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"), TEMPORAL_PATCH, 0.4, paired=True, pixels=None),
        View(WOD_E2E, ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"), 1, 0.0),
        View(NUSCENES, ("FRONT",), 3, 1.0),
    )
}


def view_of(name: str, directory: Path | None = None) -> View:
    """The view of a schema; a released one with the picture limits of the directory's `preprocessor_config.json`.

    Raises:
        UnknownSchemaError: no such schema.
        PictureLimitsError: the directory's limits are damaged, or no picture can meet them.
    """
    if name not in VIEWS:
        raise UnknownSchemaError(f"no answer schema '{name}'; choose one of {', '.join(VIEWS)}")
    view = VIEWS[name]
    path = directory / "preprocessor_config.json" if directory else None
    if view.pixels is None or path is None or not path.exists():
        return view
    try:
        held = json.loads(path.read_text("utf-8"))
        size = held.get("size") or {}
        low = int(held.get("min_pixels") or size.get("shortest_edge") or view.pixels[0])
        high = int(held.get("max_pixels") or size.get("longest_edge") or view.pixels[1])
    except (ValueError, TypeError, AttributeError) as error:
        raise PictureLimitsError(f"{path} is damaged ({error}); fetch it again, or remove it") from error
    if not 0 < low <= high:
        raise PictureLimitsError(f"{path}: min_pixels {low} and max_pixels {high}; positive and in this order, please")
    return replace(view, pixels=(low, high))


def pictures(view: View, observation: Observation) -> list[U8]:
    """uint8 (2, H, W, 3) per picture, in the prompt's order, resized as the view wants it.

    The observation is one that `require_readable` passed.
    """
    out: list[U8] = []
    frames = _frames(view, observation)
    if view.pixels is None:
        sized = [image for _, image in frames]
    else:  # Pillow resizes without holding the interpreter
        with ThreadPoolExecutor(len(frames)) as pool:
            sized = list(pool.map(lambda each: _sized(view, each[1]), frames))
    for group in _together(view, [name for name, _ in frames]):
        out.append(np.stack([sized[i] for i in group]))
    return out


def patches_on(view: View, observation: Observation, device: torch.device) -> tuple[Tensor, tuple[Grid, ...]]:
    """What `patchify` makes of `pictures`, (1, N, 1176) float32 and a grid each, with all the work done on `device`.

    Pictures go there as they come from the camera, and nothing waits for that.  The same numbers as on a CPU.
    """
    frames = _frames(view, observation)
    sized: dict[int, Tensor] = {}
    shapes = [image.shape for _, image in frames]
    for shape in dict.fromkeys(shapes):
        members = [i for i, other in enumerate(shapes) if other == shape]
        raw = torch.empty((len(members), *shape), dtype=torch.uint8, pin_memory=device.type == "cuda")
        for row, i in zip(raw.numpy(), members, strict=True):
            row[:] = frames[i][1]
        there = raw.to(device, non_blocking=True)
        if view.pixels is not None:
            there = resampled(there, *smart_size(shape[0], shape[1], *view.pixels))
        sized |= dict(zip(members, there, strict=True))
    groups = _together(view, [name for name, _ in frames])
    images = [torch.stack([sized[i] for i in group]) for group in groups]  # (2, H, W, 3) each
    grids = tuple(grid_of(*image.shape[1:3]) for image in images)
    if len(set(grids)) == 1:
        return patchify(torch.stack(images)).flatten(0, 1)[None], grids
    return torch.cat([patchify(image[None]) for image in images], 1), grids


def _frames(view: View, observation: Observation) -> list[tuple[str, U8]]:
    """The frames that are looked at, with their cameras."""
    looked_at = required(view, observation)
    return [(name, f.image) for name in looked_at.cameras for f in observation.cameras[name][-looked_at.frames :]]


def _together(view: View, cameras: Sequence[str]) -> list[tuple[int, ...]]:
    """Which of the frames, given by their cameras, are the two halves of each picture."""
    if not view.paired:
        return [(i,) * TEMPORAL_PATCH for i in range(len(cameras))]
    groups = [tuple(i for i, other in enumerate(cameras) if other == name) for name in dict.fromkeys(cameras)]
    return [group if len(group) == TEMPORAL_PATCH else group * TEMPORAL_PATCH for group in groups]


def camera_names(view: View, observation: Observation) -> tuple[str, ...]:
    """What the observation calls the view's cameras: the rig's name, or the data set's `CAM_<name>`."""
    held = observation.cameras
    return tuple(n if n in held or f"CAM_{n}" not in held else f"CAM_{n}" for n in view.cameras)


def required(view: View, observation: Observation) -> Expected:
    """What must be readable for a plan; of a pair one frame is enough, all cameras then show one frame twice."""
    names = camera_names(view, observation)
    held = min(len(observation.cameras.get(name, ())) for name in names)
    return Expected(names, max(1, min(held, view.frames)) if view.paired else view.frames)


def shortfall(view: View, observation: Observation) -> str:
    """How the pictures differ from what the released planners were trained on, in words; "" where they do not."""
    if view.pixels is None:
        return ""
    words = []
    frames = observation.cameras[camera_names(view, observation)[0]][-view.frames :]
    height, width = frames[-1].image.shape[:2]
    rows, columns = smart_size(height, width, *view.pixels)
    if rows * columns > 1.5 * height * width:
        words.append(f"pictures of {width}x{height} px enlarged to {columns}x{rows}")
    span = (frames[-1].stamp_ns - frames[0].stamp_ns) / NS
    if abs(span - view.span_s) > SPAN_SLACK_S:
        words.append(f"{len(frames)} frames over {span:.1f} s, trained on {view.span_s:.1f} s")
    return "; ".join(words)


def _sized(view: View, image: U8) -> U8:
    height, width = image.shape[:2]
    return image if view.pixels is None else resize(image, *smart_size(height, width, *view.pixels))
