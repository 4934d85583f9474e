"""Oracle logs and the training set made of them."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("libsumo")

from efficientgen.eval.dataset import DatasetConfig, render_set, samples_of
from efficientgen.eval.oracle_log import OracleLogError, from_step_log, load_oracle_log, save_oracle_log
from efficientgen.eval.runner import drive
from efficientgen.eval.text_corpus import descriptions, read_texts, write_corpus
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.train.data import load_set
from efficientgen.planning.train.text import CorpusError
from efficientgen.worldsim.scenario import training_scenario


@pytest.fixture(scope="module")
def log():
    scenario = replace(training_scenario("cedar", 3), duration_s=8.0)
    return from_step_log(drive(scenario, 3, "expert"))


def test_a_log_comes_back_as_it_was_saved(log, tmp_path):
    back = load_oracle_log(save_oracle_log(log, tmp_path))
    assert back.states == log.states and back.name == log.name
    assert [f.lights for f in back.frames] == [dict(f.lights) for f in log.frames]
    for mine, theirs in zip(back.frames, log.frames, strict=True):
        near = {a.id: a for a in theirs.actors}
        for actor in mine.actors:
            assert abs(actor.x - near[actor.id].x) < 1e-3 and actor.kind is near[actor.id].kind
        np.testing.assert_allclose(
            expert_plan(back.route, mine).waypoints, expert_plan(log.route, theirs).waypoints, atol=0.02
        )


def test_a_damaged_log_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"not a log")
    with pytest.raises(OracleLogError, match="record it anew"):
        load_oracle_log(tmp_path / "x.npz")


def test_perturbed_samples_keep_history_and_pictures_consistent(log):
    samples = list(samples_of(log, DatasetConfig(perturbed=3.0)))
    plain = [s for s in samples if s.plain]
    moved = [s for s in samples if not s.plain]
    assert len(plain) == 11 and len(moved) > 15
    for sample in samples:
        assert sample.now.stamp_ns - sample.before.stamp_ns == 400_000_000
        np.testing.assert_allclose(
            sample.plan.waypoints, expert_plan(log.route, sample.now).waypoints
        )  # the label is the expert's plan from there
    assert any(s.now.ego.speed == 0 and s.before.ego.x == s.now.ego.x for s in moved)  # standing: nothing moved before
    offsets = [np.hypot(m.now.ego.x - p.now.ego.x, m.now.ego.y - p.now.ego.y) for m in moved for p in plain
               if m.now.stamp_ns == p.now.stamp_ns]  # fmt: skip
    assert 0.2 < np.mean(offsets) and max(offsets) <= 1.3 + 1e-6


def test_a_corpus_is_the_same_bytes_every_time_and_holds_out_whole_drives(log, tmp_path):
    logs = [save_oracle_log(replace(log, name=name), tmp_path / "logs") for name in ("a.1", "b.2", "c.3")]
    counts = write_corpus(logs, tmp_path / "one", heldout_every=3)
    write_corpus(logs[::-1], tmp_path / "two", heldout_every=3)
    for name, count in counts.items():
        text = (tmp_path / "one" / name).read_bytes()
        assert text == (tmp_path / "two" / name).read_bytes() and len(read_texts(tmp_path / "one" / name)) == count
    lines = list(descriptions(log))
    assert counts == {"train.txt": 2 * len(lines), "heldout.txt": len(lines)} and len(lines) > 8
    later = [line for line in lines if "Two seconds later" in line]
    assert len(later) == len(lines) - 5, "five chunks of 0.4 s before its end, a drive has no two seconds left"
    with pytest.raises(CorpusError, match="data text"):
        read_texts(tmp_path / "none.txt")


def test_rendering_makes_a_set_that_training_loads(log, tmp_path):
    pytest.importorskip("panda3d")
    short = replace(log, frames=log.frames[:14])
    path = save_oracle_log(short, tmp_path / "logs")
    count = render_set([path], tmp_path / "set", DatasetConfig(heldout=0.0), workers=1)
    data = load_set(tmp_path / "set")
    assert len(data) == count > 3
    assert data.images.shape[1:] == (3, 112, 224, 3) and int(data.now.max()) < len(data.images)
    assert float(data.images.float().std()) > 20  # pictures, not blanks
    assert data.kinds.shape == data.metres.shape == (count, 96) and (data.kinds > 0).any()
    assert render_set([path], tmp_path / "set", DatasetConfig(), workers=1) == 0  # nothing to do twice
