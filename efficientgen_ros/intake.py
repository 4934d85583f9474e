"""From topics to observations: joins what the planner hears and hands out the newest complete observation.

Callbacks add, one worker thread waits; older observations are dropped, never queued.  Topics may overtake each other:
pictures wait for their camera's description, everything waits for the session.  What does not come in time is said, not
waited for: `wait` then hands out a `Lack`.  Stamps that go backwards or leap ahead are refused, and told.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from time import monotonic
from typing import Any

from sensor_msgs.msg import CameraInfo, Image

from efficientgen.eval.runner import FRAME_GAP_NS
from efficientgen.perception.observation import HISTORY_NS, ObservationBuilder, StampOrderError
from efficientgen.perception.rig import Camera
from efficientgen.perception.types import NS, TICK_NS, Command, EgoState, Observation, SensorFrames
from efficientgen.planning.safety import SafetyParams
from efficientgen_ros.interfaces import CAMERAS
from efficientgen_ros.messages import EgoJoin, camera_from, frame_from
from efficientgen_ros.session import HEADSTART_NS, CommandAt, Session

STEADY = 5  # stray states in a row that follow on each other begin a new history
LEAP_NS = NS  # a stamp further than this beyond the newest ego state's is no stamp of this drive


@dataclass(frozen=True)
class Lack:
    """An observation that did not become complete in time."""

    stamp_ns: int
    what: str


class Intake:
    """The planner's inputs.

    Args:
        look: frames per camera that the planner sees; 0 for a planner without eyes.
        timeout_s: sync mode: wall time that an observation is waited for; in real time its plan would be stale later.
        complain: told, in words, about each message that is refused.
    """

    def __init__(self, look: int, timeout_s: float, complain: Callable[[str], None]) -> None:
        self._look, self._timeout_s, self._complain = look, timeout_s, complain
        self._since: dict[int, float] = {}  # stamp of a command -> when it came (wall)
        self._first_ns: int | None = None  # of the ego states: the first ...
        self._newest_ns: int | None = None  # ... and the last
        self._strays: list[EgoState] = []  # states in a row that do not follow on the last one taken
        self._cameras = CAMERAS
        self._builder = self._new_builder()
        self._wake, self._open = threading.Condition(), True
        self._session: Session | None = None
        self._join, self._commands, self._last_ns = EgoJoin(), dict[int, Command](), -1
        self._told: dict[str, dict[str, Any]] = {name: {} for name in CAMERAS}
        self._rig: dict[str, Camera] = {}
        self._pictures: dict[str, deque[Image]] = {name: deque() for name in CAMERAS}

    def add_session(self, session: Session) -> None:
        with self._wake:
            self._session, self._cameras = session, session.cameras
            if self._look:
                self._builder.expect(self._cameras)
            self._wake.notify()

    def add_command(self, told: CommandAt) -> None:
        with self._wake:
            self._commands[told.stamp_ns] = told.command
            self._since[told.stamp_ns] = monotonic()
            self._wake.notify()

    def add_ego(self, message: Any) -> None:
        """One of the three messages of an ego state."""
        ego = self._join.add(message)
        if ego is None:
            return
        with self._wake:
            if self._newest_ns is None or self._newest_ns < ego.stamp_ns <= self._newest_ns + LEAP_NS:
                self._strays.clear()
                self._add_state(ego)
            else:
                self._stray(ego)
            self._wake.notify()

    def _add_state(self, ego: EgoState) -> None:
        self._first_ns = ego.stamp_ns if self._first_ns is None else self._first_ns
        self._newest_ns = ego.stamp_ns
        self._builder.add_state(ego)

    def _stray(self, ego: EgoState) -> None:
        """A state that does not follow the last one is refused; `STEADY` of them that follow each other begin anew.

        That is what is left after messages were lost while this process stood still, or a clock was set for good.
        """
        assert self._newest_ns is not None
        ahead = (ego.stamp_ns - self._newest_ns) / NS
        self._complain(f"ego state at {ego.stamp_ns / NS:.1f} s, {ahead:+.1f} s from the last: refused")
        if self._strays and not 0 < ego.stamp_ns - self._strays[-1].stamp_ns <= 2 * TICK_NS:
            self._strays.clear()
        self._strays.append(ego)
        if len(self._strays) == STEADY:
            self._complain(f"the car's states go on from {self._strays[0].stamp_ns / NS:.1f} s: history begins anew")
            self._builder, self._first_ns = self._new_builder(), None
            for state in self._strays:
                self._add_state(state)
            self._strays.clear()

    def _new_builder(self) -> ObservationBuilder:
        return ObservationBuilder(self._look, FRAME_GAP_NS, self._cameras if self._look else ())

    def add_camera(self, name: str, message: Any) -> None:
        """A camera's info or mount."""
        told = self._told[name]
        told["info" if isinstance(message, CameraInfo) else "mount"] = message
        if name not in self._rig and len(told) == 2:
            self._rig[name] = camera_from(name, told["info"], told["mount"])
            self._take(name)

    def add_image(self, name: str, message: Image) -> None:
        if self._look:
            self._pictures[name].append(message)
            self._take(name)

    def _take(self, name: str) -> None:
        while name in self._rig and self._pictures[name]:
            try:
                frame = frame_from(self._pictures[name].popleft(), self._rig[name])
            except ValueError as error:  # another encoding or size than announced, or fewer bytes than the size takes
                self._complain(f"picture refused: {error}")
                continue
            if self._leaps(f"{name} frame", frame.stamp_ns):
                continue
            with self._wake:
                try:
                    self._builder.add_frames(SensorFrames((frame.stamp_ns,), {name: (frame,)}))
                except StampOrderError as error:
                    self._complain(str(error))
                self._wake.notify()

    def _leaps(self, what: str, stamp_ns: int) -> bool:
        """Whether a stamp is too far ahead of the car's own; if so, that is told."""
        if self._newest_ns is None or stamp_ns <= self._newest_ns + LEAP_NS:
            return False
        self._complain(f"{what} at {stamp_ns / NS:.1f} s, {(stamp_ns - self._newest_ns) / NS:.1f} s ahead: refused")
        return True

    def wait(self) -> Observation | Lack | None:
        """The newest complete observation not handed out yet, or what one lacks that is overdue; None once closed."""
        with self._wake:
            while self._open:
                found = self._newest() or self._overdue()
                if found is not None:
                    return found
                self._wake.wait(timeout=0.05 if self._since else None)
        return None

    def _overdue(self) -> Lack | None:
        """The newest commanded observation, when it has been waited for too long."""
        if self._session is None:
            return None
        patience = SafetyParams().max_fresh_age_s if self._session.realtime else self._timeout_s
        first = max(self._session.handover_ns, self._last_ns + 1)
        for stamp in sorted((s for s in self._commands if s >= first), reverse=True):
            hopeless = (
                self._first_ns is not None and stamp - HISTORY_NS < self._first_ns
            )  # a restarted node's first 4 s
            if hopeless or monotonic() - self._since[stamp] > patience:
                self._hand_out(stamp)
                return Lack(stamp, self._builder.missing(stamp))
        return None

    def _hand_out(self, stamp: int) -> None:
        self._last_ns = stamp
        self._commands = {s: c for s, c in self._commands.items() if s > stamp}
        self._since = {s: t for s, t in self._since.items() if s > stamp}

    def _newest(self) -> Observation | None:
        if self._session is None:
            return None
        first = self._session.handover_ns - (HEADSTART_NS if self._session.realtime else 0)
        for stamp in sorted((s for s in self._commands if s >= first and s > self._last_ns), reverse=True):
            if self._builder.ready(stamp):
                command = self._commands[stamp]
                self._hand_out(stamp)
                return self._builder.build(stamp, command)
        return None

    def close(self) -> None:
        """Let `wait` return None."""
        with self._wake:
            self._open = False
            self._wake.notify()
