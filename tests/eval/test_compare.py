"""Comparing planners: pairs, groups, and what the expert did."""

from __future__ import annotations

from dataclasses import replace

import pytest

from efficientgen.eval.compare import NothingInCommonError, aggregate_by, compare, with_expert
from efficientgen.eval.metrics import Metrics, score
from efficientgen.eval.plan_deviation import plan_deviation
from efficientgen.eval.results import summarise
from efficientgen.eval.step_log import StepLog
from efficientgen.planning.load import CONSTANT_VELOCITY, EXPERT
from tests.eval.made import Field, ahead, car, made_log, straight
from tests.eval.synthetic import scenario


def some(values: dict[tuple[str, int], float], planner: str = "made") -> list[Metrics]:
    base = score(made_log(straight(), lambda t: (8 * t, 8.0), seconds=2.0), Field())
    return [replace(base, scenario=s, seed=k, planner=planner, driving_score=v) for (s, k), v in values.items()]


def test_only_pairs_count_and_scenarios_weigh_the_same():
    a = some({("x", 0): 90.0, ("x", 1): 70.0, ("y", 0): 40.0, ("only a", 0): 0.0})
    b = some({("x", 0): 45.0, ("x", 1): 35.0, ("y", 0): 20.0, ("only b", 0): 100.0})
    got = compare(a, b)
    assert (got.a.mean, got.b.mean, got.a.count) == (60.0, 30.0, 3)
    assert got.difference.mean == 30.0 and (got.difference.low, got.difference.high) == (20.0, 40.0)
    assert got.ratio is not None and got.ratio.mean == got.ratio.low == got.ratio.high == 2.0
    assert compare(a, b) == got, "the bootstrap is keyed"


def test_pairing_sees_what_separate_intervals_hide():
    """Scenarios of very different difficulty, where `a` is better by 2 everywhere."""
    hard = {(name, 0): 10.0 * k for k, name in enumerate("abcdefgh", 1)}
    got = compare(some({k: v + 2.0 for k, v in hard.items()}), some(hard))
    assert not got.apart and got.difference.low == pytest.approx(2.0)


def test_apart_means_that_intervals_do_not_overlap():
    a, b = some({("x", 0): 90.0, ("y", 0): 80.0}), some({("x", 0): 30.0, ("y", 0): 20.0})
    assert compare(a, b).apart and compare(b, a).apart
    assert not compare(a, some({("x", 0): 85.0, ("y", 0): 95.0})).apart


def test_a_ratio_to_nothing_is_none():
    zero = some({("x", 0): 0.0, ("y", 0): 10.0})
    assert compare(some({("x", 0): 50.0, ("y", 0): 50.0}), zero).ratio is None, "a resample may draw x twice"


def test_nothing_in_common():
    with pytest.raises(NothingInCommonError, match="same ones"):
        compare(some({("x", 0): 1.0}), some({("x", 1): 1.0}))
    with pytest.raises(NothingInCommonError):
        compare(some({("x", 0): 1.0}), some({("x", 0): 1.0}), "acceptance")


def test_groups():
    drives = some({("x", 0): 90.0, ("y", 0): 50.0, ("y", 1): 70.0})
    got = aggregate_by(drives, lambda m: {"x": "free_road", "y": "red_light"}[m.scenario])
    assert list(got) == ["free_road", "red_light"]
    assert got["red_light"]["driving_score"].mean == 60.0 and got["free_road"]["driving_score"].count == 1


def test_progress_relative_to_the_expert():
    mine = [replace(m, progress_m=30.0) for m in some({("x", 0): 1.0, ("x", 1): 1.0, ("y", 0): 1.0})]
    expert = [replace(mine[0], progress_m=120.0), replace(mine[1], progress_m=0.5)]
    assert [m.progress_rel for m in with_expert(mine, expert)] == [0.25, None, None]


