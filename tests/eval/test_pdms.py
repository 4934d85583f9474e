"""PDMS and EPDMS on drives whose every term is known by construction."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval import pdm_terms
from efficientgen.eval.pdm_rollout import Motion
from efficientgen.eval.pdm_terms import Scene, Tracks
from efficientgen.eval.pdms import TERMS, PDMScore, epdms_of, pdm_score, pdms_of
from efficientgen.eval.recorded_traffic import RecordedTraffic
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.types import Route, VehicleParams
from efficientgen.worldsim.town import Lane, LaneHit
from tests.eval.made import Field, ahead, car, made_log, straight

CAR = VehicleParams()


def at(speed: float, s0: float = 2.0):
    return lambda t: (s0 + speed * t, speed)


def plan(speed: float):
    return lambda t: ahead(speed, 16)


def cruise(speed: float = 8.0, **more) -> StepLog:
    route = more.pop("route", straight())
    return made_log(
        route, at(speed, more.pop("s0", 2.0)), waypoints=plan(speed), seconds=more.pop("seconds", 6.0), **more
    )


def scored(log: StepLog, human: StepLog | None = None, town: Field | None = None) -> PDMScore:
    got = pdm_score(log, human or cruise(), town or Field())
    assert got is not None
    return got


def motion_of(pose: np.ndarray, speed: float = 8.0) -> Motion:
    k = pose.shape[0]
    flat = np.zeros((1, k))
    return Motion(pose[None], flat + speed, flat, flat, np.array([k - 1]))


def scene(actors=lambda t: (), route: Route | None = None, lamp=lambda t: "G", town: Field | None = None) -> Scene:
    log = made_log(route or straight(), at(0.0), actors, lamp=lamp, seconds=8.0)
    ticks = all_ticks(log)
    return Scene(log.route, town or Field(), RecordedTraffic(ticks, 50), [t.lights for t in ticks], CAR)


def along(speed: float, s0: float = 0.0, y: float = 0.0, ticks: int = 40) -> np.ndarray:
    k = np.arange(ticks + 1)
    return np.stack([s0 + 0.1 * speed * k, np.full(len(k), y), 0.0 * k], 1)


def placed(world: Scene, pose: np.ndarray, speed: float = 8.0) -> Tracks:
    return pdm_terms.tracks(world, motion_of(pose, speed), [0], [float(pose[0, 0])])


def test_the_expert_itself_scores_one():
    got = scored(cruise())
    assert {name: round(getattr(got, name), 6) for name in TERMS} == dict.fromkeys(TERMS, 1.0)
    assert got.pdms == pytest.approx(1.0) and got.epdms == pytest.approx(1.0) and got.plans == 15


def test_a_parked_drive_makes_no_progress():
    got = scored(made_log(straight(), lambda t: (30.0, 0.0), waypoints=plan(0.0), seconds=6.0))
    assert got.ep == 0.0 and got.nc == got.ttc == got.c == 1.0
    assert got.pdms == pytest.approx(7 / 12) and got.epdms == pytest.approx(11 / 16)


def test_where_nobody_gets_on_progress_says_nothing():
    """4 s at 1.2 m/s are 4.8 m, at 1.3 m/s 5.2 m; 5 m is the bound."""
    parked = made_log(straight(), lambda t: (30.0, 0.0), waypoints=plan(0.0), seconds=6.0)
    assert scored(parked, cruise(1.2, s0=29.5)).ep == 1.0
    assert scored(parked, cruise(1.3, s0=29.5)).ep == 0.0
    own, human = np.array([5.0, 5.01, 10.0, 30.0]), np.array([1.0, 1.0, 40.0, 10.0])
    assert pdm_terms.ego_progress(own, human).tolist() == [1.0, 1.0, 0.25, 1.0]


def test_running_a_red_light_is_forgiven_only_where_the_human_ran_it_too():
    """The bumper of s is 3.65 m ahead; from s = 2 at 8 m/s plans of 4 s reach the line at 60 from s = 24.35 on."""
    route = straight(signal_s=60.0)
    runs = cruise(route=route, lamp=lambda t: "r")
    crossing = sum(2.0 + 8.0 * 0.4 * k + 32.0 + 3.65 >= 60.05 and 2.0 + 8.0 * 0.4 * k + 3.65 < 60.0 for k in range(15))
    stops = made_log(route, lambda t: (50.0, 0.0), waypoints=plan(0.0), lamp=lambda t: "r", seconds=6.0)
    got = scored(runs, stops)
    assert got.tlc == pytest.approx(1 - crossing / 15, abs=0.04) and got.tlc < 0.5
    assert scored(runs, runs).epdms == pytest.approx(1.0) and scored(runs, runs).tlc < 0.5, "told, but forgiven"
    assert scored(cruise(route=route, lamp=lambda t: "y"), stops).tlc == 1.0
    assert got.pdms > got.epdms, "PDMS knows no lights"


def test_at_fault_is_who_hits_not_who_is_hit():
    standing = lambda t: (car(60.0),)  # noqa: E731
    assert pdm_terms.no_collision(scene(standing), placed(scene(standing), along(8.0, 35.0))).tolist() == [0.0]
    assert pdm_terms.no_collision(scene(standing), placed(scene(standing), along(8.0, 15.0))).tolist() == [1.0]
    behind = scene(lambda t: (car(10.0 + 9.0 * t, speed=9.0),))
    assert pdm_terms.no_collision(behind, placed(behind, along(2.0, 20.0), 2.0)).tolist() == [1.0]
    oncoming = scene(lambda t: (car(60.0 - 8.0 * t, speed=8.0, yaw=np.pi),))
    assert pdm_terms.no_collision(oncoming, placed(oncoming, along(0.0, 40.0), 0.0)).tolist() == [1.0], "it stands"
    assert pdm_terms.no_collision(oncoming, placed(oncoming, along(1.0, 40.0), 1.0)).tolist() == [0.0]
    inside = scene(lambda t: (car(41.0),))
    assert pdm_terms.no_collision(inside, placed(inside, along(8.0, 40.0))).tolist() == [1.0], "touched from the start"


def test_with_the_flank_it_is_at_fault_only_over_the_edge_of_its_lane():
    """A car alongside drifts into the ego; the lane is 3.5 m wide and the ego 1.85 m."""
    drifting = scene(lambda t: (car(42.0 + 8.0 * t, 3.0 - 0.35 * t, speed=8.0),))
    assert pdm_terms.no_collision(drifting, placed(drifting, along(8.0, 40.0))).tolist() == [1.0]
    assert pdm_terms.no_collision(drifting, placed(drifting, along(8.0, 40.0, y=0.9))).tolist() == [0.0]


def test_time_to_collision_minds_who_is_ahead():
    """The bumper is 3.65 m ahead of the axle; a car that stands at 60 begins at 57.7.  4 s at 8 m/s are 32 m, 0.9 s
    more are 7.2 m."""
    stands = scene(lambda t: (car(60.0),))
    ttc = [pdm_terms.time_to_collision(stands, placed(stands, along(8.0, s)))[0] for s in (14.7, 15.0, 21.0)]
    assert ttc == [1.0, 0.0, 0.0]
    nc = [pdm_terms.no_collision(stands, placed(stands, along(8.0, s)))[0] for s in (15.0, 21.9, 22.1)]
    assert nc == [1.0, 1.0, 0.0]
    flees = scene(lambda t: (car(48.0 + 8.0 * t, speed=8.0),))
    assert pdm_terms.time_to_collision(flees, placed(flees, along(8.0, 40.0)))[0] == 1.0, "it is further on by then"


def test_time_to_collision_minds_the_side_only_in_junctions_and_over_the_edge():
    """Somebody comes from the left, 45 degrees off the nose when the probe touches him."""
    crossing = lambda t: (car(44.0, 6.0 - 4.0 * t, speed=4.0, yaw=-np.pi / 2),)  # noqa: E731
    pose = along(1.0, 40.0, ticks=12)
    town, junction = scene(crossing), scene(crossing, straight(signal_s=40.0))
    assert pdm_terms.time_to_collision(junction, placed(junction, pose, 1.0))[0] == 0.0
    beside = lambda t: (car(41.0 + 8.0 * t, 2.0 - 0.2 * t, speed=8.0),)  # noqa: E731
    wide = along(8.0, 40.0, y=0.0, ticks=20)
    assert pdm_terms.time_to_collision(scene(beside), placed(scene(beside), wide))[0] == 1.0
    assert town.route.stops == ()


class TwoWay(Field):
    """Left of y = 1.75 the road is the others'."""

    def lane_at(self, x: float, y: float, yaw: float | None = None) -> LaneHit:
        lane = Lane("a", "a", "driving", np.zeros((2, 2)), 3.5, 9.0)
        return LaneHit(lane, 0.0, np.pi if y > 1.75 else 0.0)


