"""HD-Score on plans whose fate is known by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.hd_score import HDScore, hd_score
from efficientgen.eval.step_log import StepLog
from tests.eval.made import Field, ahead, car, made_log, straight


def at_8(t: float) -> tuple[float, float]:
    return 2.0 + 8.0 * t, 8.0


def scored(log: StepLog, town: Field | None = None, completion: float = 1.0) -> HDScore:
    got = hd_score(log, town or Field(), completion)
    assert got is not None
    return got


def test_a_sound_plan_on_an_empty_road_scores_one():
    got = scored(made_log(straight(), at_8))
    assert got == HDScore(1.0, 1.0, 1.0, 1.0, 1.0, plans=30)


def test_it_is_multiplied_by_route_completion():
    assert scored(made_log(straight(), at_8), completion=0.25).score == 0.25


def test_a_plan_into_a_standing_car_is_a_collision():
    """At 8 m/s the plan of t covers 24 m in 3 s.  The bumper is 3.65 m ahead of the axle, a car at x = 100 begins at
    97.7: plans from where the axle is within 3 s of 94.05 m collide, those from farther do not."""
    log = made_log(straight(), at_8, lambda t: (car(100.0),), seconds=11.2)
    first = next(k for k, step in enumerate(log.steps) if step.ego.x + 24.0 >= 94.05)
    assert scored(log).no_collision == pytest.approx(first / len(log.steps))
    # TTC looks a second further along the velocity, 8 m.
    sooner = next(k for k, step in enumerate(log.steps) if step.ego.x + 24.0 + 8.0 >= 94.05)
    assert scored(log).time_to_collision == pytest.approx(sooner / len(log.steps))
    assert scored(log).score == pytest.approx((7 * sooner + 2 * (first - sooner)) / 7 / len(log.steps))


def test_where_actors_will_be_counts_not_where_they_are():
    """A car 20 m ahead that drives off at 8 m/s is never touched; one that stands is."""
    moving = made_log(straight(), at_8, lambda t: (car(2.0 + 20.0 + 8.0 * t, speed=8.0),))
    assert scored(moving).no_collision == 1.0 and scored(moving).time_to_collision == 1.0
    braking = made_log(straight(), at_8, lambda t: (car(22.0 + 8.0 * min(t, 4.0), speed=8.0 * (t < 4.0)),))
    assert scored(braking).no_collision < 1.0


def test_beyond_the_end_of_the_log_actors_go_straight_on():
    """The only plan ends 2.6 s after the last tick; the oncoming car meets it there."""
    log = made_log(straight(), at_8, lambda t: (car(54.0 - 8.0 * t, speed=8.0, yaw=np.pi),), seconds=0.4)
    assert scored(log).no_collision == 0.0
    stands = made_log(straight(), at_8, lambda t: (car(54.0, speed=0.0, yaw=np.pi),), seconds=0.4)
    assert scored(stands).no_collision == 1.0


def test_being_hit_from_behind_or_while_standing_is_not_the_plans_fault():
    behind = made_log(straight(), lambda t: (50.0 + 2 * t, 2.0), lambda t: (car(30.0 + 9.0 * t, speed=9.0),),
                      lambda t: ahead(2.0), seconds=2.0)  # fmt: skip
    assert scored(behind).no_collision == 1.0
    into = made_log(straight(), lambda t: (50.0, 0.0), lambda t: (car(70.0 - 9.0 * t, speed=9.0, yaw=np.pi),),
                    lambda t: ahead(0.0), seconds=2.0)  # fmt: skip
    assert scored(into).no_collision == 1.0
    meets = made_log(straight(), lambda t: (50.0 + 2 * t, 2.0), lambda t: (car(70.0 - 9.0 * t, speed=9.0, yaw=np.pi),),
                     lambda t: ahead(2.0), seconds=2.0)  # fmt: skip
    assert scored(meets).no_collision == 0.0


def test_drivable_area_by_the_boxs_corners():
    """Half the width is 0.925 m and 0.3 m are allowed: a road of 0.63 m to each side will do, 0.62 m will not."""
    log = made_log(straight(), at_8)
    assert scored(log, Field(0.63)).drivable == 1.0 and scored(log, Field(0.62)).drivable == 0.0
    assert scored(log, Field(0.62)).score == 0.0


def test_beyond_the_end_of_the_route_nothing_is_judged():
    log = made_log(straight(60.0), at_8, lambda t: (car(75.0),), seconds=4.0)  # the bumper of x = 60 is at 63.65
    assert scored(log).no_collision == 1.0


def test_comfort_of_the_plan():
    swerve = np.stack([8.0 * 0.25 * np.arange(1, 13), 0.9 * np.sin(np.arange(1, 13) * 1.5)], 1)
    got = scored(made_log(straight(), at_8, waypoints=lambda t: swerve), Field(9.0))
    assert got.comfort == 0.0 and got.score == pytest.approx(5 / 7)
    dash = np.stack([8.0 * 0.25 * np.arange(1, 13) + 2.0 * (0.25 * np.arange(1, 13)) ** 2, np.zeros(12)], 1)
    assert scored(made_log(straight(), at_8, waypoints=lambda t: dash)).comfort == 0.0, "4 m/s^2"


def test_missing_and_unreadable_plans_score_nothing_and_busy_steps_do_not_count():
    half = made_log(straight(), at_8, waypoints=lambda t: ahead(8.0) if t >= 6.0 else None)
    assert scored(half).score == 0.5 and scored(half).plans == 30
    nan = made_log(straight(), at_8, waypoints=lambda t: np.full((12, 2), np.nan))
    assert scored(nan) == HDScore(0.0, 0.0, 0.0, 0.0, 0.0, plans=30)
    busy = replace(half, steps=tuple(replace(step, asked=step.plan is not None) for step in half.steps))
    assert scored(busy).score == 1.0 and scored(busy).plans == 15
    nobody = replace(half, steps=tuple(replace(step, asked=False) for step in half.steps))
    assert hd_score(nobody, Field(), 1.0) is None
