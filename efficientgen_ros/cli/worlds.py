"""Worlds of in-process drives: which one draws, and whether the planner can drive in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

REFERENCE, SANA_WM = "reference", "sana-wm"
WORLDS = (REFERENCE, SANA_WM)


class WorldOptionsError(ValueError):
    """Options of a world that do not go together."""


class CamerasMissingError(ValueError):
    """The planner looks at cameras that the world does not draw."""


def check_options(name: str, directory: Path | None, in_process: bool) -> None:
    """Raises:
    WorldOptionsError: an imagined world without its directory, over ROS 2, or a directory without one.
    """
    if name == SANA_WM and directory is None:
        raise WorldOptionsError(f"--world {SANA_WM} needs the released weights: give --world-dir DIR")
    if name == SANA_WM and not in_process:
        raise WorldOptionsError(f"--world {SANA_WM} drives in this process only: add --in-process")
    if name == REFERENCE and directory is not None:
        raise WorldOptionsError("--world-dir holds an imagined world's weights: add --world sana-wm, or leave it out")


def make_world(name: str, directory: Path | None, device: str) -> Any:
    """The world called `name`; an imagined one on `device`, empty: the accelerator if there is one.

    Raises:
        WorldOptionsError: no such device.
        MissingWorldError, WrongVariantError, CheckpointError, WorldMemoryError: its directory cannot be used.
    """
    if name == REFERENCE or directory is None:
        from efficientgen.worldsim.reference.world import ReferenceWorld

        return ReferenceWorld()
    import torch

    try:
        import diffusers
    except ImportError as error:
        raise WorldOptionsError("--world sana-wm needs diffusers: pip install 'efficientgen[sana]'") from error
    from efficientgen.worldsim.sana.world import SanaWorld

    diffusers.utils.logging.set_verbosity_error()
    chosen = device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0]
        raise WorldOptionsError(f"--world-device {chosen} cannot be used here ({words}); try cpu") from error
    return SanaWorld.from_pretrained(directory, device=chosen)


def require_cameras(planner: object, world: Any) -> None:
    """Raises:
    CamerasMissingError: the planner's view has cameras that the world has not.
    """
    view = getattr(planner, "view", None)
    missing = sorted(set(view.cameras) - {camera.name for camera in world.rig}) if view is not None else []
    if missing:
        drawn = ", ".join(camera.name for camera in world.rig)
        raise CamerasMissingError(
            f"the planner looks at {', '.join(missing)} too, this world draws {drawn} only: choose a planner with a "
            "single front camera (--schema nuscenes), expert or constant-velocity"
        )