def test_driving_direction_by_metres_within_a_second():
    def score(metres: float) -> float:
        return pdm_terms.oncoming_score(along(metres, ticks=30), np.ones(31, bool))

    assert [score(v) for v in (1.99, 2.01, 5.99, 6.01)] == [1.0, 0.5, 0.5, 0.0]
    alternating = np.arange(31) % 2 == 0
    assert pdm_terms.oncoming_score(along(8.0, ticks=30), alternating) == 0.5, "half of the way"
    world = scene(town=TwoWay(9.0))
    assert pdm_terms.driving_direction(world, placed(world, along(8.0, y=2.5)))[0] == 0.0
    assert pdm_terms.driving_direction(world, placed(world, along(8.0)))[0] == 1.0


def test_drivable_area_at_its_edge():
    """Half the width is 0.925 m and 0.3 m are allowed."""
    assert scored(cruise(), town=Field(0.63)).dac == 1.0 and scored(cruise(), town=Field(0.62)).dac == 0.0


def test_lane_keeping_needs_two_seconds_and_leaves_junctions_out():
    world, junction = scene(), scene(route=straight(signal_s=2.0))

    def kept(offset: float, ticks: int, where: Scene = world) -> float:
        pose = along(1.0)
        pose[5 : 5 + ticks, 1] = offset
        return float(pdm_terms.lane_keeping(where, placed(where, pose))[0])

    assert [kept(0.51, 19), kept(0.51, 20), kept(0.49, 30), kept(-0.51, 20)] == [1.0, 0.0, 1.0, 0.0]
    assert kept(0.51, 30, junction) == 1.0


