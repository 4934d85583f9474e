"""Every decoder against stock transformers in float64, uncached, token for token; random weights, four families.

Small random models reject most drafts and spread their confidences, which is where a token could be lost.
"""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from efficientgen.eval import random_models
from efficientgen.eval.losslessness import Prompted, compare, costs, read_both, read_prompt, reads_on_grid, summarise
from efficientgen.eval.losslessness_table import lines
from efficientgen.eval.random_models import Subject, tiny_subjects
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.decode import DECODERS, NOT_AUTOREGRESSIVE, NotAutoregressiveError
from efficientgen.planning.decode_diffusion import CONFIDENCE, Pass
from efficientgen.planning.decode_speculative import fork_mask
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import decode_answer

pytest.importorskip("transformers")
from efficientgen.eval.stock import Prefix, Stock, uncached_diffusion  # noqa: E402

MODELS = tuple(tiny_subjects())
NEXT_TOKEN = tuple(name for name in DECODERS if name not in NOT_AUTOREGRESSIVE)
FREE_TEXT = ("ar", "self-spec", "fused-self-spec")
PAIRS = [(m, d) for m in MODELS[:3] for d in NEXT_TOKEN if m == "tiny-ddrive" or d in FREE_TEXT]
NEW_TOKENS = 40
SEEDS = (0, 1)


class Bench:
    """A model, its stock twin and prompts that both have read; references are computed once."""

    def __init__(self, name: str):
        self.subject: Subject = tiny_subjects()[name]()
        self.stock = Stock(self.subject.model)
        self.config = self.subject.model.config
        self._cases: dict[bool, list[tuple[Prompted, Prefix]]] = {}
        self._ar: list[list[int]] = []

    def cases(self, decoder: str) -> list[tuple[Prompted, Prefix]]:
        grid = reads_on_grid(self.subject, decoder)
        if grid not in self._cases:
            self._cases[grid] = [read_both(self.subject, self.stock, s, grid, NEW_TOKENS) for s in SEEDS]
        return self._cases[grid]

    def ar(self) -> list[list[int]]:
        """Greedy AR on the stock model, the whole sequence forward for every token."""
        self._ar = self._ar or [stock_ar(self.stock, prefix, case.form) for case, prefix in self.cases("ar")]
        return self._ar


@torch.inference_mode()
def stock_ar(stock, prefix, form) -> list[int]:
    forbidden = form.penalty < 0
    ids: list[int] = []
    while len(ids) < len(form) and (not ids or ids[-1] != form.stop):
        p = len(ids)
        if form.scaffold[p] >= 0:
            ids.append(form.scaffold[p])
            continue
        size = prefix.embeds.shape[1] + p
        logits = stock.logits(prefix, ids, range(p), torch.ones(size, size, dtype=torch.bool).tril())[-1]
        ids.append(int(logits.masked_fill(forbidden[form.allow[p]], -torch.inf).argmax()))
    return ids


@pytest.fixture(scope="module")
def bench():
    made: dict[str, Bench] = {}
    return lambda name: made.setdefault(name, made.get(name) or Bench(name))


@pytest.mark.parametrize(("model", "decoder"), PAIRS)
@torch.inference_mode()
def test_it_writes_what_uncached_stock_ar_writes(bench, model, decoder):
    mine, rejected = bench(model), 0
    for (case, _), reference in zip(mine.cases(decoder), mine.ar(), strict=True):
        answer = case.decode(decoder)
        assert answer.ids == reference
        counts = answer.counts
        assert counts.values == case.form.values(0, len(reference)) and 0 <= counts.accepted <= counts.drafted
        rejected += counts.drafted - counts.accepted
        if decoder.startswith(("fused", "ar")):
            assert counts.forwards == counts.cycles
    assert decoder.startswith("ar") or rejected > 0


