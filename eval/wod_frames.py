"""An `E2EDFrame` as what a planner may know and what it is judged by.

Past states come at 4 Hz, 16 of them, in the vehicle frame of now: they are an `EgoHistory` already, so nothing is
interpolated.  The frames carry no heading; it is the direction of the velocity, and at a standstill the one before
(counted back from now, where it is 0).  The yaw rate is what the acceleration across asks for at this speed.  A frame
holds one picture per camera; planners that look at two get the earlier one from the frame before, where the file has
it, else the same picture twice (the result counts how often).
"""

from __future__ import annotations

import math
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efficientgen.eval.camera_fit import PictureError, SourceCamera, as_frame, fit, read_picture
from efficientgen.eval.sight import Sight
from efficientgen.eval.wod_e2e import POINTS, RATERS
from efficientgen.perception.observation import NotEnoughHistoryError
from efficientgen.perception.types import (
    F64,
    HISTORY_PERIOD_NS,
    HISTORY_STATES,
    CameraFrame,
    Command,
    EgoHistory,
    EgoState,
    Observation,
)

CAMERAS = {1: "FRONT", 2: "FRONT_LEFT", 3: "FRONT_RIGHT", 4: "SIDE_LEFT", 5: "SIDE_RIGHT", 6: "REAR_LEFT", 7: "REAR",
           8: "REAR_RIGHT"}  # fmt: skip
COMMANDS = {0: Command.GO_STRAIGHT, 1: Command.GO_STRAIGHT, 2: Command.GO_LEFT, 3: Command.GO_RIGHT}
MOVING_MPS = 0.3  # slower, the direction of the velocity says nothing about the heading
TURNING_MPS = 1.0  # slower, the acceleration across says nothing about the yaw rate
SLACK_US = 60_000  # a picture may be this far from the wanted instant
SEGMENTS_KEPT, FRAMES_KEPT = 4, 16


@dataclass(frozen=True)
class WodSample:
    """One frame; trajectories in its vehicle frame (x forward, y left), pictures still as JPEG."""

    name: str
    segment: str
    timestamp_us: int
    command: Command
    history: EgoHistory
    speed: float  # m/s, as the Rater Feedback Score takes it
    future: F64  # (20, 2), or (0, 2) where hidden
    raters: tuple[F64, ...]  # (T, 2) each; () when unrated
    rater_scores: F64  # (R,)
    jpegs: Mapping[str, bytes]
    sources: Mapping[str, tuple[Any, ...]]  # width, height, intrinsics and distortion, extrinsic


def sample_of(frame: Any) -> WodSample:
    """Read a parsed `E2EDFrame`.

    Raises:
        NotEnoughHistoryError: fewer than 16 past states, or NaN in them.
    """
    name = frame.frame.context.name
    past = frame.past_states
    rows = [np.array(getattr(past, key), np.float64) for key in
            ("pos_x", "pos_y", "vel_x", "vel_y", "accel_x", "accel_y")]  # fmt: skip
    if any(len(row) < HISTORY_STATES for row in rows):
        raise NotEnoughHistoryError(
            f"{name or 'a frame'} has {min(map(len, rows))} past states, {HISTORY_STATES} are needed (4 s at 4 Hz)"
        )
    table = np.array([row[-HISTORY_STATES:] for row in rows])
    if not np.isfinite(table).all():
        raise NotEnoughHistoryError(f"{name or 'a frame'} has NaN or infinity in its past states")
    future = np.stack([np.array(frame.future_states.pos_x), np.array(frame.future_states.pos_y)], 1)
    rated = [p for p in frame.preference_trajectories if p.preference_score >= 0][:RATERS]
    stamp_us = int(frame.frame.timestamp_micros)
    return WodSample(
        name=name,
        segment=name.rpartition("-")[0] or name,
        timestamp_us=stamp_us,
        command=COMMANDS.get(int(frame.intent), Command.GO_STRAIGHT),
        history=_history(table, stamp_us * 1000),
        speed=math.hypot(table[2, -1], table[3, -1]),
        future=future[:POINTS].astype(np.float64) if len(future) >= POINTS else np.zeros((0, 2)),
        raters=tuple(np.stack([np.array(p.pos_x), np.array(p.pos_y)], 1).astype(np.float64) for p in rated),
        rater_scores=np.array([p.preference_score for p in rated], np.float64),
        jpegs={CAMERAS[image.name]: image.image for image in frame.frame.images if image.name in CAMERAS},
        sources={
            CAMERAS[c.name]: (c.width, c.height, tuple(c.intrinsic), tuple(c.extrinsic.transform))
            for c in frame.frame.context.camera_calibrations
            if c.name in CAMERAS
        },
    )


