"""Properties of route geometry: where am I, where is s, which command."""

import math

import numpy as np
import pytest

from efficientgen.perception.route import COMMAND_RANGE_M, command_at, locate, point_at
from efficientgen.perception.types import Command, Route, StopLine


def circle_route(radius: float = 60.0, length: float = 120.0, stops: tuple[StopLine, ...] = ()) -> Route:
    """A left-hand arc that starts at the origin heading along +x."""
    angle = np.arange(0.0, length + 1e-9, 0.5) / radius
    points = radius * np.stack([np.sin(angle), 1 - np.cos(angle)], 1)
    n = len(angle)
    return Route(points, angle, np.full(n, 10.0), np.full(n, 1.75), stops, ())


@pytest.mark.parametrize("lateral", [-2.0, 0.0, 1.5])
def test_locate_inverts_point_at(lateral: float) -> None:
    route = circle_route()
    for s in np.linspace(1.0, route.length - 1.0, 37):
        x, y, heading = point_at(route, float(s))
        at, left = locate(route, x - lateral * math.sin(heading), y + lateral * math.cos(heading))
        assert at == pytest.approx(s, abs=0.05)
        assert left == pytest.approx(lateral, abs=0.01)


def test_left_is_positive() -> None:
    route = circle_route()
    assert locate(route, 0.0, 1.0)[1] > 0 > locate(route, 0.0, -1.0)[1]


def test_route_goes_straight_on_beyond_its_ends() -> None:
    route = circle_route()
    for s in (-7.0, route.length + 9.0):
        x, y, _ = point_at(route, s)
        at, left = locate(route, x, y)
        assert at == pytest.approx(s, abs=0.1)
        assert left == pytest.approx(0.0, abs=0.1)


def test_hint_resolves_a_route_that_crosses_itself() -> None:
    full = circle_route(radius=30.0, length=2 * math.pi * 30.0 + 40.0)  # passes its start again
    x, y, _ = point_at(full, 10.0)
    assert locate(full, x, y, hint_s=5.0)[0] == pytest.approx(10.0, abs=0.1)
    assert locate(full, x, y, hint_s=195.0)[0] == pytest.approx(10.0 + 2 * math.pi * 30.0, abs=0.3)


def test_command_is_given_before_and_inside_the_junction_only() -> None:
    stops = (StopLine(60.0, "", -1, "l", s_exit=75.0), StopLine(110.0, "", -1, "s", s_exit=118.0))
    route = circle_route(stops=stops)
    assert command_at(route, 60.0 - COMMAND_RANGE_M - 1) is Command.GO_STRAIGHT
    assert command_at(route, 60.0 - COMMAND_RANGE_M + 1) is Command.GO_LEFT
    assert command_at(route, 70.0) is Command.GO_LEFT
    assert command_at(route, 75.5) is Command.GO_STRAIGHT
    right = circle_route(stops=(StopLine(60.0, "", -1, "r", s_exit=75.0),))
    assert command_at(right, 50.0) is Command.GO_RIGHT
