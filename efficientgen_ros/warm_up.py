"""Something to warm a planner up on, so that its first plan of a drive is as fast as the next."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from efficientgen.eval.runner import FRAME_GAP_NS
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import (
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
)


def empty_observation(look: int) -> Observation:
    """A grey scene of the rig, the car standing: something to warm up on."""
    still = EgoState(0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
    states = tuple(replace(still, stamp_ns=k * HISTORY_PERIOD_NS) for k in range(1 - HISTORY_STATES, 1))
    cameras = {
        camera.name: tuple(
            CameraFrame(
                camera.name,
                -k * FRAME_GAP_NS,
                np.full((camera.height, camera.width, 3), 128, np.uint8),
                camera.intrinsics,
                camera.camera_to_ego,
            )
            for k in reversed(range(look))
        )
        for camera in (NANO_RIG if look else ())
    }
    return Observation(0, cameras, EgoHistory(states), Command.GO_STRAIGHT)
