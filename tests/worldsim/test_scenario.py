"""Scenarios: the shipped ones are valid and varied; wrong ones are refused with words that help."""

import hashlib
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from efficientgen.worldsim.lane_routes import plan_route
from efficientgen.worldsim.scenario import (
    FAMILIES,
    HELDOUT_TOWNS,
    SCENARIO_DIR,
    ScenarioError,
    load_scenario,
    parse_scenario,
    scenario_names,
    training_scenario,
    with_weather,
)
from efficientgen.worldsim.town import load_town

GOOD = {"name": "test", **yaml.safe_load((SCENARIO_DIR / "elm_ring.yaml").read_text())}


def test_shipped_scenarios_cover_families_and_held_out_towns() -> None:
    scenarios = [load_scenario(name) for name in scenario_names()]
    assert len(scenarios) >= 24
    assert {s.family for s in scenarios} == set(FAMILIES) and len(FAMILIES) >= 8
    held_out = [s for s in scenarios if s.split == "heldout"]
    assert len(held_out) >= 14
    assert {s.town for s in held_out} == set(HELDOUT_TOWNS)
    assert min(sum(s.town == town for s in held_out) for town in HELDOUT_TOWNS) >= 6
    assert not {s.town for s in held_out} & {s.town for s in scenarios if s.split == "train"}
    assert len({s.town for s in scenarios if s.split == "train"}) >= 3
    assert set(scenario_names("heldout")) == {s.name for s in held_out}
    assert {s.weather for s in scenarios} == {"day", "dusk", "night", "rain", "fog"}
    for s in scenarios:
        assert 25 <= s.duration_s <= 45 and s.seeds == (0, 1, 2, 3, 4) and s.handover_s == 4.0
        assert len(s.description) <= 47, "one line of the listing"


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
        (
            {"lead": {"gap": 10, "speed": 3, "profile": [{"at_s": 9, "speed": 0}, {"at_s": 5, "speed": 3}]}},
            "increasing",
        ),
        ({"lead": {"gap": 10, "speed": 3, "profile": [{"at": 9, "speed": 0}]}}, "'at'"),
        ({"lead": {"gap": 10, "speed": 3, "braking": 20}}, "braking"),
        ({"cut_in": {"at_m": 20, "ahead": 6, "speed": 6}}, "no lane on the left"),
        ({"cut_in": {"at_m": 20, "ahead": 6, "speed": 6, "side": "top"}}, "'top'"),
        ({"cut_in": {"at_m": 20, "ahead": -6, "speed": 6}}, "at least 2 m"),
        ({"streams": [{"edges": ["zzz"], "every_s": 4}]}, "no edge 'zzz'"),
        ({"streams": [{"edges": ["o4-o5"], "every_s": 0}]}, "every_s"),
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


def test_plain_training_drives_are_those_the_shipped_checkpoint_saw() -> None:
    """What `training_scenario` draws for a seed never changes: its cards name seeds."""
    digest = hashlib.sha256()
    for town in ("elm", "birch", "cedar"):
        for seed in range(40):
            drive = asdict(training_scenario(town, seed))
            for added_later in ("cut_in", "streams"):
                assert not drive.pop(added_later)
            if drive["lead"]:
                assert not drive["lead"].pop("profile") and drive["lead"].pop("braking")
            digest.update(repr(sorted(drive.items())).encode())
    assert digest.hexdigest() == "2b9f79cfb0d41a5ed5d9a763cbeb6193ad6ff96eff0a2c1bd42b33a5792993b4"


@pytest.mark.parametrize("town", HELDOUT_TOWNS)
def test_held_out_towns_are_not_for_training(town: str) -> None:
    with pytest.raises(ScenarioError, match="not for training"):
        training_scenario(town, 0)


def test_any_scenario_drives_under_any_sky():
    plain = load_scenario("birch_people")
    assert with_weather(plain, "") == plain
    foggy = with_weather(plain, "fog")
    assert foggy.weather == "fog" and replace(foggy, weather=plain.weather) == plain
    with pytest.raises(ScenarioError, match="'hail' is not one of day, dusk, night, rain, fog"):
        with_weather(plain, "hail")
