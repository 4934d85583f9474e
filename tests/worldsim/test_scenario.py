"""Scenarios: the shipped ones are valid and varied; wrong ones are refused with words that help."""

from pathlib import Path

import pytest
import yaml

from efficientgen.worldsim.scenario import (
    FAMILIES,
    SCENARIO_DIR,
    ScenarioError,
    load_scenario,
    parse_scenario,
    scenario_names,
    training_scenario,
)
from efficientgen.worldsim.town import load_town, plan_route

GOOD = {"name": "test", **yaml.safe_load((SCENARIO_DIR / "elm_ring.yaml").read_text())}


def test_shipped_scenarios_cover_families_and_a_held_out_town() -> None:
    scenarios = [load_scenario(name) for name in scenario_names()]
    assert len(scenarios) >= 8
    assert {s.family for s in scenarios} == set(FAMILIES)
    held_out = [s for s in scenarios if s.split == "heldout"]
    assert len(held_out) >= 3
    assert not {s.town for s in held_out} & {s.town for s in scenarios if s.split == "train"}
    assert len({s.town for s in scenarios if s.split == "train"}) >= 3
    assert set(scenario_names("heldout")) == {s.name for s in held_out}
    for s in scenarios:
        assert 25 <= s.duration_s <= 40 and len(s.seeds) >= 3 and s.handover_s == 4.0


def test_scenario_can_be_read_by_path(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text((SCENARIO_DIR / "elm_ring.yaml").read_text())
    assert load_scenario(path).name == "mine"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"speed": 3}, "unknown key 'speed'"),
        ({"town": "atlantis"}, "town 'atlantis' is not one of"),
        ({"family": "parking"}, "family 'parking'"),
        ({"weather": "snow"}, "weather 'snow'"),
        ({"split": "heldout"}, "not in split"),
        ({"edges": ["o4-o5", "i1-o1"]}, "no connection"),
        ({"duration_s": "soon"}, "could not convert"),
        ({"handover_s": 1}, "handover_s"),
        ({"vehicles": 1000}, "at most 120"),
        ({"clock_s": 2}, "clock_s"),
        ({"lead": {"gap": 10, "spede": 3}}, "spede"),
        ({"lead": {"gap": 10, "speed": 3, "kind": "ufo"}}, "ufo"),
        ({"walkers": [{"edge": "zzz", "every_s": 4}]}, "unknown edge 'zzz'"),
        ({"seeds": []}, "seed"),
    ],
)
def test_mistakes_are_named(change: dict[str, object], words: str) -> None:
    with pytest.raises(ScenarioError, match=words):
        parse_scenario({**GOOD, **change})


def test_missing_key_and_missing_scenario_are_named() -> None:
    with pytest.raises(ScenarioError, match="'edges' is missing"):
        parse_scenario({key: value for key, value in GOOD.items() if key != "edges"})
    with pytest.raises(ScenarioError, match=r"no scenario 'nope'; there are: .*elm_ring"):
        load_scenario("nope")
    with pytest.raises(ScenarioError, match="no split"):
        scenario_names("test")


def test_training_drives_are_reproducible_varied_and_balanced() -> None:
    assert training_scenario("birch", 5) == training_scenario("birch", 5)
    drives = [training_scenario(town, seed) for town in ("elm", "birch", "cedar") for seed in range(30)]
    assert len({d.edges for d in drives}) > 60
    first = []
    for d in drives:
        route = plan_route(load_town(d.town), d.edges, d.start_lane, d.start_pos, d.end_pos)
        assert route.length > 250
        first.append(route.stops[0].direction.lower())
    for turn in "lrs":
        assert first.count(turn) > 15, f"few drives begin with {turn}"
    assert {d.weather for d in drives} == {"day", "dusk", "night", "rain", "fog"}
    assert any(d.lead for d in drives) and any(d.walkers for d in drives)
    assert any(d.start_speed == 0 for d in drives) and any(d.start_speed > 5 for d in drives)


def test_the_held_out_town_is_not_for_training() -> None:
    with pytest.raises(ScenarioError, match="not for training"):
        training_scenario("maple", 0)
