"""`efficientgen sweep`, `compare` and `leaderboard` as a user calls them; errors are one line with the remedy."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

pytest.importorskip("pyarrow")
pytest.importorskip("libsumo")

from efficientgen.eval.sweep_trial import SHORT
from efficientgen_ros import cli


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished sweep of two planners over two seeds, driven in this process."""
    root = tmp_path_factory.mktemp("sweep")
    (root / "short.yaml").write_text(yaml.safe_dump(SHORT))
    plan = {"planners": ["constant-velocity", "expert"], "scenarios": ["short.yaml"], "seeds": 2, "benchmarks": False}
    (root / "plan.yaml").write_text(yaml.safe_dump(plan))
    got = CliRunner().invoke(cli.app, ["sweep", str(root / "plan.yaml"), "--out", str(root / "out"), "--serial"])
    assert got.exit_code == 0, got.output
    return root


def test_the_same_command_again_drives_nothing(swept: Path):
    command = ["sweep", str(swept / "plan.yaml"), "--out", str(swept / "out"), "--serial", "--json"]
    got = CliRunner().invoke(cli.app, command)
    told = json.loads(got.stdout)
    assert (told["drives"], told["made"], told["kept"]) == (4, 0, 4)
    assert Path(told["table"]).is_file()


def test_compare_and_leaderboard_read_it(swept: Path):
    out = str(swept / "out")
    got = CliRunner().invoke(cli.app, ["compare", out, out, "--a", "expert", "--b", "constant-velocity", "--json"])
    told = json.loads(got.stdout)
    assert told["pairs"] == 2 and told["dropped"] == {} and "driving_score" in told["metrics"]
    assert told["metrics"]["driving_score"]["difference"]["mean"] == pytest.approx(
        told["metrics"]["driving_score"]["a"]["mean"] - told["metrics"]["driving_score"]["b"]["mean"]
    )
    got = CliRunner().invoke(cli.app, ["leaderboard", out, "--out", str(swept / "board")])
    assert got.exit_code == 0 and "expert" in got.output and (swept / "board" / "index.html").is_file()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["compare", "OUT", "OUT", "--a", "nobody"], "ResultFileError: no planner 'nobody'"),
        (["compare", "OUT", "OUT", "--a", "expert", "--metric", "iq"], "UnknownMetricError: no metric 'iq'"),
        (["compare", "NOWHERE", "OUT"], "StoreError: no drives.parquet"),
        (["sweep", "NOWHERE"], "SweepPlanError: cannot read"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(swept: Path, capsys, monkeypatch, arguments: list[str], words: str):
    places = {"OUT": str(swept / "out"), "NOWHERE": str(swept / "nowhere")}
    monkeypatch.setattr(sys, "argv", ["efficientgen", *(places.get(each, each) for each in arguments)])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    err = capsys.readouterr().err
    assert ended.value.code == 2 and err.startswith(words) and len(err.strip().splitlines()) == 1
