"""Worlds by name: what draws the cameras of a drive, in this process or in the world node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from efficientgen import MissingDataError, share
from efficientgen.perception.rig import NANO_RIG

REFERENCE, NANO, SANA_WM = "reference", "nano", "sana-wm"
WORLDS = (REFERENCE, NANO, SANA_WM)
NANO_HOME = "checkpoints/nano-world"  # among what ships (`efficientgen.share`)

SINGLE = ("FRONT",)  # what SANA-WM draws; the others draw the nano rig


class UnknownWorldError(ValueError):
    """A world name that is none of `WORLDS`."""


class WorldOptionsError(ValueError):
    """Options of a world that do not go together."""


class CamerasMissingError(ValueError):
    """The planner looks at cameras that the world does not draw."""


def cameras_of(name: str) -> tuple[str, ...]:
    """The cameras that the world called `name` draws; "none" draws for planners that do not look."""
    return SINGLE if name == SANA_WM else tuple(camera.name for camera in NANO_RIG)


def require_cameras(planner: object, cameras: tuple[str, ...]) -> None:
    """Raises:
    CamerasMissingError: the planner's view has cameras that are not among `cameras`.
    """
    view = getattr(planner, "view", None)
    missing = sorted(set(view.cameras) - set(cameras)) if view is not None else []
    if missing:
        raise CamerasMissingError(
            f"the planner looks at {', '.join(missing)} too, this world draws {', '.join(cameras)} only: choose a "
            "planner with a single front camera (--schema nuscenes), expert or constant-velocity"
        )


def nano_directory(directory: str | Path | None = None) -> Path:
    """Where the nano world's weights are: `directory`, or the shipped ones.

    Raises:
        WorldOptionsError: none is given, and this install has lost its own.
    """
    if directory:
        return Path(directory)
    try:
        return share(NANO_HOME)
    except MissingDataError as error:
        raise WorldOptionsError(
            f"{error}; or give --world-dir DIR, such as `efficientgen train world` writes (docs/nano-world.md)"
        ) from error


def check_world(name: str, directory: str | Path | None) -> None:
    """Before anything is loaded: do a world's name and its directory go together?

    Raises:
        UnknownWorldError: no such world.
        WorldOptionsError: an imagined world without its weights, or a directory for a world that has none.
        MissingWorldError, WrongVariantError: SANA-WM's directory is not there, or holds another release.
    """
    if name not in WORLDS:
        raise UnknownWorldError(f"no world {name!r}; choose one of {', '.join(WORLDS)}")
    if name == NANO:
        nano_directory(directory)
    if name == SANA_WM and not directory:
        raise WorldOptionsError(f"--world {SANA_WM} needs the released weights: give --world-dir DIR")
    if name == SANA_WM:
        from efficientgen.worldsim.sana.checkpoint import find_release, require

        require(find_release(str(directory)), "streaming")
    if name == REFERENCE and directory:
        raise WorldOptionsError(f"--world-dir holds an imagined world's weights: add --world {SANA_WM} or {NANO}")


def load_world(
    name: str, directory: str | Path | None = None, device: str = "", threads: int = 1, refine: bool = False
) -> Any:
    """The world called `name`, ready for `reset`.

    Args:
        directory: weights of an imagined world; None or "": those of `nano` that ship.
        device: where an imagined world computes; "": the accelerator if there is one.
        refine: SANA-WM only: put the release's refiner into the loop.
        threads: of this process for an imagined world on a CPU; one makes its sums the same on every machine.

    Raises:
        UnknownWorldError, WorldOptionsError: as `check_world`; also a device that is not here.
        MissingWorldError, WrongVariantError, CheckpointError, WorldMemoryError: its directory cannot be used.
    """
    check_world(name, directory)
    if name == REFERENCE:
        from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

        return ReferenceWorld()
    chosen = _device(name, device)
    if name == NANO:
        from efficientgen.worldsim.nano.world import NanoWorld

        return NanoWorld.from_pretrained(nano_directory(directory), device=chosen, threads=threads)
    try:
        import diffusers
    except ImportError as error:
        raise WorldOptionsError(f"--world {SANA_WM} needs diffusers: pip install 'efficientgen[sana]'") from error
    from efficientgen.worldsim.sana.world import SanaWorld

    diffusers.utils.logging.set_verbosity_error()
    return SanaWorld.from_pretrained(Path(str(directory)), device=chosen, refine=refine)


def _device(name: str, wanted: str) -> str:
    import torch

    chosen = wanted or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(1, device=chosen)
    except (RuntimeError, AssertionError) as error:
        words = str(error).splitlines()[0]
        raise WorldOptionsError(
            f"--world-device {chosen} cannot be used here ({words}), and {name} computes on it; try cpu"
        ) from error
    return chosen
