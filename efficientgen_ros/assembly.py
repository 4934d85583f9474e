"""From topics to a `StepLog`: collects what the recorder hears, stamp by stamp, and puts the drive together.

The result is the log that `eval.runner.drive` would have returned for the same scenario and seed, but for the wall
times and the transport.  Nothing here touches ROS beyond decoding messages.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from typing import Any

from sensor_msgs.msg import Image
from trajectory_msgs.msg import MultiDOFJointTrajectory

from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.types import (
    TICK_NS,
    Command,
    EgoState,
    OracleFrame,
    Plan,
    SensorFrames,
    Verdict,
)
from efficientgen_ros import codec
from efficientgen_ros.messages import (
    EgoJoin,
    Ruling,
    camera_from,
    frame_from,
    plan_from,
    stamp_of,
    verdict_from,
    with_scaffold,
)
from efficientgen_ros.session import CommandAt, Ready, Session, Status


@dataclass
class Assembly:
    """What was heard so far.  `add(key, message)` takes any topic of the table; those it does not need are ignored."""

    session: Session | None = None
    status: Status | None = None
    pids: dict[str, int] = field(default_factory=dict)
    commands: dict[int, Command] = field(default_factory=dict)
    egos: dict[int, EgoState] = field(default_factory=dict)
    oracle: dict[int, OracleFrame] = field(default_factory=dict)
    plans: dict[tuple[str, int], Plan] = field(default_factory=dict)  # ("plan" | "expert", stamp); empty: it raised
    scaffolds: dict[tuple[str, int], str] = field(default_factory=dict)
    rulings: dict[int, Ruling] = field(default_factory=dict)
    verdicts: dict[int, Verdict] = field(default_factory=dict)
    images: dict[str, dict[int, Image]] = field(default_factory=dict)
    _join: EgoJoin = field(default_factory=EgoJoin)
    _trajectories: deque[MultiDOFJointTrajectory] = field(default_factory=deque)
    _ruled: deque[Ruling] = field(default_factory=deque)
    _cameras: dict[str, dict[str, Any]] = field(default_factory=dict)

    def add(self, key: str, message: Any) -> None:
        """Take one message of the topic `key`."""
        kind, _, camera = key.partition("/")
        if kind == "session":
            self.session = codec.load(message.data, Session)
        elif kind == "status":
            self.status = codec.load(message.data, Status)
        elif kind == "command":
            told = codec.load(message.data, CommandAt)
            self.commands[told.stamp_ns] = told.command
        elif kind == "oracle":
            frame = codec.load(message.data, OracleFrame)
            self.oracle[frame.stamp_ns] = frame
        elif kind in ("odometry", "acceleration", "steering"):
            ego = self._join.add(message)
            if ego is not None:
                self.egos[ego.stamp_ns] = ego
        elif kind in ("plan", "expert"):
            plan = plan_from(message)
            self.plans[kind, plan.stamp_ns] = plan
        elif kind in ("scaffold", "expert_scaffold"):
            whose = "expert" if kind == "expert_scaffold" else "plan"
            self.scaffolds[whose, codec.data_in(message.data)["stamp_ns"]] = message.data
        elif kind in ("trajectory", "verdict"):
            self._add_verdict(kind, message)
        elif kind in ("camera_info", "mount"):
            self._cameras.setdefault(camera, {})[kind] = message
        elif kind == "image":
            self.images.setdefault(camera, {})[stamp_of(message.header.stamp)] = message

    def add_ready(self, ready: Ready) -> None:
        self.pids[ready.node] = ready.pid

    def _add_verdict(self, kind: str, message: Any) -> None:
        if kind == "trajectory":
            self._trajectories.append(message)
        else:
            self._ruled.append(codec.load(message.data, Ruling))
        while self._trajectories and self._ruled:  # both topics keep their order, one of each per stamp
            ruled = self._ruled.popleft()
            self.rulings[ruled.stamp_ns] = ruled
            self.verdicts[ruled.stamp_ns] = verdict_from(self._trajectories.popleft(), ruled)

    def step(self, stamp_ns: int) -> Step | None:
        """The step at `stamp_ns`, None while parts of it (pictures and the words of a late plan aside) are missing."""
        if self.session is None or stamp_ns not in self.commands or stamp_ns not in self.verdicts:
            return None
        end = stamp_ns + self.session.chunk_ns
        ticks = tuple(self.oracle[s] for s in range(stamp_ns + TICK_NS, end + 1, TICK_NS) if s in self.oracle)
        if stamp_ns not in self.egos or len(ticks) < self.session.chunk_ns // TICK_NS:
            return None
        wall = max((r.plan_wall_s for r in self.rulings.values() if r.plan_ns == stamp_ns), default=0.0)
        return Step(
            stamp_ns=stamp_ns,
            command=self.commands[stamp_ns],
            ego=self.egos[stamp_ns],
            plan=self._plan(stamp_ns),
            verdict=self.verdicts[stamp_ns],
            ticks=ticks,
            plan_wall_s=wall,
            frames=self._pictures(tuple(tick.stamp_ns for tick in ticks)),
        )

    def _whose(self, stamp_ns: int) -> tuple[str, int]:
        """The key of the plan that counts at this stamp."""
        assert self.session is not None
        return ("expert" if self.session.expert_at(stamp_ns) else "plan"), stamp_ns

    def _plan(self, stamp_ns: int) -> Plan | None:
        key = self._whose(stamp_ns)
        plan = self.plans.get(key)
        if plan is None or not len(plan.waypoints):
            return None
        return with_scaffold(plan, self.scaffolds[key]) if key in self.scaffolds else plan

    def _pictures(self, stamps: tuple[int, ...]) -> SensorFrames | None:
        if not self.images:
            return None
        cameras = {}
        for name, held in sorted(self.images.items()):
            camera = camera_from(name, self._cameras[name]["camera_info"], self._cameras[name]["mount"])
            cameras[name] = tuple(frame_from(held[s], camera) for s in stamps if s in held)
        return SensorFrames(stamps, cameras)

    def complete(self) -> bool:
        """Whether the drive is over and every part of every step has been heard, with the state it ended in."""
        if self.session is None or self.status is None or self.status.stamp_ns not in self.egos:
            return False
        stamps = range(0, self.status.stamp_ns, self.session.chunk_ns)
        return all(self.step(stamp) is not None and self._told(stamp) for stamp in stamps)

    def _told(self, stamp: int) -> bool:
        """A judged plan is here, with its words; and its pictures, where pictures are kept."""
        assert self.session is not None
        if self.rulings[stamp].plan_ns == stamp:
            if self._whose(stamp) not in self.plans or self._whose(stamp) not in self.scaffolds:
                return False
        last = stamp + self.session.chunk_ns
        return all(last in held for held in self.images.values())

    def log(self) -> StepLog:
        """The drive as heard: whole after `complete()`, else up to the last whole step and "interrupted".

        Raises:
            ValueError: the drive never started.
        """
        session, status = self.session, self.status
        if session is None or 0 not in self.oracle:
            raise ValueError("the drive never started: the recorder heard no session or no first oracle frame")
        steps: list[Step] = []
        while (step := self.step(len(steps) * session.chunk_ns)) is not None:
            steps.append(step)
        timed_out = [r.stamp_ns for r in self.rulings.values() if r.timed_out]
        events = [
            {"stamp_ns": key[1], "kind": "planner_error", "text": str(codec.data_in(self.scaffolds[key])["text"])}
            for key, plan in sorted(self.plans.items())
            if not len(plan.waypoints) and key in self.scaffolds
        ]
        events += [
            {"stamp_ns": r.stamp_ns, "kind": "refused_plan", "text": r.refused}
            for r in self.rulings.values()
            if r.refused
        ]
        if timed_out:
            text = f"safety ruled {len(timed_out)} times without a plan, first at {min(timed_out) / 1e9:.1f} s"
            events.append({"stamp_ns": min(timed_out), "kind": "no_plan", "text": text})
        return StepLog(
            scenario=session.scenario,
            town=session.town,
            seed=session.seed,
            planner=session.planner,
            world=session.world,
            mode=session.mode,
            transport="ros2",
            handover_ns=session.handover_ns,
            route=session.route,
            start=self.oracle[0],
            steps=tuple(steps),
            end_reason="interrupted" if status is None else status.end_reason,
            deterministic=not session.realtime and not timed_out and status is not None,
            notes={
                **session.notes,
                **({} if status is None else status.notes),
                "pids": dict(self.pids),
                "events": events,
                "deadline_misses": sum(r.deadline_missed for r in self.rulings.values()),
                "timeouts": len(timed_out),
            },
        )


def without_pictures(step: Step) -> Step:
    """`step` as the progress topic carries it."""
    return replace(step, frames=None)
