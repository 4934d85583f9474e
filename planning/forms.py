"""What each family of checkpoints is shown: cameras, frames in time, picture size, and the answer that it writes.

`nano` sees three cameras of the rig as they are, each as a pair of frames 0.4 s apart that fills the tower's temporal
patch.  The released planners see single pictures (both temporal halves alike), resized to a fixed area: three cameras
now (WOD-E2E), or three frames of the front camera over the last second (nuScenes).  They get what the rig has;
`shortfall` says how that differs from what they were trained on.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from efficientgen.perception.patches import TEMPORAL_PATCH
from efficientgen.perception.resize import RELEASED_PIXELS, resize, smart_size
from efficientgen.perception.types import NS, U8, CameraFrame, Observation
from efficientgen.planning.schema import NANO, NUSCENES, WOD_E2E, Schema

SPAN_SLACK_S = 0.05


class FormError(ValueError):
    """A form that does not exist, or picture limits that make no sense."""


@dataclass(frozen=True)
class Form:
    """One way of asking."""

    schema: Schema
    cameras: tuple[str, ...]  # in the prompt's order
    frames: int  # per camera, oldest first
    span_s: float  # from the first frame to the last
    paired: bool = False  # the frames are the two halves of one moving picture
    pixels: tuple[int, int] | None = (RELEASED_PIXELS, RELEASED_PIXELS)  # least and largest area; None: as it comes


FORMS = {
    form.schema.name: form
    for form in (
        Form(NANO, ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"), TEMPORAL_PATCH, 0.4, paired=True, pixels=None),
        Form(WOD_E2E, ("FRONT_LEFT", "FRONT", "FRONT_RIGHT"), 1, 0.0),
        Form(NUSCENES, ("FRONT",), 3, 1.0),
    )
}


def form_of(name: str, directory: Path | None = None) -> Form:
    """The form of a schema; a released one with the picture limits of the directory's `preprocessor_config.json`.

    Raises:
        FormError: no such form, or limits that no picture can meet.
    """
    if name not in FORMS:
        raise FormError(f"no form '{name}'; choose one of {', '.join(FORMS)}")
    form = FORMS[name]
    path = directory / "preprocessor_config.json" if directory else None
    if form.pixels is None or path is None or not path.exists():
        return form
    try:
        held = json.loads(path.read_text("utf-8"))
        size = held.get("size") or {}
        low = int(held.get("min_pixels") or size.get("shortest_edge") or form.pixels[0])
        high = int(held.get("max_pixels") or size.get("longest_edge") or form.pixels[1])
    except (ValueError, TypeError, AttributeError) as error:
        raise FormError(f"{path} is damaged ({error}); fetch it again, or remove it for the release's sizes") from error
    if not 0 < low <= high:
        raise FormError(f"{path}: min_pixels {low} and max_pixels {high}; positive and in this order, please")
    return replace(form, pixels=(low, high))


def pictures(form: Form, observation: Observation) -> list[U8]:
    """uint8 (2, H, W, 3) per picture, in the prompt's order, resized as the form wants it.

    The observation is one that `require_readable` passed.
    """
    out: list[U8] = []
    for name in form.cameras:
        images = [_sized(form, frame.image) for frame in frames_of(form, observation, name)]
        if form.paired:
            images = images if len(images) == TEMPORAL_PATCH else images * TEMPORAL_PATCH
            out.append(np.stack(images))
        else:
            out += [np.stack([image] * TEMPORAL_PATCH) for image in images]
    return out


def frames_of(form: Form, observation: Observation, name: str) -> tuple[CameraFrame, ...]:
    """The newest frames that the form looks at, of the rig's camera `name` or the data set's `CAM_<name>`."""
    held = observation.cameras.get(name) or observation.cameras.get(f"CAM_{name}") or ()
    return tuple(held[-form.frames :])


def shortfall(form: Form, observation: Observation) -> str:
    """How the pictures differ from what the released planners were trained on, in words; "" where they do not."""
    if form.pixels is None:
        return ""
    words = []
    frames = frames_of(form, observation, form.cameras[0])
    height, width = frames[-1].image.shape[:2]
    rows, columns = smart_size(height, width, *form.pixels)
    if rows * columns > 1.5 * height * width:
        words.append(f"pictures of {width}x{height} px enlarged to {columns}x{rows}")
    span = (frames[-1].stamp_ns - frames[0].stamp_ns) / NS
    if abs(span - form.span_s) > SPAN_SLACK_S:
        words.append(f"{len(frames)} frames over {span:.1f} s, trained on {form.span_s:.1f} s")
    return "; ".join(words)


def _sized(form: Form, image: U8) -> U8:
    return image if form.pixels is None else resize(image, *smart_size(*image.shape[:2], *form.pixels))
