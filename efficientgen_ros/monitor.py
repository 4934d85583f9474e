"""The starter's ear on a drive: hears finished steps and leads lifecycle nodes to active."""

from __future__ import annotations

from time import monotonic
from types import TracebackType
from typing import Any

import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String
from std_srvs.srv import Trigger

from efficientgen.eval.step_log import Step
from efficientgen_ros import codec
from efficientgen_ros.interfaces import PROCEED, TOPICS, quality

_WAY = (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
SETTLE_S = 0.5  # after a restarted node is discovered, for its services to be as well


class Monitor:
    """A node of its own context in the starting process; use it as a context manager.

    Args:
        domain: the drive's DDS domain.
        lifecycle: names of nodes to configure and activate.
    """

    def __init__(self, domain: int, lifecycle: list[str]) -> None:
        self.refused = ""  # why a lifecycle node cannot take part
        self._steps: list[Step] = []
        self._context = Context()
        rclpy.init(context=self._context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        self._node = rclpy.create_node("bringup", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(self._node)
        progress = TOPICS["progress"]
        self._node.create_subscription(
            String, progress.name, self._on_progress, quality(progress.depth, progress.latched)
        )
        self._proceed: Any = self._node.create_client(Trigger, PROCEED)
        self._to_proceed = False
        self._stages = {name: 0 for name in lifecycle}
        self._clients: dict[str, Any] = {
            name: self._node.create_client(ChangeState, f"/{name}/change_state") for name in lifecycle
        }
        self._calls: dict[str, Any] = {}
        self._former: dict[str, set[bytes]] = {}  # endpoints of earlier lives, until the next is discovered
        self._not_before: dict[str, float] = {}

    def __enter__(self) -> Monitor:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.shutdown(timeout_sec=2.0)
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def spin(self, timeout_s: float) -> tuple[Step, ...]:
        """Handle what is there, waiting up to `timeout_s` for something; the steps that were finished."""
        self._lead()
        self._executor.spin_once(timeout_sec=timeout_s)
        heard = 0
        while len(self._steps) > heard:  # a sync drive may be faster than the caller: take all that is there
            heard = len(self._steps)
            self._executor.spin_once(timeout_sec=0.0)
        steps, self._steps = tuple(self._steps), []
        return steps

    def _on_progress(self, message: String) -> None:
        self._steps.append(codec.load(message.data, Step))

    def proceed(self) -> None:
        """Let a held world go on, as soon as its service is there."""
        self._to_proceed = True

    def lead_again(self, name: str) -> None:
        """A lifecycle node was restarted: lead it to active once more, from when its new process is discovered."""
        self._former[name] = self._endpoints(name)
        self._stages[name] = 0
        self._calls.pop(name, None)

    def _endpoints(self, name: str) -> set[bytes]:
        found = self._node.get_publishers_info_by_topic(f"/{name}/transition_event")
        return {bytes(info.endpoint_gid) for info in found}

    def _here(self, name: str) -> bool:
        """Whether the node that is to be led is there, and not only what is left of its former life."""
        if name in self._former:
            if not self._endpoints(name) - self._former[name]:
                return False
            del self._former[name]
            self._not_before[name] = monotonic() + SETTLE_S
        return monotonic() >= self._not_before.get(name, 0.0) and bool(self._clients[name].service_is_ready())

    def _lead(self) -> None:
        """Let a held world go on; take each lifecycle node one transition further when its last one succeeded."""
        if self._to_proceed and self._proceed.service_is_ready():
            self._to_proceed = False
            self._proceed.call_async(Trigger.Request())
        for name, stage in self._stages.items():
            call = self._calls.get(name)
            if call is not None and call.done():
                del self._calls[name]
                if not call.result().success:
                    self.refused = f"{name} refused to {('configure', 'activate')[stage]}"
                else:
                    self._stages[name] = stage = stage + 1
            if stage < len(_WAY) and name not in self._calls and not self.refused:
                if self._here(name):
                    request = ChangeState.Request(transition=Transition(id=_WAY[stage]))
                    self._calls[name] = self._clients[name].call_async(request)
