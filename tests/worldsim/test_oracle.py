"""The oracle: same seed, same world; traffic that reacts to the ego; frames that say what SUMO says."""

import hashlib
import math
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from efficientgen.eval.boxes import first_contact
from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import TICK_NS, ActorKind, EgoState, VehicleParams
from efficientgen.worldsim.oracle import ACTOR_RANGE_M, Oracle, OracleError
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.vehicle import advance

DIGEST = """
import hashlib
from efficientgen.worldsim.oracle import Oracle
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.vehicle import advance
with Oracle(load_scenario("birch_dense"), {seed}) as oracle:
    frame = oracle.reset()
    digest, ego = hashlib.sha256(repr(frame).encode()), frame.ego
    for _ in range(80):
        ego = advance(ego, 0.7, 0.0, 100_000_000)
        (frame,) = oracle.step((ego,))
        digest.update(repr(frame).encode())
    print(digest.hexdigest())
"""


def digest_here(seed: int) -> str:
    with Oracle(load_scenario("birch_dense"), seed) as oracle:
        frame = oracle.reset()
        digest, ego = hashlib.sha256(repr(frame).encode()), frame.ego
        for _ in range(80):
            ego = advance(ego, 0.7, 0.0, TICK_NS)
            (frame,) = oracle.step((ego,))
            digest.update(repr(frame).encode())
    return digest.hexdigest()


def test_same_seed_same_frames_in_any_process() -> None:
    here = digest_here(1)
    script = DIGEST.format(seed=1)
    there = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.strip()
    assert here == there
    assert here == digest_here(1), "and again after close()"
    assert here != digest_here(2)


def standing(ego: EgoState) -> EgoState:
    return replace(ego, stamp_ns=ego.stamp_ns + TICK_NS, speed=0.0, acceleration=0.0)


def test_start_is_free_of_contact_and_on_the_route() -> None:
    scenario = load_scenario("birch_dense")
    with Oracle(scenario, 0) as oracle:
        frame = oracle.reset()
        s, lateral = locate(oracle.route, frame.ego.x, frame.ego.y)
        assert frame.stamp_ns == 0 and abs(s) < 0.1 and abs(lateral) < 0.05
        assert first_contact([frame], VehicleParams()) is None
        assert len(frame.actors) > 10
        assert list(frame.actors) == sorted(frame.actors, key=lambda actor: actor.id)
        assert {ActorKind.CAR, ActorKind.PEDESTRIAN} <= {actor.kind for actor in frame.actors}
        for actor in frame.actors:
            assert math.hypot(actor.x - frame.ego.x, actor.y - frame.ego.y) < ACTOR_RANGE_M + 8
        assert frame.lights and all(set(state) <= set("rugGyYoOs") for state in frame.lights.values())
        known = {s.signal for s in oracle.town.signals}
        assert set(frame.lights) <= known


def test_lead_stands_where_the_scenario_says() -> None:
    scenario = load_scenario("maple_truck")
    with Oracle(scenario, 0) as oracle:
        frame = oracle.reset()
        lead = next(actor for actor in frame.actors if actor.id.endswith("_lead"))
        assert lead.kind is ActorKind.TRUCK and scenario.lead is not None
        car = VehicleParams()
        middle = car.rear_to_centre + car.length / 2 + scenario.lead.gap + lead.length / 2
        s, lateral = locate(oracle.route, lead.x, lead.y)
        assert s == pytest.approx(middle, abs=1.5) and abs(lateral) < 0.3
        ego = frame.ego
        for _ in range(100):
            ego = standing(ego)
            (frame,) = oracle.step((ego,))
        lead = next(actor for actor in frame.actors if actor.id.endswith("_lead"))
        assert locate(oracle.route, lead.x, lead.y)[0] > s + 30, "the lead drives on along the ego's route"
        assert lead.speed <= scenario.lead.speed + 0.3


def test_traffic_stops_behind_a_standing_ego() -> None:
    with Oracle(load_scenario("elm_centre_left"), 1) as oracle:
        frame = oracle.reset()
        x, y, yaw = point_at(oracle.route, 20.0)
        ego = replace(frame.ego, x=x, y=y, yaw=yaw)
        gaps = []
        for _ in range(240):
            ego = standing(ego)
            (frame,) = oracle.step((ego,))
            assert first_contact([frame], VehicleParams()) is None, "someone touched a standing ego"
            for actor in frame.actors:
                s, lateral = locate(oracle.route, actor.x, actor.y)
                if actor.speed < 0.05 and -25 < s - 20 < 0 and abs(lateral) < 1:
                    gaps.append(
                        20.0 + VehicleParams().rear_to_centre - VehicleParams().length / 2 - s - actor.length / 2
                    )
        assert gaps, "nobody queued behind the ego"
        assert 1.5 < min(gaps) < 4.0, "traffic keeps its minimum gap to the bodywork of the ego"


def test_traffic_does_not_drain() -> None:
    scenario = load_scenario("birch_dense")
    with Oracle(scenario, 0) as oracle:
        frame = oracle.reset()
        before = len(frame.actors)
        ego = frame.ego
        began = time.process_time()
        for _ in range(600):
            ego = standing(ego)
            (frame,) = oracle.step((ego,))
        assert (time.process_time() - began) / 600 < 0.015, "a tick is meant to take a millisecond or two"
        assert len(frame.actors) > 0.3 * before


def test_misuse_is_answered_in_words() -> None:
    scenario = load_scenario("elm_ring")
    oracle = Oracle(scenario, 0)
    with pytest.raises(OracleError, match="reset"):
        oracle.step(())
    with oracle:
        ego = oracle.reset().ego
        with pytest.raises(OracleError, match="another Oracle is open"):
            Oracle(scenario, 1).reset()
        with pytest.raises(OracleError, match="expected the ego state"):
            oracle.step((replace(ego, stamp_ns=3 * TICK_NS),))
    with Oracle(scenario, 1) as second:  # close() has freed the process
        assert second.reset().stamp_ns == 0
