"""Schema, tokenizer and prompt: what is written can be read back, and what cannot be spelled is refused."""

import json

import numpy as np
import pytest

from efficientgen.perception.types import Command
from efficientgen.planning.annotate import SENTENCES
from efficientgen.planning.prompt import EgoNumbers, prompt_ids
from efficientgen.planning.schema import (
    CRITICAL_OBJECTS,
    LATERAL,
    LONGITUDINAL,
    NANO,
    AnswerError,
    compile_template,
    decode_answer,
    encode_answer,
    format_number,
)
from efficientgen.planning.tokenizer import NULL, UnknownTextError


def sections(rng: np.random.Generator) -> dict:
    return {
        "critical_objects": {k: ("yes", "no")[rng.integers(2)] for k in CRITICAL_OBJECTS},
        "explanation": SENTENCES[rng.integers(len(SENTENCES))],
        "future_meta_behavior": {
            "longitudinal": LONGITUDINAL[rng.integers(len(LONGITUDINAL))],
            "lateral": LATERAL[rng.integers(len(LATERAL))],
        },
        "trajectory": np.round(rng.uniform(-40, 40, (6, 2)), NANO.decimals),
    }


def test_answers_round_trip_as_json(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    for seed in range(20):
        truth = sections(np.random.default_rng(seed))
        text, answer = decode_answer(template, tokenizer, encode_answer(template, tokenizer, truth).tolist())
        assert json.loads(text)["explanation"] == truth["explanation"]
        assert answer["critical_objects"] == truth["critical_objects"]
        assert answer["future_meta_behavior"] == truth["future_meta_behavior"]
        np.testing.assert_allclose(answer["trajectory"], truth["trajectory"], atol=1e-9)


def require_noise_to_parse(template, tokenizer, times):
    """Any allowed tokens in the slots make a valid answer."""
    rng = np.random.default_rng(0)
    for _ in range(times):
        ids = template.scaffold.copy()
        for p in np.flatnonzero(template.is_value):
            ids[p] = rng.choice(np.flatnonzero(template.allow_lists[template.allow[p]]))
        _, answer = decode_answer(template, tokenizer, ids.tolist())
        assert np.isfinite(np.array(answer["trajectory"])).all()


def test_any_allowed_value_tokens_make_valid_json(tokenizer):
    """The scaffold fixes the structure and the allow-lists the slots, so even noise parses."""
    require_noise_to_parse(compile_template(NANO, tokenizer, 32), tokenizer, 50)


def test_blocks_cover_the_answer_and_keep_to_their_sections(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    assert template.blocks[0][0] == 0 and template.blocks[-1][1] == len(template)
    for (start, end), (following, _) in zip(template.blocks, [*template.blocks[1:], (len(template), 0)], strict=True):
        assert end == following
        assert template.is_value[start:end].sum() <= 32
        assert len(np.unique(template.section[start:end])) == 1


@pytest.mark.parametrize(
    ("value", "text"), [(3.456, "+03.5"), (-0.04, "-00.0"), (123.0, "+99.9"), (-1e9, "-99.9"), (0.0, "+00.0")]
)
def test_numbers_have_one_width_and_saturate(value, text):
    assert format_number(value, 2, 1) == text


def test_a_damaged_answer_is_a_typed_error(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    ids = encode_answer(template, tokenizer, sections(np.random.default_rng(0))).tolist()
    with pytest.raises(AnswerError):
        decode_answer(template, tokenizer, ids[:-1])


def test_unknown_words_are_refused(tokenizer):
    with pytest.raises(UnknownTextError, match="zeppelin"):
        tokenizer.encode("zeppelin")


def test_prompts_have_one_length_and_withhold_numbers(tokenizer):
    def ids(known: bool, speed: float) -> list[int]:
        ego = EgoNumbers(((-3.0, 0.1), (-2.0, 0.0), (-1.0, 0.0)), speed, -0.5, 0.01)
        return prompt_ids(tokenizer, 3, 32, Command.GO_LEFT, ego, known)

    assert len({len(ids(k, v)) for k in (True, False) for v in (0.0, 13.37)}) == 1
    assert ids(False, 1.0) == ids(False, 9.0) != ids(True, 1.0) != ids(True, 9.0)
    assert tokenizer.id_of(NULL) not in ids(True, 1.0)
