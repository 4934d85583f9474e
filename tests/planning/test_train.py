"""The trainer on a tiny synthetic set: it learns, resumes where it stopped, and its checkpoint plans."""

import numpy as np
import pytest
import torch

from efficientgen.perception.types import Command
from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.prompt import EgoNumbers, prompt_ids
from efficientgen.planning.schema import CRITICAL_OBJECTS, NANO, compile_template, encode_answer
from efficientgen.planning.train.augment import SHIFT, augment_pixels
from efficientgen.planning.train.data import DatasetError, load_set, save_shard
from efficientgen.planning.train.driving import DrivingData
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.look import look_loss
from efficientgen.planning.train.loss import object_balance, token_weights
from efficientgen.planning.train.recipe import FAST_DDRIVE
from efficientgen.planning.train.run import Run, RunConfig
from efficientgen.planning.train.trainer import TrainConfig, Trainer, block_size_at
from tests.planning.conftest import random_observation


@pytest.fixture(scope="module")
def tiny_directory(tmp_path_factory, tokenizer):
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
        "kinds": np.repeat(np.arange(16)[:, None] % 2, 96, 1).astype(np.uint8),  # go pictures are full of people
        "metres": np.repeat(np.arange(16)[:, None] % 2 * 10, 96, 1).astype(np.uint8),
    }
    save_shard(directory, "a", arrays)
    return directory


@pytest.fixture(scope="module")
def tiny_set(tiny_directory):
    return load_set(tiny_directory)


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


def test_fine_tuning_starts_from_the_given_weights(tiny_set, small_config, tmp_path):
    config = TrainConfig(seconds=1e9, max_steps=1, batch=2, compile=False, move_pixels=True, balance=True, look=0.2)
    first = Trainer(tiny_set, tmp_path / "a", config, "cpu", lambda line: None, small_config)
    first.run()
    second = Trainer(tiny_set, tmp_path / "b", config, "cpu", lambda line: None, start=tmp_path / "a")
    for name, average in first.average.items():
        torch.testing.assert_close(second.average[name], average.bfloat16().float())
    second.run()
    assert (tmp_path / "b" / "model.safetensors").exists()


def test_a_killed_run_leaves_a_checkpoint_and_a_state(tiny_set, small_config, tmp_path, monkeypatch):
    config = TrainConfig(seconds=1e9, max_steps=5, batch=2, compile=False, save_every_s=0.0)
    trainer = Trainer(tiny_set, tmp_path, config, "cpu", lambda line: None, small_config)
    step = trainer._train_step

    def killed(progress):
        if trainer.step == 3:
            raise KeyboardInterrupt
        return step(progress)

    monkeypatch.setattr(trainer, "_train_step", killed)
    with pytest.raises(KeyboardInterrupt):
        trainer.run()
    DDrive.from_pretrained(tmp_path)
    again = Trainer(tiny_set, tmp_path, config, "cpu", lambda line: None, small_config)
    assert again.resume() and again.step == 3
    again.run()
    assert again.step == 5


def test_the_general_trainer_converts_a_planner(tiny_set, small_config, tokenizer, tmp_path):
    """Fast-dDrive's recipe on pictures, sections and scaffold: both halves of the loss fall, and the result plans."""
    torch.manual_seed(0)
    model = VisionLanguageModel(small_config)
    initialise(model)
    data = DrivingData(tiny_set, compile_template(NANO, tokenizer, 32), small_config, 2)
    run = Run(model, FAST_DDRIVE, data, tmp_path, RunConfig(steps=10, batch=2, peak_lr=3e-3))
    batch, noise = run.inputs(0.0)
    assert noise is not None and batch.image.any() and len(batch.pictures) == 2
    before = run.conversion(batch, noise)
    run.run()
    after = run.conversion(batch, noise)
    assert after.clean < 0.9 * before.clean and after.noisy < before.noisy
    run.export()
    tokenizer.save(tmp_path)
    assert DDrive.from_pretrained(tmp_path).plan(random_observation(0)).waypoints.shape == (6, 2)


def test_both_answers_to_a_question_count_alike(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    slots = {name: start for name, start, _ in template.slots}
    answers = torch.from_numpy(template.scaffold.copy()).clamp(min=0).repeat(10, 1)
    yes, no = tokenizer.id_of("yes"), tokenizer.id_of("no")
    answers[:, slots["pedestrian"]] = torch.tensor([yes] * 2 + [no] * 8)
    answers[:, slots["animal"]] = no
    weights = token_weights(template, answers, object_balance(template, tokenizer, answers))
    person = weights[:, slots["pedestrian"]]
    assert person[:2].sum() == pytest.approx(5.0) and person[2:].sum() == pytest.approx(5.0)
    assert (weights[:, slots["animal"]] == 1).all(), "a class that never occurs is left alone"
    assert (token_weights(template, answers, None)[:, slots["pedestrian"]] == 1).all(), "only on request"
    assert (weights[:, slots["x0.frac"]] < weights[:, slots["x0.int"]]).all(), "a last digit counts less"


def test_augmented_pictures_stay_in_place_and_frames_move_together():
    images = torch.zeros(4, 3, 2, 28, 56, 3, dtype=torch.uint8)
    images[..., 10:18, 20:36, :] = 200
    out = augment_pixels(images, torch.Generator().manual_seed(0))
    assert out.shape == images.shape and out.dtype == torch.uint8
    bright = (out > 100).float().mean(-1)  # (B, C, 2, H, W)
    rows, columns = torch.meshgrid(torch.arange(28.0), torch.arange(56.0), indexing="ij")
    middles = [(bright * axis).sum((-1, -2)) / bright.sum((-1, -2)) for axis in (rows, columns)]
    for middle, centre, most in zip(middles, (13.5, 27.5), SHIFT, strict=True):
        torch.testing.assert_close(middle[..., 0], middle[..., 1], atol=1e-4, rtol=0)
        moves = middle[..., 0] - centre
        assert moves.abs().max() <= most + 1e-4 and moves.round().unique().numel() > 1


def test_tokens_learn_to_tell_what_they_show(tiny_set, small_config, tmp_path):
    config = TrainConfig(seconds=1e9, max_steps=8, batch=4, peak_lr=1e-2, compile=False, ar_fraction=1.0, look=1.0)
    trainer = Trainer(tiny_set, tmp_path, config, "cpu", lambda line: None, small_config)
    rows = torch.arange(16)

    def loss() -> float:
        with torch.no_grad():
            _, vision = trainer._embed_prompt(rows)
            return float(look_loss(trainer.head(vision), tiny_set.kinds, tiny_set.metres))

    before = loss()
    trainer.run()
    assert loss() < 0.8 * before


def test_block_sizes_anneal_in_equal_shares():
    assert [block_size_at(p, 32) for p in (0, 0.3, 0.6, 0.8, 1.5)] == [4, 8, 16, 32, 32]


def test_an_empty_set_is_refused_with_its_remedy(tmp_path):
    with pytest.raises(DatasetError, match="data record"):
        load_set(tmp_path)
