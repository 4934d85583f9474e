"""Drives on Ray actors are the drives of one process, bit for bit, even when a worker is killed half way."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
import yaml

pytest.importorskip("ray")
pytest.importorskip("pyarrow")
pytest.importorskip("libsumo")

from efficientgen.eval.ray_sweep import Cluster, ClusterError, drive_on
from efficientgen.eval.sweep_plan import Entry, entries, parse_plan
from efficientgen.eval.sweep_run import drive_here, run_sweep
from efficientgen.eval.sweep_store import Store, metrics_of
from efficientgen.eval.sweep_trial import SHORT, trial, workers_of


@pytest.fixture(scope="module")
def drives(tmp_path_factory: pytest.TempPathFactory) -> tuple[Entry, ...]:
    scenario = tmp_path_factory.mktemp("sweep") / "short.yaml"
    scenario.write_text(yaml.safe_dump(SHORT))
    return entries(parse_plan({"planners": ["expert"], "scenarios": [str(scenario)], "seeds": 3}))


def test_a_sweep_equals_the_serial_run_though_a_worker_is_killed(drives: tuple[Entry, ...], tmp_path: Path):
    serial = run_sweep(drives, Store("memory://serial"), drive_here)
    killed, told = [], []

    def kill_one(entry: Entry, metrics) -> None:
        if not killed:
            killed.append(workers_of(os.getpid())[0])
            os.kill(killed[0], signal.SIGKILL)

    def make(jobs, done) -> None:
        drive_on(Cluster(workers=2), jobs, done, told.append)

    swept = run_sweep(drives, Store(str(tmp_path)), make, kill_one)
    assert swept.digest == serial.digest and len(swept.rows) == 3
    assert [row["pose_sha256"] for row in swept.rows] == [row["pose_sha256"] for row in serial.rows]
    assert len({row["key"] for row in swept.rows}) == 3
    assert killed and all("another makes it again" in words for words in told)
    assert all(m.epdms is not None and m.event_progress == 1.0 for m in map(metrics_of, swept.rows))


def test_no_cluster_at_the_address(drives: tuple[Entry, ...]):
    with pytest.raises(ClusterError, match="ray start --head"):
        drive_on(Cluster(1, "127.0.0.1:1"), [drives[0].job], lambda i, metrics: None)


@pytest.mark.slow
def test_two_hundred_drives_survive_kill_minus_nine_of_a_worker_and_of_the_driver(tmp_path: Path):
    got = trial(200, tmp_path)
    assert got["equal"] and got["rows"] == got["distinct_keys"] == 200, json.dumps(got)
    assert got["kept_by_the_rerun"] >= 100 and got["processes_left_by_the_driver"] == 0
