"""The tracker drives what the plan says: curves, stops that hold, starts without delay; noise does not shake it."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from efficientgen.perception.types import F64, EgoState, Plan, VehicleParams
from efficientgen.planning.tracker import anchor, track
from efficientgen.worldsim.vehicle import advance

TIMES = np.array([0.5, 1.0, 1.5, 2.0, 2.5, 3.0])
SUBSTEP_NS = 10_000_000


def ego_at(speed: float, steering: float = 0.0, yaw: float = 0.0, stamp_ns: int = 0) -> EgoState:
    return EgoState(stamp_ns, 3.0, -2.0, yaw, speed, 0.0, 0.0, steering)


def plan_of(waypoints: F64, stamp_ns: int = 0) -> Plan:
    return Plan(stamp_ns, np.asarray(waypoints, np.float64), TIMES)


def drive(ego: EgoState, planner: Callable[[EgoState], F64], seconds: float) -> list[EgoState]:
    """Replan every 0.4 s, track at 100 Hz; all states."""
    states = [ego]
    while states[-1].stamp_ns < seconds * 1e9:
        ego = states[-1]
        trajectory = anchor(plan_of(planner(ego), ego.stamp_ns), ego)
        for _ in range(40):
            states.append(advance(states[-1], *track(trajectory, states[-1]), SUBSTEP_NS))
    return states


def straight(speed: float, acceleration: float) -> F64:
    """Waypoints of constant acceleration along +x that stop instead of reversing."""
    t = np.minimum(TIMES, speed / -acceleration) if acceleration < 0 else TIMES
    return np.stack([speed * t + 0.5 * acceleration * t**2, 0 * t], 1)


@pytest.mark.parametrize(("radius", "speed"), [(8.0, 4.0), (15.0, 5.5), (60.0, 10.0), (-8.0, 4.0), (-200.0, 13.0)])
def test_follows_an_arc(radius: float, speed: float) -> None:
    def arc(_: EgoState) -> F64:
        angle = speed * TIMES / radius
        return radius * np.stack([np.sin(angle), 1 - np.cos(angle)], 1)

    steering = math.atan(VehicleParams().wheelbase / radius)
    states = drive(ego_at(speed, steering), arc, 4.0)
    centre = np.array([3.0, -2.0 + radius])
    off = [abs(math.hypot(e.x - centre[0], e.y - centre[1]) - abs(radius)) for e in states]
    assert max(off) < 0.1
    assert states[-1].speed == pytest.approx(speed, abs=0.3)


def test_anchor_starts_at_the_car_with_its_speed_and_passes_the_waypoints() -> None:
    ego = ego_at(6.0, yaw=2.0)
    way = np.array([[3.0, 0.0], [6.1, 0.2], [9.2, 0.7], [12.2, 1.5], [15.0, 2.6], [17.5, 4.0]])
    trajectory = anchor(plan_of(way), ego)
    assert trajectory.times_s[0] == 0 and trajectory.times_s[-1] == pytest.approx(3.0)
    assert trajectory.points[0] == pytest.approx([ego.x, ego.y])
    step = (trajectory.points[1] - trajectory.points[0]) / trajectory.times_s[1]
    assert step == pytest.approx([6.0 * math.cos(2.0), 6.0 * math.sin(2.0)], abs=0.1)
    rotation = np.array([[math.cos(2.0), -math.sin(2.0)], [math.sin(2.0), math.cos(2.0)]])
    expected = way @ rotation.T + [ego.x, ego.y]
    at = [np.abs(trajectory.times_s - t).argmin() for t in TIMES]
    assert trajectory.points[at] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize("speed", [1.0, 4.0, 9.0, 13.0])
def test_a_plan_that_stops_stops_there_and_holds(speed: float) -> None:
    goal = 3.0 + speed**2 / (2 * 2.0)  # the car starts at x = 3 and brakes with 2 m/s^2

    def stopping(ego: EgoState) -> F64:
        left = max(goal - ego.x, 0.0)
        return straight(ego.speed, -max(ego.speed**2 / (2 * left), 0.1)) if left > 0.02 else np.zeros((6, 2))

    states = drive(ego_at(speed), stopping, 12.0)
    assert states[-1].speed == 0.0
    assert states[-1].x == pytest.approx(goal, abs=0.3)
    standing = [e for e in states if e.stamp_ns > 9.5e9]
    assert max(e.speed for e in standing) == 0.0
    assert max(e.x for e in standing) == min(e.x for e in standing), "no creeping"


def test_jittering_stop_plans_do_not_creep_or_steer() -> None:
    rng = np.random.default_rng(0)
    states = drive(ego_at(0.0, steering=0.05), lambda _: rng.uniform(-0.08, 0.08, (6, 2)), 8.0)
    assert states[-1].x == 3.0 and states[-1].y == -2.0
    assert max(abs(e.steering - 0.05) for e in states) < 0.05


def test_collapsed_plan_at_speed_is_an_emergency_stop() -> None:
    states = drive(ego_at(10.0), lambda _: np.zeros((6, 2)), 3.0)
    assert states[-1].speed == 0.0
    assert states[-1].x - 3.0 < 10.0**2 / (2 * 5.5)


def test_starts_without_delay() -> None:
    states = drive(ego_at(0.0), lambda ego: straight(ego.speed, 1.5), 2.0)
    after = {k: states[k] for k in (20, 50, 100, 200)}
    assert after[20].speed > 0.2
    assert after[50].speed == pytest.approx(0.75, abs=0.1)
    assert after[100].speed == pytest.approx(1.5, abs=0.15)
    assert after[200].speed == pytest.approx(3.0, abs=0.2)


@pytest.mark.parametrize("speed", [0.3, 1.0, 3.0])
def test_short_noisy_paths_do_not_swing_the_wheel(speed: float) -> None:
    """Quantised waypoints within decimetres of each other, as a slow car's plan has them."""
    rng = np.random.default_rng(1)

    def noisy(ego: EgoState) -> F64:
        way = straight(ego.speed, -0.5)
        return np.round(way + rng.normal(0, 0.05, way.shape), 1)

    states = drive(ego_at(speed), noisy, 4.0)
    assert max(abs(e.steering) for e in states) < 0.25
    assert abs(states[-1].y + 2.0) < 0.25


def test_noise_on_the_waypoints_is_smoothed() -> None:
    rng = np.random.default_rng(2)
    states = drive(ego_at(8.0), lambda ego: straight(8.0, 0.0) + rng.normal(0, 0.05, (6, 2)), 6.0)
    assert max(abs(e.acceleration) for e in states) < 1.5
    assert all(7.0 < e.speed < 9.0 for e in states)


@pytest.mark.parametrize(
    ("waypoints", "times"),
    [
        (np.zeros((6, 3)), TIMES),
        (np.zeros((5, 2)), TIMES),
        (np.full((6, 2), np.nan), TIMES),
        (np.zeros((6, 2)), TIMES[::-1]),
        (np.zeros((6, 2)), TIMES - 0.5),
        (np.zeros((0, 2)), np.zeros(0)),
    ],
)
def test_malformed_plans_are_refused(waypoints: F64, times: F64) -> None:
    with pytest.raises(ValueError, match="plan"):
        anchor(Plan(0, waypoints, times), ego_at(1.0))
