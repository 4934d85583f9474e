"""What a planner benchmark looks at: observations of drives in towns that the shipped planner was never trained in.

They are made by driving, in the same command and deterministically, or read from a file that an earlier run kept (a GPU
machine often has neither SUMO nor Panda3D).
"""

from __future__ import annotations

import io
import json
import os
from collections.abc import Sequence
from dataclasses import astuple, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.runner import drive, handover_stamp
from efficientgen.perception.types import CHUNK_NS, NS, CameraFrame, Command, EgoHistory, EgoState, Observation, Plan

FORMAT = "efficientgen-observations-1"
FRAMES = 2  # per camera: what nano looks at; the released WOD-E2E view takes the last
SCENARIOS = 4


class ObservationFileError(ValueError):
    """A file that holds no observations, or too few."""


class NoDrivesError(RuntimeError):
    """Nothing to drive with on this machine."""


class _Listener:
    """Plans as the planner does, and keeps what it was asked."""

    frames_per_camera = FRAMES

    def __init__(self, planner: Any) -> None:
        self.planner, self.name, self.heard = planner, planner.name, list[Observation]()

    def reset(self, seed: int) -> None:
        self.planner.reset(seed)

    def plan(self, observation: Observation) -> Plan:
        self.heard.append(observation)
        return self.planner.plan(observation)


def held_out_observations(count: int, seed: int = 0) -> list[Observation]:
    """`count` observations of nano-ddrive's own drives, spread over held-out scenarios; none comes twice.

    Raises:
        NoDrivesError: SUMO or Panda3D is not installed.
    """
    try:
        import_module("efficientgen.worldsim.oracle")  # loads SUMO

        from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D
    except ImportError as error:
        raise NoDrivesError(
            f"driving for observations needs SUMO and Panda3D ({error}): run once with --observations FILE on a "
            "machine that has them, and give that file here"
        ) from error
    from efficientgen.planning.load import DEFAULT, load_planner
    from efficientgen.worldsim.scenario import load_scenario, scenario_names

    names = scenario_names("heldout")
    names = names[:: max(1, len(names) // SCENARIOS)][:SCENARIOS]
    listener, world, taken = _Listener(load_planner(DEFAULT)), ReferenceWorld(), list[Observation]()
    try:
        for left, name in zip(range(len(names), 0, -1), names, strict=True):
            wanted, listener.heard = -(-(count - len(taken)) // left), []
            scenario = load_scenario(name)
            until = handover_stamp(scenario) / NS + (wanted + 1) * CHUNK_NS / NS
            drive(replace(scenario, duration_s=min(until, scenario.duration_s)), seed, listener, world)
            taken += listener.heard[:wanted]
    finally:
        world.close()
    return taken[:count]


def enlarged(observation: Observation, height: int, width: int) -> Observation:
    """The same scene in pictures of another size, pixels repeated or left out: what a camera of that size costs.

    Rows lie one behind the other, as a camera writes them: to copy pictures that do not takes 20 times as long.
    """

    def resized(frame: CameraFrame) -> CameraFrame:
        h, w, _ = frame.image.shape
        image = np.ascontiguousarray(frame.image[np.arange(height) * h // height][:, np.arange(width) * w // width])
        scale = np.array([[width / w], [height / h], [1.0]])
        return replace(frame, image=image, intrinsics=frame.intrinsics * scale)

    cameras = {name: tuple(map(resized, frames)) for name, frames in observation.cameras.items()}
    return replace(observation, cameras=cameras)


def save_observations(observations: Sequence[Observation], path: Path) -> None:
    """Write them, pictures and all, whole or not at all."""
    arrays: dict[str, Any] = {}
    heads = []
    for i, seen in enumerate(observations):
        arrays[f"{i}.history"] = np.array([astuple(state)[1:] for state in seen.history.states])
        arrays[f"{i}.stamps"] = np.array([state.stamp_ns for state in seen.history.states])
        for name, frames in seen.cameras.items():
            arrays[f"{i}.{name}.images"] = np.stack([f.image for f in frames])
            arrays[f"{i}.{name}.lens"] = np.stack([f.intrinsics for f in frames])
            arrays[f"{i}.{name}.place"] = np.stack([f.camera_to_ego for f in frames])
            arrays[f"{i}.{name}.stamps"] = np.array([f.stamp_ns for f in frames])
        heads.append({"stamp_ns": seen.stamp_ns, "command": seen.command.value, "cameras": list(seen.cameras)})
    arrays["head"] = np.array(json.dumps({"format": FORMAT, "observations": heads}))
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_bytes(buffer.getvalue())
    os.replace(draft, path)


def load_observations(path: Path, count: int) -> list[Observation]:
    """The first `count` of a file.

    Raises:
        ObservationFileError: it holds something else, or fewer.
    """
    try:
        with np.load(path) as held:
            head = json.loads(str(held["head"]))
            out = [_unpack(held, i, each) for i, each in enumerate(head["observations"][:count])]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ObservationFileError(f"{path} holds no observations ({error}); remove it to have them driven") from error
    if len(out) < count:
        raise ObservationFileError(f"{path} holds {len(out)} observations, {count} are asked for; remove it")
    return out


def _unpack(held: Any, i: int, head: dict[str, Any]) -> Observation:
    states = tuple(
        EgoState(int(stamp), *map(float, row))
        for stamp, row in zip(held[f"{i}.stamps"], held[f"{i}.history"], strict=True)
    )
    cameras = {}
    for name in head["cameras"]:
        parts = (held[f"{i}.{name}.{part}"] for part in ("stamps", "images", "lens", "place"))
        cameras[name] = tuple(CameraFrame(name, int(t), *rest) for t, *rest in zip(*parts, strict=True))
    return Observation(head["stamp_ns"], cameras, EgoHistory(states), Command(head["command"]))
