"""Plan deviation: does the planner stand by what it said, 0.4 s later?  (AlpaSim's plan_deviation.)"""

from __future__ import annotations

import numpy as np

from efficientgen.eval.step_log import Step
from efficientgen.perception.types import F64, NS, Trajectory
from efficientgen.planning.tracker import anchor

DECAY_S = 1.0  # waypoints this much further ahead weigh 1/e
STEP_S = 0.1


def planned_path(step: Step) -> Trajectory | None:
    """The step's plan as it would be followed (`tracker.anchor`), in `map`; None without a plan for this stamp that can
    be read (finite numbers, increasing times).
    """
    if step.plan is None or step.plan.stamp_ns != step.stamp_ns:
        return None
    try:
        return anchor(step.plan, step.ego)
    except ValueError:  # the ladder refused it for the same reason; here it is no plan
        return None


def place_at(path: Trajectory, times_s: F64) -> F64:
    """Points (K, 2) m of a trajectory at `times_s` (K,) after its stamp; its last point beyond its end."""
    return np.stack([np.interp(times_s, path.times_s, path.points[:, k]) for k in (0, 1)], 1)


def plan_deviation(steps: list[Step]) -> float | None:
    """How far consecutive plans lie apart, m; None with fewer than two.

    Two plans that follow each other are compared at equal times, every 0.1 s from the later one's stamp to where the
    shorter one ends; the distances are averaged with weights exp(-t / 1 s), t from the later stamp, and then over all
    pairs.  The nearest part of a plan is the one that is driven.
    """
    paths = [path for path in map(planned_path, steps) if path is not None]
    deviations = []
    for before, after in zip(paths, paths[1:], strict=False):
        later = (after.stamp_ns - before.stamp_ns) / NS
        common = min(float(before.times_s[-1]) - later, float(after.times_s[-1]))
        t = np.arange(STEP_S, common + 1e-9, STEP_S)
        if not len(t):
            continue
        apart = place_at(before, t + later) - place_at(after, t)
        deviations.append(float(np.average(np.hypot(apart[:, 0], apart[:, 1]), weights=np.exp(-t / DECAY_S))))
    return float(np.mean(deviations)) if deviations else None
