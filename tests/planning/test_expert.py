"""The expert stops at red, keeps its distance, yields to people, recovers, and looks no further than a camera."""

import math
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.boxes import first_contact
from efficientgen.eval.metrics import score
from efficientgen.eval.runner import drive as run_scenario
from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import Actor, ActorKind, EgoState, OracleFrame, Route, StopLine, VehicleParams
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.tracker import anchor, track
from efficientgen.worldsim.lane_routes import plan_route
from efficientgen.worldsim.scenario import FAMILIES, load_scenario, scenario_names
from efficientgen.worldsim.town import load_town
from efficientgen.worldsim.vehicle import advance

FRONT = VehicleParams().rear_to_centre + VehicleParams().length / 2


def straight_route(length: float = 300.0, **parts: object) -> Route:
    x = np.arange(0.0, length + 0.1, 0.5)
    n = len(x)
    flat = Route(np.stack([x, 0 * x], 1), 0 * x, np.full(n, 11.0), np.full(n, 1.75), (), ())
    return replace(flat, **parts)  # type: ignore[arg-type]


def signal_route(direction: str = "s", must_yield: bool = False) -> Route:
    return straight_route(stops=(StopLine(80.0, "J", 0, direction, must_yield, 100.0),))


def ego_on(route: Route, s: float = 0.0, speed: float = 8.0, lateral: float = 0.0, turned: float = 0.0) -> EgoState:
    x, y, yaw = point_at(route, s)
    x, y = x - lateral * math.sin(yaw), y + lateral * math.cos(yaw)
    return EgoState(0, x, y, math.remainder(yaw + turned, math.tau), speed, 0.0, 0.0, 0.0)


def frame_of(ego: EgoState, actors: tuple[Actor, ...] = (), light: str = "G") -> OracleFrame:
    return OracleFrame(ego.stamp_ns, "nowhere", ego, actors, {"J": light})


def car(x: float, y: float = 0.0, speed: float = 0.0, yaw: float = 0.0, name: str = "car_1") -> Actor:
    return Actor(name, ActorKind.CAR, x, y, yaw, speed, 4.6, 1.82, 1.5)


def person(x: float, y: float, speed: float, yaw: float) -> Actor:
    return Actor("pedestrian_1", ActorKind.PEDESTRIAN, x, y, yaw, speed, 0.4, 0.5, 1.7)


def drive(
    route: Route, ego: EgoState, seconds: float, world: Callable[[EgoState], tuple[tuple[Actor, ...], str]]
) -> list[OracleFrame]:
    """The expert's plans, tracked at 100 Hz and renewed every 0.4 s, in a world of scripted actors and one light."""
    frames = [frame_of(ego, *world(ego))]
    while ego.stamp_ns < seconds * 1e9:
        trajectory = anchor(expert_plan(route, frames[-1]), ego)
        for k in range(40):
            ego = advance(ego, *track(trajectory, ego), 10_000_000)
            if k % 10 == 9:
                frames.append(frame_of(ego, *world(ego)))
    return frames


def test_stops_before_a_red_light_and_goes_at_green() -> None:
    route = signal_route()
    frames = drive(route, ego_on(route), 30.0, lambda ego: ((), "r" if ego.stamp_ns < 18e9 else "G"))
    red = [f for f in frames if f.stamp_ns < 18e9]
    assert red[-1].ego.speed == 0.0
    assert 77.0 < red[-1].ego.x + FRONT < 79.9
    assert min(f.ego.acceleration for f in red) > -3.5, "a comfortable stop"
    assert frames[-1].ego.x > 110 and max(f.ego.speed for f in frames) < 11.5
    started = next(f for f in frames if f.stamp_ns > 18e9 and f.ego.speed > 0.5)
    assert started.stamp_ns < 19.5e9


def test_yellow_stops_only_who_can_stop() -> None:
    route = signal_route()
    for s, stops in ((40.0, True), (70.0, False)):
        plan = expert_plan(route, frame_of(ego_on(route, s, speed=10.0), light="y"))
        reach = s + plan.waypoints[-1, 0] + FRONT
        assert bool(reach < 80.0) is stops
        assert plan.sections["signal"] == "yellow"


def test_sections_explain_the_plan() -> None:
    route = signal_route()
    free = expert_plan(route, frame_of(ego_on(route, 0.0)))
    assert free.sections["cause"] == "free_road" and free.sections["signal"] == "none"
    red = expert_plan(route, frame_of(ego_on(route, 45.0), light="r"))
    assert red.sections["cause"] == "red_light" and red.sections["signal"] == "red"
    assert red.sections["signal_distance"] == pytest.approx(80 - 45 - FRONT, abs=0.1)
    lead = expert_plan(route, frame_of(ego_on(route, 0.0), (car(25.0, speed=2.0),)))
    assert (lead.sections["cause"], lead.sections["cause_actor"]) == ("lead_vehicle", "car_1")
    turn = expert_plan(signal_route("l"), frame_of(ego_on(route, 60.0)))
    assert turn.sections["cause"] == "turn" and turn.sections["command"] == "GO_LEFT"


