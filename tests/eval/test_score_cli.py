"""`efficientgen score` and `bench` as a user runs them, in this process."""

import json
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner

from efficientgen.eval.bench_eval import TARGETS
from efficientgen.eval.offline import DifferentMetricError
from efficientgen_ros.cli import app, main
from tests.eval import tiny_nuscenes


def run(*arguments: str):
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False)


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    pytest.importorskip("nuscenes")
    return tiny_nuscenes.write(tmp_path_factory.mktemp("nuscenes"), samples=16)


def nuscenes(root: Path, convention: str, *more: str):
    where = ("--dataroot", str(root), "--version", "v1.0-mini", "--planner", "constant-velocity")
    return run("score", "nuscenes", *where, "--convention", convention, *more)


def test_nuscenes_from_the_command_line(root: Path, tmp_path: Path):
    results = {}
    for convention in ("vad", "uniad"):
        results[convention] = tmp_path / f"{convention}.json"
        told = nuscenes(root, convention, "--on-error", "skip", "--out", str(results[convention]))
        assert told.exit_code == 0 and "NotEnoughHistoryError" in told.output and "leak the future" in told.output
    held = json.loads(results["vad"].read_text())
    assert held["convention"] == "vad" and held["samples"] == 2  # 16 key frames, 8 without history, 6 without a future
    assert held["code_sha256"] and held["seed"] == 0 and held["mask_rule"] == "only samples with all six futures"
    assert results["vad"].with_suffix(".jsonl").exists()
    again = nuscenes(root, "vad", "--on-error", "skip", "--out", str(results["vad"]), "--json")
    assert json.loads(again.stdout)["scores"] == held["scores"]
    assert run("score", "compare", str(results["vad"]), str(results["vad"])).exit_code == 0
    with pytest.raises(DifferentMetricError, match="convention is 'vad' in one result and 'uniad'"):
        run("score", "compare", str(results["vad"]), str(results["uniad"]))


def test_predictions_there_and_back(root: Path, tmp_path: Path):
    """What a planner answered, written as a prediction file and scored again, gives the same numbers."""
    out, answers = tmp_path / "a.json", tmp_path / "answers.json"
    assert (
        nuscenes(root, "stp3", "--on-error", "skip", "--out", str(out), "--write-predictions", str(answers)).exit_code
        == 0
    )
    told = run("score", "nuscenes", "--dataroot", str(root), "--version", "v1.0-mini", "--convention", "stp3",
               "--predictions", str(answers), "--on-error", "skip", "--json")  # fmt: skip
    one, two = json.loads(out.read_text()), json.loads(told.stdout)
    assert two["scores"]["answers"] == one["scores"]["constant-velocity"] and two["samples"] == one["samples"]


def test_wod_e2e_from_the_command_line(tmp_path: Path):
    pytest.importorskip("waymo_open_dataset")
    from efficientgen.eval.wod_submission import read_submission
    from tests.eval.test_wod_score import frame, written

    written(tmp_path / "v.tfrecord-00000-of-00001", [frame(f"seg-{k:03d}") for k in range(3)])
    (tmp_path / "clusters.json").write_text(json.dumps({"seg": "cyclist"}))
    told = run("score", "wod-e2e", "--data", str(tmp_path / "*.tfrecord*"), "--planner", "constant-velocity",
               "--clusters", str(tmp_path / "clusters.json"), "--submit", str(tmp_path / "out"), "--json")  # fmt: skip
    assert told.exit_code == 0
    result = json.loads(told.stdout)
    scores = result["scores"]["constant-velocity"]
    assert result["samples"] == 3 and set(scores["rfs_per_cluster"]) == {"cyclist"}
    assert scores["rfs"] == pytest.approx(scores["rfs_per_cluster"]["cyclist"]) and 0 < scores["ade_3s_log"]
    (message,) = read_submission(tmp_path / "out" / result["submission"]["file"])
    assert (message.unique_method_name, message.num_model_parameters) == ("constant-velocity", "0")
    assert "--account" in result["submission"]["account"]
    assert [p.frame_name for p in message.predictions] == ["seg-000", "seg-001", "seg-002"]
    np.testing.assert_allclose(message.predictions[0].trajectory.pos_x, 8.0 * np.arange(1, 21) / 4, rtol=1e-5)


def test_bench_eval_tells_rate_and_target():
    told = run("bench", "eval", "--samples", "40", "--frames", "400", "--repeats", "1", "--json")
    rows = {row["name"]: row for row in json.loads(told.stdout)["rows"]}
    assert set(TARGETS) < set(rows) and all(row["rate"] > 0 for row in rows.values())
    assert rows["wod-e2e-rfs"]["target"] == 20000.0 and rows["nuscenes-vad"]["target"] == 2000.0


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        ("score nuscenes --dataroot no/where --convention vad --planner constant-velocity", "does not exist"),
        ("score wod-e2e --data no/*.tfrecord* --planner constant-velocity", "matches no file"),
        ("score wod-e2e --data {} --planner expert", "only a simulated town knows"),
        ("score wod-e2e --data {} --planner nano-ddrive", "is no E2EDFrame"),
        ("score wod-e2e --data {} --predictions no.json", "does not exist"),
        ("score wod-e2e --data {} --planner constant-velocity --on-error skip", "no frame could be scored"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(arguments, remedy, tmp_path, monkeypatch, capsys):
    pytest.importorskip("waymo_open_dataset")
    from efficientgen.eval.io_wod import write_records

    path = tmp_path / "v.tfrecord"
    write_records(path, [b"\xff\xff"])
    monkeypatch.setattr("sys.argv", ["efficientgen", *arguments.format(path).split()])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert remedy in " ".join(capsys.readouterr().err.split())
