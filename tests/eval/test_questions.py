"""The oracle's answers on scenes whose truth the test chooses; balance of the set; scores against brute force."""

import math
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.oracle_log import OracleLog
from efficientgen.eval.question_score import CONTROL, MODEL, Truth, means, score_questions, without_looking
from efficientgen.eval.question_set import QuestionSetConfig, choose, moments_of
from efficientgen.eval.questions import BY_NAME, NO_VEHICLE, QUESTIONS, REACH, answers_of
from efficientgen.perception.types import Actor, ActorKind, Command, EgoState, OracleFrame
from efficientgen.planning.question_prompt import normalised
from tests.eval.made import CAR, car, straight

ROUTE = straight(300.0, signal_s=60.0)


def scene(s=20.0, actors=(), lamp="G", weather="day", left=0.0, yaw=0.0, route=ROUTE):
    """The ego at arc length `s`, `left` m beside the route."""
    ego = EgoState(10_000_000_000, s, left, yaw, 5.0, 0.0, 0.0, 0.0)
    return answers_of(route, OracleFrame(ego.stamp_ns, "elm", ego, tuple(actors), {"J": lamp}, weather))


def walker(x, y, yaw=math.pi / 2, speed=1.4, name="p"):
    return Actor(name, ActorKind.PEDESTRIAN, x, y, yaw, speed, 0.4, 0.5, 1.75)


def other(kind, x, y, speed=0.0):
    return Actor("o", kind, x, y, 0.0, speed, 4.0, 1.8, 2.0)


def test_every_answer_is_one_of_its_type_and_every_wording_is_in_its_final_form():
    said = [scene(), scene(55.0, [car(70.0)], "r"), scene(30.0, [walker(45.0, 1.0)], weather="fog", left=1.0)]
    for answers in said:
        for name, answer in answers.items():
            assert answer in BY_NAME[name].answers
    for question in QUESTIONS:
        assert len(question.taught) >= 3 and question.unseen not in question.taught
        assert all(normalised(w) == w for w in question.wordings)
        known = {word for q in QUESTIONS for w in q.taught for word in w.split()}
        assert set(question.unseen.split()) <= known, "an unseen wording must be new in form, not in words"
    every = [w for q in QUESTIONS for w in q.wordings]
    assert len(set(every)) == len(every)


@pytest.mark.parametrize(
    ("gap", "ahead", "distance"),
    [
        (6.0, "A car is ahead.", "Less than 10 m."),
        (15.0, "A car is ahead.", "10 to 20 m."),
        (30.0, "A car is ahead.", "20 to 35 m."),
        (40.0, None, None),  # neither near nor far
        (70.0, "The lane ahead is clear.", NO_VEHICLE),
    ],
)
def test_what_is_ahead_and_how_far(gap, ahead, distance):
    found = scene(100.0, [car(100.0 + REACH + gap + CAR[0] / 2, speed=6.0)])
    assert found.get("ahead") == ahead and found.get("distance") == distance
    beside = scene(100.0, [car(100.0 + REACH + gap, 3.5, speed=6.0)])  # in the next lane
    assert beside["ahead"] == "The lane ahead is clear."


def test_kinds_and_motion_of_what_is_ahead():
    assert scene(100.0, [other(ActorKind.TRUCK, 115.0, 0.0)])["ahead"] == "A truck is ahead."
    assert scene(100.0, [other(ActorKind.BICYCLE, 115.0, 0.0)])["ahead"] == "A cyclist is ahead."
    person = scene(100.0, [walker(115.0, 0.0)])
    assert person["ahead"] == "A pedestrian is ahead." and "distance" not in person
    assert scene(100.0, [car(115.0, speed=4.0)])["moving"] == "The vehicle ahead is moving."
    assert scene(100.0, [car(115.0, speed=0.0)])["moving"] == "The vehicle ahead has stopped."
    assert "moving" not in scene(100.0, [car(115.0, speed=0.5)])


