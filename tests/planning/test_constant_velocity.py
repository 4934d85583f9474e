"""The blind baseline keeps speed and heading, whatever it is shown."""

import numpy as np

from efficientgen.perception.types import Command, EgoHistory, EgoState, Observation
from efficientgen.planning.constant_velocity import ConstantVelocity


def test_plan_is_a_straight_line_at_the_present_speed() -> None:
    states = tuple(EgoState(k, 0.0, 0.0, 0.3, 2.0 + k, 0.0, 0.5, 0.1) for k in range(16))
    planner = ConstantVelocity()
    planner.reset(3)
    plan = planner.plan(Observation(15, {}, EgoHistory(states), Command.GO_LEFT))
    assert plan.stamp_ns == 15
    assert plan.times_s.tolist() == [0.5, 1.0, 1.5, 2.0, 2.5, 3.0]
    assert np.allclose(plan.waypoints, np.stack([17.0 * plan.times_s, 0 * plan.times_s], 1))


def test_standing_still_stays_standing() -> None:
    states = tuple(EgoState(k, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0) for k in range(16))
    assert not ConstantVelocity().plan(Observation(15, {}, EgoHistory(states), Command.GO_STRAIGHT)).waypoints.any()
