"""Logits of every family against stock transformers, which also writes the directory that we load them from."""

import pytest
import torch

from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import load_model
from efficientgen.planning.model import position_ids
from tests.planning.families import SMALL, TOKENS, VOCABULARY, stock_model

pytest.importorskip("transformers")
TOLERANCE = 1e-5
IMAGE = TOKENS["image_token_id"]
UNEVEN = ((1, 8, 16), (1, 10, 6), (1, 4, 22))


def loaded(stock, directory, **options):
    stock.save_pretrained(directory, **options)
    return load_model(directory)


def words(count: int, seed: int) -> list[int]:
    """Tokens that are none of the special ones."""
    return torch.randint(8, VOCABULARY, (count,), generator=torch.Generator().manual_seed(seed)).tolist()


def our_logits(model, ids, patches=None, grids=()):
    vision = model.see(patches, grids) if grids else None
    parameter = next(model.parameters())
    embeds = model.embed(torch.tensor([ids], device=parameter.device), vision)
    cache = KVCache(model.config.text, len(ids), parameter.dtype, parameter.device)
    positions = position_ids(ids, grids, model.config).to(parameter.device)
    return model.logits(model(embeds, positions, cache.append("causal", len(ids))))[0]


def stock_logits(stock, ids, patches=None, grids=()):
    device = next(stock.parameters()).device
    inputs = {"input_ids": torch.tensor([ids], device=device)}
    if grids:
        inputs["pixel_values"] = patches[0]
        inputs["image_grid_thw"] = torch.tensor(grids, device=device)
        inputs["mm_token_type_ids"] = (inputs["input_ids"] == IMAGE).int()
    return stock(**inputs).logits[0]


def prompt(grids, seed: int) -> tuple[list[int], torch.Tensor]:
    """Text, images with text between them, text; and patch vectors (1, N, 1176)."""
    ids = words(5, seed)
    for i, (t, h, w) in enumerate(grids):
        ids += [TOKENS["vision_start_token_id"], *[IMAGE] * (t * h * w // 4), *words(3 + i, seed + i + 1)]
    count = sum(t * h * w for t, h, w in grids)
    return ids + words(7, seed + 9), torch.randn(1, count, 1176, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", ["fast-dllm-v2", "efficient-dlm", "efficient-dlm-1.5b", "fast-dvlm"])
def test_text_logits_equal_stock(family, tmp_path):
    stock = stock_model(SMALL[family])
    model = loaded(stock, tmp_path)
    assert model.config.text == SMALL[family].text
    for seed in range(3):
        ids = words(40, seed)
        torch.testing.assert_close(our_logits(model, ids), stock_logits(stock, ids), atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("grids", [UNEVEN[:1], UNEVEN, UNEVEN[:1] * 3])
def test_image_logits_equal_stock(grids, tmp_path):
    stock = stock_model(SMALL["fast-dvlm"])
    model = loaded(stock, tmp_path)
    for seed in range(2):
        ids, patches = prompt(grids, seed)
        ours, theirs = our_logits(model, ids, patches, grids), stock_logits(stock, ids, patches, grids)
        torch.testing.assert_close(ours, theirs, atol=TOLERANCE, rtol=0)


def test_positions_equal_stock():
    stock = stock_model(SMALL["fast-dvlm"])
    for grids in ((), UNEVEN[1:], UNEVEN):
        ids, _ = prompt(grids, 3)
        types = (torch.tensor([ids]) == IMAGE).int()
        grid = torch.tensor(grids) if grids else None
        theirs, _ = stock.model.get_rope_index(torch.tensor([ids]), mm_token_type_ids=types, image_grid_thw=grid)
        assert torch.equal(position_ids(ids, grids, SMALL["fast-dvlm"]), theirs[:, 0])


def test_without_sections_rope_is_mrope_of_text():
    """Why one class serves both: on text the three axes are alike, so dealing frequencies to them changes nothing."""
    from efficientgen.planning.model import mrope

    positions = torch.arange(50).expand(3, -1)
    with_sections, without = SMALL["fast-dvlm"].text, SMALL["fast-dllm-v2"].text
    for a, b in zip(
        mrope(positions, with_sections, torch.float32), mrope(positions, without, torch.float32), strict=True
    ):
        assert torch.equal(a, b)


def test_swapped_images_are_noticed(tmp_path):
    """The tolerance can tell: two images the other way round move the logits by far more."""
    stock = stock_model(SMALL["fast-dvlm"])
    model = loaded(stock, tmp_path)
    ids, patches = prompt(UNEVEN[:1] * 2, 0)
    half = patches.shape[1] // 2
    swapped = torch.cat([patches[:, half:], patches[:, :half]], 1)
    grids = UNEVEN[:1] * 2
    assert (our_logits(model, ids, swapped, grids) - stock_logits(stock, ids, patches, grids)).abs().max() > 1e-2
