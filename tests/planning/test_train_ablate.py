"""Measuring conversions: block filling against a reference, and what the ablations conclude from their runs."""

from dataclasses import replace

import pytest
import torch

from efficientgen.planning.decode_text import complete, infill
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
from efficientgen.planning.train.ablate import CLAIMS, METRICS, VARIANTS, Budget, ablate, shuffled, summary, verdicts
from efficientgen.planning.train.block_accuracy import fill_blocks, spans
from efficientgen.planning.train.rows import text_batch
from efficientgen.planning.train.text import converted_config

TEXTS = ["It is day. The car stands still.", "It is night. The traffic light is red, 12 metres away.",
         "No person is near. The road ahead is clear, driving on.", "The plan is to slow down."]  # fmt: skip


@pytest.fixture(scope="module")
def tokenizer():
    return nano_text_tokenizer()


def lines(tokenizer):
    return [[*tokenizer.encode(t), tokenizer.id_of("<|im_end|>")] for t in TEXTS]


@pytest.mark.parametrize("name", ["edlm", "dvlm", "dvlm, no AR term, block-causal context"])
def test_filling_all_blocks_at_once_equals_the_decoder_on_each(tokenizer, name):
    """The decoder, given the true text before a block, writes the same tokens in as many passes."""
    torch.manual_seed(0)
    config = converted_config(nano_text_config(tokenizer, hidden=32, layers=2), VARIANTS[name])
    model = VisionLanguageModel(config).double().eval().requires_grad_(False)
    texts = [line[: len(line) // 8 * 8] for line in lines(tokenizer)]
    batch = text_batch(texts, [0] * len(texts), 0, 1)
    model.config = replace(config, bd_size=8, decode_block_size=8, sub_block_size=8)
    filled = fill_blocks(model, batch, batch.real.clone(), 8, confidence=0.3)
    right, total, forwards = 0, 0, 0
    for text in texts:
        for start in range(0, len(text), 8):
            shift = config.token_shift
            if start == 0 and shift:
                given = text[:1] + [-1] * 7  # nothing predicts the first token of a text
                answer = infill(model, given, confidence=0.3)
                written = answer.ids
            elif start == 0:
                answer = infill(model, [-1] * 8, confidence=0.3)
                written = answer.ids
            else:
                answer = complete(model, text[:start], 8, "diffusion", confidence=0.3)
                written = text[:start] + answer.ids
                if len(answer.ids) < 8:
                    pytest.skip("the random model wrote an end token")
            hidden = range(start + (1 if start == 0 and shift else 0), start + 8)
            right += sum(written[p] == text[p] for p in hidden)
            total += len(hidden)
            forwards += answer.counts.cycles + 1
    assert filled.accuracy == pytest.approx(right / total)
    assert filled.tokens_per_forward == pytest.approx(total / forwards)


def test_spans_lie_inside_whole_blocks():
    batch = text_batch([list(range(8, 48)), list(range(8, 20))], [0, 0], 0, 1)
    hidden = spans(batch, 16, 5, torch.Generator().manual_seed(0))
    assert hidden[0].sum() == 10 and not hidden[1].any(), "a text without a whole block has no span"
    assert not hidden[:, ::16].any()


def test_shuffled_texts_keep_their_sentences(tokenizer):
    texts = lines(tokenizer)
    mixed = shuffled(texts, tokenizer, 1)
    assert [sorted(a) for a in mixed] == [sorted(b) for b in texts] and mixed == shuffled(texts, tokenizer, 1)
    assert {tokenizer.decode(m[:-1]).strip() for m in mixed} != set(TEXTS)


def test_a_small_ablation_runs_goes_on_and_concludes(tokenizer, tmp_path):
    budget = Budget(parent_steps=1, steps=1, batch=2, hidden=16, layers=1, heldout=2)
    data = lines(tokenizer)
    out = tmp_path / "conversion.json"
    first = ablate(data, data, tokenizer, out, 2, budget, tmp_path, lambda line: None)
    assert len(first["runs"]) == 2 * (len(VARIANTS) + 1) and len(first["claims"]) == len(CLAIMS)
    said: list[str] = []
    again = ablate(data, data, tokenizer, out, 2, budget, tmp_path, said.append)
    assert not said and again["claims"] == first["claims"], "nothing is trained twice"


def test_verdicts_need_every_seed():
    told = {"edlm": (0.9, 0.8), "edlm, uniform masking": (0.7, 0.75), "edlm, token shift": (0.9, 0.7)}
    runs = [{"variant": v, "seed": s, **dict.fromkeys(METRICS, x)} for v, xs in told.items() for s, x in enumerate(xs)]
    runs += [
        {"variant": v, "seed": s, **dict.fromkeys(METRICS, 0.5 + 0.1 * (v == "dvlm, no annealing"))}
        for v in VARIANTS if v.startswith("dvlm") for s in (0, 1)
    ]  # fmt: skip
    found = {row["against"]: row["generation"]["verdict"] for row in verdicts(runs)}
    assert found["edlm, uniform masking"] == "reproduces"
    assert found["edlm, token shift"] == "undecided"
    assert found["dvlm, no annealing"] == "reversed"
    assert summary(runs)["edlm"]["infill"] == pytest.approx([0.85, 0.0707], abs=1e-3)
