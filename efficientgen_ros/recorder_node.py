"""The recorder: every topic into an MCAP bag, and the drive's `StepLog` into `record_dir/log`.

It subscribes raw, so a message is written as the bytes that crossed the wire, and decodes only what the log needs.
When the world has said how the drive ended and every step is whole, it writes and leaves; told to stop earlier, it
writes what it has, and the log says "interrupted".
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from time import monotonic
from typing import Any

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from efficientgen.eval.store import save
from efficientgen_ros import codec
from efficientgen_ros.assembly import Assembly, without_pictures
from efficientgen_ros.bag import Bag, channels
from efficientgen_ros.interfaces import TOPICS, message_class
from efficientgen_ros.live import Live
from efficientgen_ros.messages import optical_frame, stamp_of, text
from efficientgen_ros.parameters import ParameterError, declare
from efficientgen_ros.session import BACKLOG, STEADY, Wiring, participants, run
from efficientgen_ros.transforms import TF, TF_STATIC, Transform, from_mount, from_odometry, tf_bytes

LOG_DIRECTORY, BAG_NAME = "log", "drive.mcap"
GRACE_S = 5.0  # wall time for the last messages after the drive's end
_UNREAD = ("actors", "route", "plan_path", "rollouts", "diagnostics")  # for viewers: into the bag, not into the log


class RecorderNode(Node):
    """Reads everything, publishes progress."""

    def __init__(self) -> None:
        super().__init__("recorder")
        values = declare(self, "recorder")
        if not values["record_dir"]:
            raise ParameterError("parameter 'record_dir' is needed: the directory for the bag and the step log")
        self.finished, self.exit_code = False, 0
        self._directory = Path(str(values["record_dir"]))
        self._assembly = Assembly()
        self._now_ns, self._next_ns, self._over_since = 0, 0, 0.0
        self._written = False
        self._mounts: dict[str, tuple[Transform, Transform]] = {}
        keep = bool(values["keep_frames"])
        topics = {k: t for k, t in TOPICS.items() if k != "progress" and (keep or not k.startswith("image/"))}
        described = channels(topics.values())
        self._sinks: list[Bag | Live] = []
        if values["bag"]:
            self._sinks.append(Bag(self._directory / BAG_NAME, described))
        if values["live_port"]:
            self._sinks.append(Live(int(values["live_port"]), described))
        self._wiring = Wiring(self, "recorder", participants(str(values["planner"])))
        self._progress = self._wiring.publisher("progress")
        self._wiring.subscribe_ready(self._assembly.add_ready)
        for key in topics:
            backlog = 0 if key.startswith("image/") else BACKLOG
            self._wiring.subscribe(key, partial(self._on_raw, key), raw=True, depth=backlog)
        self.create_timer(0.1, self._look, clock=STEADY)
        self._wiring.announce_when_matched()

    def _on_raw(self, key: str, cdr: bytes) -> None:
        topic = TOPICS[key]
        if key not in _UNREAD:
            message: Any = deserialize_message(cdr, message_class(topic.type))
            if key == "clock":
                self._now_ns = stamp_of(message.clock)
            self._assembly.add(key, message)
        if self._sinks:
            self._record(key, topic.name, cdr, None if key in _UNREAD else message)
        if key in ("oracle", "verdict"):  # what completes a step
            self._look()

    def _record(self, key: str, topic: str, cdr: bytes, message: Any) -> None:
        """Write one message, and the transforms that follow from it, into the bag and to those who look.

        The vehicle tells a chunk's states at once; in the bag each lies at its own stamp, as if it had driven live.
        """
        stamp_ns = self._now_ns
        if key in ("odometry", "acceleration", "steering"):
            stamp_ns = max(stamp_ns, stamp_of(message.header.stamp))
        self._write(topic, cdr, stamp_ns)
        if key == "odometry":
            self._write(TF, tf_bytes([from_odometry(message)], stamp_of(message.header.stamp)), stamp_ns)
        elif key.startswith("mount/"):
            self._mounts[key] = from_mount(message, optical_frame(key.partition("/")[2]))
            static = [transform for pair in self._mounts.values() for transform in pair]
            self._write(TF_STATIC, tf_bytes(static, 0), stamp_ns)

    def _write(self, topic: str, cdr: bytes, stamp_ns: int) -> None:
        for sink in self._sinks:
            sink.write(topic, cdr, stamp_ns)

    def _look(self) -> None:
        """Report steps that became whole; leave when the drive is over and whole."""
        while (step := self._assembly.step(self._next_ns)) is not None:
            self._progress.publish(text(codec.dump(without_pictures(step))))
            assert self._assembly.session is not None
            self._next_ns += self._assembly.session.chunk_ns
        if self._assembly.status is None:
            return
        self._over_since = self._over_since or monotonic()
        late = monotonic() - self._over_since > GRACE_S
        if late or self._assembly.complete():
            if late:
                self.get_logger().warning("some messages of the drive never came; the log holds the whole steps")
            self.finished = True

    def close(self) -> None:
        """Write the log and finish the bag; also when interrupted."""
        if self._written:
            return
        self._written = True
        for sink in self._sinks:
            sink.close()
        if self._assembly.session is None or 0 not in self._assembly.oracle:
            self.exit_code = 0 if self.finished else 1
            return
        save(self._assembly.log(), self._directory / LOG_DIRECTORY)


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.recorder_node`."""
    run(RecorderNode, args)


if __name__ == "__main__":
    main()
