"""Do the planner's words tell the truth?  Its yes/no answers on critical objects against the oracle.

The truth of a class at a plan stamp is what training would have labelled there (`planning.annotate`): an object counts
within the class's distance in the half plane that the cameras look at.  Pedestrians are rare, so plain accuracy would
praise always saying no; balanced accuracy, the mean of sensitivity and specificity (Brodersen et al. 2010), gives
that 0.5.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.planning.annotate import critical_objects
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.schema import CRITICAL_OBJECTS

NEEDED = 5  # a class with fewer yes or fewer no in truth is not scored


@dataclass(frozen=True)
class Confusion:
    """Counts of one class over plan stamps."""

    hits: int = 0  # there, and said so
    misses: int = 0
    rejections: int = 0  # not there, and said so
    false_alarms: int = 0

    def __add__(self, other: Confusion) -> Confusion:
        return Confusion(
            self.hits + other.hits,
            self.misses + other.misses,
            self.rejections + other.rejections,
            self.false_alarms + other.false_alarms,
        )

    @property
    def asked(self) -> int:
        """All plan stamps counted."""
        return self.hits + self.misses + self.rejections + self.false_alarms

    @property
    def scored(self) -> bool:
        """Whether both answers were right often enough to say something."""
        return min(self.hits + self.misses, self.rejections + self.false_alarms) >= NEEDED

    @property
    def balanced_accuracy(self) -> float:
        """Mean of sensitivity and specificity; NaN where the truth was never yes, or never no."""
        yes, no = self.hits + self.misses, self.rejections + self.false_alarms
        return 0.5 * (self.hits / yes + self.rejections / no) if yes and no else float("nan")


def answers_of(log: StepLog) -> dict[str, Confusion]:
    """One drive's counts per class, over the planner's own plans; empty for a planner that is not asked."""
    frames = {frame.stamp_ns: frame for frame in all_ticks(log)}
    out: dict[str, Confusion] = {}
    for step in log.steps:
        said = {} if step.plan is None else step.plan.sections.get("critical_objects", {})
        if not said or step.stamp_ns < log.handover_ns or step.stamp_ns not in frames:
            continue
        frame = frames[step.stamp_ns]
        truth = critical_objects(frame, expert_plan(log.route, frame).sections)
        for name in CRITICAL_OBJECTS:
            there, told = truth[name] == "yes", said.get(name) == "yes"
            one = Confusion(there and told, there and not told, not (there or told), told and not there)
            out[name] = out.get(name, Confusion()) + one
    return out


def pooled(counts: Iterable[Confusion]) -> Confusion:
    """The sum."""
    return sum(counts, start=Confusion())
