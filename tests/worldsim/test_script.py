"""Scripted traffic: what a scenario promises happens in the drive, differs from seed to seed, and can be repeated."""

import random
from dataclasses import replace

import pytest

from efficientgen.eval.metrics import score
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.route import locate
from efficientgen.perception.types import NS, ActorKind, VehicleParams
from efficientgen.planning.constant_velocity import ConstantVelocity
from efficientgen.worldsim.oracle import Oracle
from efficientgen.worldsim.scenario import load_scenario, scenario_names, training_scenario
from efficientgen.worldsim.script import CutIn, Lead, SpeedChange

FRONT = VehicleParams().rear_to_centre + VehicleParams().length / 2
SCRIPTED = [name for name in scenario_names() if (s := load_scenario(name)).cut_in or (s.lead and s.lead.profile)]


def of_family(family: str) -> list[str]:
    return [name for name in scenario_names() if load_scenario(name).family == family]


def track(log: StepLog, role: str) -> list[tuple[float, float, float, float, float]]:
    """(time s, gap to the ego's front m, lateral offset from the route m, its speed, ego's speed) at each tick."""
    out, hint = [], 0.0
    for tick in (log.start, *(t for step in log.steps for t in step.ticks)):
        hint = locate(log.route, tick.ego.x, tick.ego.y, hint)[0]
        for actor in tick.actors:
            if actor.id.endswith(f"_{role}"):
                s, lateral = locate(log.route, actor.x, actor.y, hint + 15.0)
                gap = s - actor.length / 2 - hint - FRONT
                out.append((tick.stamp_ns / NS, gap, lateral, actor.speed, tick.ego.speed))
    return out


def stops(tracked: list[tuple[float, float, float, float, float]]) -> list[float]:
    """Times at which it comes to a standstill after having driven at 3 m/s or more."""
    times, rolling = [], False
    for time, _, _, speed, _ in tracked:
        if rolling and speed < 0.3:
            times.append(time)
        rolling = speed > 3.0 or (rolling and speed >= 0.3)
    return times


def test_these_families_are_scripted_in_training_and_held_out_towns() -> None:
    for family in ("braking_lead", "stop_and_go", "cut_in"):
        names = of_family(family)
        assert set(names) <= set(SCRIPTED)
        assert {load_scenario(name).split for name in names} == {"train", "heldout"}


@pytest.mark.parametrize("name", of_family("braking_lead"))
def test_the_lead_brakes_hard_before_the_ego_and_goes_on(name: str) -> None:
    log = drive(load_scenario(name), 1, "expert")
    tracked = track(log, "lead")
    (stop, *_) = stops(tracked)
    assert stop > log.handover_ns / NS + 1.0, "after the hand-over"
    speeds = {round(time, 1): speed for time, _, _, speed, _ in tracked}
    assert max((speeds[t] - speeds[round(t + 1.0, 1)]) for t in speeds if round(t + 1.0, 1) in speeds) > 3.5
    begin = next(row for row in tracked if row[0] > stop - 3.0)
    assert begin[1] < 25.0 and begin[4] > 5.0, "right before an ego that drives"
    assert max(speed for time, _, _, speed, _ in tracked if time > stop) > 5.0
    assert score(log).success


@pytest.mark.parametrize("name", of_family("stop_and_go"))
def test_stop_and_go_stops_and_goes_twice(name: str) -> None:
    log = drive(load_scenario(name), 0, "expert")
    tracked = track(log, "lead")
    times = stops(tracked)
    assert len(times) == 2 and times[0] > log.handover_ns / NS
    for stop in times:
        assert next(gap for time, gap, *_ in tracked if time >= stop) < 12.0, "with the ego behind it"
    assert score(log).success


@pytest.mark.parametrize("planner", ["expert", ConstantVelocity()])
@pytest.mark.parametrize("name", of_family("cut_in"))
def test_a_vehicle_comes_into_the_egos_lane_close_ahead(name: str, planner: object) -> None:
    scenario = load_scenario(name)
    log = drive(scenario, 2, planner)  # type: ignore[arg-type]
    tracked = track(log, "cutin")
    assert scenario.cut_in is not None
    assert tracked[0][2] == pytest.approx(3.5, abs=0.3), "it starts in the lane on the left"
    arrived = next(row for row in tracked if abs(row[2]) < 1.0)
    assert arrived[0] > log.handover_ns / NS
    assert 2.0 < arrived[1] < 14.0, "metres of room"
    assert arrived[4] > 4.0, "before an ego that drives"
    if planner == "expert":
        assert min(row[3] for row in tracked if row[0] > arrived[0]) < 8.0 and score(log).success


@pytest.mark.parametrize("name", SCRIPTED)
def test_five_seeds_are_five_situations_and_each_can_be_repeated(name: str) -> None:
    scenario = load_scenario(name)

    def play(seed: int) -> tuple[Lead | None, CutIn | None]:
        oracle = Oracle(scenario, seed)
        return oracle.lead, oracle.cut_in

    plays = [play(seed) for seed in scenario.seeds]
    assert len(set(plays)) == len(scenario.seeds) >= 5
    assert play(scenario.seeds[0]) == plays[0]


def test_a_scripted_drive_is_reproducible() -> None:
    scenario = replace(load_scenario("birch_cut_in"), duration_s=14.0)
    first, second = (drive(scenario, 3, "expert") for _ in range(2))
    assert [step.ticks for step in first.steps] == [step.ticks for step in second.steps]


def test_a_lead_without_a_profile_is_the_same_for_every_seed() -> None:
    lead = Lead(14.0, 7.5)
    assert lead.varied(random.Random("x")) == lead


def test_a_profile_says_how_fast_when() -> None:
    lead = Lead(10.0, 8.0, profile=(SpeedChange(6.0, 0.0), SpeedChange(9.0, 5.0)))
    assert [lead.wanted(t) for t in (0.0, 5.9, 6.0, 8.0, 9.5)] == [8.0, 8.0, 0.0, 0.0, 5.0]
    assert lead.top_speed == 8.0


def test_keeping_station_closes_the_gap_from_both_sides() -> None:
    cut_in = CutIn(at_m=30.0, ahead=8.0, speed=6.0)
    assert cut_in.keeping(8.0, 7.0) == 7.0
    assert cut_in.keeping(12.0, 7.0) < 7.0 < cut_in.keeping(5.0, 7.0)
    assert cut_in.keeping(60.0, 2.0) == 0.0


def test_training_drives_can_be_scripted_too() -> None:
    drives = [training_scenario(town, seed, "scripted") for town in ("elm", "birch", "cedar") for seed in range(12)]
    assert {bool(d.cut_in) for d in drives} == {True, False}
    for d in drives:
        assert d.cut_in or (d.lead and d.lead.profile)
        assert d.name != training_scenario(d.town, d.seeds[0]).name
    assert training_scenario("elm", 4, "scripted") == training_scenario("elm", 4, "scripted")
    assert {d.cut_in.kind for d in drives if d.cut_in} == {ActorKind.CAR, ActorKind.TRUCK}


def test_a_scripted_training_drive_has_its_cut_in() -> None:
    scenario = next(d for k in range(20) if (d := training_scenario("birch", k, "scripted")).cut_in)
    tracked = track(drive(replace(scenario, duration_s=20.0), scenario.seeds[0], "expert"), "cutin")
    assert abs(tracked[0][2]) > 3.0 and min(abs(lateral) for _, _, lateral, _, _ in tracked) < 1.0
