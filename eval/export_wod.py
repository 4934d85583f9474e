"""Drives as WOD-E2E frames: `E2EDFrame` TFRecords with eight cameras, past and future states at 4 Hz, and the intent.

The origin is the middle of the rear axle, x forward, y left, as in our ego frame, and camera frames agree as well, so
calibrations are copied.  Instants between two 0.1 s ticks are interpolated as everywhere (`perception.observation`).
The protos store float32: positions come back to about 1e-5 m.  Frames without 4 s of past or 5 s of future are left
out.  There are no raters in a simulator; `raters=True` adds synthetic ones, and names the files for it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.export_nuscenes_map import token
from efficientgen.eval.export_scene import (
    Drive,
    ExportError,
    jpeg,
    looking_world,
    microseconds,
    written_whole,
)
from efficientgen.eval.io_wod import data_protos, write_records
from efficientgen.eval.overlay import to_ego
from efficientgen.eval.step_log import all_ticks
from efficientgen.eval.synthetic_raters import RULE, synthetic_raters
from efficientgen.perception.observation import HISTORY_NS, interpolate
from efficientgen.perception.rig import WOD_RIG, Camera, scaled
from efficientgen.perception.route import command_at, locate
from efficientgen.perception.types import (
    CHUNK_NS,
    F64,
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    NS,
    TICK_NS,
    Command,
    EgoState,
)
from efficientgen.worldsim.town import load_town

FUTURE_STATES = 20
_INTENT = {Command.GO_STRAIGHT: 1, Command.GO_LEFT: 2, Command.GO_RIGHT: 3}  # EgoIntent of the protos


def export_wod(
    drives: Sequence[Drive],
    target: Path,
    width: int = 480,
    period_ns: int = CHUNK_NS,
    raters: bool = False,
    on_tick: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write `drives` as one TFRecord file each, and `export.json` about them; `target` appears when it is whole.

    Args:
        width: of the pictures, px; 1920 is the rig's full size.
        period_ns: between frames; a multiple of 0.1 s.  WOD-E2E has 0.1 s; our planners look 0.4 s back.
        raters: add synthetic rater trajectories (`synthetic_raters`); the files are then named `synthetic-raters`.

    Raises:
        ExportError: a drive shorter than 8.75 s, a period off the ticks, or `target` exists.
        WodPackageError: the protos are not installed.
    """
    if period_ns <= 0 or period_ns % TICK_NS:
        raise ExportError(f"frames every {period_ns / NS:g} s do not fall on the 0.1 s ticks; take a multiple of 0.1")
    protos, rig = data_protos(), scaled(WOD_RIG, width)
    for drive in drives:
        if not stamps_of(drive, period_ns):
            raise ExportError(f"{drive.directory} is too short: a frame needs 3.75 s before and 5 s after it")
    with written_whole(target) as draft, looking_world(rig) as world:
        about = []
        for k, drive in enumerate(drives):
            stem = "simulated-synthetic-raters" if raters else "simulated"
            name = f"{stem}.tfrecord-{k:05d}-of-{len(drives):05d}"
            world.reset(drive.log.town, drive.log.start.weather, drive.log.seed)
            frames = _frames(protos, drive, k, rig, world, period_ns, raters, on_tick)
            count = write_records(draft / name, (frame.SerializeToString() for frame in frames))
            about.append({"file": name, "frames": count, "segment": segment(drive), "drive": drive.title})
        words = {"source": "simulated", "raters": f"synthetic: {RULE}" if raters else "none", "files": about}
        (draft / "export.json").write_text(json.dumps(words, indent=1), encoding="utf-8")
    return target


def segment(drive: Drive) -> str:
    """The name of a drive's segment; its frames are called `<segment>-<number>`."""
    return token("segment", drive.title, len(drive.log.steps))


