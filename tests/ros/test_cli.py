"""The command line as a newcomer uses it: lists, errors with their remedy, a drive with a report."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("libsumo")


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"COLUMNS": "300"}  # wide enough that no message is broken
    return subprocess.run(
        [sys.executable, "-m", "efficientgen_ros.cli", *arguments],
        capture_output=True,
        text=True,
        timeout=240,
        env=environment,
    )


def test_lists():
    models = json.loads(run("models", "--json").stdout)
    assert {"expert", "constant-velocity", "nano-ddrive"} <= {m["name"] for m in models}
    assert all(m["size_mib"] <= 15 for m in models if m["size_mib"])
    scenarios = json.loads(run("scenarios", "--split", "heldout", "--json").stdout)
    assert len(scenarios) >= 3 and {s["split"] for s in scenarios} == {"heldout"}


@pytest.mark.parametrize(
    ("arguments", "remedy"),
    [
        (("drive", "nowhere"), "there are:"),
        (("drive", "--planner", "nobody"), "choose one of"),
        (("drive", "--checkpoint", "no/such/dir"), "does not exist"),
        (("drive", "--live", "--in-process"), "leave one out"),
        (("runs", "no/such/runs"), "`efficientgen drive` makes it"),
        (("eval", "closed-loop", "--scenario", "nowhere"), "there are:"),
        (("data", "render", "--logs", "no/such/logs"), "data record"),
        (("train", "planner", "--data", "no/such/set"), "data record"),
    ],
)
def test_mistakes_get_one_line_with_the_remedy(arguments, remedy):
    result = run(*arguments)
    assert result.returncode == 2
    assert remedy in " ".join(result.stderr.split()) and "Traceback" not in result.stderr


def test_an_in_process_drive_ends_with_a_report(tmp_path: Path):
    pytest.importorskip("panda3d")
    scenario = tmp_path / "short.yaml"
    scenario.write_text(
        "family: free_road\ndescription: A few seconds of road\ntown: cedar\nsplit: train\n"
        "edges: [n0-n13, n13-n5]\nstart_pos: 10.0\nduration_s: 6.0\nstart_speed: 4.0\nvehicles: 4\npedestrians: 4\n"
    )
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
