"""The engine without a GPU: the same code over the torch references gives the model's own numbers and answers."""

from dataclasses import replace

import pytest
import torch

from efficientgen.eval.random_models import random_model
from efficientgen.planning import decode_head
from efficientgen.planning.accelerated import Accelerated
from efficientgen.planning.cache import CacheFullError, KVCache
from efficientgen.planning.config import ModelConfig, TextConfig
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.decode import DECODERS
from efficientgen.planning.decode_speculative import fused_width
from efficientgen.planning.engine import Engine
from efficientgen.planning.engine_prefill import BUCKET, HELD, near, shared_prefix
from tests.planning.conftest import random_observation

QWEN25 = TextConfig(64, 96, 3, 4, 2, 100, mrope_section=(2, 3, 3))
QWEN3 = TextConfig(48, 80, 2, 6, 3, 90, mrope_section=None, qkv_bias=False, qk_norm=True, explicit_head_dim=16)


def text_model(text: TextConfig):
    model = random_model(ModelConfig(text=text, vision=None), 1, torch.float64, "cpu")
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.uniform_(0.5, 1.5)  # a norm weight of 1 could be folded anywhere
    return model


@torch.inference_mode()
@pytest.mark.parametrize("text", [QWEN25, QWEN3], ids=["qwen2.5", "qwen3"])
def test_forwards_are_the_models(text: TextConfig):
    """Drafts, verifications, a written mask and a sub-block, behind a prompt; more tokens than a bucket of rows has."""
    model = text_model(text)
    engine, cache = Engine(model, 120), KVCache(text, 120, torch.float64, torch.device("cpu"))
    ids, places = torch.randint(0, text.vocab_size, (100,)), torch.arange(100)
    theirs = cache.read(model, ids[:40], places[:40], "causal")[-1]
    mine, ours = engine.prefill(ids[:40].tolist(), model.embed(ids[:40]), places[:40].expand(3, -1))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    own = (torch.rand(9, 9) > 0.4) | torch.eye(9, dtype=torch.bool)
    for count, mode, behind, drop in ((20, "block", 0, 20), (5, "causal", 0, 2), (9, own, 0, 9), (4, "block", 3, 4)):
        at = slice(cache.length, cache.length + count)
        theirs, ours = (c.read(model, ids[at], places[at], mode, behind) for c in (cache, mine))
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)  # squares are added up in fp32
        cache.drop(drop)
        mine.drop(drop)
    assert mine.length == cache.length == 43


@pytest.fixture(scope="module")
def planner(small_model, tokenizer) -> DDrive:
    planner = DDrive(small_model, tokenizer, max_tokens=700)
    planner.engine = Accelerated(small_model, 1400)
    return planner


@pytest.mark.parametrize("decoder", DECODERS)
def test_answers_are_the_models(planner: DDrive, decoder: str):
    engine, planner.decoder, planner.rollouts = planner.engine, decoder, 1
    planner.options = {"width": 8} if decoder.startswith("fused") else {}
    ours, _ = planner.answer(random_observation(3))
    planner.engine = None
    theirs, _ = planner.answer(random_observation(3))
    planner.engine = engine
    assert ours.ids == theirs.ids and ours.counts == theirs.counts


@pytest.mark.parametrize(
    ("decoder", "rollouts"),
    [
        ("ar", 1),
        ("ar-jump", 1),
        ("self-spec", 1),
        ("scaffold-spec", 1),
        ("scaffold-spec", 3),
        ("fused-scaffold-spec", 1),
    ],
)
def test_few_logits_give_the_same_answers(planner: DDrive, decoder: str, rollouts: int, monkeypatch):
    """Where slots allow few tokens, a GPU computes theirs alone."""
    planner.decoder, planner.rollouts = decoder, rollouts
    planner.options = {"width": 8} if decoder.startswith("fused") else {}
    whole = planner.plan(random_observation(6))
    monkeypatch.setattr(decode_head, "narrow_on", lambda device: True)
    few, told = planner._template.few, list[bool]()
    monkeypatch.setattr(planner._template, "few", lambda *at: told.append(few(*at) is not None) or few(*at))
    narrow = planner.plan(random_observation(6))
    assert narrow.text == whole.text and (narrow.rollouts == whole.rollouts).all()
    assert narrow.stats.forwards == whole.stats.forwards and any(told)


def test_fused_drafts_are_as_long_as_a_forward_holds(planner: DDrive):
    """A forward of the engine holds 272 = 16 x 17 tokens."""
    planner.decoder, planner.rollouts, planner.options = "fused-scaffold-spec", 1, {}
    assert planner.engine is not None
    lengths = {length for _, length, _ in planner.answer(random_observation(3))[0].counts.verified}
    assert max(lengths) == 16 == fused_width(planner.engine.text.cache(), None)


