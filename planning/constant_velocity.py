"""The blind baseline: keep the present speed and heading.  What a planner must beat to have seen anything."""

from __future__ import annotations

import numpy as np

from efficientgen.perception.types import DecodeStats, Observation, Plan

TIMES_S = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


class ConstantVelocity:
    """A `Planner` that drives straight on at the speed of the last ego state."""

    name = "constant-velocity"
    frames_per_camera = 0  # it does not look

    def reset(self, seed: int) -> None:
        """Nothing to reset: a plan depends on its observation alone."""

    def plan(self, observation: Observation) -> Plan:
        """Waypoints (6, 2) m straight ahead at 0.5 .. 3.0 s."""
        times = np.array(TIMES_S)
        ahead = observation.history.states[-1].speed * times
        return Plan(
            stamp_ns=observation.stamp_ns,
            waypoints=np.stack([ahead, np.zeros_like(ahead)], 1),
            times_s=times,
            stats=DecodeStats(decoder="rule", engine="numpy"),
        )