@pytest.mark.parametrize("options", [{"reuse": False}, {"reuse": True}, {"confidence": 0.5}], ids=str)
@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_block_diffusion_is_its_uncached_definition(bench, model, options):
    """Cached K/V equals full recomputation under written masks, with and without the sub-block cache."""
    mine = bench(model)
    settings = {"reuse": True, "confidence": CONFIDENCE} | options
    for case, prefix in mine.cases("diffusion"):
        reference, _ = uncached_diffusion(mine.stock, prefix, case.form, sub_block=4, **settings)
        answer = case.decode("diffusion", **settings)
        assert answer.ids == reference
        assert mine.config.mask_token_id not in reference


@torch.inference_mode()
def test_section_diffusion_is_its_uncached_definition(bench):
    mine = bench("tiny-ddrive")
    for case, prefix in mine.cases("section-diffusion"):
        reference, _ = uncached_diffusion(mine.stock, prefix, case.form, CONFIDENCE, 10**6, False)
        assert case.decode("section-diffusion").ids == reference


@pytest.mark.parametrize("model", MODELS)
@torch.inference_mode()
def test_the_sub_block_cache_is_exact_with_one_sub_block_and_else_saves_rows_only(bench, model):
    mine, stale = bench(model), 0.0
    for case, _ in mine.cases("diffusion"):
        whole = max(end - start for start, end in case.form.blocks)
        one = [case.decode("diffusion", sub_block=whole, reuse=reuse).ids for reuse in (True, False)]
        assert one[0] == one[1]
        traces: list[list[Pass]] = [[], []]
        for reuse in (True, False):
            case.decode("diffusion", confidence=1.0, reuse=reuse, trace=traces[reuse])
        rows = [p.high - p.low for p in traces[True] if p.high]
        assert min(rows) <= mine.config.sub_block_size < max(rows) <= whole
        assert sum(rows) < sum(p.high - p.low for p in traces[False] if p.high)
        for part, full in zip(*reversed(traces), strict=False):
            if part.block != full.block:
                break
            stale = max([stale, *(abs(c - full.confidence[p]) for p, c in part.confidence.items())])
    assert stale > 1e-6, "if nothing differed, the test would not have looked at a stale row"


def test_a_wrong_mask_is_noticed(bench):
    """The reference is not fooled: with the other clean context, or another grid, tokens differ."""
    mine = bench("tiny-dllm-v2")
    cases = mine.cases("diffusion")
    row = compare(mine.subject, mine.stock, "diffusion", "fp64", cases)
    assert row.agreed == row.tokens > 0
    right = mine.stock.config
    for wrong in ({"clean_context": "token"}, {"decode_block_size": 8}):
        mine.stock.config = replace(right, **wrong)
        row = compare(mine.subject, mine.stock, "diffusion", "fp64", cases)
        assert row.agreed < row.tokens and row.logit_gap + row.confidence_gap > 0.01
    mine.stock.config = right


@pytest.mark.parametrize("decoder", DECODERS)
@torch.inference_mode()
def test_random_weights_write_valid_json(bench, decoder):
    mine = bench("tiny-ddrive")
    for case, _ in mine.cases(decoder):
        text, sections = decode_answer(mine.subject.template, mine.subject.tokenizer, case.decode(decoder).ids)
        assert json.loads(text)["critical_objects"] and np.isfinite(sections["trajectory"]).all()


@torch.inference_mode()
def test_forwards_are_what_the_definitions_say(bench):
    mine = bench("tiny-ddrive")
    case, _ = mine.cases("ar")[0]
    form, values = case.form, case.form.values(0, len(case.form))
    count = {name: case.decode(name).counts.forwards for name in DECODERS}
    runs = sum(s < 0 for s in form.scaffold[:-1]) + (form.scaffold[0] >= 0)
    assert count["ar"] == len(form) - 1 and count["ar-jump"] == runs - (form.scaffold[-1] >= 0)
    assert count["fused-scaffold-spec"] < count["scaffold-spec"] < count["ar"]
    blocks = len(form.blocks)
    slow = case.decode("section-diffusion", confidence=1.0).counts
    assert slow.cycles == slow.accepted <= values and slow.forwards == slow.cycles + blocks - 1
    for passes in (1, 2):
        fast = case.decode("section-diffusion", passes=passes).counts
        assert fast.cycles <= passes * blocks and fast.values == values


