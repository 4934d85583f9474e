"""Safety: exactly one verdict per plan stamp, in time, whatever the planner does.

A stamp is due when its command arrives (the world's last word on a chunk).  In sync mode safety then waits for that
stamp's plan, but only while the planner is alive (DDS liveliness) and within `sync_timeout_s`, which halves with every
plan in a row that did not come.  In real time it rules at once with the newest plan there is; a plan takes effect at
the first stamp after its arrival, shifted by its age, and counts as late when it is not the previous stamp's.

A plan in another frame, older than one received before, or far ahead of the drive is refused as it arrives, so that it
cannot hide the next good one; the next verdict that is not nominal tells why.
"""

from __future__ import annotations

from dataclasses import replace
from time import monotonic
from typing import Any

from rclpy.event_handler import SubscriptionEventCallbacks
from rclpy.node import Node
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory

from efficientgen.perception.types import CHUNK_NS, NS, EgoState, Plan, Source, Verdict
from efficientgen.planning.safety import Reason, SafetyState, judge
from efficientgen_ros import codec
from efficientgen_ros.interfaces import BASE_LINK
from efficientgen_ros.messages import EgoJoin, plan_from, ruling, text, trajectory_message
from efficientgen_ros.parameters import declare
from efficientgen_ros.session import STEADY, CommandAt, Session, Wiring, participants, run
from efficientgen_ros.viewers import diagnostics

SHORTEST_WAIT_S = 1.0
AHEAD_NS = 2 * CHUNK_NS  # a planner may have heard of a stamp before safety has
LEVELS = {Source.SHIFTED: 1, Source.BRAKE: 2, Source.STOP: 2}  # WARN, ERROR


