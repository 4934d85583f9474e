"""Scene descriptions say what the oracle knows, and every one of them can be spelled."""

import numpy as np
import pytest

from efficientgen.perception.types import Actor, ActorKind, Command, EgoState, OracleFrame, Plan
from efficientgen.planning.annotate import EXPLANATIONS
from efficientgen.planning.nano_text import nano_text_tokenizer
from efficientgen.planning.scene_text import WEATHER, scene_text


def frame(actors=(), weather="day", speed=8.0):
    return OracleFrame(0, "nowhere", EgoState(0, 0.0, 0.0, 0.0, speed, 0.0, 0.0, 0.0), tuple(actors), {}, weather)


def plan(cause="free_road", signal="none", metres=24.0, command=Command.GO_STRAIGHT):
    times = np.arange(1, 7) * 0.5
    sections = {"cause": cause, "signal": signal, "signal_distance": 12.4, "command": command.value, "cause_actor": "a"}
    return Plan(0, np.stack([times / 3 * metres, 0 * times], 1), times, sections)


def actor(kind, x, y, speed=5.0, name="a"):
    return Actor(name, kind, x, y, 0.0, speed, 4.0, 1.8, 1.5)


def test_a_description_says_what_there_is():
    people = [actor(ActorKind.PEDESTRIAN, 10, 3, 1.0, "p"), actor(ActorKind.PEDESTRIAN, -10, 0, 1.0, "q")]
    truck = actor(ActorKind.TRUCK, 15, 9, 0.0)
    text = scene_text(
        frame([*people, truck], "rain", 0.2), plan("red_light", "yellow", 0.0, Command.GO_LEFT), (frame(), plan())
    )
    assert text == (
        "It is raining. The car stands still and the route turns left. The traffic light is yellow, 12 metres away. "
        "The next truck is 16 metres to the left and stands still. One person is near. "
        "The traffic light is yellow, stopping at the line. "
        "The plan is to come to stop and go straight, 0 metres in three seconds. "
        "Two seconds later the car drives at 8 metres per second, with no light ahead."
    )


@pytest.mark.parametrize("seed", range(40))
def test_every_description_can_be_spelled_and_read_back(seed):
    tokenizer, rng = nano_text_tokenizer(), np.random.default_rng(seed)
    kinds, causes = list(ActorKind), [c.partition(".")[0] for c in EXPLANATIONS if c != "yellow_light"]
    actors = [
        actor(kinds[rng.integers(5)], *rng.uniform(-50, 50, 2), rng.uniform(0, 9), f"x{i}")
        for i in range(rng.integers(12))
    ]
    pick = lambda xs: xs[rng.integers(len(xs))]  # noqa: E731
    arguments = [
        (
            frame(actors, pick(list(WEATHER)), rng.uniform(0, 20)),
            plan(pick(causes), pick(["red", "yellow", "green", "none"]), rng.uniform(0, 60), pick(list(Command))),
        )
        for _ in range(2)
    ]
    text = scene_text(*arguments[0], arguments[1] if seed % 3 else None)
    assert tokenizer.decode(tokenizer.encode(text)) == text and len(tokenizer.encode(text)) < 120
