"""Logs made slim draw the same pictures' moments; drives that sway stay drives; longer scenarios stay on the map."""

import math

import numpy as np
import pytest

from efficientgen.eval.oracle_log import OracleLog, load_oracle_log, save_oracle_log
from efficientgen.eval.world_clips import SWAY_M, longer, slim, swayed
from efficientgen.perception.types import NS, Actor, ActorKind, EgoState, OracleFrame, Route
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.town import load_town
from efficientgen.worldsim.traffic import successors


def log_of(name: str = "birch-1.1", speed: float = 9.0, frames: int = 60) -> OracleLog:
    """A straight drive with one car ahead."""
    states = tuple(
        EgoState(k * 100_000_000, 0.1 * k * speed, 5.0, 0.0, speed, 0.0, 0.0, 0.0) for k in range(4 * frames + 1)
    )
    car = Actor("car_1", ActorKind.CAR, 30.123456, 5.04321, 0.00123, 3.3333, 4.6, 1.82, 1.5)
    seen = tuple(OracleFrame(s.stamp_ns, "birch", s, (car,), {"A0": "rGy"}) for s in states[::4])
    line = np.stack([np.arange(400) * 0.5, np.full(400, 5.0)], 1)
    route = Route(line, np.zeros(400), np.full(400, 13.9), np.full(400, 1.75), (), ())
    return OracleLog(name, route, seen, states)


def test_a_slim_log_is_small_and_shows_the_same_moments(tmp_path):
    log = log_of()
    (tmp_path / "a").mkdir()
    whole, small = save_oracle_log(log, tmp_path / "a"), save_oracle_log(slim(log), tmp_path / "b")
    assert small.stat().st_size < 0.6 * whole.stat().st_size
    back = load_oracle_log(small)
    assert [f.stamp_ns for f in back.frames] == [f.stamp_ns for f in log.frames]
    assert [f.ego for f in back.frames] == [f.ego for f in log.frames]
    ours, theirs = log.frames[3].actors[0], back.frames[3].actors[0]
    assert (ours.id, ours.kind, back.frames[3].lights) == (theirs.id, theirs.kind, dict(log.frames[3].lights))
    assert math.hypot(ours.x - theirs.x, ours.y - theirs.y) < 0.01 and abs(ours.yaw - theirs.yaw) < 0.002


def test_about_half_of_the_drives_sway_and_their_headings_follow_their_way():
    moved = 0
    for k in range(40):
        log = log_of(f"birch-{k}.{k}")
        frames = swayed(log, log.name)
        assert frames == swayed(log, log.name), "by name alone"
        if frames == log.frames:
            continue
        moved += 1
        y = np.array([f.ego.y for f in frames]) - 5.0
        x, yaw = np.array([f.ego.x for f in frames]), np.array([f.ego.yaw for f in frames])
        assert 0.2 < np.abs(y).max() <= SWAY_M
        assert np.allclose(np.tan(yaw)[1:-1], (y[2:] - y[:-2]) / (x[2:] - x[:-2]), atol=0.03)
    assert 8 < moved < 32


def test_a_car_that_stands_is_not_turned():
    for k in range(20):
        log = log_of(f"elm-{k}.{k}", speed=0.0)
        assert all(f.ego.yaw == 0.0 for f in swayed(log, log.name))


@pytest.mark.parametrize("name", ["maple_right", "oak_fork"])
def test_a_longer_scenario_goes_on_along_streets_that_connect(name):
    short, long = load_scenario(name), longer(load_scenario(name), 64.0)
    town = load_town(short.town)
    assert long.edges[: len(short.edges)] == short.edges and long.duration_s == 64.0
    assert sum(town.net.getEdge(edge).getLength() for edge in long.edges) > 64.0 * 11.0
    for here, onward in zip(long.edges, long.edges[1:], strict=False):
        assert onward in [edge for edge, _ in successors(town, here)]
    assert longer(load_scenario(name), 64.0) == long and NS == 10**9