class SafetyNode(Node):
    """Reads plans, ego states and commands; publishes trajectory and verdict."""

    def __init__(self) -> None:
        super().__init__("safety")
        planner = str(declare(self, "safety")["planner"])
        self._session: Session | None = None
        self._state = SafetyState()
        self._join = EgoJoin()
        self._egos: dict[int, EgoState] = {}
        self._expert: dict[int, Plan] = {}
        self._newest: Plan | None = None  # of the planner
        self._refused = ""  # why the last plan was not accepted, since the last verdict
        self._told_ns = 0  # newest stamp of a command
        self._due: list[tuple[int, float]] = []  # stamps to rule on, and since when (wall)
        self._asked: dict[int, float] = {}  # stamp -> when its observation was complete (wall)
        self._plan_wall_s = 0.0
        self._by_expert = True
        self._alive = True
        self._missed_in_a_row = 0
        self._wiring = Wiring(self, "safety", participants(planner))
        self._trajectory = self._wiring.publisher("trajectory")
        self._verdict = self._wiring.publisher("verdict")
        self._diagnostics = self._wiring.publisher("diagnostics")
        self._wiring.subscribe("session", self._on_session)
        self._wiring.subscribe("command", self._on_command)
        self._wiring.subscribe("expert", self._on_expert)
        watch = SubscriptionEventCallbacks(liveliness=self._on_liveliness)
        self._wiring.subscribe("plan", self._on_plan, event_callbacks=watch)
        for key in ("odometry", "acceleration", "steering"):
            self._wiring.subscribe(key, self._on_ego)
        self.create_timer(0.05, self._rule, clock=STEADY)
        self._wiring.announce_when_matched()

    def _on_session(self, message: String) -> None:
        self._session = codec.load(message.data, Session)

    def _on_command(self, message: String) -> None:
        stamp, now = codec.load(message.data, CommandAt).stamp_ns, monotonic()
        self._asked[stamp] = now
        self._told_ns = max(self._told_ns, stamp)
        self._due.append((stamp, now))
        self._rule()

    def _on_expert(self, message: MultiDOFJointTrajectory) -> None:
        plan = plan_from(message)
        self._expert[plan.stamp_ns] = plan
        self._rule()

    def _on_plan(self, message: MultiDOFJointTrajectory) -> None:
        plan, frame = plan_from(message), message.header.frame_id
        if frame != BASE_LINK:
            self._refused = f"{Reason.WRONG_FRAME.value}: '{frame}' where '{BASE_LINK}' is expected"
        elif plan.stamp_ns > self._told_ns + AHEAD_NS:
            self._refused = f"{Reason.FUTURE.value}, {(plan.stamp_ns - self._told_ns) / NS:.2f} s ahead"
        elif self._newest is not None and plan.stamp_ns <= self._newest.stamp_ns:
            self._refused = f"{Reason.STALE.value}, {(self._told_ns - plan.stamp_ns) / NS:.2f} s old"
        else:
            self._newest = plan
            self._plan_wall_s = monotonic() - self._asked.get(plan.stamp_ns, monotonic())
        self._missed_in_a_row = 0  # it lives
        self._rule()

    def _on_ego(self, message: Any) -> None:
        ego = self._join.add(message)
        if ego is not None:
            self._egos[ego.stamp_ns] = ego
            self._rule()

    def _on_liveliness(self, event: Any) -> None:
        if event.alive_count == 0 and self._alive:
            self.get_logger().error("the planner fell silent: its process is dead or stopped")
        self._alive = event.alive_count > 0

    def _rule(self) -> None:
        """Rule on every due stamp that can be ruled on."""
        while self._session and self._due and self._due[0][0] in self._egos:
            stamp, since = self._due[0]
            expert = self._session.expert_at(stamp)
            plan = self._expert.get(stamp) if expert else self._newest
            fresh = plan is not None and plan.stamp_ns == stamp
            waits = not self._session.realtime and not self._refused and self._worth_waiting(since)
            if not fresh and (expert or waits):
                return
            self._due.pop(0)
            if self._by_expert and not expert:  # the planner's answer to a stamp that the expert drove is new
                self._state = replace(self._state, seen_ns=-1)
            self._by_expert = expert
            self._publish(stamp, plan, fresh, expert)

    def _worth_waiting(self, since: float) -> bool:
        timeout = float(self.get_parameter("sync_timeout_s").value)
        patience = max(timeout / 2**self._missed_in_a_row, min(timeout, SHORTEST_WAIT_S))
        return self._alive and monotonic() - since < patience

    def _publish(self, stamp: int, plan: Plan | None, fresh: bool, expert: bool) -> None:
        session = self._session
        assert session is not None
        ego = self._egos[stamp]
        answered = plan if plan is not None and len(plan.waypoints) else None  # an empty plan: the planner raised
        by_expert = stamp < session.handover_ns
        self._state, verdict = judge(self._state, answered, ego, stamp, expert=by_expert, refused=self._refused)
        refused, self._refused = self._refused, ""
        timed_out = not session.realtime and not fresh
        late = session.realtime and not expert and (plan is None or plan.stamp_ns < stamp - session.chunk_ns)
        self._missed_in_a_row += timed_out
        self._trajectory.publish(trajectory_message(verdict.trajectory))
        facts = {
            "plan_ns": -1 if plan is None else plan.stamp_ns,
            "plan_wall_s": 0.0 if expert else self._plan_wall_s,
            "deadline_missed": late,
            "timed_out": timed_out,
            "refused": refused,
        }
        self._verdict.publish(text(codec.dump(ruling(verdict, **facts))))
        self._report(verdict, refused)
        for past in (self._egos, self._expert, self._asked):
            for old in [key for key in past if key < stamp - 8 * session.chunk_ns]:
                del past[old]

    def _report(self, verdict: Verdict, refused: str) -> None:
        level = LEVELS.get(verdict.source, int(bool(refused)))
        if level and not self._alive:
            level = 3  # STALE: the planner says nothing any more
        figures = {"source": verdict.source.value, "plan_age_s": verdict.plan_age_s, "planner_alive": self._alive}
        self._diagnostics.publish(
            diagnostics("safety", verdict.stamp_ns, level, verdict.reason or refused or "ok", figures)
        )


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.safety_node`."""
    run(SafetyNode, args)


if __name__ == "__main__":
    main()
