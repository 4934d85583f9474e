"""Our model and decoders against stock transformers with the same weights: the independent reference."""

import json

import pytest
import torch

from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import config_to_json
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.model import position_ids
from tests.planning.conftest import random_observation

transformers = pytest.importorskip("transformers")
# Stock computes RMSNorm and RoPE in float32 even in a float64 model, ours in float64: hence not 1e-12.
TOLERANCE = 1e-4


def stock_of(model, dtype=torch.float64):
    """Stock Qwen2.5-VL with our weights, through the same config.json."""
    config = transformers.Qwen2_5_VLConfig(**json.loads(json.dumps(config_to_json(model.config))))
    config._attn_implementation = "eager"
    stock = transformers.Qwen2_5_VLForConditionalGeneration(config).to(dtype).eval()
    missing, surplus = stock.load_state_dict(model.state_dict(), strict=False)
    assert set(missing) <= {"lm_head.weight"} and not surplus
    stock.tie_weights()
    return stock.requires_grad_(False)


def stock_logits(stock, patches, grids, ids):
    types = torch.tensor([[int(i == stock.config.image_token_id) for i in ids]])
    return stock(
        input_ids=torch.tensor([ids]),
        pixel_values=patches[0],
        image_grid_thw=torch.tensor(grids),
        mm_token_type_ids=types,
    ).logits[0]


def test_logits_equal_stock_with_three_images(small_model, tokenizer):
    planner = DDrive(small_model, tokenizer)
    stock = stock_of(small_model)
    for seed in range(3):
        patches, grids, ids = planner.inputs(random_observation(seed))
        embeds = small_model.embed(torch.tensor([ids]), small_model.see(patches, grids))
        cache = KVCache(small_model.config.text, len(ids), torch.float64, torch.device("cpu"))
        hidden = small_model(embeds, position_ids(ids, grids, small_model.config), cache.append("causal", len(ids)))
        torch.testing.assert_close(
            small_model.logits(hidden)[0], stock_logits(stock, patches, grids, ids), atol=TOLERANCE, rtol=0
        )


def test_vision_equals_stock_on_uneven_grids(small_model):
    stock = stock_of(small_model)
    grids = ((1, 8, 16), (1, 10, 6), (1, 4, 22))
    patches = torch.randn(1, sum(t * h * w for t, h, w in grids), 1176, dtype=torch.float64)
    ours = small_model.see(patches, grids)[0]
    theirs = stock.model.visual(patches[0], grid_thw=torch.tensor(grids))
    theirs = getattr(theirs, "pooler_output", theirs)
    torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("decoder", ["ar", "scaffold-spec"])
def test_decoder_writes_what_uncached_stock_ar_writes(small_model, tokenizer, decoder):
    """Token by token on stock transformers, the whole sequence forward each time, scaffold forced."""
    planner = DDrive(small_model, tokenizer, decoder)
    stock = stock_of(small_model)
    template = planner.template
    observation = random_observation(7)
    patches, grids, ids = planner.inputs(observation)
    answer, _ = planner.answer(observation)
    written: list[int] = []
    for position in range(len(template)):
        if template.scaffold[position] >= 0:
            written.append(int(template.scaffold[position]))
            continue
        logits = stock_logits(stock, patches, grids, ids + written)[-1]
        logits[torch.from_numpy(~template.allow_lists[template.allow[position]])] = -torch.inf
        written.append(int(logits.argmax()))
    assert answer.ids == written


def test_scaffold_spec_equals_ar_on_many_inputs(small_model, tokenizer):
    """Random weights reject almost every draft, which is the path that must not lose a token."""
    rejected = 0
    for seed in range(12):
        observation = random_observation(100 + seed)
        answers = {d: DDrive(small_model, tokenizer, d).answer(observation)[0] for d in ("ar", "scaffold-spec")}
        assert answers["ar"].ids == answers["scaffold-spec"].ids
        rejected += answers["scaffold-spec"].counts.drafted - answers["scaffold-spec"].counts.accepted
    assert rejected > 0
