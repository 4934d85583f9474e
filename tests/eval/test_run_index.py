"""The index lists every whole run, says which directories it left out and why, and works from a file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from urllib.parse import unquote

import pytest

from efficientgen.eval.metrics import score
from efficientgen.eval.report import Entry, write_report
from efficientgen.eval.run_index import read_runs, write_index
from efficientgen.eval.step_log import StepLog
from tests.eval.synthetic import FakeOracle


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory, log: StepLog, oracle: FakeOracle) -> Path:
    root = tmp_path_factory.mktemp("runs")
    m = replace(score(log, oracle.town), driving_score=64.0, success=False)
    shown = replace(log, steps=log.steps[10:12])
    write_report(
        [Entry(m, shown), Entry(replace(m, seed=1, driving_score=32.0, collision=True)),
         Entry(replace(m, planner="expert", driving_score=97.0))],
        root / "20260102-030405", town=oracle.town)  # fmt: skip
    write_report([Entry(replace(m, planner="other", scenario="a&b", driving_score=90.0, success=True))],
                 root / "20260203-040506 #2")  # fmt: skip
    (root / "20260301-000000").mkdir()
    for name, text in (("torn", "{"), ("empty", '{"drives": []}'), ("odd", '{"drives": [{"planner": "x"}]}'),
                       ("list", "[]")):  # fmt: skip
        (root / name).mkdir()
        (root / name / "summary.json").write_text(text)
        (root / name / "index.html").write_text("")
    (root / "index.html").write_text("old")
    return root


def test_runs_are_read_from_their_summaries(runs: Path):
    (newer, older), _ = read_runs(runs)
    assert (newer.planner, newer.scenarios, newer.still) == ("other", ("a&b",), False)
    assert older.when == "2026-01-02T03:04:05" and older.still
    assert (older.planners, older.drives, older.score) == (("fake", "expert"), 2, 48.0)
    assert (older.successes, older.collisions) == (0, 1)


def test_what_is_no_whole_run_is_skipped_with_the_reason(runs: Path):
    _, skipped = read_runs(runs)
    assert {s.name for s in skipped} == {"20260301-000000", "torn", "empty", "odd", "list"}
    reasons = {s.name: s.reason for s in skipped}
    assert "interrupted" in reasons["20260301-000000"] and "cannot be read" in reasons["torn"]
    assert "no drive" in reasons["empty"] and "lacks figures" in reasons["odd"]
    assert read_runs(runs / "nowhere") == ((), ())


def test_index_links_pages_and_pictures_that_exist(runs: Path):
    page = write_index(runs)
    text = page.read_text(encoding="utf-8")
    assert page == runs / "index.html" and not list(runs.glob(".index*")), "nothing is left half written"
    links = re.findall(r'(?:href|src)="([^"]+)"', text)
    assert len(links) == 3 and all((runs / unquote(link)).is_file() for link in links)
    assert "http:" not in text and "https:" not in text
    assert text.index("20260203-040506%20%232/") < text.index("20260102-030405"), "newest first"
    assert "a&amp;b" in text and "5 directories were skipped" in text
    assert re.findall(r'<option value="([^"]*)">', text) == [
        *("newest", "oldest", "best", "worst", "collisions"), "", "fake", "other", "", "a&amp;b", "test_bend"
    ]  # fmt: skip


def test_summary_says_what_the_index_needs(runs: Path):
    held = json.loads((runs / "20260102-030405" / "summary.json").read_text())
    assert held["planner"] == "fake" and held["title"].startswith("fake drove")


def test_an_empty_index_says_how_to_fill_it(tmp_path: Path):
    assert "efficientgen drive" in write_index(tmp_path / "new").read_text(encoding="utf-8")
