"""The step log: everything that happened in one drive, and the only input of every closed-loop metric and report.

One `Step` per plan period (0.4 s): what the planner answered, what safety ruled, and the oracle frames of the ticks
that followed.  The same log comes from any world and from the ROS 2 graph.  There is exactly one verdict per step, in
every mode.  In latency mode it may take effect some time after the step's stamp, when the plan that it rules on
arrives; `bridge` is what the car followed until then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from efficientgen.perception.types import (
    NS,
    TICK_NS,
    Command,
    EgoState,
    OracleFrame,
    Plan,
    Route,
    SensorFrames,
    Source,
    Trajectory,
    Verdict,
)


@dataclass(frozen=True)
class Step:
    """One plan period: the decision at `stamp_ns` and the ticks (stamp_ns, stamp_ns + chunk] that it led to."""

    stamp_ns: int
    command: Command
    ego: EgoState  # at stamp_ns
    plan: Plan | None  # to the observation at stamp_ns; None: the planner said nothing in time, or was not asked
    verdict: Verdict
    ticks: tuple[OracleFrame, ...]
    plan_wall_s: float = 0.0  # observation complete -> plan received, wall clock
    frames: SensorFrames | None = None  # pictures of `ticks`; kept only when the drive is to be shown
    asked: bool = True  # False: the planner was still busy with an older observation (latency mode)
    due: bool = True  # False: by design no plan arrives in this period (latency mode)
    effective_ns: int = 0  # the verdict took effect this long after stamp_ns (latency mode)
    bridge: Trajectory | None = None  # followed until then: the last valid plan's, or braking where that was too old

    @property
    def held(self) -> bool:
        """The last plan is followed on while a slow planner is busy, as designed: no fault, and no fallback."""
        return not self.due and self.verdict.source is Source.SHIFTED

    @property
    def fallback(self) -> bool:
        """Safety drove, if only for part of it: a fallback verdict that is not `held`, or a bridge that brakes."""
        braked = self.bridge is not None and self.bridge.stamp_ns == self.stamp_ns
        return braked or (self.verdict.source.fallback and not self.held)


@dataclass(frozen=True)
class StepLog:
    """A whole drive."""

    scenario: str
    town: str
    seed: int
    planner: str
    world: str
    mode: str  # "sync" | "latency" | "realtime"
    transport: str  # "in-process" | "ros2"
    handover_ns: int  # the planner drives from here on; before it the expert does
    route: Route
    start: OracleFrame  # the oracle at stamp 0
    steps: tuple[Step, ...]
    end_reason: str  # "completed" | "timeout" | "collision" | "off_route" | "stopped" | "interrupted"
    deterministic: bool = True
    notes: dict[str, Any] = field(default_factory=dict)  # renderer, host, wall seconds, world chunk latencies, events


def all_ticks(log: StepLog) -> list[OracleFrame]:
    """Every oracle frame of the drive, stamp 0 included, oldest first."""
    return [log.start, *(tick for step in log.steps for tick in step.ticks)]


def scored_ticks(log: StepLog) -> list[OracleFrame]:
    """From the hand-over tick on; the last tick alone when the drive ended before."""
    ticks = all_ticks(log)
    return [tick for tick in ticks if tick.stamp_ns >= log.handover_ns] or ticks[-1:]


def scored_steps(log: StepLog) -> list[Step]:
    """From the hand-over on."""
    return [step for step in log.steps if step.stamp_ns >= log.handover_ns]


def chunk_seconds(log: StepLog) -> float:
    """The plan period of this drive; results are compared only at equal chunk."""
    if len(log.steps) < 2:
        return sum(len(step.ticks) for step in log.steps) * TICK_NS / NS
    return (log.steps[1].stamp_ns - log.steps[0].stamp_ns) / NS