def test_history_comfort_reads_what_was_driven_before():
    calm = motion_of(along(8.0))
    rough = [state.ego for state in all_ticks(cruise())[:15]]
    rough = [replace(state, acceleration=-6.0) for state in rough]
    assert pdm_terms.comfortable(calm)[0] == 1.0 and pdm_terms.history_comfort(calm, [rough])[0] == 0.0
    assert pdm_terms.history_comfort(calm, [[]])[0] == 1.0


def test_extended_comfort_at_its_thresholds():
    def pair(rate: float) -> float:
        motion = Motion(
            np.zeros((2, 41, 3)), np.zeros((2, 41)), np.zeros((2, 41)),
            np.array([[0.0] * 41, [rate] * 41]), np.array([40, 40]),
        )  # fmt: skip
        return float(pdm_terms.extended_comfort(motion, [0, 4])[1])

    assert [pair(0.099), pair(0.101), pair(-0.101)] == [1.0, 0.0, 0.0]
    fickle = made_log(
        straight(), at(8.0), waypoints=lambda t: ahead(8.0 if round(t / 0.4) % 2 else 4.0, 16), seconds=6.0
    )
    assert scored(fickle).ec < 0.2 and scored(cruise()).ec == 1.0


def test_mirrored_scenes_score_alike():
    def side(sign: float) -> StepLog:
        def way(t: float) -> np.ndarray:
            return ahead(8.0, 16) + np.stack([np.zeros(16), sign * 0.05 * np.arange(16)], 1)

        def actors(t: float):
            return (car(60.0, sign * 1.9, speed=0.0), car(20.0 + 9.0 * t, -sign * 3.0, speed=9.0))

        return made_log(straight(), at(8.0), actors, way, seconds=6.0)

    left, right = scored(side(1.0)), scored(side(-1.0))
    assert left == right and left.nc < 1.0


def test_formulae_and_what_the_human_fails():
    own = {name: np.array([1.0, 0.5]) for name in TERMS}
    ones = {name: np.ones(2) for name in TERMS}
    assert pdms_of(own).tolist() == [1.0, 0.125] and epdms_of(own, ones).tolist() == [1.0, 0.5**5]
    for name in ("nc", "dac", "ddc", "tlc"):
        assert epdms_of(ones | {name: np.zeros(2)}, ones).tolist() == [0.0, 0.0]
        assert epdms_of(ones | {name: np.zeros(2)}, ones | {name: np.array([0.0, 1.0])}).tolist() == [1.0, 0.0]
    for name, weight in (("ep", 5), ("ttc", 5), ("lk", 2), ("hc", 2), ("ec", 2)):
        assert epdms_of(ones | {name: np.zeros(2)}, ones)[0] == pytest.approx(1 - weight / 16)


def test_missing_plans_score_nothing_and_busy_steps_do_not_count():
    half = made_log(straight(), at(8.0), waypoints=lambda t: ahead(8.0, 16) if t >= 3.0 else None, seconds=6.0)
    assert scored(half).pdms == pytest.approx(7 / 15) and scored(half).plans == 15
    busy = replace(half, steps=tuple(replace(step, asked=step.plan is not None) for step in half.steps))
    assert scored(busy).pdms == pytest.approx(1.0) and scored(busy).plans == 7
    nobody = replace(half, steps=tuple(replace(step, asked=False) for step in half.steps))
    assert pdm_score(nobody, cruise(), Field()) is None
