"""CARLA's score, AlpaSim's events and nuPlan's manner of scoring, on drives whose truth is known by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.boxes import first_contact
from efficientgen.eval.driving_score import carla_score, outside_lanes_share
from efficientgen.eval.event_rates import Events, event_rates
from efficientgen.eval.metrics import WrongExpertError, score
from efficientgen.eval.nuplan_score import NuPlanScore, nuplan_score
from efficientgen.eval.step_log import StepLog, scored_ticks
from tests.eval.made import Field, car, made_log, straight
from tests.eval.test_pdms import TwoWay, at, cruise, plan


class Narrowing(Field):
    """Road up to x = 40, nothing beyond."""

    def drivable_depth(self, points: np.ndarray) -> np.ndarray:
        return np.minimum(super().drivable_depth(points), 40.0 - points[:, 0])


def shifted(log: StepLog, y: float) -> StepLog:
    def move(tick):
        return replace(tick, ego=replace(tick.ego, y=tick.ego.y + y))

    steps = (replace(step, ticks=tuple(map(move, step.ticks)), ego=replace(step.ego, y=y)) for step in log.steps)
    return replace(log, start=move(log.start), steps=tuple(steps))


# --- CARLA ---


def test_leaving_the_lanes_costs_its_share_of_the_distance():
    """6 s at 8 m/s from x = 2: the middle of the box, 1.35 m ahead of the axle, is off the road from x = 38.65 on."""
    egos = [tick.ego for tick in scored_ticks(cruise())]
    assert outside_lanes_share(egos, Narrowing(), None) == pytest.approx((50.0 - 38.65) / 48.0, abs=0.02)
    assert outside_lanes_share(egos, Field(), None) == 0.0
    oncoming = [tick.ego for tick in scored_ticks(shifted(cruise(), 2.5))]
    assert outside_lanes_share(oncoming, TwoWay(9.0), None) == 1.0, "the oncoming lane is outside, too"
    assert outside_lanes_share(egos[:1], Narrowing(), None) == 0.0


def test_penalties_multiply_and_success_forgives_nothing():
    egos = [tick.ego for tick in scored_ticks(cruise())]
    contact = first_contact(scored_ticks(cruise(actors=lambda t: (car(30.0),))))
    assert carla_score(1.0, egos, Field(), None, 0, True).driving_score == 100.0
    assert carla_score(0.5, egos, Field(), contact, 2, False).driving_score == pytest.approx(50.0 * 0.6 * 0.49)
    assert carla_score(1.0, egos, Field(), None, 0, True).success
    for args in ((Field(), contact, 0, True), (Field(), None, 1, True), (Field(), None, 0, False),
                 (Narrowing(), None, 0, True)):  # fmt: skip
        assert not carla_score(1.0, egos, *args).success


# --- AlpaSim ---


def events(log: StepLog, town: Field | None = None, expert: StepLog | None = None) -> Events:
    return event_rates(log, town or Field(), expert)


def test_nothing_after_the_first_incident_counts():
    """The road ends at 40 m; the car that stands at 50 m is hit later, and came no nearer than this before."""
    both = cruise(actors=lambda t: (car(50.0),))
    got = events(both, Narrowing())
    assert got.off_road and got.incident and got.incident_at_fault and not got.collision
    left = next(2.0 + 0.8 * k for k in range(60) if 2.0 + 0.8 * k + 3.65 > 40.3)
    assert got.min_distance == pytest.approx(47.7 - left - 3.65)
    hit = events(both)
    assert hit.collision and hit.collision_front and hit.collision_at_fault and not hit.off_road
    assert hit.min_distance == 0.0


def test_being_hit_from_behind_is_an_incident_without_fault():
    log = made_log(straight(), at(2.0, 40.0), lambda t: (car(20.0 + 9.0 * t, speed=9.0),), plan(2.0), seconds=6.0)
    got = events(log)
    assert got.collision_rear and got.incident and not (got.collision_at_fault or got.incident_at_fault)


def test_progress_is_measured_by_the_expert():
    got = events(cruise(4.0), expert=cruise(8.0))
    assert got.progress == pytest.approx(0.5) and got.progress_rel == pytest.approx(0.5)
    late = made_log(straight(), lambda t: (2.0 + 8.0 * max(t - 1.0, 0.0), 8.0), seconds=6.0)
    got = events(late, expert=cruise(8.0))
    assert got.progress == pytest.approx(5 / 6) and got.progress_rel == 0.0, "for a second it stood"
    assert events(cruise(12.0), expert=cruise(8.0)).progress == 1.0
    alone = events(cruise())
    assert alone.progress is None and alone.distance_to_expert is None


def test_distance_to_the_experts_path():
    assert events(shifted(cruise(), 0.8), expert=cruise(8.0)).distance_to_expert == pytest.approx(0.8)
    assert events(cruise(), expert=cruise()).distance_to_expert == pytest.approx(0.0, abs=1e-9)


# --- nuPlan ---


def nuplan(log: StepLog, expert: StepLog | None = None, town: Field | None = None) -> NuPlanScore:
    return nuplan_score(log, expert or cruise(), town or Field())


def test_the_expert_scores_one_and_a_parked_car_nothing():
    assert nuplan(cruise()).score == 1.0
    parked = nuplan(made_log(straight(), lambda t: (30.0, 0.0), waypoints=plan(0.0), seconds=6.0))
    assert parked.making_progress == 0.0 and parked.score == 0.0 and parked.comfort == parked.speed_limit == 1.0


def test_making_progress_is_a_fifth_of_the_experts():
    assert nuplan(cruise(1.61)).making_progress == 1.0 and nuplan(cruise(1.59)).making_progress == 0.0
    got = nuplan(cruise(4.0))
    assert got.progress == pytest.approx(0.5) and got.score == pytest.approx((2.5 + 5 + 4 + 2) / 16)


def test_speeding_costs_by_its_size():
    """The limit of these roads is 9 m/s."""
    assert nuplan(cruise(9.0)).speed_limit == 1.0
    assert nuplan(cruise(9.0 + 1.115)).speed_limit == pytest.approx(0.5)
    assert nuplan(cruise(9.0 + 2.24)).speed_limit == 0.0


def test_time_to_collision_moves_both_cars_on():
    """5 m/s against 8 m/s close in by 2.7 m in 0.9 s."""
    slow = lambda gap: lambda t: (car(2.0 + 3.65 + 2.3 + gap + 8.0 * t, speed=5.0),)  # noqa: E731
    assert nuplan(cruise(actors=slow(2.8))).time_to_collision == 1.0
    assert nuplan(cruise(actors=slow(2.6))).time_to_collision == 0.0
    same = lambda t: (car(2.0 + 3.65 + 2.3 + 1.0 + 8.0 * t, speed=8.0),)  # noqa: E731
    assert nuplan(cruise(actors=same)).time_to_collision == 1.0


def test_collisions_and_the_road_multiply():
    hit = nuplan(cruise(actors=lambda t: (car(30.0),)))
    assert hit.no_collision == 0.0 and hit.score == 0.0
    assert nuplan(cruise(), town=Narrowing()).drivable == 0.0
    wrong = shifted(cruise(), 2.5)
    assert nuplan(wrong, town=TwoWay(9.0)).direction == 0.0


# --- all in one ---


def test_metrics_hold_the_benchmarks_only_beside_an_expert():
    log = cruise()
    alone, beside = score(log, Field()), score(log, Field(), expert=log)
    assert alone.pdms is None and alone.nuplan_score is None and alone.event_progress is None
    assert alone.event_incident is False and alone.carla_driving_score is not None
    assert beside.pdms == pytest.approx(1.0) and beside.epdms == pytest.approx(1.0) and beside.nuplan_score == 1.0
    assert beside.event_progress == 1.0 and beside.pdm_ec == 1.0
    nothing = made_log(straight(), at(8.0), waypoints=lambda t: None, seconds=2.0)
    assert score(nothing, Field(), expert=log).pdms == 0.0
    with pytest.raises(WrongExpertError, match="seed 1"):
        score(log, Field(), expert=replace(log, seed=1))


def test_the_expert_is_nearly_flawless_on_a_real_drive():
    pytest.importorskip("libsumo")
    from efficientgen.eval.sweep import Job, run_job

    m = run_job(Job("maple_right", 0, "expert", benchmarks=True))
    assert m.pdms is not None and m.pdms > 0.97 and m.epdms is not None and m.epdms > 0.97
    assert m.nuplan_score == 1.0 and m.carla_driving_score == 100.0 and m.carla_success and not m.event_incident
