"""WOD-E2E and nuScenes answers: the paper's token counts with the real vocabulary, round trips, lenient reading."""

import json

import numpy as np
import pytest

from efficientgen.planning.lenient import read_answer
from efficientgen.planning.qwen_tokenizer import from_ranks, installed_ranks
from efficientgen.planning.schema import (
    CRITICAL_OBJECTS,
    NUSCENES,
    SECTIONS,
    WOD_E2E,
    AnswerError,
    compile_template,
    decode_answer,
    encode_answer,
)
from efficientgen.planning.tokenizer import NULL
from tests.planning.test_schema import require_noise_to_parse
from tests.planning.tiny_release import tiny_tokenizer

SPOKEN = ("keep speed", "speed up", "slow down", "come to stop"), (
    "go straight", "turn left", "turn right", "lane follow", "keep lane",
)  # fmt: skip


@pytest.fixture(scope="module")
def real():
    path = installed_ranks()
    if path is None:
        pytest.skip("Qwen's vocabulary is not installed: pip install tiktoken; pip install --no-deps dashscope")
    pytest.importorskip("tiktoken")
    return from_ranks(path)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory):
    return tiny_tokenizer(tmp_path_factory.mktemp("tiny"))


def sections(seed: int, schema=WOD_E2E, explanation: str = "The road ahead is clear, so keep the speed.") -> dict:
    rng = np.random.default_rng(seed)
    return {
        "critical_objects": {k: ("yes", "no")[rng.integers(2)] for k in CRITICAL_OBJECTS},
        "explanation": explanation,
        "future_meta_behavior": {
            "longitudinal": SPOKEN[0][rng.integers(len(SPOKEN[0]))],
            "lateral": SPOKEN[1][rng.integers(len(SPOKEN[1]))],
        },
        "trajectory": np.round(rng.uniform(-99, 99, (len(schema.times_s), 2)), 2),
    }


@pytest.mark.parametrize(
    ("schema", "length", "values", "trajectory", "blocks"), [(WOD_E2E, 404, 280, 70, 11), (NUSCENES, 421, 294, 84, 11)]
)
def test_token_counts_with_the_real_vocabulary(real, schema, length, values, trajectory, blocks):
    """404 = 12 + 192 + 6 + 70 values and 124 of scaffold; 1 + 6 + 1 + 3 blocks of 32 (Fast-dDrive, section 3)."""
    template = compile_template(schema, real, 32, 151936)
    counts = [int((template.is_value & (template.section == s)).sum()) for s in range(len(SECTIONS))]
    assert (len(template), sum(counts), counts) == (length, values, [12, 192, 6, trajectory])
    assert len(template.blocks) == blocks
    per_block = [int(template.is_value[start:end].sum()) for start, end in template.blocks]
    assert per_block == [12, *[32] * 6, 6, 32, 32, trajectory - 64]


@pytest.mark.parametrize("schema", [WOD_E2E, NUSCENES])
def test_tokens_piece_by_piece_are_those_of_the_whole_string(real, schema):
    """What training sees (the text tokenised once) is what the template holds, literal by literal and slot by slot."""
    template = compile_template(schema, real, 32, 151936)
    for seed in range(8):
        ids = encode_answer(template, real, sections(seed, schema)).tolist()
        assert real.encode(real.decode(ids)) == ids


def test_answers_round_trip(tiny):
    for schema in (WOD_E2E, NUSCENES):
        template = compile_template(schema, tiny, 32, tiny.vocab_size + 3)
        for seed in range(6):
            truth = sections(seed, schema)
            ids = encode_answer(template, tiny, truth).tolist()
            text, answer = decode_answer(template, tiny, ids)
            np.testing.assert_allclose(answer["trajectory"], truth["trajectory"], atol=1e-9)
            assert {k: answer[k] for k in SECTIONS[:3]} == {k: truth[k] for k in SECTIONS[:3]}
            assert json.loads(text)["trajectory"].startswith("[[ ")


def test_any_allowed_tokens_make_valid_json(tiny):
    require_noise_to_parse(compile_template(WOD_E2E, tiny, 32, tiny.vocab_size + 3), tiny, 30)


def test_text_that_would_break_the_object_is_refused(tiny):
    template = compile_template(WOD_E2E, tiny, 32)
    for text in ('a "quoted" word', "back\\slash", "two\nlines", "<|im_end|>"):
        with pytest.raises(AnswerError, match="cannot be the explanation"):
            encode_answer(template, tiny, sections(0, explanation=text))
    with pytest.raises(AnswerError, match="finite m"):
        encode_answer(template, tiny, sections(0) | {"trajectory": [[np.nan, 0.0]] * 5})
    with pytest.raises(AnswerError, match=r"got \(6, 2\)"):
        encode_answer(template, tiny, sections(0) | {"trajectory": np.zeros((6, 2))})
    wordy = {"longitudinal": "slow down and then speed up again", "lateral": "go straight"}
    with pytest.raises(AnswerError, match="3 tokens at most"):
        encode_answer(template, tiny, sections(0) | {"future_meta_behavior": wordy})


def written(seed: int = 0) -> tuple[str, dict]:
    truth = sections(seed)
    path = "], [".join(f" {x:+07.2f}, {y:+07.2f}" for x, y in truth["trajectory"])
    return json.dumps({**truth, "trajectory": f"[[{path}]]"}), truth


def test_a_whole_answer_is_read_strictly(tiny):
    text, truth = written()
    for given in (text, f"Sure! {text.replace('clear', 'clear' + NULL)} Done.", f"```json\n{text}\n```"):
        reading = read_answer(given, WOD_E2E)
        assert reading.parsed and not reading.padded
        np.testing.assert_allclose(reading.waypoints, truth["trajectory"])
        assert reading.sections["critical_objects"] == truth["critical_objects"]


def test_numbers_instead_of_a_string_are_read():
    text = json.dumps({"trajectory": [[1.0, 2.0], [3, -4.5], [5.0, 6.0], [7.0, 8.0], [9.0, 0.0], [99.0, 99.0]]})
    assert read_answer(text, WOD_E2E).waypoints.tolist()[1] == [3.0, -4.5]
    assert len(read_answer(text, WOD_E2E).waypoints) == 5


@pytest.mark.parametrize("cut", [3, 12, 40])
def test_a_broken_answer_is_read_as_far_as_it_goes(cut):
    text, truth = written(4)
    reading = read_answer(text[:-cut], WOD_E2E)
    assert not reading.parsed
    kept = 5 - reading.padded
    np.testing.assert_allclose(reading.waypoints[:kept], truth["trajectory"][:kept])
    assert (reading.waypoints[kept:] == reading.waypoints[kept - 1]).all() and (cut > 3) == (reading.padded > 0)
    assert reading.sections["explanation"] == truth["explanation"]
    assert reading.sections["future_meta_behavior"] == truth["future_meta_behavior"]
    assert reading.sections["critical_objects"] == truth["critical_objects"]


@pytest.mark.parametrize(
    "text", ["", "I cannot drive.", "{}", '{"trajectory": null}', "[" * 5000, '{"trajectory": "[[ +']
)
def test_an_answer_without_a_waypoint_is_an_error(text):
    with pytest.raises(AnswerError, match="no waypoint"):
        read_answer(text, WOD_E2E)
