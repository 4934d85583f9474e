"""The planner alone, on the topics of somebody else's car: rig.yaml in, plans out.

A lifecycle node: configure reads the rig, loads the model and warms it up; activate looks for the rig's topics and
plans on whatever comes.  Types and durability are taken from whoever publishes (raw or compressed pictures, Odometry or
poses), and subscriptions are best effort, which matches reliable publishers too.  Callbacks only store; one worker
feeds the `ForeignFeed` that `efficientgen replay` uses and plans the newest observation, so nothing queues behind a
slow planner.  Stamps of plans are the car's own.
"""

from __future__ import annotations

import threading
import traceback
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy

from efficientgen.eval.runner import frames_needed
from efficientgen.perception.foreign_feed import Asked, ForeignFeed, before_history, cameras_needed
from efficientgen.perception.foreign_messages import picture_of
from efficientgen.perception.rig_file import RigFile, RigFileError, load_rig
from efficientgen.perception.types import Plan, Planner
from efficientgen_ros import messages, viewers
from efficientgen_ros.foreign import Car, wanted_topics
from efficientgen_ros.interfaces import BASE_LINK, TOPICS, message_class, quality
from efficientgen_ros.messages import text
from efficientgen_ros.parameters import declare
from efficientgen_ros.session import STEADY, run
from efficientgen_ros.warm_up import empty_observation

MODEL = ("checkpoint", "decoder", "schema", "device", "dtype", "rollouts", "threads")
OUTPUTS = ("plan", "scaffold", "plan_path", "rollouts", "diagnostics")
INTAKE = 1024  # messages that wait for the worker at most; then the oldest are lost
WARN = 1


