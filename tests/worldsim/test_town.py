"""Towns: what is committed is complete and drivable, and geometry questions get right answers."""

import gzip
import itertools
import random
from typing import Any

import numpy as np
import pytest

from efficientgen.perception.route import COMMAND_RANGE_M, command_at
from efficientgen.perception.types import Command
from efficientgen.worldsim.lane_routes import plan_route
from efficientgen.worldsim.town import SCENARIO_DIR, TownError, load_town, town_names
from efficientgen.worldsim.traffic import wander

TOWNS = town_names()


def test_there_are_towns_to_train_in_and_held_out_ones() -> None:
    assert set(TOWNS) >= {"elm", "birch", "cedar", "maple", "oak"}


@pytest.mark.parametrize("name", TOWNS)
def test_files_are_small_and_reproducible(name: str) -> None:
    raw = (SCENARIO_DIR / "towns" / f"{name}.net.xml.gz").read_bytes()
    assert len(raw) < 150_000
    assert raw[4:8] == b"\0\0\0\0", "gzip's own time stamp"
    assert b"generated on" not in gzip.decompress(raw)


@pytest.mark.parametrize("name", TOWNS)
def test_town_has_signals_crossings_sidewalks_and_other_junctions(name: str) -> None:
    town = load_town(name)
    kinds = {lane.kind for lane in town.lanes}
    assert kinds >= {"driving", "junction", "sidewalk", "crossing", "walkingarea"}
    assert len({s.signal for s in town.signals}) >= 5
    assert sum(not j.signal for j in town.junctions) >= 2
    assert {round(lane.width, 1) for lane in town.lanes if lane.kind == "driving"} == {3.5}
    assert all(8 < lane.speed < 14 for lane in town.lanes if lane.kind == "driving")


