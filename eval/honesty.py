"""Does the planner look?  Observations with something taken away, for use as `drive(..., transform_observation=...)`.

A planner that drives as well on another scenario's pictures, or on no pictures, does not see; one that drives as well
without its history does not need it.  Scores under these transforms stand beside the plain score in every result.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from efficientgen.eval.runner import drive
from efficientgen.perception.types import CHUNK_NS, CameraFrame, Observation
from efficientgen.worldsim.scenario import Scenario

Transform = Callable[[Observation], Observation]
Bank = tuple[Mapping[str, CameraFrame], ...]  # one picture per camera and plan stamp, in time order


def picture_bank(scenario: Scenario, seed: int, world: Any) -> Bank:
    """What the cameras saw at each plan stamp while the expert drove `scenario`."""
    log = drive(scenario, seed, "expert", world, keep_frames=True)
    frames = [step.frames for step in log.steps if step.frames is not None]
    return tuple({name: taken[-1] for name, taken in f.cameras.items()} for f in frames)


def swapped_images(bank: Bank) -> Transform:
    """Every picture replaced by the one that `bank` holds for the same stamp (its last one once it runs out)."""

    def transform(observation: Observation) -> Observation:
        cameras = {
            name: tuple(
                replace(f, image=bank[min(max(f.stamp_ns // CHUNK_NS - 1, 0), len(bank) - 1)][name].image)
                for f in frames
            )
            for name, frames in observation.cameras.items()
        }
        return replace(observation, cameras=cameras)

    return transform


def grey_images(observation: Observation) -> Observation:
    """Every picture replaced by mid grey: history and command only."""
    cameras = {
        name: tuple(replace(f, image=np.full_like(f.image, 128)) for f in frames)
        for name, frames in observation.cameras.items()
    }
    return replace(observation, cameras=cameras)
