"""A stored drive comes back the same, or not at all."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from efficientgen.eval import store
from efficientgen.eval.metrics import score
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.store import LogFormatError, load, load_metrics, run_directory, save
from tests.eval.synthetic import FakeOracle


def assert_same(a: Any, b: Any, path: str = "log") -> None:
    """Exact equality all the way down; pictures (JPEG) are compared elsewhere."""
    if isinstance(a, np.ndarray):
        assert a.shape == b.shape and np.array_equal(a, b, equal_nan=True), path
    elif is_dataclass(a):
        assert type(a) is type(b), path
        for field in fields(a):
            if field.name != "image":
                assert_same(getattr(a, field.name), getattr(b, field.name), f"{path}.{field.name}")
    elif isinstance(a, dict):
        assert set(a) == set(b), path
        for key in a:
            assert_same(a[key], b[key], f"{path}[{key}]")
    elif isinstance(a, list | tuple):
        assert len(a) == len(b), path
        for k, (x, y) in enumerate(zip(a, b, strict=True)):
            assert_same(x, y, f"{path}[{k}]")
    else:
        assert a == b, path


def test_round_trip_is_exact(tmp_path: Path, log: StepLog, dead_log: StepLog):
    for held in (log, dead_log):
        assert_same(held, load(save(held, tmp_path / "drive")))


def test_logs_from_before_the_latency_mode_still_load(tmp_path: Path, dead_log: StepLog):
    place = save(dead_log, tmp_path / "drive")
    header = json.loads((place / "log.json").read_text())
    for step in header["steps"]:
        del step["timing"]
    (place / "log.json").write_text(json.dumps(header))
    with np.load(place / "log.npz") as held:
        columns = {name: held[name] for name in held.files if not name.startswith("bridge")}
    np.savez(place / "log.npz", **columns)
    assert_same(dead_log, load(place))


def test_pictures_come_back_as_jpeg_leaves_them(tmp_path: Path, log: StepLog):
    back = load(save(log, tmp_path / "drive"))
    for before, after in zip(log.steps, back.steps, strict=True):
        assert before.frames is not None and after.frames is not None
        for name, sequence in before.frames.cameras.items():
            for a, b in zip(sequence, after.frames.cameras[name], strict=True):
                assert np.abs(a.image.astype(int) - b.image.astype(int)).mean() < 2.0


def test_odd_plans_survive(tmp_path: Path, log: StepLog):
    plan = log.steps[-1].plan
    assert plan is not None
    odd = replace(
        plan, waypoints=np.full((3, 2), np.nan), rollouts=np.zeros((0, 0, 2)), sections={"a": np.float64(0.1)}
    )
    changed = replace(log, steps=(*log.steps[:-1], replace(log.steps[-1], plan=odd)))
    back = load(save(changed, tmp_path / "drive")).steps[-1].plan
    assert back is not None and np.isnan(back.waypoints).all() and back.sections == {"a": 0.1}
    assert back.rollouts.shape == (0, 0, 2) and back.times_s.tolist() == plan.times_s.tolist()


def test_same_log_same_bytes(tmp_path: Path, dead_log: StepLog):
    a, b = save(dead_log, tmp_path / "a"), save(dead_log, tmp_path / "b")
    for name in ("log.json", "log.npz"):
        assert (a / name).read_bytes() == (b / name).read_bytes()


def test_metrics_alone(tmp_path: Path, dead_log: StepLog, oracle: FakeOracle):
    m = score(dead_log, oracle.town)
    place = save(dead_log, run_directory(tmp_path, "now", dead_log), m)
    assert place == tmp_path / "now" / "test_bend-fake-0"
    assert load_metrics(place) == m
    with pytest.raises(LogFormatError, match="score the log"):
        load_metrics(save(dead_log, place))


def test_other_versions_and_other_directories_are_refused(tmp_path: Path, dead_log: StepLog):
    place = save(dead_log, tmp_path / "drive")
    header = json.loads((place / "log.json").read_text())
    (place / "log.json").write_text(json.dumps(header | {"version": store.VERSION + 1}))
    with pytest.raises(LogFormatError, match="version"):
        load(place)
    with pytest.raises(LogFormatError, match=r"no log\.json"):
        load(tmp_path)
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    with pytest.raises(LogFormatError, match="no step log"):
        save(dead_log, tmp_path / "precious")
    assert (tmp_path / "precious" / "thesis.txt").exists()


def test_a_failed_write_leaves_the_old_log_and_no_debris(tmp_path: Path, dead_log: StepLog):
    place = save(dead_log, tmp_path / "drive")
    with pytest.raises(TypeError, match="cannot hold"):
        save(replace(dead_log, notes={"bad": object()}), place)
    assert_same(dead_log, load(place))
    assert [p.name for p in tmp_path.iterdir()] == ["drive"]
