"""What all nodes share: wiring from the topic table, the start handshake, the description of the drive, and `main`.

Start: every node says READY once each of its publishers is matched with every reader the drive cannot do without; the
world starts the clock when all nodes have said so.  End: the world latches a final status, the recorder writes the log
and leaves, and whoever started the nodes stops the rest.  A node whose starter vanishes leaves by itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import rclpy
from rclpy.clock import Clock, ClockType
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import String

from efficientgen.perception.types import CHUNK_NS, Command, Route
from efficientgen_ros import codec
from efficientgen_ros.environment import PARENT_VARIABLE
from efficientgen_ros.interfaces import CAMERAS, READY, TOPICS, Topic, message_class, quality
from efficientgen_ros.parameters import ParameterError

HEADSTART_NS = 3 * CHUNK_NS  # real time: the planner plans so long before the hand-over, which waits for it
STEADY = Clock(clock_type=ClockType.STEADY_TIME)


@dataclass(frozen=True)
class Session:
    """The drive as the world announces it: latched JSON on `/simulation/session`."""

    scenario: str
    town: str
    seed: int
    planner: str
    world: str
    mode: str
    handover_ns: int
    chunk_ns: int
    route: Route
    notes: dict[str, Any]
    cameras: tuple[str, ...] = CAMERAS  # that the world draws

    @property
    def realtime(self) -> bool:
        return self.mode == "realtime"

    def expert_at(self, stamp_ns: int) -> bool:
        """Whether the expert's plan is the one to judge at this stamp."""
        return stamp_ns < self.handover_ns or self.planner == "expert"


@dataclass(frozen=True)
class CommandAt:
    """Route command for the observation at one plan stamp: JSON on the command topic, the last message of a chunk."""

    stamp_ns: int
    command: Command


@dataclass(frozen=True)
class Ready:
    """A node's word that nothing it says can be lost from now on: latched JSON on `READY`."""

    node: str
    pid: int


@dataclass(frozen=True)
class Status:
    """How the drive ended: latched JSON on `/simulation/status`."""

    end_reason: str
    stamp_ns: int
    deterministic: bool
    notes: dict[str, Any]


BACKLOG = 1000  # messages that wait for a reader nobody waits for: the recorder, while a sync drive runs ahead of it