class WodObserver:
    """Observations for one planner's `sight`; remembers a few frames per segment for planners that look back."""

    def __init__(self, sight: Sight) -> None:
        self.sight = sight
        self.repeated = False  # whether in the last observation a picture stands in for an earlier one
        self._memory: OrderedDict[str, deque[WodSample]] = OrderedDict()
        self._decoded: OrderedDict[tuple[str, int], dict[str, CameraFrame]] = OrderedDict()

    def remember(self, sample: WodSample) -> None:
        """Keep the pictures of a frame, whether it is scored or not, for those that come after."""
        if self.sight.frames < 2:
            return
        held = self._memory.setdefault(sample.segment, deque(maxlen=FRAMES_KEPT))
        if all(each.timestamp_us != sample.timestamp_us for each in held):
            seen = {name: sample.jpegs[name] for name in self.sight.cameras if name in sample.jpegs}
            held.append(replace(sample, jpegs=seen))
        self._memory.move_to_end(sample.segment)
        while len(self._memory) > SEGMENTS_KEPT:
            self._memory.popitem(last=False)

    def observe(self, sample: WodSample) -> Observation:
        """The observation at a frame.

        Raises:
            PictureError: a camera that the planner looks at is missing or damaged.
        """
        stamp = sample.history.states[-1].stamp_ns
        cameras: dict[str, tuple[CameraFrame, ...]] = {}
        if self.sight.frames:
            chosen = [self._at(sample, age) for age in self.sight.ages_ns]
            self.repeated = any(each is sample for each in chosen[:-1])
            shown = [self._pictures(each) for each in chosen]
            for name in self.sight.cameras:
                cameras[name] = tuple(
                    replace(each[name], stamp_ns=stamp - age)
                    for age, each in zip(self.sight.ages_ns, shown, strict=True)
                )
        return Observation(stamp, cameras, sample.history, sample.command)

    def _at(self, sample: WodSample, age_ns: int) -> WodSample:
        """The frame of the same segment that is so old, or the sample itself."""
        target = sample.timestamp_us - age_ns // 1000
        held = self._memory.get(sample.segment, ()) if age_ns else ()
        near = min(held, key=lambda each: abs(each.timestamp_us - target), default=sample)
        return near if abs(near.timestamp_us - target) <= SLACK_US else sample

    def _pictures(self, sample: WodSample) -> dict[str, CameraFrame]:
        key = (sample.name, sample.timestamp_us)
        if key not in self._decoded:
            self._decoded[key] = self._decode(sample)
            while len(self._decoded) > FRAMES_KEPT:
                self._decoded.popitem(last=False)
        return self._decoded[key]

    def _decode(self, sample: WodSample) -> dict[str, CameraFrame]:
        out = {}
        for name in self.sight.cameras:
            if name not in sample.jpegs or name not in sample.sources:
                raise PictureError(f"{sample.name} has no picture or no calibration of {name}")
            image = read_picture(sample.jpegs[name], f"of {sample.name} {name}")
            width, height, inner, outer = sample.sources[name]
            if len(inner) < 9 or len(outer) != 16:
                raise PictureError(
                    f"{sample.name}: {name}'s calibration has {len(inner)} + {len(outer)} of 9 + 16 values"
                )
            scale_u, scale_v = image.shape[1] / (width or image.shape[1]), image.shape[0] / (height or image.shape[0])
            source = SourceCamera(
                image.shape[1], image.shape[0],
                (inner[0] * scale_u, inner[1] * scale_v, inner[2] * scale_u, inner[3] * scale_v),
                tuple(inner[4:9]), tuple(tuple(outer[4 * r : 4 * r + 4]) for r in range(4)),
            )  # fmt: skip
            target = self.sight.target(name)
            out[name] = as_frame(name, 0, image, source) if target is None else fit(0, image, source, target)
        return out


def _history(table: F64, now_ns: int) -> EgoHistory:
    """(6, 16) positions, velocities, accelerations in the vehicle frame of now -> states, oldest first."""
    x, y, vx, vy, ax, ay = table
    speed = np.hypot(vx, vy)
    states: list[EgoState] = []
    yaw = 0.0  # of the state after, going back in time
    for k in reversed(range(HISTORY_STATES)):
        if k == HISTORY_STATES - 1:
            forward = vx[k]
        else:
            if speed[k] > MOVING_MPS:
                heading = math.atan2(vy[k], vx[k])
                back = abs(math.remainder(heading - yaw, 2 * math.pi)) > math.pi / 2  # the car reverses
                yaw += math.remainder(heading + (math.pi if back else 0.0) - yaw, 2 * math.pi)
            forward = vx[k] * math.cos(yaw) + vy[k] * math.sin(yaw)
        c, s = math.cos(yaw), math.sin(yaw)
        across = -ax[k] * s + ay[k] * c
        turn = across / forward if abs(forward) > TURNING_MPS else 0.0
        stamp = now_ns - (HISTORY_STATES - 1 - k) * HISTORY_PERIOD_NS
        states.append(EgoState(stamp, float(x[k]), float(y[k]), float(yaw), float(forward),
                               float(ax[k] * c + ay[k] * s), float(turn), 0.0))  # fmt: skip
    return EgoHistory(tuple(reversed(states)))
