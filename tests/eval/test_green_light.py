"""Moving off after green: what counts as an event, and how long it took."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.compare import moves_off_rate
from efficientgen.eval.green_light import moves_off_delays
from efficientgen.eval.metrics import score
from efficientgen.perception.types import NS, Actor, ActorKind
from tests.eval.made import Field, car, made_log, straight

LINE = 60.0
AT_LINE = LINE - 3.65 - 1.0  # the bumper 1 m before the line
GREEN_S = 4.0


def starting_at(t_go: float, s: float = AT_LINE):
    """Stands at `s` until `t_go`, then accelerates at 2 m/s^2."""

    def place(t: float) -> tuple[float, float]:
        dt = max(0.0, t - t_go)
        return s + dt * dt, 2.0 * dt

    return place


def lamp(t: float) -> str:
    return "G" if t >= GREEN_S - 1e-9 else "r"


def delays(place, actors=lambda t: (), lights=lamp, seconds: float = 20.0) -> tuple[float, ...]:
    return moves_off_delays(made_log(straight(signal_s=LINE), place, actors, lamp=lights, seconds=seconds))


def test_seconds_from_green_to_half_a_metre_per_second():
    """It is faster than 0.5 m/s 0.3 s after it starts (0.25 s, at the next tick)."""
    assert delays(starting_at(5.0)) == (1.3,)
    assert delays(starting_at(10.0)) == (6.3,)


def test_who_creeps_has_moved_after_a_metre():
    assert delays(lambda t: (AT_LINE + 0.2 * max(0.0, t - GREEN_S), 0.2)) == (5.1,)


def test_never_moving_counts_as_long_as_it_was_watched():
    assert delays(starting_at(99.0)) == (16.1,)
    assert delays(starting_at(99.0), seconds=6.0) == (), "two seconds say nothing yet"


@pytest.mark.parametrize(
    ("place", "lights"),
    [
        (lambda t: (10.0 + 8 * t, 8.0), lamp),  # drives through
        (starting_at(5.0, LINE - 3.65 - 13.0), lamp),  # stands too far back
        (starting_at(5.0), lambda t: "G"),  # it was green all the time
        (starting_at(5.0), lambda t: "y" if t < GREEN_S else "G"),  # amber to green is no start from red
    ],
)
def test_no_event(place, lights):
    assert delays(place, lights=lights) == ()


def test_red_and_amber_before_green_is_red():
    assert delays(starting_at(5.0), lights=lambda t: "r" if t < 3 else "u" if t < GREEN_S else "g") == (1.3,)


def test_only_the_first_in_line_counts():
    def queue(t: float) -> tuple[Actor, ...]:
        return (car(LINE - 3.0 + max(0.0, 3 * (t - GREEN_S)), speed=3.0 * (t > GREEN_S)),)

    assert delays(starting_at(8.0, LINE - 12.0), queue) == ()
    beside = delays(starting_at(8.0, LINE - 12.0), lambda t: (car(LINE - 3.0, 3.5),))
    assert beside == (4.3,), "a car in the next lane is not before it"


def test_seconds_in_which_somebody_is_in_the_way_do_not_count():
    def walker(t: float) -> tuple[Actor, ...]:
        """Crosses from right to left before the bumper at 1.4 m/s; on the ego's way until about 7 s."""
        y = -4.0 + 1.4 * (t - 3.0)
        return (Actor("p", ActorKind.PEDESTRIAN, LINE + 4.0, y, np.pi / 2, 1.4, 0.5, 0.5, 1.7),)

    clear_from = 3.0 + (4.0 + 0.25 + 0.5 * (1.85 + 0.5) + 0.3) / 1.4  # the walker's back is off the way
    (delay,) = delays(starting_at(9.0), walker)
    assert delay == pytest.approx(9.3 - clear_from, abs=0.11)


def test_oncoming_traffic_that_will_be_in_the_way_stops_the_count():
    route = straight(signal_s=LINE)

    def oncoming(t: float) -> tuple[Actor, ...]:  # crosses the way at 45 degrees, at 8 m/s
        gone = 8.0 * (t - 9.0)
        return (car(LINE + 8.0 - gone * np.sqrt(0.5), gone * np.sqrt(0.5), 8.0, 0.75 * np.pi),)

    (delay,) = moves_off_delays(made_log(route, starting_at(12.0), oncoming, lamp=lamp, seconds=20.0))
    # On the way for (2.125 + 2.3 sin 45) / 5.66 = 0.66 s either side of 9 s, and 3 s are looked ahead.
    assert delay == pytest.approx(8.3 - (3.0 + 2 * 0.66), abs=0.21)


def test_the_next_red_ends_it():
    assert delays(starting_at(99.0), lights=lambda t: "G" if GREEN_S - 1e-9 <= t < 12 else "r") == (8.0,)
    assert delays(starting_at(99.0), lights=lambda t: "G" if GREEN_S - 1e-9 <= t < 7 else "r") == ()


def test_before_the_handover_is_not_the_planners():
    log = made_log(straight(signal_s=LINE), starting_at(5.0), lamp=lamp, seconds=20.0)
    assert moves_off_delays(replace(log, handover_ns=5 * NS)) == ()


def test_in_the_metrics_and_pooled():
    town = Field()
    logs = [made_log(straight(signal_s=LINE), starting_at(t), lamp=lamp, seconds=20.0) for t in (5.0, 10.0, -99.0)]
    good, bad, none = (score(log, town) for log in logs)
    assert (good.moves_off, good.moves_off_prompt, good.moves_off_delays_s) == (1, 1.0, (1.3,))
    assert (bad.moves_off, bad.moves_off_prompt) == (1, 0.0)
    assert (none.moves_off, none.moves_off_prompt) == (0, None)
    assert moves_off_rate([good, bad, none]) == (1, 2)
