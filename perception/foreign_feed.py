"""A foreign car's messages, in the order in which they come, to observations: what replay and the live node share.

Plan stamps follow the reference camera: tick 0 is its first picture, and every 0.1 s is a tick.  Cameras are not
synchronised in most cars; a tick takes from each camera the picture nearest to it, if it is near enough, and the
picture then carries the tick's stamp (how far off each was is counted, never corrected).  Pictures are decoded and
rectified only when a tick takes them.  States come from `odometry.TickStates`, the observation from the same
`ObservationBuilder` as in every drive, and whether a plan may be based on it from the same health checks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np

from efficientgen.perception.foreign_messages import PoseSample, UnreadablePictureError
from efficientgen.perception.health import Expected, Finding, findings
from efficientgen.perception.observation import HISTORY_NS, ObservationBuilder
from efficientgen.perception.odometry import TickStates
from efficientgen.perception.rectify import PictureSizeError, Rectifier
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.rig_file import RigFile
from efficientgen.perception.types import (
    CHUNK_NS,
    NS,
    TICK_NS,
    U8,
    CameraFrame,
    Command,
    EgoState,
    Observation,
    SensorFrames,
)

NO_COMMAND = "route command missing"
KEPT = 64  # undecoded pictures per camera at most: a car that sends too many loses its oldest


@dataclass(frozen=True)
class Asked:
    """What is known at one plan stamp: an observation that is fit to plan on, or why there is none."""

    stamp_ns: int  # since tick 0
    ego: EgoState | None
    command: Command | None
    observation: Observation | None
    skipped: tuple[tuple[str, str], ...] = ()  # (finding, words): why no plan may be made
    offsets_ns: Mapping[str, int] | None = None  # camera -> its newest picture's stamp, less the tick's
    blackened: tuple[str, ...] = ()  # cameras without a picture, shown black as rig.yaml says
    absent: tuple[str, ...] = ()  # ... or left out


class ForeignFeed:
    """Joins poses and pictures of a car into observations.

    Args:
        rig: the car.
        look: frames per camera that the planner sees; 0 for one without eyes.
        needed: the cameras that it sees.
        command: the route command at an absolute stamp, None when nothing is known of it.
        rectifier: of a camera of the rig; None while its calibration has not come.
        every_tick: take pictures at every tick, not just at plan stamps (for films).
    """

    def __init__(
        self,
        rig: RigFile,
        look: int,
        needed: tuple[str, ...],
        command: Callable[[int], Command | None],
        rectifier: Callable[[str], Rectifier | None],
        every_tick: bool = False,
    ) -> None:
        self._rig, self._look, self._needed = rig, look, needed if look else ()
        self._command, self._rectifier = command, rectifier
        self._period_ns = TICK_NS if every_tick else CHUNK_NS
        self._builder = ObservationBuilder(look, CHUNK_NS, self._needed)
        self._queues: dict[str, deque[tuple[int, Callable[[], U8]]]] = {n: deque(maxlen=KEPT) for n in self._needed}
        self._reference = rig.reference if rig.reference in self._needed else next(iter(self._needed), "")
        self._early: list[PoseSample] = []  # before there is a tick 0
        self._ticks: TickStates | None = None
        self._newest_ns = 0  # of all stamps
        self._pose_ns = 0  # newest pose
        self._picture_tick = self._plan_tick = 0  # since the origin: the next to be taken, and to be asked for
        self._offsets: dict[int, dict[str, int]] = {}  # tick -> camera -> offset
        self._unreadable: dict[int, list[tuple[str, str]]] = {}
        self._black: dict[str, set[int]] = {name: set() for name in self._needed}
        self._states: deque[EgoState] = deque(maxlen=64)
        self.origin_ns: int | None = None
        self.taken: dict[int, dict[str, CameraFrame]] = {}  # tick -> pictures, for who shows them; cleared by `forget`

    def add_pose(self, sample: PoseSample) -> None:
        """The next odometry message (of the odometry's frame)."""
        self._newest_ns = max(self._newest_ns, sample.stamp_ns)
        self._pose_ns = max(self._pose_ns, sample.stamp_ns)
        if self._ticks is None:
            self._early.append(sample)
            self._begin()
        else:
            self._take_states(self._ticks.add(sample))

    def add_picture(self, name: str, stamp_ns: int, decode: Callable[[], U8]) -> None:
        """The next picture of a camera, still encoded; stamps that do not increase are dropped."""
        queue = self._queues.get(name)
        self._newest_ns = max(self._newest_ns, stamp_ns)
        if queue is None or (queue and stamp_ns <= queue[-1][0]):
            return
        queue.append((stamp_ns, decode))
        if self._ticks is None:
            self._begin()

    def poll(self, at_end: bool = False) -> list[Asked]:
        """The plan stamps that are decided now, in order; `at_end`: nothing more will come."""
        if self.origin_ns is None:
            return []
        out = []
        while self._decided(self._picture_tick, at_end):
            self._take_pictures(self._picture_tick)
            self._picture_tick += self._period_ns
        while self._plan_tick < self._picture_tick and self._known(self._plan_tick, at_end):
            out.append(self._ask(self._plan_tick))
            self._plan_tick += CHUNK_NS
        return out

    def forget(self, before_ns: int) -> None:
        """Drop pictures in `taken` of ticks before `before_ns`."""
        self.taken = {tick: held for tick, held in self.taken.items() if tick >= before_ns}

    # --- time ---

    def _begin(self) -> None:
        """Fix tick 0: the reference camera's first picture after the first pose, or any camera's where it is silent."""
        if not self._early:
            return
        first = self._early[0].stamp_ns
        late = self._newest_ns > first + self._rig.patience_ns + 3 * TICK_NS
        names = [self._reference] if not late else self._needed
        stamps = [stamp for name in names if name for stamp, _ in self._queues[name] if stamp >= first]
        if self._needed and not stamps and not late:
            return
        self.origin_ns = min(stamps, default=first)
        self._ticks = TickStates(
            self.origin_ns, self._rig.gap_ns, self._rig.speed == "derived", self._rig.rear_axle[:2], self._rig.wheelbase
        )
        for sample in self._early:
            self._take_states(self._ticks.add(sample))
        self._early.clear()

    def _take_states(self, states: list[EgoState]) -> None:
        for state in states:
            self._builder.add_state(state)
            self._states.append(state)

    def _decided(self, tick: int, at_end: bool) -> bool:
        """Whether no better picture for `tick` can come."""
        assert self.origin_ns is not None
        at = self.origin_ns + tick
        if self._newest_ns > at + self._rig.tolerance_ns + self._rig.patience_ns:
            return True
        if at_end:  # cameras that stop a little before the odometry have not failed
            last = [queue[-1][0] + self._rig.tolerance_ns for queue in self._queues.values() if queue]
            return at <= min(self._newest_ns, max(last, default=self._newest_ns))
        return at <= self._newest_ns and all(queue and queue[-1][0] >= at for queue in self._queues.values())

    def _known(self, tick: int, at_end: bool) -> bool:
        """Whether the car's state at `tick` is known, or will not be."""
        assert self.origin_ns is not None
        at = self.origin_ns + tick
        return at_end or self._pose_ns >= at or self._newest_ns > at + self._rig.patience_ns + self._rig.gap_ns

    # --- pictures ---

    def _take_pictures(self, tick: int) -> None:
        assert self.origin_ns is not None
        at = self.origin_ns + tick
        frames: dict[str, CameraFrame] = {}
        for name, queue in self._queues.items():
            near = min(queue, key=lambda held: abs(held[0] - at), default=None)
            while queue and queue[0][0] < at - self._rig.tolerance_ns:
                queue.popleft()
            frame = None
            if near is not None and abs(near[0] - at) <= self._rig.tolerance_ns:
                frame = self._decode(name, tick, near[1])
            if frame is not None and near is not None:
                self._offsets.setdefault(tick, {})[name] = near[0] - at
                frames[name] = frame
            elif self._rig.missing != "skip":
                rectifier = self._rectifier(name)
                frame = _nothing(name, tick) if rectifier is None else rectifier.black(tick)
                self._black[name].add(tick)
            if frame is not None:
                self._builder.add_frames(SensorFrames((tick,), {name: (frame,)}))
        self.taken[tick] = frames

    def _decode(self, name: str, tick: int, decode: Callable[[], U8]) -> CameraFrame | None:
        rectifier = self._rectifier(name)
        try:
            return None if rectifier is None else rectifier.frame(decode(), tick)
        except (UnreadablePictureError, PictureSizeError) as error:
            self._unreadable.setdefault(tick, []).append((Finding.NOT_A_PICTURE.value, f"{name}: {error}"))
            return None

    # --- observations ---

    def _ask(self, tick: int) -> Asked:
        assert self.origin_ns is not None
        ego = next((state for state in self._states if state.stamp_ns == tick), None)
        command = self._command(self.origin_ns + tick)
        ticks = [tick - k * CHUNK_NS for k in range(max(self._look, 1))]
        blind = tuple(name for name in self._needed if any(t in self._black[name] for t in ticks))
        asked = Asked(
            stamp_ns=tick,
            ego=ego,
            command=command,
            observation=None,
            offsets_ns=self._offsets.get(tick, {}),
            blackened=blind if self._rig.missing == "black" else (),
            absent=blind if self._rig.missing == "absent" else (),
        )
        unreadable = tuple(found for t in ticks for found in self._unreadable.get(t, ()))
        self._tidy(tick)
        missing = self._builder.missing(tick)
        if missing:
            kind = Finding.MISSING if "frame" in missing else Finding.NO_STATE
            return replace(asked, skipped=unreadable or ((kind.value, missing),))
        if command is None:
            return replace(asked, skipped=((NO_COMMAND, "none was heard yet"),))
        if blind and len(blind) == len(self._needed):
            return replace(asked, skipped=((Finding.MISSING.value, f"every one of {', '.join(blind)}"),))
        whole = self._builder.build(tick, command)
        seen = {name: frames for name, frames in whole.cameras.items() if name not in blind}
        checked = replace(whole, cameras=seen)
        found = findings(checked, Expected(tuple(n for n in self._needed if n not in blind), self._look))
        if found:
            return replace(asked, skipped=tuple((finding.value, words) for finding, words in found))
        return replace(asked, observation=whole if self._rig.missing == "black" else checked)

    def _tidy(self, tick: int) -> None:
        old = tick - HISTORY_NS
        for held in (self._offsets, self._unreadable):
            for stamp in [stamp for stamp in held if stamp < old]:
                del held[stamp]
        for name, ticks in self._black.items():
            self._black[name] = {stamp for stamp in ticks if stamp >= old}


def _nothing(name: str, stamp_ns: int) -> CameraFrame:
    """A black frame of the planner's own camera, for one whose lens nobody knows."""
    camera = next((camera for camera in NANO_RIG if camera.name == name), NANO_RIG[0])
    black = np.zeros((camera.height, camera.width, 3), np.uint8)
    return CameraFrame(name, stamp_ns, black, camera.intrinsics, camera.camera_to_ego)


def cameras_needed(planner: object, rig: RigFile) -> tuple[str, ...]:
    """The cameras that a planner looks at: its view's, or else all of the rig."""
    view = getattr(planner, "view", None)
    return tuple(view.cameras) if view is not None else tuple(rig.cameras)


def before_history(asked: Asked) -> bool:
    """Whether the car has not driven long enough for an observation: the start of every recording."""
    return asked.stamp_ns < HISTORY_NS + NS // 2 and any(kind == Finding.NO_STATE.value for kind, _ in asked.skipped)
