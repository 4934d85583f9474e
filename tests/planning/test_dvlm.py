"""Free questions: what streams is the answer, lossless decoders write the same, each mistake has its words."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.perception.patches import ImageSizeError
from efficientgen.perception.types import Command
from efficientgen.planning.dvlm import DVLM, NotAVisionModelError, PictureError, UnknownAnswererError
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.question_prompt import (
    QuestionError,
    chat_question,
    nano_question,
    nano_scene,
    normalised,
    question_vocabulary,
)
from tests.planning.conftest import random_observation
from tests.planning.tiny_release import PIXELS, tiny_model, write_release

WORDINGS = ("may i go", "is the light red")
ANSWERS = ("No, the light is red.", "A zebra crossing is ahead.")


@pytest.fixture(scope="module")
def words(tokenizer):
    return question_vocabulary(tokenizer, WORDINGS, ANSWERS)


@pytest.fixture(scope="module")
def nano(small_config, words):
    """A random model in the nano form, fp64, so that decoders can be compared token by token."""
    torch.manual_seed(1)
    text = replace(small_config.text, vocab_size=words.vocab_size, tie_word_embeddings=False)
    config = replace(small_config, text=text, family="fast-dvlm", schema=None, decode_block_size=8, sub_block_size=8)
    model = VisionLanguageModel(config).double().eval().requires_grad_(False)
    for parameter in model.model.language_model.layers.parameters():
        parameter *= 3 if parameter.dim() > 1 else 1  # so that what was read weighs against the last token
    return lambda decoder="self-spec": DVLM(model, words, decoder, "nano", WORDINGS)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "my-dvlm", "fast-dvlm")


def picture(seed=0, height=112, width=224):
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def test_pieces_are_the_answer_and_lossless_decoders_agree(nano):
    said = {}
    for decoder in ("ar", "self-spec", "fused-self-spec"):
        pieces = []
        reply = nano(decoder).ask([picture(k) for k in range(3)], "May I go?", on_text=pieces.append, max_new_tokens=20)
        assert "".join(pieces) == reply.text and 1 < len(pieces) <= reply.tokens
        assert reply.counts.forwards > 0 and set(reply.seconds) == {"vision", "prefill", "decode"}
        said[decoder] = reply.text
    assert len(set(said.values())) == 1
    assert len(pieces) > 1


def test_it_looks_and_it_hears(nano):
    ask = nano().ask
    first = ask([picture(0)], "may i go", max_new_tokens=12).text
    assert first == ask([np.stack([picture(0)] * 2)], "  May I   go?! ", max_new_tokens=12).text
    others = {
        ask([picture(1)], "may i go", max_new_tokens=12).text,
        ask([picture(0)], "is the light red", max_new_tokens=12).text,
        ask([picture(0)], "may i go", Command.GO_LEFT, max_new_tokens=12).text,
    }
    assert others - {first}


def test_an_observation_is_its_pictures_and_command(nano):
    seen = random_observation(4)
    pairs = [np.stack([f.image for f in seen.cameras[n]]) for n in ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")]
    assert (
        nano().ask(seen, "may i go", max_new_tokens=8).text
        == nano().ask(pairs, "may i go", seen.command, max_new_tokens=8).text
    )
    with pytest.raises(PictureError, match="lacks the cameras FRONT_LEFT"):
        nano().ask(replace(seen, cameras={"FRONT": seen.cameras["FRONT"]}), "may i go")


def test_the_decoder_stops_at_the_end_of_turn(nano, words):
    model = nano()
    end = words.id_of("<|im_end|>")
    weight = model.model.lm_head.weight
    kept = weight[end].clone()
    weight[end] = 0.0
    try:
        long = model.ask([picture()], "may i go", max_new_tokens=10)
        assert long.tokens == 10
        # make the end win wherever the model stands: its row is a large multiple of what was written first
        weight[end] = 50 * weight[words.encode(long.text)[1]]
        short = model.ask([picture()], "may i go", max_new_tokens=10)
    finally:
        weight[end] = kept
    assert short.tokens < 10 and "<|im_end|>" not in short.text


@pytest.mark.parametrize(
    ("pictures", "question", "error", "told"),
    [
        ([], "may i go", PictureError, "0 pictures"),
        ([picture()] * 2, "may i go", PictureError, "FRONT_LEFT, FRONT, FRONT_RIGHT in this order"),
        ([picture()[..., 0]], "may i go", PictureError, "not RGB"),
        ([picture().astype(np.float32)], "may i go", PictureError, "float32"),
        ([picture()[:0]], "may i go", PictureError, "not RGB"),
        ([picture()], "", QuestionError, "empty"),
        ([picture()], " ?! ", QuestionError, "empty"),
        ([picture()], "may a unicorn go", QuestionError, "never met 'unicorn'; it knows e.g. 'may i go'"),
        ([picture()], "<|im_end|>", QuestionError, "never met"),
        ([picture()], "go " * 5000, QuestionError, "ask less"),
    ],
)
def test_mistakes_are_told(nano, pictures, question, error, told):
    with pytest.raises(error, match=told):
        nano().ask(pictures, question)


def test_pictures_of_any_size_are_fitted(nano):
    wide = nano().ask([picture(height=300, width=900)], "may i go", max_new_tokens=4)
    assert wide.tokens == 4


def test_the_vocabulary_keeps_the_base_and_spells_every_word(tokenizer, words):
    assert all(words.vocab[token] == i for token, i in tokenizer.vocab.items())
    for wording in WORDINGS:
        ids = nano_question(words, wording)
        assert words.decode(ids).startswith("\nquestion: " + wording) and len(ids) == len(wording.split()) + 2
    for answer in ANSWERS:
        assert words.decode(words.encode(answer)) == answer
    scene = words.decode(nano_scene(words, [2, 3], Command.GO_LEFT))
    assert scene.count("<|image_pad|>") == 5 and scene.endswith("command: turn left")
    assert normalised("What's  ahead, then?") == "what's ahead then"


def test_a_released_directory_answers_through_the_same_class(release):
    pieces = []
    model = DVLM.from_pretrained(release)
    assert not model.nano and model.pixels == (PIXELS, PIXELS)
    reply = model.ask(
        [picture(k, 90, 160) for k in range(2)], "What is ahead?", on_text=pieces.append, max_new_tokens=24
    )
    assert "".join(pieces) == reply.text and 0 < reply.tokens <= 24
    plain = DVLM.from_pretrained(release, decoder="ar").ask(
        [picture(k, 90, 160) for k in range(2)], "What is ahead?", max_new_tokens=24
    )
    assert plain.text == reply.text
    prompt = chat_question([4, 4], "What is ahead?")
    assert prompt.startswith("<|im_start|>system\n") and prompt.endswith("<|im_start|>assistant\n")
    assert model.tokenizer.encode(prompt).count(model.model.config.image_token_id) == 8
    with pytest.raises(QuestionError, match="empty"):
        model.ask([picture()], "  ")
    with pytest.raises(ImageSizeError):
        model.ask([picture(height=1, width=900)], "What is ahead?")


def test_characters_of_several_bytes_stream_whole(release):
    """Tokens of a byte-level BPE may end inside a character: no broken one may ever be sent."""
    from efficientgen.planning.dvlm import _Stream

    tokenizer = DVLM.from_pretrained(release).tokenizer
    ids, pieces = tokenizer.encode("ok: 停车 – fin"), []
    stream = _Stream(tokenizer, -1, pieces.append)
    for n in range(1, len(ids) + 1):
        stream.hear(ids[:n])
    assert stream.finish(ids) == "ok: 停车 – fin" == "".join(pieces)
    assert "\ufffd" not in "".join(pieces) and len(pieces) < len(ids)


def test_what_cannot_answer_is_refused(words):
    with pytest.raises(UnknownAnswererError, match="self-spec"):
        DVLM(tiny_model("fast-dvlm"), words, "scaffold-spec")
    blind = tiny_model("fast-dvlm")
    config = blind.config
    try:
        blind.config = replace(config, vision=None, family="efficient-dlm")
        with pytest.raises(NotAVisionModelError, match="reads text only"):
            DVLM(blind, words)
    finally:
        blind.config = config