@pytest.mark.parametrize(
    ("lamp", "colour", "go"),
    [
        ("r", "The light is red.", "No, the light is red."),
        ("y", "The light is yellow.", None),
        ("G", "The light is green.", "Yes, the way is free."),
    ],
)
def test_the_light_and_what_it_means(lamp, colour, go):
    near = scene(60.0 - REACH - 8.0, lamp=lamp)
    assert near["light"] == colour
    if go:
        assert near["may_go"] == go
        assert near["must_stop"].split(",")[0] != go.split(",")[0]  # the opposite question, the same reason
        assert near["must_stop"].split(", ")[1] == go.split(", ")[1]
    assert scene(100.0, lamp=lamp)["light"] == "There is no light ahead."
    assert near["junction"] == "A junction with a light is ahead."
    assert scene(100.0)["junction"] == "There is no junction ahead."


def test_reasons_to_stop_are_the_nearest():
    red_behind_car = scene(60.0 - REACH - 14.0, [car(60.0 - 14.0 + 6.0)], "r")
    assert red_behind_car["may_go"] == "No, a vehicle stands ahead."
    assert scene(100.0, [walker(112.0, 1.0, -math.pi / 2)])["may_go"] == "No, a pedestrian is crossing."
    assert scene(100.0)["may_go"] == "Yes, the way is free." and scene(100.0)["must_stop"] == "No, the way is free."


def test_people():
    assert scene(100.0, [walker(115.0, 2.0)])["crossing"] == "Yes, a pedestrian is crossing."
    assert scene(100.0, [walker(115.0, 2.0, 0.0)])["crossing"] == "No one is crossing."  # along the pavement
    assert "crossing" not in scene(100.0, [walker(115.0, 5.5)])  # about to, perhaps
    crowd = [walker(110.0, 6.0 + k, 0.0, name=str(k)) for k in range(5)]
    counts = [scene(100.0, crowd[:n])["people"] for n in (0, 1, 3, 5)]
    assert counts == list(BY_NAME["people"].answers)
    assert scene(100.0, [walker(80.0, 3.0, 0.0)])["people"] == "I see no one."  # behind


def test_sides_lane_weather_route():
    left = scene(100.0, [car(108.0, 8.0, yaw=-1.5, speed=3.0)])
    assert left["left"] == "There is a vehicle on the left." and left["right"] == "The right is clear."
    right = scene(100.0, [car(108.0, -8.0, speed=3.0)])
    assert right["left"] == "The left is clear." and right["right"] == "There is a vehicle on the right."
    offsets = [scene(100.0, left=y).get("lane") for y in (0.0, 0.6, 1.0, -1.0)]
    inside, too_left, too_right = BY_NAME["lane"].answers
    assert offsets == [inside, None, too_left, too_right]
    assert "lane" not in scene(62.0, left=1.0)  # in the junction there is no lane
    assert [scene(weather=w)["weather"] for w in ("day", "dusk", "night", "rain", "fog")] == list(
        BY_NAME["weather"].answers
    )
    stops = (replace(ROUTE.stops[0], direction="r"),)
    assert scene(40.0, route=replace(ROUTE, stops=stops))["route"] == "The route turns right."
    zebra = replace(ROUTE, crossings=((115.0, 119.0),))
    assert scene(100.0, route=zebra)["zebra"] == "A zebra crossing is ahead."
    assert scene(100.0)["zebra"] == "There is no zebra crossing ahead."


def made_drive(name="elm-1.1", seconds=40.0):
    """A drive up to a light that is red half of the time, with somebody crossing once."""
    frames, states = [], []
    for k in range(int(seconds * 2.5) + 1):
        stamp, s = k * 400_000_000, 5.0 + 1.6 * k
        ego = EgoState(stamp, s, 0.0, 0.0, 4.0, 0.0, 0.0, 0.0)
        actors = (walker(s + 12.0, 1.0),) if 40 <= k < 42 else (car(s + 200.0, speed=4.0),)
        frames.append(OracleFrame(stamp, "elm", ego, actors, {"J": "r" if k % 20 < 10 else "G"}, "day"))
        states.append(ego)
    return OracleLog(name, ROUTE, tuple(frames), tuple(states))


