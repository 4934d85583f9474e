"""Pictures made worse in known ways, so that one planner drives at many levels of skill.

A study of whether two worlds rank planners alike needs planners that differ.  Each name is a transform for
`drive(..., transform_observation=...)`; noise is keyed by camera and stamp, so that the same drive can be made twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
from PIL import Image, ImageFilter

from efficientgen.perception.types import U8, CameraFrame, Observation

Transform = Callable[[Observation], Observation]


def _each(change: Callable[[CameraFrame], U8], observation: Observation) -> Observation:
    cameras = {name: tuple(replace(frame, image=change(frame)) for frame in frames)
               for name, frames in observation.cameras.items()}  # fmt: skip
    return replace(observation, cameras=cameras)


def _blurred(sigma_px: float, frame: CameraFrame) -> U8:
    return np.asarray(Image.fromarray(frame.image).filter(ImageFilter.GaussianBlur(sigma_px)))


def _noisy(std: float, frame: CameraFrame) -> U8:
    rng = np.random.default_rng([frame.stamp_ns, *frame.name.encode()])
    return np.clip(frame.image + rng.normal(0.0, std, frame.image.shape), 0, 255).astype(np.uint8)


def _coarse(factor: int, frame: CameraFrame) -> U8:
    height, width = frame.image.shape[:2]
    small = Image.fromarray(frame.image).resize((width // factor, height // factor), Image.Resampling.BOX)
    return np.asarray(small.resize((width, height), Image.Resampling.NEAREST))


def _dim(share: float, frame: CameraFrame) -> U8:
    return (frame.image * share).astype(np.uint8)


def _covered(share: float, frame: CameraFrame) -> U8:
    """The upper part of the picture, with all lights and half of the traffic, is grey."""
    image = frame.image.copy()
    image[: round(share * len(image))] = 128
    return image


DEGRADED: dict[str, Transform] = {
    "blur-1": partial(_each, partial(_blurred, 1.0)),
    "blur-3": partial(_each, partial(_blurred, 3.0)),
    "noise-25": partial(_each, partial(_noisy, 25.0)),
    "noise-60": partial(_each, partial(_noisy, 60.0)),
    "coarse-4": partial(_each, partial(_coarse, 4)),
    "coarse-14": partial(_each, partial(_coarse, 14)),
    "dim-40": partial(_each, partial(_dim, 0.4)),
    "covered-45": partial(_each, partial(_covered, 0.45)),
}