def stamps_of(drive: Drive, period_ns: int) -> list[int]:
    """The stamps that can be exported: with a whole past and a whole future."""
    last = all_ticks(drive.log)[-1].stamp_ns - FUTURE_STATES * HISTORY_PERIOD_NS
    first = -(-HISTORY_NS // period_ns) * period_ns
    return list(range(first, last + 1, period_ns))


def relative(states: Sequence[EgoState], now: EgoState) -> F64:
    """Positions (N, 2) m of `states` in the ego frame of `now`."""
    return to_ego(np.array([(s.x, s.y) for s in states]), now)


def states_at(by_stamp: dict[int, EgoState], instants: Sequence[int]) -> list[EgoState]:
    """The ego at `instants`, interpolated between the ticks around each."""
    out = []
    for instant in instants:
        before = instant // TICK_NS * TICK_NS
        after = before if before == instant else before + TICK_NS
        out.append(interpolate(by_stamp[before], by_stamp[after], instant))
    return out


def _frames(
    protos: Any, drive: Drive, number: int, rig: tuple[Camera, ...], world: Any, period_ns: int, raters: bool,
    on_tick: Callable[[str, int, int], None] | None,
) -> Iterator[Any]:  # fmt: skip
    """The frames of one drive, one in memory at a time."""
    log, town = drive.log, load_town(drive.log.town)
    ticks = {tick.stamp_ns: tick for tick in all_ticks(log)}
    egos = {stamp: tick.ego for stamp, tick in ticks.items()}
    stamps, s = stamps_of(drive, period_ns), None
    for k, stamp in enumerate(stamps):
        now = ticks[stamp]
        past = states_at(egos, [stamp - j * HISTORY_PERIOD_NS for j in reversed(range(HISTORY_STATES))])
        coming = states_at(egos, [stamp + (j + 1) * HISTORY_PERIOD_NS for j in range(FUTURE_STATES)])
        driven = relative(coming, now.ego)
        frame = protos.E2EDFrame()
        frame.frame.context.name = f"{segment(drive)}-{k:03d}"
        frame.frame.timestamp_micros = microseconds(number, stamp)
        _look(frame.frame, rig, world.render(now), microseconds(number, stamp))
        _move(frame.past_states, past, now.ego)
        _place(frame.future_states, driven)
        s = locate(log.route, now.ego.x, now.ego.y, s)[0]
        frame.intent = _INTENT[command_at(log.route, s)]
        if raters:
            for rollout, points in synthetic_raters(now, driven, ticks, log.route, town):
                held = frame.preference_trajectories.add()
                _place(held, rollout)
                held.preference_score = points
        if on_tick is not None:
            on_tick(drive.title, k + 1, len(stamps))
        yield frame


def _look(frame: Any, rig: tuple[Camera, ...], pictures: np.ndarray, when_us: int) -> None:
    """Calibrations and JPEG pictures; the rig is in the order of the protos' camera names, which count from 1."""
    for k, (camera, picture) in enumerate(zip(rig, pictures, strict=True)):
        held = frame.context.camera_calibrations.add()
        held.name, held.width, held.height = k + 1, camera.width, camera.height
        held.intrinsic.extend([camera.focal, camera.focal, camera.width / 2, camera.height / 2, 0, 0, 0, 0, 0])
        held.extrinsic.transform.extend(camera.camera_to_ego.ravel().tolist())
        image = frame.images.add()
        image.name, image.image, image.pose_timestamp = k + 1, jpeg(picture), when_us / 1e6
        image.pose.transform.extend(np.eye(4).ravel().tolist())


def _place(states: Any, points: F64) -> None:
    states.pos_x.extend(points[:, 0].tolist())
    states.pos_y.extend(points[:, 1].tolist())
    states.pos_z.extend([0.0] * len(points))


def _move(states: Any, past: Sequence[EgoState], now: EgoState) -> None:
    """Positions, velocities and accelerations in the ego frame of now."""
    _place(states, relative(past, now))
    for state in past:
        cos, sin = math.cos(state.yaw - now.yaw), math.sin(state.yaw - now.yaw)
        ahead, left = state.acceleration, state.speed * state.yaw_rate
        states.vel_x.append(state.speed * cos)
        states.vel_y.append(state.speed * sin)
        states.accel_x.append(ahead * cos - left * sin)
        states.accel_y.append(ahead * sin + left * cos)
