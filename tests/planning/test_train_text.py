"""A text model at batch 1: gaps that begin their block, lengths that are not told, and the shipped nano-edlm."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from efficientgen import share
from efficientgen.eval.text_scores import GAPS, gaps_of, score_texts
from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.masks import dense_mask, grid_blocks
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
from efficientgen.planning.text_model import TextLM, TextRequestError, fill_gap
from efficientgen.planning.train.convert import attend_in
from efficientgen.planning.train.recipe import RecipeError
from efficientgen.planning.train.rows import build_rows, text_batch
from efficientgen_ros.cli import app

TEXT = (
    "It is day. The car drives at 7 metres per second and the route goes straight on. "
    "The traffic light is red, 24 metres away. No vehicle is near. No person is near. "
    "The traffic light is red, stopping at the line. "
    "The plan is to come to stop and go straight, 11 metres in three seconds. "
    "Two seconds later the car stands still, with a red light ahead."
)


@pytest.fixture(scope="module")
def random_model():
    torch.manual_seed(0)
    tokenizer = nano_text_tokenizer()
    config = replace(
        nano_text_config(tokenizer, hidden=32, layers=2), bd_size=16, decode_block_size=16, sub_block_size=16
    )
    return TextLM(VisionLanguageModel(config).eval().requires_grad_(False), tokenizer)


@pytest.mark.parametrize("where", [0, 5, 16, 21])
def test_a_gap_is_filled_as_training_showed_it(random_model, where):
    """All at once (confidence 0) it is the best token at each place under the training row's mask and shifted grid."""
    model = random_model.model
    ids = random_model.tokenizer.encode(TEXT)[:40]
    before, truth, behind = ids[:where], ids[where : where + 3], ids[where + 3 :]
    filling, _, forwards = fill_gap(model, before, 3, behind, confidence=0.0)
    batch = text_batch([ids], [0], 0, 1)
    block = grid_blocks(len(ids), 16, shift=(16 - where % 16) % 16)[None]
    hidden = torch.zeros(1, 1, len(ids), dtype=torch.bool)
    hidden[0, 0, where : where + 3] = True
    rows = build_rows(batch, block, hidden, "all")
    assert dense_mask(rows.layout, "block").any()
    noisy = torch.where(hidden[0], model.config.mask_token_id, batch.ids)
    states = model(model.embed(torch.cat([batch.ids, noisy], 1)), rows.positions, attend_in(rows.layout, "block"))
    logits = model.logits(states[0, len(ids) + where : len(ids) + where + 3])
    logits[:, model.config.mask_token_id] = -torch.inf
    assert filling == logits.argmax(-1).tolist() and len(truth) == 3
    assert forwards == 2 + bool(before), "the prefix, one pass, and one to weigh what stands behind"


def test_gaps_with_and_without_length(random_model):
    told = random_model.infill("It is day. The car [gap:2] and the route turns left. No [gap:1] is near.")
    assert told.tokens == 3 and told.text.startswith("It is day. The car")
    assert told.text.count(" and the route turns left. No") == 1
    free = random_model.infill("It is day. The car [gap] and the route turns left.")
    assert 1 <= free.tokens <= 12 and free.forwards >= 24


def test_mistakes_are_named(random_model):
    with pytest.raises(TextRequestError, match=r"\[gap\]"):
        random_model.infill("It is day.")
    with pytest.raises(TextRequestError, match="1 to 16"):
        random_model.infill("It is [gap:17].")
    with pytest.raises(TextRequestError, match="beginning"):
        random_model.complete("")
    causal = TextLM(VisionLanguageModel(replace(random_model.model.config, token_shift=1)), random_model.tokenizer)
    with pytest.raises(TextRequestError, match="converted"):
        causal.infill("It is [gap:1].")


def test_every_kind_of_gap_is_found_and_hidden_as_a_whole():
    tokenizer = nano_text_tokenizer()
    gaps = {g.kind: g for g in gaps_of(TEXT, tokenizer, np.random.default_rng(0))}
    assert set(gaps) == {*GAPS, "random span"}
    whole = tokenizer.encode(TEXT)
    assert all(g.before + g.truth + g.behind == whole for g in gaps.values())
    said = {k: tokenizer.decode(g.truth) for k, g in gaps.items()}
    assert said["light colour"] == " red" and said["plan"] == " come to stop" and said["speed"] == "7"
    assert (
        said["explanation"] == " The traffic light is red, stopping at the line." and said["later"] == " stands still"
    )


