"""A sweep plan is read strictly: every mistake is told before the first drive, with what to write instead."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("libsumo")

from efficientgen.eval.latency import LatencyError
from efficientgen.eval.sweep_plan import SweepPlanError, entries, parse_plan, read_plan
from efficientgen.planning.load import UnknownPlannerError
from efficientgen.worldsim.scenario import ScenarioError, scenario_names

PLAN = {"planners": ["expert", "constant-velocity"], "scenarios": ["maple_right", "birch_red"], "seeds": 2}


def test_planners_times_worlds_times_scenarios_times_seeds_in_their_order():
    got = entries(parse_plan(PLAN))
    assert len(got) == 2 * 2 * 2 and len(set(got)) == 8
    assert [(e.label, e.job.scenario, e.job.seed) for e in got[:3]] == [
        ("expert", "maple_right", 0), ("expert", "maple_right", 1), ("expert", "birch_red", 0)
    ]  # fmt: skip
    assert all(e.job.latency is None and e.job.world == "reference" and e.job.benchmarks for e in got)


def test_defaults_are_all_scenarios_and_the_seeds_that_they_name():
    plan = parse_plan({"planners": ["expert"]})
    assert plan.scenarios == scenario_names() and plan.seeds is None
    assert [e.job.seed for e in entries(plan)[:5]] == [0, 1, 2, 3, 4]
    assert parse_plan({"planners": ["expert"], "split": "heldout"}).scenarios == scenario_names("heldout")


def test_one_planner_in_two_settings_under_two_labels():
    two = ["nano-ddrive", {"name": "nano-ddrive", "rollouts": 4, "label": "four"}]
    got = entries(parse_plan({**PLAN, "planners": two, "latency": 0.2, "benchmarks": False}))
    assert {e.label: e.job.rollouts for e in got} == {"nano-ddrive": 1, "four": 4}
    assert all(e.job.latency.seconds == 0.2 and not e.job.benchmarks for e in got)
    swapped = entries(parse_plan({**PLAN, "planners": [{"name": "nano-ddrive", "images": "swapped"}]}))
    assert all(e.job.donor and e.job.donor != e.job.scenario for e in swapped)


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"planners": None}, SweepPlanError, "planners: \\[expert"),
        ({"planners": "expert"}, SweepPlanError, "write `planners: \\[expert\\]`"),
        ({"planers": ["expert"]}, SweepPlanError, "unknown key 'planers'; known are: planners"),
        ({"planners": ["expert", "expert"]}, SweepPlanError, "give each its own `label:`"),
        ({"planners": [{"nam": "expert"}]}, SweepPlanError, "a planner is a name"),
        ({"planners": [{"name": "expert", "decodr": "ar"}]}, SweepPlanError, "'decodr' of a planner; known are: name"),
        ({"planners": [{"name": "expert", "rollouts": 2}]}, SweepPlanError, "baseline without a model"),
        ({"planners": [{"name": "nano-ddrive", "rollouts": 0}]}, SweepPlanError, "at least 1"),
        ({"planners": [{"name": "nano-ddrive", "rollouts": "4"}]}, SweepPlanError, "must be int"),
        ({"planners": [{"name": "nano-ddrive", "images": "none"}]}, SweepPlanError, "not one of own, swapped, grey"),
        ({"planners": ["nobody"]}, UnknownPlannerError, "choose one of"),
        ({"scenarios": ["nowhere"]}, ScenarioError, "there are:"),
        ({"scenarios": ["maple_right"], "split": "heldout"}, SweepPlanError, "not both"),
        ({"worlds": ["mars"]}, SweepPlanError, "no world 'mars'; there are: reference"),
        ({"seeds": 0}, SweepPlanError, "a number above 0"),
        ({"seeds": [0, -1]}, SweepPlanError, "whole numbers from 0"),
        ({"seeds": True}, SweepPlanError, "a list of seeds"),
        ({"latency": "fast"}, SweepPlanError, "leave it out for sync"),
        ({"latency": -1}, LatencyError, "within 0 and 60"),
        ({"benchmarks": "yes please"}, SweepPlanError, "true or false"),
    ],
)
def test_mistakes_are_told_with_the_remedy(change: dict, error: type[Exception], words: str):
    with pytest.raises(error, match=words):
        parse_plan({**PLAN, **change})


def test_files_that_are_no_plan(tmp_path: Path):
    with pytest.raises(SweepPlanError, match="cannot read"):
        read_plan(tmp_path / "none.yaml")
    bad = tmp_path / "bad.yaml"
    for text, words in (("planners: [", "not valid YAML"), ("- expert", "keys and values")):
        bad.write_text(text)
        with pytest.raises(SweepPlanError, match=words):
            read_plan(bad)
