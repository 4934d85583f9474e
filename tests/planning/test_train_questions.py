"""Teaching questions on a tiny set: it learns, asks some types more often on request, and loads over its base."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.planning.adapter import load_adapted
from efficientgen.planning.checkpoint import CheckpointError, save_model
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.question_data import QuestionSetError, load_scenes, load_types
from efficientgen.planning.train.question_rows import assemble, attend
from efficientgen.planning.train.questions import QuestionTraining, Teacher

CONFIG = QuestionTraining(steps=50, batch=6, questions=2, rank=8, peak_lr=2e-2, draft=4, ema=0.9)


@pytest.fixture(scope="module")
def base(tmp_path_factory, small_config, tokenizer):
    directory = tmp_path_factory.mktemp("base")
    torch.manual_seed(0)
    model = VisionLanguageModel(small_config)
    initialise(model)
    save_model(model, directory)
    tokenizer.save(directory)
    return directory


@pytest.fixture(scope="module")
def questions(tmp_path_factory):
    """Bright pictures mean yes to "light"; "dull" is always answered alike."""
    directory = tmp_path_factory.mktemp("questions")
    types = [
        {"name": "light", "wordings": ["is it bright", "do you see light"], "answers": ["No.", "Yes."], "sides": False},
        {"name": "dull", "wordings": ["is it dull", "how dull"], "answers": ["Always."], "sides": False},
    ]
    (directory / "questions.json").write_text(json.dumps({"questions": types}))
    (directory / "train").mkdir()
    truth = np.arange(12) % 2
    pictures = (
        np.zeros((12, 2, 3, 56, 112, 3), np.uint8)
        + (40 + 170 * truth).astype(np.uint8)[:, None, None, None, None, None]
    )
    columns = {"pictures": pictures, "command": np.zeros(12, np.int8), "drive": np.array([f"d{i}" for i in range(12)]),
               "answers": np.stack([truth, np.zeros(12)], 1).astype(np.int8)}  # fmt: skip
    for name, array in columns.items():
        np.save(directory / "train" / f"a.{name}.npy", array)
    return directory


def taught(questions, base, config=CONFIG):
    teacher = Teacher(load_types(questions), config, base_checkpoint=base)
    return teacher, load_scenes(questions, "train", teacher.model, teacher.stem, see=not config.blind)


def test_it_learns_and_its_adapter_is_the_trained_model_over_the_given_base(questions, base, tmp_path):
    teacher, scenes = taught(questions, base)
    log = []
    teacher.train(scenes, log.append)
    assert [row["step"] for row in log] == [25, 50] and log[1]["clean"] < 0.75 * log[0]["clean"]
    teacher.save(tmp_path, {})
    merged = load_adapted(tmp_path, base=base)
    rows = torch.arange(4)
    hidden = []
    for model in (teacher.model, merged):
        ids, positions, vision = teacher.book.scene(model, scenes, rows)
        types = torch.arange(2).expand(4, -1)
        asked, said = teacher.book.questions(types, torch.zeros_like(types)), teacher.book.answers(types, types * 0)
        laid = assemble(ids, positions, teacher.book.phrases, asked, said, 0, teacher.book.mask_id, None)
        with torch.no_grad():
            hidden.append(model(model.embed(laid.ids, vision), laid.positions, attend(laid)))
    torch.testing.assert_close(*hidden, atol=0.05, rtol=0.02)  # the file is bf16
    with pytest.raises(CheckpointError, match="sha256"):
        load_adapted(tmp_path)  # the shipped base is another one


def test_emphasis_asks_a_type_more_often(questions, base):
    teacher, scenes = taught(questions, base)
    plain = teacher._balance(scenes)
    louder, _ = taught(questions, base, replace(CONFIG, emphasis=(("light", 3.0),)))
    torch.testing.assert_close(louder._balance(scenes), plain * torch.tensor([3.0, 1.0]))
    with pytest.raises(QuestionSetError, match="light, dull"):
        taught(questions, base, replace(CONFIG, emphasis=(("lihgt", 3.0),)))