class ForeignPlannerNode(LifecycleNode):
    """Reads the pictures, poses and commands that rig.yaml names; publishes plans."""

    def __init__(self) -> None:
        super().__init__("planner")
        self._values = declare(self, "foreign_planner")
        self._planner: Planner | None = None
        self._rig: RigFile | None = None
        self._subscribed: dict[str, Any] = {}
        self._looking: Any = None
        self._worker: threading.Thread | None = None
        self._wake, self._open = threading.Condition(), False
        self._waiting: deque[Callable[[], None]] = deque(maxlen=INTAKE)
        self.exit_code, self.finished = 0, False

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        from efficientgen.planning.load import load_planner  # loads torch

        try:
            self._rig = load_rig(str(self._values["rig"]))
            if self._rig.command.driven_path:
                raise RigFileError("command.from driven_path looks into the future: name a topic or a constant")
            name = str(self._values["planner"])
            given: dict[str, Any] = {key: self._values[key] for key in MODEL}
            self._planner = load_planner(name, **given)
            self._planner.reset(0)
            self._look = frames_needed(self._planner, 0)
            self._needed = cameras_needed(self._planner, self._rig) if self._look else ()
            if self._values["warm_up"]:
                self._planner.plan(empty_observation(self._look))
        except Exception as error:  # whatever a rig or checkpoint is wrong with: say it and stay unconfigured
            self.get_logger().error(f"cannot configure: {type(error).__name__}: {error}")
            return TransitionCallbackReturn.FAILURE
        self._out = {}
        for key in OUTPUTS:
            topic = TOPICS[key]
            profile = quality(topic.depth, topic.latched, topic.lease_s)
            self._out[key] = self.create_lifecycle_publisher(message_class(topic.type), topic.name, profile)
        return TransitionCallbackReturn.SUCCESS

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        assert self._rig is not None
        self._car = Car(self._rig, self._complain)
        self._feed = ForeignFeed(self._rig, self._look, self._needed, self._car.command_at, self._car.rectifier)
        self._waiting.clear()
        self._open = True
        self._worker = threading.Thread(target=self._work, name="planning", daemon=True)
        self._worker.start()
        self._looking = self.create_timer(0.2, self._look_for_topics, clock=STEADY)
        return super().on_activate(state)

    # --- topics ---

    def _look_for_topics(self) -> None:
        """Subscribe to the rig's topics as their publishers appear, each with its publisher's type and durability."""
        assert self._rig is not None
        for topic, (key, name, depth) in wanted_topics(self._rig, self._needed).items():
            offered = [] if topic in self._subscribed else self.get_publishers_info_by_topic(topic)
            if not offered:
                continue
            latched = offered[0].qos_profile.durability == DurabilityPolicy.TRANSIENT_LOCAL
            profile = QoSProfile(
                history=HistoryPolicy.KEEP_LAST,
                depth=depth,
                reliability=ReliabilityPolicy.RELIABLE if latched else ReliabilityPolicy.BEST_EFFORT,
                durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
            )
            try:
                kind = message_class(offered[0].topic_type)
            except ImportError:
                self._subscribed[topic] = None
                self._complain(
                    f"{topic} is a {offered[0].topic_type}, which is not installed: give what it says in rig.yaml"
                )
                continue
            heard = partial(self._heard, key, name)
            self._subscribed[topic] = self.create_subscription(kind, topic, heard, profile)
            self.get_logger().info(f"{topic}: {offered[0].topic_type}, {'latched' if latched else 'best effort'}")

    def _heard(self, key: str, name: str, message: Any) -> None:
        """A message: store what is to be done with it."""
        with self._wake:
            self._waiting.append(partial(self._take, key, name, message))
            self._wake.notify()

    def _take(self, key: str, name: str, message: Any) -> None:
        if key == "odometry":
            sample = self._car.pose(message, self.get_clock().now().nanoseconds)
            if sample is not None:
                self._feed.add_pose(sample)
        elif key == "image":
            stamp = self._car.stamp(message, self.get_clock().now().nanoseconds)
            self._car.frames.setdefault(name, message.header.frame_id)
            self._feed.add_picture(name, stamp, partial(picture_of, message))
        else:
            self._car.add(key, name, message)

    # --- plans ---

    def _work(self) -> None:
        while True:
            with self._wake:
                while self._open and not self._waiting:
                    self._wake.wait(timeout=0.5)
                if not self._open:
                    return
                todo = list(self._waiting)
                self._waiting.clear()
            for act in todo:
                act()
            asked = self._feed.poll()
            self._feed.forget(asked[-1].stamp_ns if asked else 0)
            if asked:
                self._answer(asked[-1])

    def _answer(self, asked: Asked) -> None:
        assert self._planner is not None and self._feed.origin_ns is not None
        stamp = self._feed.origin_ns + asked.stamp_ns
        if asked.observation is None:
            words = "; ".join(f"{kind}: {words}" for kind, words in asked.skipped)
            self._out["diagnostics"].publish(viewers.diagnostics("planner", stamp, WARN, words, {}))
            if not before_history(asked):
                self._say(_no_plan(stamp, words))
            return
        try:
            plan = messages.snap_times(self._planner.plan(asked.observation))
        except Exception as error:  # the car drives on, and the log says why there is no plan
            if not type(error).__module__.startswith("efficientgen"):
                self.get_logger().error(traceback.format_exc())
            plan = _no_plan(stamp, f"{type(error).__name__}: {error}")
        self._say(replace(plan, stamp_ns=stamp))

    def _complain(self, words: str) -> None:
        self.get_logger().warning(words)

    def _say(self, plan: Plan) -> None:
        self._out["plan"].publish(messages.plan_message(plan))
        self._out["scaffold"].publish(text(messages.scaffold_json(plan)))
        self._out["plan_path"].publish(
            viewers.path_message(plan.stamp_ns, BASE_LINK, plan.waypoints, plan.times_s)
        )  # fmt: skip
        self._out["rollouts"].publish(viewers.rollout_markers(plan))
        self._out["diagnostics"].publish(viewers.plan_diagnostics(plan))

    # --- ends ---

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        self.close()
        if self._looking is not None:
            self.destroy_timer(self._looking)
        for subscription in filter(None, self._subscribed.values()):
            self.destroy_subscription(subscription)
        self._subscribed.clear()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        for publisher in self._out.values():
            self.destroy_publisher(publisher)
        self._planner = None
        return TransitionCallbackReturn.SUCCESS

    def close(self) -> None:
        """Stop the worker; a plan in progress is finished first."""
        with self._wake:
            self._open = False
            self._wake.notify()
        if self._worker is not None:
            self._worker.join(timeout=3.0)

    def start_alone(self) -> None:
        """Configure and activate without anybody leading; a failure ends the process."""
        if self._values["autostart"]:
            done = self.trigger_configure() == TransitionCallbackReturn.SUCCESS
            if not done or self.trigger_activate() != TransitionCallbackReturn.SUCCESS:
                self.finished, self.exit_code = True, 1


def _no_plan(stamp_ns: int, why: str) -> Plan:
    return Plan(stamp_ns, np.zeros((0, 2)), np.zeros(0), text=why)


def _make() -> ForeignPlannerNode:
    node = ForeignPlannerNode()
    node.start_alone()
    return node


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.foreign_planner_node`."""
    run(_make, args)


if __name__ == "__main__":
    main()