def test_looks_no_further_than_a_camera() -> None:
    route = signal_route()
    near, far = ego_on(route, 30.0), ego_on(route, 10.0)
    assert expert_plan(route, frame_of(near, light="r")).sections["signal"] == "red"
    a, b = (expert_plan(route, frame_of(far, (), light)) for light in "rG")
    assert np.array_equal(a.waypoints, b.waypoints)
    c = expert_plan(route, frame_of(far, (car(75.0),)))
    assert np.array_equal(a.waypoints, c.waypoints)


@pytest.mark.parametrize("speed", [0.0, 4.0])
def test_keeps_its_distance_from_a_lead(speed: float) -> None:
    route = straight_route()
    frames = drive(route, ego_on(route), 20.0, lambda e: ((car(50.0 + speed * e.stamp_ns * 1e-9, speed=speed),), "G"))
    gaps = [f.actors[0].x - 2.3 - f.ego.x - FRONT for f in frames]
    assert first_contact(frames, VehicleParams()) is None
    assert min(gaps) > 1.5
    assert frames[-1].ego.speed == pytest.approx(speed, abs=0.4)
    assert gaps[-1] < 6.0 + 2.5 * speed, "nor does it hang back"
    assert min(f.ego.acceleration for f in frames) > -4.0


def test_a_car_in_the_next_lane_is_no_lead() -> None:
    route = straight_route()
    plain = expert_plan(route, frame_of(ego_on(route)))
    beside = expert_plan(route, frame_of(ego_on(route), (car(14.0, 3.5), car(30.0, 3.5, 9.0, math.pi, "car_2"))))
    assert np.allclose(plain.waypoints, beside.waypoints)


def test_yields_to_a_person_on_the_crossing_and_goes_on() -> None:
    route = straight_route(crossings=((60.0, 64.0),))

    def walker(ego: EgoState) -> tuple[tuple[Actor, ...], str]:
        y = -7.0 + 1.3 * max(0.0, ego.stamp_ns * 1e-9 - 2.0)
        return (person(62.0, y, 1.3, math.pi / 2),), "G"

    frames = drive(route, ego_on(route), 20.0, walker)
    assert first_contact(frames, VehicleParams()) is None
    assert min(f.ego.speed for f in frames) < 4.0
    assert frames[-1].ego.x > 90.0


def test_people_standing_at_the_kerb_are_passed() -> None:
    route = straight_route(crossings=((60.0, 64.0),))
    frames = drive(route, ego_on(route), 10.0, lambda _: ((person(62.0, -2.3, 0.0, math.pi / 2),), "G"))
    assert frames[-1].ego.x > 75.0


def test_left_turn_gives_way_to_oncoming_traffic() -> None:
    town = load_town("elm")
    route = plan_route(town, ["i0-c", "c-i6"], start_pos=40.0)
    stop = route.stops[0]
    ego = ego_on(route, stop.s - FRONT - 3.0, speed=3.0)
    x, y, heading = point_at(route, stop.s)
    lights = {stop.signal: "g" * 30}

    def oncoming(distance: float) -> Actor:
        """On the opposite inner lane, `distance` m beyond the ego's stop line."""
        out_x = x + distance * math.cos(heading) - 3.5 * math.sin(heading)
        out_y = y + distance * math.sin(heading) + 3.5 * math.cos(heading)
        return car(out_x, out_y, 10.0, math.remainder(heading + math.pi, math.tau))

    blocked = expert_plan(route, OracleFrame(0, "elm", ego, (oncoming(45.0),), lights))
    assert blocked.sections["cause"] == "yield"
    end = blocked.waypoints[-1]
    assert np.hypot(*end) < 6.5, "waits at the line"
    clear = expert_plan(route, OracleFrame(0, "elm", ego, (), lights))
    assert np.hypot(*clear.waypoints[-1]) > 8.0
    protected = expert_plan(route, OracleFrame(0, "elm", ego, (oncoming(45.0),), {stop.signal: "G" * 30}))
    assert protected.sections["cause"] != "yield"


