"""Results side by side: only what means the same is compared, and what was left out is said."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest

pytest.importorskip("libsumo")

from efficientgen.eval.compare import NothingInCommonError, compare
from efficientgen.eval.drive_sets import (
    DriveSet,
    IncomparableError,
    ResultFileError,
    chosen,
    comparable,
    dropped_words,
    read_sets,
)
from efficientgen.eval.metrics import Metrics, MetricsFormatError, metrics_from, score
from tests.eval.made import Field, made_log, straight


@pytest.fixture(scope="module")
def base() -> Metrics:
    return score(made_log(straight(), lambda t: (8 * t, 8.0), seconds=2.0), Field())


def driven(base: Metrics, label: str, pairs: list[tuple[str, int]], **change) -> DriveSet:
    drives = tuple(replace(base, scenario=s, seed=k, planner=label, **change) for s, k in pairs)
    return DriveSet(label, f"{label}.json", drives)


PAIRS = [("x", 0), ("x", 1), ("y", 0)]


def test_pairs_are_what_both_have_and_the_rest_is_named(base: Metrics):
    a, b = driven(base, "a", [*PAIRS, ("z", 0)]), driven(base, "b", PAIRS[1:])
    got = comparable([a, b])
    assert got.pairs == (("x", 1), ("y", 0)) and dict(got.dropped) == {"a (a.json)": (("x", 0), ("z", 0))}
    assert dropped_words(got) == ["a (a.json): 2 drives dropped that not all have: x 0, z 0"]
    assert compare(a.only(set(got.pairs)), b.only(set(got.pairs))).a.count == 2
    assert dropped_words(comparable([a, a])) == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"chunk_s": 0.8}, "plan periods differ"),
        ({"world": "nano"}, "worlds differ"),
        ({"mode": "realtime"}, "modes differ"),
    ],
)
def test_other_conditions_are_refused(base: Metrics, change: dict, words: str):
    mine = driven(base, "a", PAIRS, world="reference")
    with pytest.raises(IncomparableError, match=words):
        comparable([mine, driven(base, "b", PAIRS, **{"world": "reference", **change})])


def test_a_planner_that_looks_at_nothing_goes_with_any_world(base: Metrics):
    assert comparable([driven(base, "a", PAIRS, world="reference"), driven(base, "b", PAIRS, world="none")]).pairs


def test_another_scenario_under_the_same_name_is_refused(base: Metrics):
    a, b = driven(base, "a", PAIRS), driven(base, "b", PAIRS)
    one, two = replace(a, scenario_sha256={"x": "1", "y": "2"}), replace(b, scenario_sha256={"x": "1", "y": "3"})
    with pytest.raises(IncomparableError, match="scenario 'y' was changed"):
        comparable([one, two])
    assert comparable([one, b]).pairs, "who does not know its scenarios is believed"
    with pytest.raises(NothingInCommonError, match="same ones"):
        comparable([a, driven(base, "b", [("w", 0)])])


def test_json_and_sweeps_are_read_alike(base: Metrics, tmp_path: Path):
    pytest.importorskip("pyarrow")
    from efficientgen.eval.sweep_store import Store, row_of

    drives = [replace(base, scenario=s, seed=k) for s, k in PAIRS]
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"result": "closed-loop", "images": "grey", "drives": [asdict(m) for m in drives]}))
    (held,) = read_sets(str(path))
    assert (held.label, held.images, held.drives) == ("made", "grey", tuple(drives))
    store = Store(str(tmp_path / "sweep"))
    store.gather([row_of(str(i), {"label": "l", "family": "f", "images": "own", "scenario_sha256": "h"}, m)
                  for i, m in enumerate(drives)])  # fmt: skip
    (swept,) = read_sets(str(tmp_path / "sweep"))
    assert swept.drives == held.drives and swept.families == {"x": "f", "y": "f"} and swept.label == "l"


def test_other_results_are_told_apart(tmp_path: Path, base: Metrics):
    path = tmp_path / "r.json"
    for text, words in (
        ('{"result": "nuscenes", "convention": "uniad"}', "'nuscenes' under convention 'uniad'"),
        ("[]", "no result of this package"),
        ("{", "no JSON"),
    ):
        path.write_text(text)
        with pytest.raises(ResultFileError, match=words):
            read_sets(str(path))
    with pytest.raises(ResultFileError, match="cannot read"):
        read_sets(str(tmp_path / "none.json"))
    two = [driven(base, "a", PAIRS), driven(base, "b", PAIRS)]
    assert chosen(two, "b", "f").label == "b" and chosen(two[:1], "", "f").label == "a"
    for label, words in (("", "say which"), ("c", "there are: a, b")):
        with pytest.raises(ResultFileError, match=words):
            chosen(two, label, "f")


def test_results_from_before_the_benchmarks_are_still_read(base: Metrics):
    held = {name: value for name, value in asdict(base).items() if not name.startswith(("event_", "carla_", "pdm"))}
    old = metrics_from(held)
    assert old.pdms is None and old.event_incident is None and old.driving_score == base.driving_score
    with pytest.raises(MetricsFormatError, match="driving_score"):
        metrics_from({name: value for name, value in held.items() if name != "driving_score"})
