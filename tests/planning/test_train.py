"""The trainer on a tiny synthetic set: it learns, resumes where it stopped, and its checkpoint plans."""

import numpy as np
import pytest
import torch

from efficientgen.perception.types import Command
from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.prompt import EgoNumbers, prompt_ids
from efficientgen.planning.schema import CRITICAL_OBJECTS, NANO, compile_template, encode_answer
from efficientgen.planning.train.data import DatasetError, load_set, save_shard
from efficientgen.planning.train.trainer import TrainConfig, Trainer, block_size_at
from tests.planning.conftest import random_observation


@pytest.fixture(scope="module")
def tiny_set(tmp_path_factory, tokenizer):
    """Bright pictures mean go, dark ones mean stop."""
    directory = tmp_path_factory.mktemp("set")
    template = compile_template(NANO, tokenizer, 32)
    rng = np.random.default_rng(0)
    images, prompts, answers = [], [], []
    for i in range(16):
        go = i % 2
        images.append(np.full((3, 112, 224, 3), 40 + 160 * go, np.uint8))
        ego = EgoNumbers(((-3.0, 0.0), (-2.0, 0.0), (-1.0, 0.0)), 2.0, 0.0, 0.0)
        prompts.append(prompt_ids(tokenizer, 3, 32, Command.GO_STRAIGHT, ego))
        sections = {
            "critical_objects": {k: "no" for k in CRITICAL_OBJECTS},
            "explanation": SENTENCES[go],
            "future_meta_behavior": {"longitudinal": "keep speed", "lateral": "go straight"},
            "trajectory": [[go * 2.0 * t, 0.0] for t in NANO.times_s],
        }
        answers.append(encode_answer(template, tokenizer, sections))
    arrays = {
        "images": np.stack(images),
        "now": np.arange(16),
        "before": np.arange(16),
        "prompt": np.array(prompts, np.int16),
        "answer": np.array(answers, np.int16),
        "weight": np.ones(16, np.float32),
        "heldout": rng.permutation(16) < 4,
    }
    save_shard(directory, "a", arrays)
    return load_set(directory)


def test_training_learns_resumes_and_exports_a_planner(tiny_set, small_config, tmp_path):
    config = TrainConfig(seconds=1e9, max_steps=16, batch=3, peak_lr=3e-3, compile=False, ar_fraction=0.4)
    trainer = Trainer(tiny_set, tmp_path, config, "cpu", lambda line: None, small_config)
    before = trainer.validation().value_loss
    after = trainer.run().value_loss
    assert after < 0.8 * before
    again = Trainer(tiny_set, tmp_path, config, "cpu", lambda line: None, small_config)
    assert again.resume() and again.step == 16
    assert all(torch.equal(a, b) for a, b in zip(again.average.values(), trainer.average.values(), strict=True))
    plan = DDrive.from_pretrained(tmp_path).plan(random_observation(0))
    assert plan.waypoints.shape == (6, 2) and set(plan.sections["critical_objects"]) == set(CRITICAL_OBJECTS)


def test_block_sizes_anneal_in_equal_shares():
    assert [block_size_at(p, 32) for p in (0, 0.3, 0.6, 0.8, 1.5)] == [4, 8, 16, 32, 32]


def test_an_empty_set_is_refused_with_its_remedy(tmp_path):
    with pytest.raises(DatasetError, match="data record"):
        load_set(tmp_path)
