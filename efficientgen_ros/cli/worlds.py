"""Worlds of drives: options that go together, and whether the planner can drive in what the world draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efficientgen.worldsim.worlds import NANO, REFERENCE, SANA_WM, WORLDS, WorldOptionsError, check_world, load_world

__all__ = ["NANO", "REFERENCE", "SANA_WM", "WORLDS", "WorldOptionsError", "check_options", "make_world"]


class CamerasMissingError(ValueError):
    """The planner looks at cameras that the world does not draw."""


def check_options(name: str, directory: Path | None, in_process: bool) -> None:
    """Raises:
    UnknownWorldError, WorldOptionsError: as `check_world`; SANA-WM over ROS 2.
    """
    check_world(name, directory)
    if name == SANA_WM and not in_process:
        raise WorldOptionsError(f"--world {SANA_WM} drives in this process only: add --in-process")


def make_world(name: str, directory: Path | None, device: str) -> Any:
    """The world called `name`; an imagined one on `device`, empty: the accelerator if there is one.

    Raises:
        WorldOptionsError: no such device.
        MissingWorldError, WrongVariantError, CheckpointError, WorldMemoryError: its directory cannot be used.
    """
    return load_world(name, directory, device)


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
