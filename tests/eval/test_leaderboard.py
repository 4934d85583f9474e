"""The leaderboard ranks over common drives, says how sure it is, and works from a file."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libsumo")

from efficientgen.eval.drive_sets import DriveSet, IncomparableError
from efficientgen.eval.leaderboard import Board, leaderboard, write_leaderboard
from efficientgen.eval.metrics import Metrics, score
from tests.eval.made import Field, made_log, straight

NAMES = [f"s{k}" for k in range(8)]


@pytest.fixture(scope="module")
def base() -> Metrics:
    return score(made_log(straight(), lambda t: (8 * t, 8.0), seconds=2.0), Field())


def entrant(base: Metrics, label: str, scores: list[float], source: str = "r.json") -> DriveSet:
    drives = tuple(
        replace(base, scenario=name, planner=label, driving_score=value)
        for name, value in zip(NAMES, scores, strict=False)
    )
    return DriveSet(label, source, drives, {name: "left_turn" if k < 4 else "yield" for k, name in enumerate(NAMES)})


@pytest.fixture(scope="module")
def board(base: Metrics) -> Board:
    good = [90.0, 92.0, 94.0, 96.0, 70.0, 72.0, 74.0, 76.0]
    near = [v + (1.0 if k % 2 else -2.0) for k, v in enumerate(good)]
    return leaderboard([
        entrant(base, "near", near), entrant(base, "constant-velocity", [20.0] * 8),
        entrant(base, "good <b>", good), entrant(base, "part", good[:6]),
    ])  # fmt: skip


def test_ranks_over_common_drives_and_by_family(board: Board):
    assert [row.name for row in board.rows] == ["good <b>", "part", "near", "constant-velocity"]
    first = board.rows[0]
    assert first.overall["driving_score"].mean == pytest.approx((90 + 92 + 94 + 96 + 70 + 72) / 6)
    assert first.families["left_turn"]["driving_score"].mean == 93.0 and first.behind is None
    assert board.families == ("left_turn", "yield") and len(board.paired.pairs) == 6
    assert set(board.paired.dropped) == {"near (r.json)", "constant-velocity (r.json)", "good <b> (r.json)"}


def test_a_place_is_shared_where_the_difference_could_be_nothing(board: Board):
    shared = {row.name: row.shared for row in board.rows}
    assert shared == {"good <b>": False, "part": True, "near": True, "constant-velocity": False}
    behind = board.rows[-1].behind
    assert behind is not None and behind.difference.high < -40.0


def test_the_page_stands_alone_and_the_json_says_the_same(board: Board, tmp_path: Path):
    page = write_leaderboard(board, tmp_path / "out")
    text = page.read_text(encoding="utf-8")
    assert sorted(p.name for p in page.parent.iterdir()) == ["index.html", "leaderboard.json"]
    assert "http:" not in text and "https:" not in text and "src=" not in text
    assert "good &lt;b&gt;" in text and "good <b>" not in text
    lines = re.findall(r"<tr><td class='place'>(.*?)</td><th>(.*?)</th>", text)
    assert [place for place, _ in lines] == ["1", "2 =", "3 =", "4"] and "baseline" in lines[3][1]
    assert text.count('data-better="less"') >= 1 and "PDMS" not in text, "no column without a figure"
    held = json.loads((page.parent / "leaderboard.json").read_text())
    assert [row["planner"] for row in held["rows"]] == [row.name for row in board.rows]
    assert held["rows"][0]["overall"]["driving_score"]["mean"] == board.rows[0].overall["driving_score"].mean


def test_labels_that_are_alike_are_told_by_their_source(base: Metrics):
    scores = [50.0] * 8
    got = leaderboard([entrant(base, "a", scores, "one.json"), entrant(base, "a", scores, "x/two.json")])
    assert [row.name for row in got.rows] == ["a (one.json)", "a (two.json)"]


def test_what_is_not_comparable_is_not_ranked(base: Metrics):
    slow = entrant(base, "slow", [50.0] * 8)
    slow = replace(slow, drives=tuple(replace(m, chunk_s=0.8) for m in slow.drives))
    with pytest.raises(IncomparableError):
        leaderboard([entrant(base, "a", [50.0] * 8), slow])