def test_rollouts_are_the_models(planner: DDrive):
    engine, planner.decoder, planner.rollouts, planner.options = planner.engine, "scaffold-spec", 3, {}
    ours = planner.plan(random_observation(4))
    planner.engine = None
    theirs = planner.plan(random_observation(4))
    planner.engine = engine
    assert (ours.rollouts == theirs.rollouts).all() and len(ours.rollouts) == 3
    assert ours.stats.engine.startswith("graphs") and theirs.stats.engine.startswith("torch")


@torch.inference_mode()
def test_what_two_prompts_begin_with_alike_is_read_once():
    model = text_model(QWEN25)
    engine = Engine(model, 80)
    places = torch.arange(60).expand(3, -1)
    one = torch.randint(10, 99, (60,))
    two = torch.cat([one[:25], torch.randint(10, 99, (35,))])
    two[25] = (one[25] + 1) % 100
    fresh, theirs = Engine(model, 80).prefill(two.tolist(), model.embed(two), places)
    engine.prefill(one.tolist(), model.embed(one), places)
    held, ours = engine.prefill(two.tolist(), model.embed(two), places)
    assert engine.kept == 25
    torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(held.store[..., :60, :], fresh.store[..., :60, :])


def test_nothing_behind_a_picture_is_taken_over():
    picture = 7
    assert shared_prefix([1, 2, 7, 7, 3], [1, 2, 7, 7, 3], picture) == 2
    assert shared_prefix([1, 2, 3], [1, 2, 3], picture) == 2, "the last token is always read"
    assert shared_prefix([], [1, 2], picture) == shared_prefix([9, 2], [1, 2, 3], picture) == 0


def test_a_new_cache_forgets_the_prompt():
    model = text_model(QWEN25)
    engine = Engine(model, 40)
    ids = torch.arange(20, 40)
    for _ in range(2):
        engine.prefill(ids.tolist(), model.embed(ids), torch.arange(20).expand(3, -1))
        assert engine.kept == 0
        engine.cache()


@torch.inference_mode()
def test_what_does_not_fit_says_so():
    model = text_model(QWEN25)
    engine = Engine(model, 64, rows=(1, 8))
    cache, ids = engine.cache(), torch.zeros(70, dtype=torch.long)
    with pytest.raises(CacheFullError, match="made for 8"):
        cache.read(model, ids[:9], ids[:9], "causal")
    cache = engine.cache()
    cache.length = 60
    with pytest.raises(CacheFullError, match="larger capacity"):
        cache.read(model, ids[:8], ids[:8], "causal")
    with pytest.raises(CacheFullError, match="larger capacity"):
        cache.fork(2, 10)
    forks = Engine(model, 400, rows=(1, 8)).cache().fork(2, 5)
    assert forks.widest == 4
    with pytest.raises(CacheFullError, match="make them longer"):
        forks.read(model, ids[:12].view(2, 6), ids[:12].view(2, 6), "causal", [6, 6])


def test_every_mask_leaves_each_row_something_to_see():
    engine = Engine(text_model(replace(QWEN25, num_hidden_layers=1)), 64)
    for seen in ("causal", "block", torch.eye(3, dtype=torch.bool)):
        mask = engine._mask(seen, 3, 8, 8)
        assert (mask.sum(1) > 0).all() and mask[:3, 3:].sum() == 0


@torch.inference_mode()
@pytest.mark.parametrize("length", [1, 63, 64, 65, 130])
def test_padding_a_prompt_changes_nothing(length: int):
    """Of any length, behind kept tokens or none, and where the cache ends before the padding would."""
    model = text_model(QWEN25)
    engine, cache = Engine(model, 131, rows=(1, 8)), KVCache(QWEN25, 131, torch.float64, torch.device("cpu"))
    ids = torch.randint(0, 100, (length + 1,))
    theirs = cache.read(model, ids, torch.arange(length + 1), "causal")
    places = torch.arange(length + 1).expand(3, -1)
    for count, kept in ((length, 0), (length + 1, length)):
        mine, ours = engine.prefill(ids[:count].tolist(), model.embed(ids[:count]), places[:, :count])
        assert mine.length == count and engine.kept == kept
        torch.testing.assert_close(ours, theirs[count - 1], rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(mine.store[..., :count, :], cache.store[:, :, 0, :, :count], rtol=1e-5, atol=1e-5)


@torch.inference_mode()
def test_few_lengths_of_prompts_are_held():
    model = text_model(replace(QWEN25, num_hidden_layers=1))
    engine = Engine(model, 2000, rows=(1,))
    for buckets in range(1, HELD + 4):
        ids = torch.randint(0, 100, (buckets * BUCKET,))
        engine.cache()
        engine.prefill(ids.tolist(), model.embed(ids), torch.arange(len(ids)).expand(3, -1))
    held = list(engine._prefills._held)
    assert len(held) == HELD and held[-1] == (0, (HELD + 3) * BUCKET)


def test_lengths_that_the_next_prompt_may_have_are_captured_with_it():
    """A history with a digit more must not wait for a capture."""
    assert near(1146) == [1152, 1216]
    assert near(1152 - 32) == [1152] and near(1090) == [1152, 1088] and near(3) == [64]