def test_moments_are_a_pure_function_of_the_drive_and_shown_as_they_are_labelled():
    config = QuestionSetConfig()
    first, again = (list(moments_of(made_drive(), config)) for _ in range(2))
    assert first == again and len(first) > 10
    assert list(moments_of(made_drive("elm-2.2"), config)) != first
    for moment in first:
        assert moment.now.stamp_ns >= 4_000_000_000
        expected = answers_of(ROUTE, moment.now)
        if moment.before is None:
            assert "moving" not in moment.answers
            expected.pop("moving", None)
        else:
            assert moment.now.stamp_ns - moment.before.stamp_ns == 400_000_000
            assert moment.before.weather == moment.now.weather
            assert moment.before.ego.y == pytest.approx(moment.now.ego.y, abs=0.3)  # both moved alike
        assert moment.answers == expected


def test_rare_answers_are_chosen_more_often():
    moments = [m for k in range(12) for m in moments_of(made_drive(f"elm-{k}.{k}"), QuestionSetConfig())]
    chosen = choose(moments, len(moments) // 4, 0)
    assert len(chosen) == len(moments) // 4 and chosen == choose(moments, len(moments) // 4, 0)
    share = lambda held: sum(m.answers.get("crossing", "").startswith("Yes") for m in held) / len(held)  # noqa: E731
    assert share(chosen) > 2 * share(moments) > 0


def test_scores_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    n, kinds = 400, 3
    truth = rng.choice([-1, 0, 1, 2], n, p=[0.2, 0.5, 0.2, 0.1])[:, None]
    drives = [f"d{k}" for k in rng.integers(0, 25, n)]
    right = {
        who: np.where(truth >= 0, rng.random((n, 1)) < p, -1).astype(np.int64)
        for who, p in ((MODEL, 0.8), (CONTROL, 0.4))
    }
    rows = score_questions(["q"], [["a", "b", "c"]], Truth(truth, np.zeros(n, np.int64), drives), right)
    row, held = rows["q"], truth[:, 0] >= 0
    assert row["asked"] == held.sum()
    accuracy = right[MODEL][held, 0].mean()
    recalls = [right[MODEL][truth[:, 0] == k, 0].mean() for k in range(kinds)]
    assert row[MODEL]["accuracy"]["mean"] == pytest.approx(accuracy)
    assert row[MODEL]["balanced"]["mean"] == pytest.approx(np.mean(recalls))
    assert row[MODEL]["accuracy"]["low"] < accuracy < row[MODEL]["accuracy"]["high"]
    assert row["above"] and row["over control"]["low"] > 0
    assert row["answers"]["c"] == [int((truth == 2).sum()), int(right[MODEL][truth == 2].sum())]
    assert means(rows, MODEL)["balanced"] == pytest.approx(np.mean(recalls))
    worse = score_questions(["q"], [["a", "b", "c"]], Truth(truth, np.zeros(n, np.int64), drives),
                            {MODEL: right[CONTROL], CONTROL: right[MODEL]})  # fmt: skip
    assert not worse["q"]["above"]


def test_those_who_do_not_look_say_the_most_frequent():
    train = Truth(np.array([[0], [0], [1], [1], [1], [-1]]), np.array([0, 0, 0, 1, 1, 1]), [""] * 6)
    test = Truth(np.array([[0], [1], [1], [-1]]), np.array([0, 0, 1, 1]), [""] * 4)
    blind = without_looking(train, test)
    assert blind["command table"][:, 0].tolist() == [1, 0, 1, -1]
    assert blind["majority"][:, 0].tolist() == [0, 1, 1, -1]
    assert Counter(len(v) for v in blind.values()) == {4: 2} and list(Command)[0] is Command.GO_STRAIGHT
