"""The critical-object answers are judged by what the oracle had in view, and always-no is worth one half."""

from dataclasses import replace

import numpy as np
import pytest

from efficientgen.eval.answers import Confusion, answers_of
from efficientgen.eval.compare import balanced_accuracy
from efficientgen.eval.metrics import score
from efficientgen.perception.types import Actor, ActorKind
from efficientgen.planning.schema import CRITICAL_OBJECTS


def test_balanced_accuracy_of_known_counts():
    counts = Confusion(hits=6, misses=2, rejections=30, false_alarms=10)
    assert counts.balanced_accuracy == pytest.approx(0.5 * (6 / 8 + 30 / 40)) and counts.scored
    assert Confusion(misses=8, rejections=40).balanced_accuracy == 0.5, "always no"
    assert np.isnan(Confusion(hits=8).balanced_accuracy) and not Confusion(hits=8).scored


def test_answers_are_counted_against_the_oracle(log):
    """A pedestrian stands beside the road for the whole drive, 10 m ahead of the car; then the same behind it."""
    said = {name: "yes" if name in ("pedestrian", "animal") else "no" for name in CRITICAL_OBJECTS}

    def with_person(ahead: float):
        def place(frame):
            ego = frame.ego
            forward = np.array([np.cos(ego.yaw), np.sin(ego.yaw)])
            x, y = np.array([ego.x, ego.y]) + ahead * forward + 3.0 * np.array([-forward[1], forward[0]])
            person = Actor("p", ActorKind.PEDESTRIAN, x, y, 0.0, 0.0, 0.5, 0.5, 1.7)
            return replace(frame, actors=(person,))

        steps = tuple(
            replace(
                step,
                ticks=tuple(map(place, step.ticks)),
                plan=step.plan and replace(step.plan, sections={"critical_objects": said}),
            )
            for step in log.steps
        )
        return answers_of(replace(log, start=place(log.start), steps=steps))

    asked = sum(step.stamp_ns >= log.handover_ns and step.plan is not None for step in log.steps)
    ahead, behind = with_person(10.0), with_person(-10.0)
    assert ahead["pedestrian"] == Confusion(hits=asked) and behind["pedestrian"] == Confusion(false_alarms=asked)
    assert ahead["animal"] == Confusion(false_alarms=asked) and ahead["cyclist"] == Confusion(rejections=asked)
    silent = replace(log, steps=tuple(replace(s, plan=s.plan and replace(s.plan, sections={})) for s in log.steps))
    assert answers_of(silent) == {}, "a planner that is not asked"


def test_intervals_come_from_whole_scenarios(log, oracle):
    metrics = score(log, oracle.town)

    def drive(scenario: str, counts: tuple[int, int, int, int]):
        return replace(metrics, scenario=scenario, answers=dict.fromkeys(CRITICAL_OBJECTS, counts))

    one = balanced_accuracy([drive("a", (9, 1, 90, 10)), drive("b", (9, 1, 90, 10))])["pedestrian"]
    assert one.mean == one.low == one.high == pytest.approx(0.9) and one.count == 220
    mixed = balanced_accuracy([drive("a", (9, 1, 90, 10)), drive("b", (1, 9, 90, 10))])["pedestrian"]
    assert mixed.mean == pytest.approx(0.7) and (mixed.low, mixed.high) == pytest.approx((0.5, 0.9))
    assert balanced_accuracy([drive("a", (0, 0, 99, 0))]) == {}