@pytest.mark.parametrize("name", TOWNS)
def test_lane_centres_are_road_and_houses_are_not(name: str) -> None:
    town = load_town(name)
    driving = [lane for lane in town.lanes if lane.kind == "driving"]
    middles = np.array([lane.shape[len(lane.shape) // 2] for lane in driving])
    assert (town.drivable_depth(middles) > 1.7).all()
    far = town.drivable_depth(np.array([[2000.0, 2000.0]]))
    assert far[0] < -10
    walks = np.array([lane.shape[len(lane.shape) // 2] for lane in town.lanes if lane.kind == "sidewalk"])
    assert (town.drivable_depth(walks) < 0).all()


def test_depth_is_the_distance_to_the_edge_of_the_road() -> None:
    town = load_town("elm")
    route = plan_route(town, ["o4-o5", "o5-o6"], start_pos=10)  # one lane per direction, the edge is on the right
    k = 120
    right = np.array([np.sin(route.headings[k]), -np.cos(route.headings[k])])
    offsets = np.array([0.0, 1.0, 2.0, 3.0, 5.0])
    depth = town.drivable_depth(route.points[k] + offsets[:, None] * right)
    assert depth == pytest.approx(1.75 - offsets, abs=0.1)


def test_lane_at_tells_the_wrong_way() -> None:
    town = load_town("elm")
    route = plan_route(town, ["o4-o5", "o5-o6"], start_pos=10)
    (x, y), yaw = route.points[100], route.headings[100]
    here = town.lane_at(x, y, yaw)
    assert here is not None and here.lane.edge == "o4-o5" and abs(here.lateral) < 0.1
    assert np.cos(here.heading - yaw) > 0.99
    left = town.lane_at(x - 3.5 * np.sin(yaw), y + 3.5 * np.cos(yaw), yaw)
    assert left is not None and left.lane.edge == "o5-o4" and np.cos(left.heading - yaw) < -0.9
    assert town.lane_at(3000.0, 0.0) is None


@pytest.mark.parametrize("name", TOWNS)
def test_random_routes_are_smooth_stay_on_the_road_and_know_their_junctions(name: str) -> None:
    town = load_town(name)
    streets = sorted({lane.edge for lane in town.lanes if lane.kind == "driving"})
    rng = random.Random(7)
    for _ in range(12):
        edges = wander(town, rng.choice(streets), 350.0, rng)
        route = plan_route(town, edges, start_pos=5.0)
        steps = np.hypot(*np.diff(route.points, axis=0).T)
        assert steps == pytest.approx(np.full(len(steps), route.spacing), abs=0.02)
        curvature = np.abs(route.headings[6:] - route.headings[:-6]) / (6 * route.spacing)
        assert curvature.max() < 1.2 * np.tan(0.6) / 2.8, "much tighter than the car can steer"
        assert town.drivable_depth(route.points).min() > -0.05
        assert len(route.stops) <= len(edges) - 1
        for stop in route.stops:
            assert 0 < stop.s < stop.s_exit <= route.length + 40
            assert stop.direction in "slrLR"
            if stop.signal:
                link = next(s for s in town.signals if (s.signal, s.link) == (stop.signal, stop.link))
                index = min(int(stop.s / route.spacing), len(route.points) - 1)
                if stop.s < route.length:
                    assert np.hypot(*(route.points[index] - [link.x, link.y])) < 1.0
        assert all(begin < end for begin, end in route.crossings)


def test_lane_change_is_a_smooth_blend() -> None:
    town = load_town("elm")
    left_turn = ["o6-i6", "i6-c", "c-i4"]  # starts on the right lane, turns left at the centre
    route = plan_route(town, left_turn, start_lane=0, start_pos=5.0)
    direct = plan_route(town, left_turn, start_lane=1, start_pos=5.0)
    assert np.hypot(*(route.points[0] - direct.points[0])) == pytest.approx(3.5, abs=0.2)
    gap = np.abs(route.points[-1] - direct.points[-1]).max()
    assert gap < 0.6
    straight = slice(0, int(route.stops[0].s / route.spacing) - 4)
    assert (np.abs(np.diff(route.headings[straight])) / route.spacing).max() < 0.06


def test_must_yield_where_others_have_priority() -> None:
    town = load_town("elm")
    minor = plan_route(town, ["i1-o1", "o1-o2"])
    assert minor.stops[0].must_yield and not minor.stops[0].signal
    major = plan_route(town, ["o4-o5", "o5-o6"])
    assert not major.stops[0].must_yield
    permissive = plan_route(town, ["i0-c", "c-i6"])
    assert permissive.stops[0].direction == "l" and permissive.stops[0].signal and permissive.stops[0].must_yield


def test_only_oak_has_roundabouts_a_junction_of_five_roads_and_a_fork() -> None:
    for name in TOWNS:
        net = load_town(name).net
        arms = [
            sum(e.getFunction() == "" for e in node.getIncoming())
            for node in net.getNodes()
            if node.getType() != "internal"
        ]
        sharpest = min(_sharpest_fork(node) for node in net.getNodes() if node.getType() != "internal")
        assert (len(load_town(name).rings) == 2) is (name == "oak")
        assert (max(arms) == 5) is (name == "oak")
        assert (sharpest < 0.7) is (name == "oak"), f"{sharpest} rad in {name}"


def _sharpest_fork(node: Any) -> float:
    """The least angle between the first metres of two roads that leave a junction, rad."""
    shapes = [np.array(edge.getShape())[:2, :2] for edge in node.getOutgoing() if edge.getFunction() == ""]
    headings = sorted(float(np.arctan2(*(b - a)[::-1])) for a, b in shapes)
    if len(headings) < 2:
        return np.pi
    return float(np.diff([*headings, headings[0] + 2 * np.pi]).min())


def test_roundabouts_are_circles_that_the_car_can_drive() -> None:
    for ring, radius in zip(sorted(load_town("oak").rings, key=lambda r: r.x), (20, 18), strict=True):
        assert ring.radius == pytest.approx(radius, abs=0.2)
        assert np.sqrt(9.81 * 0.2 * ring.radius) > 5.0, "at a comfortable 0.2 g"


@pytest.mark.parametrize(
    ("edges", "command"),
    [
        (["f-aw", "aw-as", "as-t"], Command.GO_RIGHT),
        (["f-aw", "aw-as", "as-ae", "ae-bw"], Command.GO_STRAIGHT),
        (["f-aw", "aw-as", "as-ae", "ae-an", "an-n2"], Command.GO_LEFT),
        (["ae-bw", "bw-bs", "bs-e1"], Command.GO_RIGHT),
        (["ae-bw", "bw-bs", "bs-bn", "bn-n3"], Command.GO_LEFT),
        (["n3-bn", "bn-bw", "bw-bs", "bs-e1"], Command.GO_STRAIGHT),
    ],
)
def test_a_roundabout_is_one_junction_with_the_sense_of_the_manoeuvre(edges: list[str], command: Command) -> None:
    route = plan_route(load_town("oak"), edges, start_pos=5.0)
    (stop,) = route.stops
    assert stop.ring_radius > 0 and stop.must_yield and not stop.signal
    for s in (stop.s - COMMAND_RANGE_M + 1.0, stop.s, (stop.s + stop.s_exit) / 2, stop.s_exit - 1.0):
        assert command_at(route, s) is command, "announced before the entry and held until the exit"
    assert command_at(route, stop.s - COMMAND_RANGE_M - 1.0) is Command.GO_STRAIGHT
    assert command_at(route, stop.s_exit + 1.0) is Command.GO_STRAIGHT
    inside = route.points[int(stop.s / 0.5) + 30 : int(stop.s_exit / 0.5) - 30] - [stop.ring_x, stop.ring_y]
    assert np.abs(np.hypot(*inside.T) - stop.ring_radius).max() < 2.5


@pytest.mark.parametrize(
    ("edges", "options", "words"),
    [
        (["nowhere"], {}, "no edge"),
        (["o4-o5", "i1-o1"], {}, "no connection"),
        (["o4-o5", "o5-o6"], {"start_pos": 900.0}, "start_pos"),
        (["o4-o5", "o5-o6"], {"start_lane": 3}, "start_lane"),
        (["o4-o5", "o5-o6"], {"end_pos": 900.0}, "end_pos"),
        ([], {}, "needs edges"),
    ],
)
def test_impossible_routes_are_refused_in_words(edges: list[str], options: dict[str, float], words: str) -> None:
    with pytest.raises(TownError, match=words):
        plan_route(load_town("elm"), edges, **options)  # type: ignore[arg-type]


def test_unknown_town_names_the_known_ones() -> None:
    with pytest.raises(TownError, match=r"atlantis.*birch"):
        load_town("atlantis")


def test_no_dead_ends_and_no_u_turns() -> None:
    for name in TOWNS:
        town = load_town(name)
        for lane, link in itertools.chain.from_iterable(
            ((lane, link) for link in town.net.getLane(lane.id).getOutgoing())
            for lane in town.lanes
            if lane.kind == "driving"
        ):
            assert link.getDirection() != "t", f"U-turn from {lane.id} in {name}"
        assert all(town.net.getLane(lane.id).getOutgoing() for lane in town.lanes if lane.kind == "driving")
