"""The command line as a newcomer uses it: lists, errors with their remedy, a drive with a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

pytest.importorskip("libsumo")

from efficientgen_ros.cli import main
from tests.eval.foreign import record, rig


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "300"}  # wide enough that no message is broken
    return subprocess.run(
        [sys.executable, "-m", "efficientgen_ros.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )


@pytest.fixture
def here(monkeypatch, capsys):
    """The same command line in this process, which has imported everything: exit status and what it printed."""

    def run_here(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["efficientgen", *arguments])
        monkeypatch.setenv("COLUMNS", "300")
        with pytest.raises(SystemExit) as ended:  # anything else would be a traceback
            main()
        return int(ended.value.code or 0), *capsys.readouterr()

    return run_here


def test_lists(here):
    models = json.loads(run("models", "--json").stdout)
    assert {"expert", "constant-velocity", "nano-ddrive"} <= {m["name"] for m in models}
    brought = {m["name"]: m for m in models if "hub" in m}
    assert {"fast-ddrive", "fast-dvlm"} <= set(brought)
    assert all(m["licence"] and "config.json" in m["files"] and m["release_gib"] > 5 for m in brought.values())
    assert all(m["size_mib"] <= 15 for m in models if m["size_mib"])
    scenarios = json.loads(here("scenarios", "--split", "heldout", "--json")[1])
    assert len(scenarios) >= 3 and {s["split"] for s in scenarios} == {"heldout"}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("drive", "nowhere"), "there are:"),
        (("drive", "--planner", "nobody"), "choose one of"),
        (("drive", "--checkpoint", "no/such/dir", "--in-process"), "does not exist"),
        (("drive", "--checkpoint", "no/such/dir"), "does not exist"),  # told before a graph is started
        (("drive", "--planner", "fast-ddrive"), "give its directory"),
        (("drive", "--planner", "fast-dvlm", "--checkpoint", "no/such/dir", "--in-process"), "does not exist"),
        (("drive", "--in-process", "--device", "abacus"), "use cpu"),
        (("drive", "--live", "--in-process"), "leave one out"),
        (("runs", "no/such/runs"), "`efficientgen drive` makes it"),
        (("eval", "closed-loop", "--scenario", "nowhere"), "there are:"),
        (("eval", "closed-loop", "--planner", "nobody"), "choose one of"),
        (("eval", "closed-loop", "--planner", "expert", "--mode", "latency"), "go together"),
        (("eval", "closed-loop", "--planner", "expert", "--mode", "latency", "--latency", "soon"), "one of"),
        (("eval", "latency-curve", "--planner", "expert", "--latencies", "0,-1"), "within 0 and 60"),
        (("drive", "maple_red", "--mode", "latency", "--latency", "0.3"), "add --in-process"),
        (("replay", "no/such/bag", "--rig", "no/such/rig.yaml"), "docs/replay.md"),
        (("drive", "--step", "3"), "go together"),
        (("drive", "--from", "no/such/run", "--step", "3"), "keeps one per drive"),
        (("data", "render", "--logs", "no/such/logs"), "data record"),
        (("train", "planner", "--data", "no/such/set"), "data record"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(arguments, remedy, here):
    status, _, words = here(*arguments)
    assert status == 2 and remedy in " ".join(words.split())


def test_a_mistake_ends_the_process_without_a_traceback():
    result = run("drive", "nowhere")
    assert result.returncode == 2 and "there are:" in result.stderr and "Traceback" not in result.stderr


SHORT = (
    "family: free_road\ndescription: A few seconds of road\ntown: cedar\nsplit: train\n"
    "edges: [n0-n13, n13-n5]\nstart_pos: 10.0\nduration_s: 6.0\nstart_speed: 4.0\nvehicles: 4\npedestrians: 4\n"
)


def test_closed_loop_compares_with_every_baseline(tmp_path: Path):
    (tmp_path / "short.yaml").write_text(SHORT)
    planners = [word for name in ("constant-velocity", "expert", "log-replay") for word in ("--planner", name)]
    out = tmp_path / "result.json"
    common = ("--scenario", str(tmp_path / "short.yaml"), "--seeds", "1", "--workers", "1")
    result = run("eval", "closed-loop", *planners, *common, "--out", str(out))
    assert result.returncode == 0, result.stderr
    assert "against expert" in result.stdout and "free_road" in result.stdout
    held = json.loads(out.read_text())
    assert set(held["planners"]) == {"constant-velocity", "expert", "log-replay"} and held["chunk_s"] == [0.4]
    assert held["code_sha256"] and held["host"]["cores"] and held["scenarios"] == ["short"] and held["seeds"] == [0]
    assert held["comparisons"]["constant-velocity"]["expert"]["driving_score"]["ratio"]["mean"] > 0
    assert not list(tmp_path.glob("*.partial.jsonl"))


def test_latency_curve_is_json_and_a_picture(tmp_path: Path):
    pytest.importorskip("matplotlib")
    (tmp_path / "short.yaml").write_text(SHORT)
    out = tmp_path / "curve.json"
    what = ("--planner", "constant-velocity", "--latencies", "0.3,0,ar-3b-h100", "--workers", "1", "--seeds", "1")
    result = run("eval", "latency-curve", *what, "--scenario", str(tmp_path / "short.yaml"), "--out", str(out))
    assert result.returncode == 0, result.stderr
    points = json.loads(out.read_text())["points"]
    assert [p["latency_s"] for p in points] == [0.0, 0.3, 7.86] and points[2]["latency"]["name"] == "ar-3b-h100"
    assert points[2]["metrics"]["fallback_share"]["mean"] > points[0]["metrics"]["fallback_share"]["mean"] == 0.0
    assert "<svg" in (tmp_path / "curve.svg").read_text()


def test_an_in_process_drive_ends_with_a_report(tmp_path: Path):
    pytest.importorskip("panda3d")
    scenario = tmp_path / "short.yaml"
    scenario.write_text(SHORT)
    result = run("drive", str(scenario), "--in-process", "--runs", str(tmp_path / "runs"), "--picture",
                 str(tmp_path / "pictures" / "still.jpg"), "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    page = Path(told["report"]).read_text()
    assert "<video" in page and "nano-ddrive" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert {d["planner"] for d in told["drives"]} == {"nano-ddrive", "expert", "constant-velocity"}
    assert 10_000 < (tmp_path / "pictures" / "still.jpg").stat().st_size <= 250_000
    name = Path(told["report"]).parent.name
    assert f'href="{name}/index.html"' in Path(told["index"]).read_text()

    listed = json.loads(run("runs", str(tmp_path / "runs"), "--json").stdout)
    assert [(r["name"], r["planners"][0], r["drives"]) for r in listed["runs"]] == [(name, "nano-ddrive", 1)]
    assert not listed["skipped"]


def test_honesty_compares_conditions_and_both_ways_to_drive(tmp_path: Path):
    """A planner without eyes drives alike whatever is taken from it, token by token or not, in process and over ROS."""
    pytest.importorskip("rclpy")
    scenario = tmp_path / "short.yaml"
    scenario.write_text(SHORT)
    result = run("eval", "honesty", "--planner", "constant-velocity", "--scenario", str(scenario), "--seeds", "1",
                 "--same", "1", "--workers", "1", "--json")  # fmt: skip
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert len(told["conditions"]) == 4 and len({c["driving_score"]["mean"] for c in told["conditions"].values()}) == 1
    assert told["same_drive"] == {"plain AR": [True], "ROS 2 nodes": [True]} and told["answers"] == {}


def test_replay_of_a_foreign_recording(tmp_path):
    record(tmp_path / "car", 5.0, kind="jpeg", cameras=("FRONT",))
    (tmp_path / "rig.yaml").write_text(yaml.safe_dump(rig("jpeg", cameras=("FRONT",))))
    given = ("replay", str(tmp_path / "car"), "--rig", str(tmp_path / "rig.yaml"), "--out", str(tmp_path / "out"))
    result = run(*given, "--planner", "constant-velocity", "--json")
    assert result.returncode == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["planned"] >= 2 and Path(told["report"]).exists() and told["command"]["source"].startswith("topic")


def test_a_drive_taken_up_again(tmp_path, here):
    given = ("--planner", "constant-velocity", "--no-baselines", "--runs", str(tmp_path / "runs"))
    first = run("drive", "oak_s_curve", "--in-process", "--json", *given)
    assert first.returncode == 0, first.stderr
    (made,) = (p for p in (tmp_path / "runs").iterdir() if p.is_dir())
    again = run("drive", "--from", str(made), "--step", "14", "--no-baselines", "--runs", str(tmp_path / "again"))
    assert again.returncode == 0 and "as recorded, to the bit" in again.stdout, again.stdout + again.stderr
    status, _, words = here("drive", "--from", str(made), "--step", "999")
    assert status == 2 and words


def test_braking_drives_what_it_measures(monkeypatch):
    from rich.progress import Progress

    from efficientgen_ros.cli.faults import _drive

    monkeypatch.setattr("efficientgen.worldsim.scenario.scenario_names", lambda: ("birch_red",))
    (log,) = _drive("constant-velocity", 1, Progress(disable=True))
    assert log.scenario == "birch_red" and log.steps
