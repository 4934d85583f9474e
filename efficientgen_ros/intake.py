"""From topics to observations: joins what the planner hears and hands out the newest complete observation.

Callbacks add, one worker thread waits; older observations are dropped, never queued.  Topics may overtake each other:
pictures wait for their camera's description, everything waits for the session.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import Any

from sensor_msgs.msg import CameraInfo, Image

from efficientgen.eval.runner import FRAME_GAP_NS
from efficientgen.perception.observation import ObservationBuilder
from efficientgen.perception.rig import Camera
from efficientgen.perception.types import Command, Observation, SensorFrames
from efficientgen_ros.interfaces import CAMERAS
from efficientgen_ros.messages import EgoJoin, camera_from, frame_from
from efficientgen_ros.session import HEADSTART_NS, CommandAt, Session


class Intake:
    """The planner's inputs.

    Args:
        look: frames per camera that the planner sees; 0 for a planner without eyes.
    """

    def __init__(self, look: int) -> None:
        self._look = look
        self._builder = ObservationBuilder(look, FRAME_GAP_NS, CAMERAS if look else ())
        self._wake, self._open = threading.Condition(), True
        self._session: Session | None = None
        self._join, self._commands, self._last_ns = EgoJoin(), dict[int, Command](), -1
        self._told: dict[str, dict[str, Any]] = {name: {} for name in CAMERAS}
        self._rig: dict[str, Camera] = {}
        self._pictures: dict[str, deque[Image]] = {name: deque() for name in CAMERAS}

    def add_session(self, session: Session) -> None:
        with self._wake:
            self._session = session
            self._wake.notify()

    def add_command(self, told: CommandAt) -> None:
        with self._wake:
            self._commands[told.stamp_ns] = told.command
            self._wake.notify()

    def add_ego(self, message: Any) -> None:
        """One of the three messages of an ego state."""
        ego = self._join.add(message)
        if ego is not None:
            with self._wake:
                self._builder.add_state(ego)
                self._wake.notify()

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
            frame = frame_from(self._pictures[name].popleft(), self._rig[name])
            with self._wake:
                self._builder.add_frames(SensorFrames((frame.stamp_ns,), {name: (frame,)}))
                self._wake.notify()

    def wait(self) -> Observation | None:
        """The newest complete observation not handed out yet; blocks until there is one, None once closed."""
        with self._wake:
            while self._open:
                observation = self._newest()
                if observation is not None:
                    return observation
                self._wake.wait()
        return None

    def _newest(self) -> Observation | None:
        if self._session is None:
            return None
        first = self._session.handover_ns - (HEADSTART_NS if self._session.realtime else 0)
        for stamp in sorted((s for s in self._commands if s >= first and s > self._last_ns), reverse=True):
            if self._builder.ready(stamp):
                self._last_ns, command = stamp, self._commands[stamp]
                self._commands = {s: c for s, c in self._commands.items() if s > stamp}
                return self._builder.build(stamp, command)
        return None

    def close(self) -> None:
        """Let `wait` return None."""
        with self._wake:
            self._open = False
            self._wake.notify()