class Wiring:
    """Publishers and subscriptions of one node, by topic key.

    Args:
        node: the node that owns them.
        name: the node's name in the topic table.
        present: nodes that take part; readers that do not are not waited for.
        optional: wait for `Topic.optional` readers as well.
    """

    def __init__(self, node: Node, name: str, present: tuple[str, ...], optional: bool = False) -> None:
        self.node, self.name, self.present, self.optional = node, name, present, optional
        self.publishers: dict[str, Publisher[Any]] = {}
        self._subscriptions: list[Any] = []
        self._ready = node.create_publisher(String, READY, quality(1, latched=True))
        self._timer: Any = None

    def publisher(self, key: str) -> Publisher[Any]:
        """A publisher for the topic `key`; a lifecycle publisher on a lifecycle node."""
        topic = TOPICS[key]
        create = getattr(self.node, "create_lifecycle_publisher", self.node.create_publisher)
        depth = topic.depth if topic.latched or key.startswith("image/") else max(topic.depth, BACKLOG)
        created = create(message_class(topic.type), topic.name, quality(depth, topic.latched, topic.lease_s))
        self.publishers[key] = created
        return created

    def subscribe(
        self, key: str, callback: Callable[[Any], None], raw: bool = False, depth: int = 0, **options: Any
    ) -> Any:
        """A subscription to the topic `key`, of `depth` if that is more; `raw` hands the callback CDR bytes."""
        topic = TOPICS[key]
        profile = quality(topic.depth if topic.latched else max(topic.depth, depth), topic.latched, topic.lease_s)
        kind = message_class(topic.type)
        created = self.node.create_subscription(kind, topic.name, callback, profile, raw=raw, **options)
        self._subscriptions.append(created)
        return created

    def unsubscribe(self) -> None:
        """Close all subscriptions made here."""
        while self._subscriptions:
            self.node.destroy_subscription(self._subscriptions.pop())

    def unpublish(self) -> None:
        """Close all publishers made here."""
        for publisher in self.publishers.values():
            self.node.destroy_publisher(publisher)
        self.publishers.clear()

    def subscribe_ready(self, callback: Callable[[Ready], None]) -> None:
        """Hear every node's READY, also those said before."""
        self.node.create_subscription(
            String, READY, lambda message: callback(codec.load(message.data, Ready)), quality(20, latched=True)
        )

    def when_all_ready(self, start: Callable[[], None], patience_s: float, give_up: Callable[[str], None]) -> None:
        """Call `start` once every participant has said READY, or `give_up` with the absent ones' names."""
        heard: set[str] = set()

        def listen(ready: Ready) -> None:
            heard.add(ready.node)
            if not timer.is_canceled() and heard >= set(self.present):
                timer.cancel()
                start()

        def look() -> None:
            timer.cancel()
            give_up(", ".join(sorted(set(self.present) - heard)))

        timer = self.node.create_timer(patience_s, look, clock=STEADY)
        self.subscribe_ready(listen)

    def missing(self) -> tuple[str, ...]:
        """Readers not matched yet, as `topic <- node`; empty when nothing this node says can be lost."""
        return tuple(
            f"{TOPICS[key].name} <- {', '.join(absent)}"
            for key, publisher in self.publishers.items()
            if (absent := self._absent(TOPICS[key], publisher))
        )

    def announce_when_matched(self) -> None:
        """Say READY as soon as `missing` is empty."""

        def look() -> None:
            if not self.missing():
                self._timer.cancel()
                self._ready.publish(String(data=codec.dump(Ready(self.name, os.getpid()))))

        self._timer = self.node.create_timer(0.05, look, clock=STEADY)

    def _absent(self, topic: Topic, publisher: Publisher[Any]) -> tuple[str, ...]:
        needed = [r for r in (*topic.readers, *(topic.optional if self.optional else ())) if r in self.present]
        known = [info.node_name for info in self.node.get_subscriptions_info_by_topic(topic.name)]
        absent = tuple(name for name in needed if name not in known)
        return absent or (() if publisher.get_subscription_count() >= len(known) else ("a reader still matching",))


def participants(planner: str) -> tuple[str, ...]:
    """The nodes of a drive; the expert needs no planner node, for the world publishes its plans."""
    nodes = ("world", "planner", "vehicle", "safety", "recorder")
    return tuple(name for name in nodes if name != "planner" or planner != "expert")


def run(make_node: Callable[[], Any], args: list[str] | None = None) -> None:
    """Spin one node until it is `finished` or told to stop; exits with its `exit_code`.

    The node may have `finished: bool`, `exit_code: int` and `close()`.
    """
    exit_code = 0
    try:
        with rclpy.init(args=args):
            node = make_node()
            executor = SingleThreadedExecutor()
            executor.add_node(node)
            _leave_with_parent(node)
            try:
                while rclpy.ok() and not getattr(node, "finished", False):
                    executor.spin_once(timeout_sec=0.5)
            except (KeyboardInterrupt, ExternalShutdownException):
                pass
            except RuntimeError:  # a signal that comes while rclpy's C++ side takes a message ends in one
                if rclpy.ok():
                    raise
            finally:
                close = getattr(node, "close", None)
                if close is not None:
                    close()
                exit_code = getattr(node, "exit_code", 0)
                executor.shutdown(timeout_sec=2.0)
                node.destroy_node()
    except ParameterError as error:
        print(f"error: {error}", file=sys.stderr)
        exit_code = 2
    except (ValueError, LookupError, FileNotFoundError, RuntimeError) as error:
        if not type(error).__module__.startswith("efficientgen"):  # ours are named for what the user did wrong
            raise
        print(f"error: {type(error).__name__}: {error}", file=sys.stderr)
        exit_code = 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    sys.exit(exit_code)


def _leave_with_parent(node: Node) -> None:
    parent = int(os.environ.get(PARENT_VARIABLE, "0"))
    if not parent:
        return

    def look() -> None:
        if os.getppid() != parent:
            raise ExternalShutdownException

    node.create_timer(1.0, look, clock=STEADY)
