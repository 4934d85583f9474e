"""Completing and infilling text: prompts on and off the block grid, holes anywhere, requests that make no sense."""

import pytest
import torch

from efficientgen.eval.random_models import tiny_subjects
from efficientgen.planning.cache import CacheFullError, KVCache
from efficientgen.planning.decode_diffusion import CONFIDENCE
from efficientgen.planning.decode_form import OPEN, TextForm
from efficientgen.planning.decode_text import TextRequestError, block_causal, complete, infill

pytest.importorskip("transformers")
from efficientgen.eval.stock import Stock, uncached_diffusion  # noqa: E402

BLOCK = 16


@pytest.fixture(scope="module")
def v2():
    return tiny_subjects()["tiny-dllm-v2"]().model


@pytest.fixture(scope="module")
def dlm():
    return tiny_subjects()["tiny-efficient-dlm"]().model


def words(seed: int, count: int) -> list[int]:
    return torch.randint(5, 40, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def whole_text(model, given: list[int], stop: int | None):
    """The uncached definition over a whole text from its first token on, with nothing read beforehand."""
    stock = Stock(model)
    config = model.config
    form = TextForm(given, BLOCK, config.mask_token_id, config.text.vocab_size, torch.device("cpu"), stop)
    with torch.inference_mode():
        return uncached_diffusion(stock, stock.prefix([]), form, CONFIDENCE, config.sub_block_size, True)[0]


@pytest.mark.parametrize("length", [1, 5, 15, 16, 17, 40, 48])
@pytest.mark.parametrize("family", ["v2", "dlm"])
def test_a_prompt_of_any_length_is_read_on_the_grid(request, family, length):
    """Whole prompt blocks go into the cache, the rest into the first decoded block: as if nothing had been cached."""
    model = request.getfixturevalue(family)
    prompt = words(length, length)
    answer = complete(model, prompt, 20)
    assert prompt + answer.ids == whole_text(model, prompt + [OPEN] * 20, model.config.im_end_token_id)
    assert answer.counts.values == len(answer.ids) <= 20


@pytest.mark.parametrize("prompt", [7, 33])
def test_speculation_reads_a_prompt_causally(v2, prompt):
    ids = words(prompt, prompt)
    answers = [complete(v2, ids, 24, decoder).ids for decoder in ("ar", "self-spec", "fused-self-spec")]
    assert answers[0] == answers[1] == answers[2]


@pytest.mark.parametrize("holes", [(0, 3), (10, 22), (35, 36), (40, 50)])
def test_infill_is_its_uncached_definition_and_keeps_what_was_given(dlm, holes):
    text = words(3, 50)
    torn = [OPEN if holes[0] <= i < holes[1] else t for i, t in enumerate(text)]
    answer = infill(dlm, torn)
    assert answer.ids == whole_text(dlm, torn, None)
    assert all(a == t for a, t in zip(answer.ids, torn, strict=True) if t != OPEN)
    assert OPEN not in answer.ids and answer.counts.values == holes[1] - holes[0]


def test_a_hole_sees_its_own_block_and_nothing_further(dlm):
    text = words(4, 48)
    torn = text[:18] + [OPEN] * 6 + text[24:]
    before = infill(dlm, torn).ids[18:24]
    behind = [infill(dlm, torn[:32] + words(seed, 16)).ids[18:24] for seed in range(4)]
    inside = [infill(dlm, torn[:24] + words(seed, 8) + torn[32:]).ids[18:24] for seed in range(4)]
    assert all(ids == before for ids in behind) and any(ids != before for ids in inside)


def test_blocks_without_a_hole_cost_no_pass_and_the_last_ones_no_forward(dlm):
    text = words(5, 96)
    answer = infill(dlm, text[:20] + [OPEN] + text[21:])
    assert answer.counts.forwards == answer.counts.cycles == 1


def test_requests_that_make_no_sense_are_told(v2, dlm):
    with pytest.raises(TextRequestError, match="-1"):
        infill(dlm, words(0, 9))
    with pytest.raises(TextRequestError, match="begins with a hole"):
        infill(v2, [OPEN, 7, 8])
    with pytest.raises(TextRequestError, match="at least 1"):
        complete(v2, [], 4)
    with pytest.raises(TextRequestError, match="choose one of ar"):
        complete(v2, [7], 4, "telepathy")


def test_the_grid_mask_is_causal_between_blocks_and_full_inside():
    seen = block_causal(10, 4)
    for q in range(10):
        for k in range(10):
            assert bool(seen[q, k]) == (k // 4 <= q // 4)


def test_a_cache_grows_on_request_and_never_by_itself(v2):
    cache = KVCache(v2.config.text, 4, torch.float64, torch.device("cpu"))
    cache.store.normal_()
    cache.length = 3
    with pytest.raises(CacheFullError):
        cache.append("block", 1, behind=1)
    held = cache.store[..., :3, :].clone()
    cache.reserve(9)
    assert cache.capacity == 9 and cache.length == 3 and torch.equal(cache.store[..., :3, :], held)
