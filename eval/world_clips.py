"""Clips for the nano world: what three cameras saw along recorded drives, with poses and condition rasters.

A clip is one drive at the world's step of 0.4 s.  Pictures are the reference world's, rasters are drawn from the same
oracle frames, both pure functions of a compact log, so they are made where the GPU is.  Of every other drive the ego is
moved sideways along a slow wave: a planner's car does not keep to the middle of its lane as the expert's does.
"""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.oracle_log import OracleLog, from_step_log, load_oracle_log, save_oracle_log
from efficientgen.perception.types import NS, Actor, OracleFrame
from efficientgen.worldsim.scenario import Scenario, load_scenario, scenario_names
from efficientgen.worldsim.town import load_town
from efficientgen.worldsim.traffic import successors

ARRAYS = ("pictures", "rasters", "poses")
SWAY_M, SWAY_S = 1.1, (7.0, 13.0)  # how far and how slowly moved drives swing


@dataclass(frozen=True)
class ClipsConfig:
    """How drives become clips."""

    scenes: int = 12  # sets of houses and trees per town
    moved: bool = True  # every other drive swings beside its lane
    seconds: float = math.inf  # wall time after which no further drive is begun


def slim(log: OracleLog) -> OracleLog:
    """What pictures need of a log: no ego states between its frames, a route in name only, centimetres."""
    stamps = {frame.stamp_ns for frame in log.frames}
    route = replace(log.route, points=log.route.points[:2], headings=log.route.headings[:2],
                    speed_limits=log.route.speed_limits[:2], half_widths=log.route.half_widths[:2], stops=(),
                    crossings=())  # fmt: skip
    frames = tuple(replace(f, actors=tuple(map(_rounded, f.actors))) for f in log.frames)
    return replace(log, route=route, states=tuple(s for s in log.states if s.stamp_ns in stamps), frames=frames)


def _rounded(actor: Actor) -> Actor:
    """Positions on a grid of 1/128 m and the like: floats that compress."""
    return replace(actor, x=round(actor.x * 128) / 128, y=round(actor.y * 128) / 128, yaw=round(actor.yaw * 512) / 512,
                   speed=round(actor.speed * 16) / 16)  # fmt: skip


def record_heldout(directory: Path, seconds: float, seed: int, on_done: Callable[[str], None]) -> int:
    """The expert drives every held-out scenario, on past its end to `seconds`; returns how many logs there are."""
    from efficientgen.eval.runner import drive

    names = scenario_names("heldout")
    for name in names:
        scenario = longer(load_scenario(name), seconds)
        if not (directory / f"{scenario.name}.{seed}.npz").exists():
            save_oracle_log(slim(from_step_log(drive(scenario, seed, "expert"))), directory)
        on_done(name)
    return len(names)


def longer(scenario: Scenario, seconds: float) -> Scenario:
    """The scenario with a route that is long enough for `seconds` at the town's speeds."""
    town, rng = load_town(scenario.town), random.Random(f"{scenario.name}/longer")
    edges = list(scenario.edges)
    while sum(town.net.getEdge(edge).getLength() for edge in edges) < 60.0 + 11.0 * seconds:
        onward = [edge for edge, _ in successors(town, edges[-1])]
        edges.append(rng.choice([edge for edge in onward if edge not in edges[-8:]] or onward))
    return replace(scenario, edges=tuple(edges), end_pos=None, duration_s=seconds)


def render_clips(
    logs: Sequence[Path], directory: Path, config: ClipsConfig, workers: int, on_done: Callable[[str], None]
) -> int:
    """Render every log into `<name>.{pictures,rasters,poses}.npy` and `.json`; returns the time steps rendered.

    Clips that are there already are kept, so an interrupted rendering goes on.
    """
    directory.mkdir(parents=True, exist_ok=True)
    deadline = time.time() + config.seconds
    groups: dict[tuple[str, int], list[Path]] = {}
    for path in logs:
        if not (directory / f"{path.stem}.json").exists():
            groups.setdefault(_scene(path, config), []).append(path)
    size = max(1, min(4, len(logs) // workers))
    parts = [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]
    random.Random(0).shuffle(parts)  # so that a deadline cuts no town short
    jobs = [(tuple(map(str, part)), str(directory), config, deadline) for part in parts]
    total = 0
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        for lines in pool.imap_unordered(_render_some, jobs):
            for steps, line in lines:
                total += steps
                on_done(line)
    return total


def _scene(path: Path, config: ClipsConfig) -> tuple[str, int]:
    return path.stem.partition("-")[0].partition("_")[0], int(path.stem.rpartition(".")[2]) % config.scenes


_worlds: dict[str, Any] = {}  # one renderer per worker process


def _render_some(job: tuple[tuple[str, ...], str, ClipsConfig, float]) -> list[tuple[int, str]]:
    paths, directory, config, deadline = job
    out = []
    for path in map(Path, paths):
        if time.time() > deadline:
            out.append((0, f"{path.stem}: no time left"))
            continue
        try:
            steps = render_clip(path, Path(directory), config)
            out.append((steps, f"{path.stem}: {steps} steps"))
        except Exception as error:  # one bad log must not end the others; the line says which and why
            out.append((0, f"{path.stem}: {type(error).__name__}: {error}"))
    return out


def render_clip(path: Path, directory: Path, config: ClipsConfig) -> int:
    """One log; returns its time steps."""
    from efficientgen.worldsim.nano.layout import layout_of
    from efficientgen.worldsim.nano.raster import Raster
    from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D; workers only

    world = _worlds.setdefault("reference", ReferenceWorld())
    raster = _worlds.setdefault("raster", Raster())
    log = load_oracle_log(path)
    town, weather, scene = log.frames[0].town, log.frames[0].weather, _scene(path, config)[1]
    world.reset(town, weather, scene)
    layout = layout_of(town, weather, scene)
    frames = swayed(log, path.stem) if config.moved else log.frames
    arrays = {
        "pictures": np.stack([world.render(frame) for frame in frames]),
        "rasters": np.stack([raster.draw(frame, layout) for frame in frames]),
        "poses": np.array([(f.ego.x, f.ego.y, f.ego.yaw) for f in frames]),
    }
    for name, array in arrays.items():
        temporary = directory / f".{path.stem}.{name}.npy"
        np.save(temporary, array)
        os.replace(temporary, directory / f"{path.stem}.{name}.npy")
    about = {"town": town, "weather": weather, "scene": scene, "steps": len(frames), "log": path.stem}
    temporary = directory / f".{path.stem}.json"
    temporary.write_text(json.dumps(about))
    os.replace(temporary, directory / f"{path.stem}.json")
    return len(frames)


def swayed(log: OracleLog, name: str) -> tuple[OracleFrame, ...]:
    """The frames with the ego beside its path, in every other drive (by name); headings follow the wave."""
    rng = random.Random(f"{name}/sway")
    if rng.random() < 0.5:
        return log.frames
    far, period, phase = rng.uniform(0.3, SWAY_M), rng.uniform(*SWAY_S), rng.uniform(0.0, 2 * math.pi)
    out = []
    for frame in log.frames:
        ego, angle = frame.ego, 2 * math.pi * frame.stamp_ns / NS / period + phase
        grows = min(1.0, ego.speed / 3.0)
        left = far * math.sin(angle)
        turn = math.atan2(far * 2 * math.pi / period * math.cos(angle) * grows, max(ego.speed, 3.0))
        moved = replace(ego, x=ego.x - left * math.sin(ego.yaw), y=ego.y + left * math.cos(ego.yaw), yaw=ego.yaw + turn)
        out.append(replace(frame, ego=moved))
    return tuple(out)
