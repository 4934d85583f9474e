"""Interrupted sweeps go on where they stopped, and never with a drive that is not the same one."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("libsumo")

from efficientgen.eval import resume
from efficientgen.eval import sweep as sweep_module
from efficientgen.eval.latency import Latency
from efficientgen.eval.provenance import checkpoint_sha256, scenario_sha256
from efficientgen.eval.resume import Finished, job_key
from efficientgen.eval.sweep import Job, measured_latency, sweep

SHORT = (
    "family: free_road\ndescription: A few seconds of road\ntown: cedar\nsplit: train\n"
    "edges: [n0-n13, n13-n5]\nstart_pos: 10.0\nduration_s: 6.0\nstart_speed: 4.0\nvehicles: 4\npedestrians: 4\n"
)


@pytest.fixture
def jobs(tmp_path: Path) -> list[Job]:
    (tmp_path / "short.yaml").write_text(SHORT)
    names = ("constant-velocity", "expert", "log-replay")
    return [Job(str(tmp_path / "short.yaml"), 0, name) for name in names]


def no_driving(job: Job):
    raise AssertionError(f"{job.planner} was driven again")


def test_finished_drives_are_kept_at_once_and_not_driven_again(tmp_path: Path, jobs: list[Job], monkeypatch):
    out = tmp_path / "result.json"
    seen = []

    def interrupt(metrics) -> None:
        seen.append(metrics)
        if len(seen) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sweep(jobs, 1, interrupt, finished=Finished(out))
    assert len((tmp_path / "result.json.partial.jsonl").read_text().splitlines()) == 2
    whole = sweep(jobs, 1, finished=Finished(out))
    assert [m.planner for m in whole] == ["constant-velocity", "expert", "log-replay"] and whole[:2] == seen
    monkeypatch.setattr(sweep_module, "run_job", no_driving)
    finished = Finished(out)
    assert sweep(jobs, 1, finished=finished) == whole
    finished.discard()
    assert not (tmp_path / "result.json.partial.jsonl").exists()


def test_what_decides_a_drive_decides_its_key(jobs: list[Job], monkeypatch):
    job = jobs[0]
    other = [
        replace(job, seed=1),
        replace(job, planner="expert"),
        replace(job, latency=Latency(0.0)),
        replace(job, latency=Latency(0.3)),
        replace(job, use_history=False),
        replace(job, planner="nano-ddrive"),
    ]
    keys = {job_key(each) for each in (job, *other)}
    assert len(keys) == 1 + len(other) and job_key(job) == job_key(replace(job))
    before = job_key(job)
    Path(job.scenario).write_text(SHORT.replace("vehicles: 4", "vehicles: 5"))
    scenario_sha256.cache_clear()
    assert job_key(job) != before, "another scenario under the same name"
    before = job_key(job)
    monkeypatch.setattr(resume, "code_sha256", lambda: "other code")
    assert job_key(job) != before


def test_a_line_cut_short_costs_that_drive_only(tmp_path: Path, jobs: list[Job]):
    out = tmp_path / "r.json"
    sweep(jobs[:2], 1, finished=Finished(out))
    path = tmp_path / "r.json.partial.jsonl"
    path.write_text(path.read_text()[:-40])
    finished = Finished(out)
    assert finished.get(jobs[0]) is not None and finished.get(jobs[1]) is None
    sweep(jobs[:2], 1, finished=finished)
    assert all(Finished(out).get(job) is not None for job in jobs[:2])


def test_made_once(tmp_path: Path):
    out = tmp_path / "r.json"
    values = iter((0.3, 0.4))
    assert Finished(out).once("measured", lambda: next(values)) == 0.3
    assert Finished(out).once("measured", lambda: next(values)) == 0.3
    assert Finished(out).once("other", lambda: next(values)) == 0.4
    assert Finished(None).once("measured", lambda: 1) == 1
    assert all(json.loads(line) for line in Path(f"{out}.partial.jsonl").read_text().splitlines())


def test_workers_and_latency_give_what_one_process_gives(jobs: list[Job]):
    slow = [replace(job, latency=Latency(0.3)) for job in jobs[:2]]
    here, there = sweep(slow, 1), sweep(slow, 2, threads=1)
    assert [m.pose_sha256 for m in here] == [m.pose_sha256 for m in there]
    assert all(m.mode == "latency" and m.latency_s == 0.3 for m in here)


def test_latency_can_be_measured_on_a_job(jobs: list[Job]):
    got = measured_latency(jobs[0])
    assert got.name == "measured" and 0.0 < got.seconds < 0.1


def test_checkpoints_have_a_fingerprint_and_baselines_none():
    assert checkpoint_sha256("expert") == "" and len(checkpoint_sha256("nano-ddrive")) == 64