def test_a_summary_names_baselines_families_and_origin_of_every_ratio():
    scenarios = {name: replace(scenario(), name=name, family=name) for name in ("x", "y")}
    held = {
        "mine": some({("x", 0): 60.0, ("y", 0): 60.0}),
        EXPERT: some({("x", 0): 100.0, ("y", 0): 100.0}, EXPERT),
        CONSTANT_VELOCITY: some({("x", 0): 20.0, ("y", 0): 20.0}, CONSTANT_VELOCITY),
    }
    got = summarise(held, scenarios)
    mine = got["comparisons"]["mine"]
    assert mine[EXPERT]["driving_score"]["ratio"]["mean"] == pytest.approx(0.6)
    assert mine[CONSTANT_VELOCITY]["driving_score"]["ratio"]["mean"] == pytest.approx(3.0)
    assert mine[CONSTANT_VELOCITY]["driving_score"]["apart"] and list(got["comparisons"]) == ["mine"]
    assert got["families"]["mine"]["x"]["driving_score"]["mean"] == 60.0
    baselines = summarise({who: held[who] for who in (EXPERT, CONSTANT_VELOCITY)}, scenarios)["comparisons"]
    assert baselines[EXPERT][CONSTANT_VELOCITY]["driving_score"]["ratio"]["mean"] == pytest.approx(5.0)
    assert EXPERT not in baselines[EXPERT], "nobody is compared with itself"
    assert got["planners"]["mine"]["progress_rel"]["mean"] == 1.0 and len(got["drives"]) == 6


def test_plan_deviation():
    def drive(waypoints) -> StepLog:
        return made_log(straight(), lambda t: (8.0 * t, 8.0), waypoints=waypoints, seconds=2.0)

    assert plan_deviation(list(drive(lambda t: ahead(8.0)).steps)) == pytest.approx(0.0, abs=1e-9)
    # Plans that lie 1 m left of one another in turn are 1 m apart at every time, whatever the weights ...
    shifted = drive(lambda t: ahead(8.0) + (0.0, float(round(t / 0.4) % 2)))
    assert 0.8 < (plan_deviation(list(shifted.steps)) or 0.0) <= 1.0, "... but for the way there, anchored at the car"
    # ... and the near future weighs more than the far one.
    near = drive(lambda t: ahead(8.0) + [(0.0, 1.0 * (k < 4) * (round(t / 0.4) % 2)) for k in range(12)])
    far = drive(lambda t: ahead(8.0) + [(0.0, 1.0 * (k >= 8) * (round(t / 0.4) % 2)) for k in range(12)])
    assert (plan_deviation(list(near.steps)) or 0.0) > 2 * (plan_deviation(list(far.steps)) or 1.0)
    assert plan_deviation(list(drive(lambda t: None).steps)) is None
    assert plan_deviation(list(shifted.steps[:1])) is None


def test_distance_to_the_nearest_box():
    """The ego's bumper is 3.65 m ahead of its axle; a car that stands with its rear at 97.7 is passed to at 16 m/s."""
    town = Field()
    log = made_log(straight(), lambda t: (8.0 * t, 8.0), lambda t: (car(100.0), car(-40.0, name="b")), seconds=8.0)
    assert score(log, town).min_distance == pytest.approx(97.7 - 64.0 - 3.65)
    beside = made_log(straight(), lambda t: (8.0 * t, 8.0), lambda t: (car(30.0, 3.5),), seconds=8.0)
    assert score(beside, town).min_distance == pytest.approx(3.5 - 0.9 - 0.925)
    into = made_log(straight(), lambda t: (8.0 * t, 8.0), lambda t: (car(30.0),), seconds=8.0)
    m = score(into, town)
    assert m.min_distance == 0.0 and m.collision_front and not (m.collision_rear or m.collision_lateral)
    assert score(made_log(straight(), lambda t: (8.0 * t, 8.0), seconds=2.0), town).min_distance is None


def test_progress_and_latency_in_the_metrics():
    log = made_log(straight(), lambda t: (5.0 + 8.0 * t, 8.0), seconds=2.0)
    m = score(log, Field())
    assert m.progress_m == pytest.approx(16.0) and m.progress_rel is None and m.latency_s == 0.0
    slow = replace(log, mode="latency", notes={"latency": {"seconds": 0.3}})
    assert score(slow, Field()).latency_s == 0.3
    assert score(replace(log, mode="realtime"), Field()).latency_s is None
    back = made_log(straight(), lambda t: (50.0 - 8.0 * t, 8.0), seconds=2.0)
    assert score(back, Field()).progress_m == 0.0