def test_scores_count_right_fillings(random_model):
    """The most frequent filling is right where all texts say the same; a random model is not."""
    scores = score_texts(random_model, None, [TEXT] * 3, [TEXT] * 2, 2)
    assert scores["infill"]["most frequent"]["explanation"]["exact"] == 1.0
    assert scores["infill"]["model"]["explanation"]["exact"] == 0.0
    assert scores["infill"]["bigram"]["plan"]["gaps"] == 2 and scores["infill_tokens_per_forward"] > 0


SHIPPED = share("checkpoints") / "nano-edlm"


def test_the_shipped_model_is_small_and_its_card_names_its_bytes():
    import hashlib

    weights = (SHIPPED / "model.safetensors").read_bytes()
    assert len(weights) <= 4 * 2**20
    assert hashlib.sha256(weights).hexdigest() in (SHIPPED / "README.md").read_text()


def test_the_shipped_model_reads_both_sides_of_a_gap():
    """The same text before it: an explanation of what is planned behind it, of a length that is not told."""
    model = TextLM.from_pretrained("nano-edlm")
    head = (
        "It is day. The car drives at 7 metres per second and the route goes straight on. There is no traffic light. "
        "No vehicle is near. No person is near."
    )
    faster = " The plan is to speed up and go straight, 24 metres in three seconds."
    turning = " The plan is to slow down and turn left, 14 metres in three seconds."
    assert model.infill(f"{head} [gap]{faster}").text == f"{head} The road ahead is clear, driving on.{faster}"
    assert "The road ahead is clear, driving on." not in model.infill(f"{head} [gap]{turning}").text


def test_the_command_completes_and_infills_out_of_the_box(random_model, tmp_path):
    runner = CliRunner()
    beginning = TEXT[: TEXT.index(" The traffic light is red, stopping")]
    done = runner.invoke(app, ["text", "complete", beginning])
    assert done.exit_code == 0 and done.output.startswith(beginning)
    tokens, forwards, rate = re.search(
        r"(\d+) tokens in (\d+) forwards, ([\d.]+) tokens per forward", done.output
    ).groups()
    assert int(tokens) > int(forwards) > 0 and float(rate) == pytest.approx(int(tokens) / int(forwards), abs=0.01)
    gap = runner.invoke(
        app, ["text", "infill", TEXT.replace("The traffic light is red, stopping at the line.", "[gap:11]")]
    )
    assert gap.exit_code == 0 and gap.output.startswith(TEXT + "\n11 tokens in ")
    save_model(random_model.model, tmp_path)
    random_model.tokenizer.save(tmp_path)
    own = runner.invoke(app, ["text", "infill", "It is [gap:1].", "--checkpoint", str(tmp_path)])
    assert own.exit_code == 0 and "1 tokens in" in own.output
    json.loads((tmp_path / "config.json").read_text())


def test_the_training_commands_make_a_parent_and_convert_it(tmp_path):
    (tmp_path / "train.txt").write_text((TEXT + "\n") * 3)
    runner, parent = CliRunner(), str(tmp_path / "ar")
    common = ["--corpus", str(tmp_path), "--steps", "2", "--batch", "2", "--device", "cpu"]
    made = runner.invoke(app, ["train", "text", "--out", parent, "--hidden", "16", "--layers", "1", *common])
    assert made.exit_code == 0, made.output
    common += ["--parent", parent, "--block-size", "8", "--recipe"]
    for recipe, shift in (("nano-efficient-dlm", 0), ("fast-dvlm", 1)):
        done = runner.invoke(app, ["train", "convert", "--out", str(tmp_path / recipe), *common, recipe])
        assert done.exit_code == 0, done.output
        model = TextLM.from_pretrained("", tmp_path / recipe)
        assert (model.model.config.token_shift, model.model.config.bd_size) == (shift, 8)
    wrong = runner.invoke(app, ["train", "convert", "--out", str(tmp_path / "none"), *common, "fast-ddrive"])
    assert wrong.exit_code == 1 and isinstance(wrong.exception, RecipeError)