@pytest.mark.parametrize("decoder", ["ar", "self-spec", "fused-self-spec", "diffusion"])
@torch.inference_mode()
def test_text_ends_with_the_stop_token_the_model_writes(bench, decoder):
    """Whatever token comes third is made the stop token; a given one ends nothing."""
    mine = bench("tiny-dvlm")
    case, _ = mine.cases(decoder)[0]
    ids = case.decode(decoder).ids
    stop = next(t for t in ids[2:] if t not in ids[:2])
    form, before = case.form, case.form.stop
    form.stop = stop
    assert case.decode(decoder).ids == ids[: ids.index(stop) + 1]
    form.scaffold[ids.index(stop)] = form.forced[ids.index(stop)] = stop
    assert len(case.decode(decoder).ids) > ids.index(stop) + 1
    form.scaffold[ids.index(stop)] = form.forced[ids.index(stop)] = -1
    form.stop = before


def test_without_token_shift_nothing_can_be_verified(bench):
    case, _ = bench("tiny-efficient-dlm").cases("diffusion")[0]
    for decoder in NEXT_TOKEN:
        with pytest.raises(NotAutoregressiveError, match="diffusion"):
            case.decode(decoder)


def test_forks_see_the_tokens_they_continue_and_themselves():
    verify, forks = 3, {1: 2, 3: 4}
    owner = [("v", i) for i in range(verify)] + [(k, j) for k, rows in forks.items() for j in range(rows)]
    seen = fork_mask(verify, tuple(forks.items()))
    for r, (fork, i) in enumerate(owner):
        for c, (other, j) in enumerate(owner):
            expected = j <= i if fork == other == "v" else fork == other or (other == "v" and fork != "v" and j < fork)
            assert seen[r, c] == expected, (owner[r], owner[c])


def test_costs_name_every_decoder_without_a_reference():
    subjects = {name: make for name, make in tiny_subjects().items() if name in ("tiny-ddrive", "tiny-efficient-dlm")}
    rows = [row for make in subjects.values() for row in costs(make(), "fp64", 1, 12)]
    assert [(r.model, r.decoder) for r in rows] == [("tiny-ddrive", d) for d in DECODERS] + [
        ("tiny-efficient-dlm", "diffusion")
    ]
    assert all(r.agreed == r.tokens and r.forwards and r.peak_mib is None for r in rows)
    assert len(lines(summarise(rows)["rows"])) == len(rows) + 1


@pytest.mark.parametrize("name", ["fast-ddrive", "fast-dvlm", "fast-dllm-v2", "efficient-dlm-8b"])
def test_released_shapes_are_asked_the_same_way(name, monkeypatch):
    """Released slots, blocks, pictures and token ids over layers that are cut down, which is all a CPU can take."""
    draw, slim = random_models.random_model, {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1}

    def cut(config: ModelConfig, seed: int, dtype: torch.dtype, device: str) -> VisionLanguageModel:
        sections = (2, 1, 1) if config.text.mrope_section else None
        heads = {"num_attention_heads": 4, "num_key_value_heads": 2, "explicit_head_dim": None}
        text = replace(config.text, **slim, **heads, mrope_section=sections)
        vision = config.vision and replace(random_models.TINY_VISION, depth=1, out_hidden_size=32)
        return draw(replace(config, text=text, vision=vision), seed, dtype, device)

    monkeypatch.setattr(random_models, "random_model", cut)
    subject = random_models.released_subjects(torch.float32, "cpu")[name]()
    decoder = {"fast-ddrive": "section-diffusion", "fast-dvlm": "fused-self-spec"}.get(name, "diffusion")
    case = read_prompt(subject, 0, reads_on_grid(subject, decoder), 40)
    answer = case.decode(decoder, **({"passes": 1} if decoder == "section-diffusion" else {}))
    assert subject.model.config.mask_token_id not in answer.ids and 0 < answer.counts.values
    assert len(answer.ids) == len(case.form) or answer.ids[-1] == case.form.stop
    if subject.template is not None:
        assert decode_answer(subject.template, subject.tokenizer, answer.ids)[1]["trajectory"]