def test_gives_way_to_traffic_on_the_roundabout_and_only_to_that() -> None:
    route = plan_route(load_town("oak"), ["f-aw", "aw-as", "as-ae", "ae-bw"], start_pos=40.0)
    stop = route.stops[0]
    ego = ego_on(route, stop.s - FRONT - 3.0, speed=3.0)

    def circling(before_deg: float, speed: float = 7.0, leaving_deg: float = 0.0) -> OracleFrame:
        """A car on the ring, so many degrees of it before the ego's entry (which is at 184 degrees)."""
        at = math.radians(184.0 - before_deg)
        x, y = stop.ring_x + stop.ring_radius * math.cos(at), stop.ring_y + stop.ring_radius * math.sin(at)
        yaw = math.remainder(at + math.pi / 2 - math.radians(leaving_deg), math.tau)
        return OracleFrame(0, "oak", ego, (car(x, y, speed, yaw),), {})

    def waits(frame: OracleFrame) -> bool:
        plan = expert_plan(route, frame)
        return bool(plan.sections["cause"] == "yield" and np.hypot(*plan.waypoints[-1]) < 5.0)

    assert waits(circling(60.0)) and waits(circling(80.0))
    assert not waits(circling(60.0, leaving_deg=40.0)), "it steers off the ring"
    assert not waits(circling(-60.0)), "it has passed"
    assert not waits(circling(170.0)), "it is far away"
    assert not waits(OracleFrame(0, "oak", ego, (), {}))


def test_gives_way_where_a_road_joins_at_a_sharp_angle() -> None:
    town = load_town("oak")
    route, other = plan_route(town, ["s1-y", "y-t"], start_pos=150.0), plan_route(town, ["f-y", "y-t"])
    stop = route.stops[0]
    assert stop.must_yield and stop.direction == "s"
    ego = ego_on(route, stop.s - FRONT - 4.0, speed=3.0)
    x, y, yaw = point_at(other, other.stops[0].s - 16.0)
    coming = expert_plan(route, OracleFrame(0, "oak", ego, (car(x, y, 8.0, math.remainder(yaw, math.tau)),), {}))
    assert coming.sections["cause"] == "yield" and np.hypot(*coming.waypoints[-1]) < 6.0
    lead_x, lead_y, lead_yaw = point_at(route, stop.s + 12.0)
    behind = expert_plan(route, OracleFrame(0, "oak", ego, (car(lead_x, lead_y, 6.0, lead_yaw),), {}))
    assert behind.sections["cause"] != "yield", "someone ahead on the same road is followed"


@pytest.mark.parametrize("edges", [["i0-c", "c-i6"], ["m0-m1", "m1-p1"], ["o4-o5", "o5-i5"], ["i6-i7", "i7-o7"]])
def test_tracked_plans_stay_on_the_route_in_turns(edges: list[str]) -> None:
    town = load_town("maple" if edges[0].startswith("m") else "elm")
    route = plan_route(town, edges, start_pos=25.0)
    frames = drive(route, ego_on(route, 0.0, speed=5.0), 16.0, lambda _: ((), "G"))
    lateral = [locate(route, f.ego.x, f.ego.y)[1] for f in frames if locate(route, f.ego.x, f.ego.y)[0] < route.length]
    assert max(map(abs, lateral)) < 0.35
    assert max(abs(f.ego.yaw_rate) * f.ego.speed for f in frames) < 3.2


@pytest.mark.parametrize("lateral", [-1.2, 0.6, 1.2])
@pytest.mark.parametrize("turned", [-12.0, 0.0, 12.0])
@pytest.mark.parametrize("speed", [4.0, 10.0])
def test_recovers_from_a_disturbed_pose(lateral: float, turned: float, speed: float) -> None:
    route = straight_route()
    ego = ego_on(route, 20.0, speed, lateral, math.radians(turned))
    frames = drive(route, ego, 4.0, lambda _: ((), "G"))
    assert abs(frames[-1].ego.y) < 0.25
    assert max(abs(f.ego.y) for f in frames) < abs(lateral) + 1.0
    assert max(abs(f.ego.yaw_rate) * f.ego.speed for f in frames) < 4.5


def test_is_a_pure_function_and_fast() -> None:
    route = signal_route()
    actors = tuple(
        car(10.0 * (k % 9), 4.0 * (k // 9) - 10.0, 5.0, 0.4 * k, f"car_{k}")
        if k % 3
        else person(7.0 * k % 60, 6.0, 1.0, k)
        for k in range(50)
    )
    frame = frame_of(ego_on(route, 20.0), actors, "g")
    first = expert_plan(route, frame)
    began = time.process_time()
    again = [expert_plan(route, frame) for _ in range(20)]
    assert (time.process_time() - began) / 20 < 0.02, "meant to take about 3 ms"
    assert all(np.array_equal(first.waypoints, p.waypoints) and first.sections == p.sections for p in again)


@pytest.mark.parametrize("family", FAMILIES)
def test_drives_every_family_without_fault(family: str) -> None:
    name = next(n for n in scenario_names() if load_scenario(n).family == family)
    scenario = load_scenario(name)
    log = run_scenario(scenario, scenario.seeds[0], "expert")
    metrics = score(log)
    assert metrics.success, f"{name}: {metrics}"
    assert metrics.fallback_share == 0.0
