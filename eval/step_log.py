"""The step log: everything that happened in one drive, and the only input of every closed-loop metric and report.

One `Step` per plan period (0.4 s): what the planner answered, what safety ruled, and the oracle frames of the ticks
that followed.  The same log comes from any world and from the ROS 2 graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from efficientgen.perception.types import Command, EgoState, OracleFrame, Plan, Route, SensorFrames, Verdict


@dataclass(frozen=True)
class Step:
    """One plan period: the decision at `stamp_ns` and the ticks (stamp_ns, stamp_ns + chunk] that it led to."""

    stamp_ns: int
    command: Command
    ego: EgoState  # at stamp_ns
    plan: Plan | None  # None: the planner said nothing in time
    verdict: Verdict
    ticks: tuple[OracleFrame, ...]
    plan_wall_s: float = 0.0  # observation complete -> plan received, wall clock
    frames: SensorFrames | None = None  # pictures of `ticks`; kept only when the drive is to be shown


@dataclass(frozen=True)
class StepLog:
    """A whole drive."""

    scenario: str
    town: str
    seed: int
    planner: str
    world: str
    mode: str  # "sync" | "realtime"
    transport: str  # "in-process" | "ros2"
    handover_ns: int  # the planner drives from here on; before it the expert does
    route: Route
    start: OracleFrame  # the oracle at stamp 0
    steps: tuple[Step, ...]
    end_reason: str  # "completed" | "timeout" | "collision" | "off_route" | "stopped" | "interrupted"
    deterministic: bool = True
    notes: dict[str, Any] = field(default_factory=dict)  # renderer, host, wall seconds, world chunk latencies, events
