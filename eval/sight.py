"""What a planner wants to see, so that a data set can show it exactly that: cameras, frames in time, rig.

Planners say it themselves: `frames_per_camera` (0: it does not look), and the released ones their `view` (cameras, span
of the frames, pictures as the data set has them).  A nano planner is shown pictures of the rig that it was trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import CHUNK_NS, NS


@dataclass(frozen=True)
class Sight:
    """`frames` per camera, `gap_ns` apart; `rig` is what each camera's picture is turned into, None: as it is."""

    cameras: tuple[str, ...]
    frames: int
    gap_ns: int
    rig: tuple[Camera, ...] | None

    @property
    def ages_ns(self) -> tuple[int, ...]:
        """How old each frame is, oldest first."""
        return tuple(self.gap_ns * k for k in reversed(range(self.frames)))

    def target(self, name: str) -> Camera | None:
        """The rig's camera of that name."""
        return next((camera for camera in self.rig or () if camera.name == name), None)


def sight_of(planner: Any) -> Sight:
    """What `planner` looks at; no cameras for one that does not look."""
    frames = int(getattr(planner, "frames_per_camera", 0))
    if not frames:
        return Sight((), 0, CHUNK_NS, None)
    view = getattr(planner, "view", None)
    if view is None or view.pixels is None:
        return Sight(tuple(camera.name for camera in NANO_RIG), frames, CHUNK_NS, NANO_RIG)
    gap = round(view.span_s * NS / (view.frames - 1)) if view.frames > 1 else CHUNK_NS
    return Sight(tuple(view.cameras), int(view.frames), gap, None)
