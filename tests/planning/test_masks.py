"""The training rows' visibility rules, against a brute-force reading of the papers' table."""

import numpy as np
import pytest
import torch

from efficientgen.planning.masks import (
    Layout,
    block_mask,
    complementary_noise,
    dense_mask,
    first_of_block,
    grid_blocks,
    random_turns,
    response_blocks,
    rule,
    training_mask,
)
from efficientgen.planning.schema import NANO, compile_template
from efficientgen.planning.train.loss import SECTION_BETA
from efficientgen.planning.train.recipe import RECIPES, draw_noise
from efficientgen.planning.train.rows import build_rows, text_batch


def paper_table(block, place, stream, q, k, clean_context):
    """The table of the four papers, one line each, for one pair of real tokens."""
    if stream[q] == 0 and stream[k] == 0:
        return place[k] <= place[q] if clean_context == "token" else block[k] <= block[q]
    if stream[q] == 0:
        return False
    if stream[k] == 0:
        return block[k] < block[q]
    return stream[q] == stream[k] and block[q] == block[k]


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("size", [2, 4])
def test_every_recipes_mask_equals_brute_force(name, size):
    recipe = RECIPES[name]
    batch = text_batch([list(range(10, 23)), list(range(10, 17))], [3, 4], pad=0, end=22)
    if name == "fast-ddrive":
        section = torch.where(batch.answer, (torch.arange(13) - 3).clamp(min=0) // 4, -1)
        batch = type(batch)(**vars(batch) | {"section": section})
    noise = draw_noise(recipe, batch, size, torch.Generator().manual_seed(0))
    rows = build_rows(batch, noise.block, noise.hidden, recipe.keep)
    mask = dense_mask(rows.layout, recipe.clean_context)[:, 0].numpy()
    stream, place, block = (x.numpy() for x in (rows.layout.stream, rows.layout.place, rows.layout.block))
    assert (stream == -1).any(), "the second row is padded"
    for b in range(len(mask)):
        for q in range(mask.shape[1]):
            for k in range(mask.shape[1]):
                if stream[b, q] == -1 or stream[b, k] == -1:
                    expected = q == k
                else:
                    expected = paper_table(block[b], place[b], stream[b], q, k, recipe.clean_context)
                assert mask[b, q, k] == expected, (b, q, k)


@pytest.mark.parametrize("context", ["token", "block"])
def test_flex_attentions_rule_is_the_dense_mask(context):
    """`create_mask` and a BlockMask evaluate the same function as FlexAttention does on a GPU."""
    from torch.nn.attention.flex_attention import create_mask, flex_attention

    generator = torch.Generator().manual_seed(1)
    rows, size = 2, 140  # more than one tile of 128
    layout = Layout(
        torch.randint(-1, 3, (rows, size), generator=generator),
        torch.randint(0, 60, (rows, size), generator=generator),
        torch.randint(0, 9, (rows, size), generator=generator),
    )
    dense = dense_mask(layout, context)
    assert torch.equal(create_mask(rule(layout, context), rows, 1, size, size, device="cpu"), dense)
    tiles = block_mask(layout, context)
    q, k, v = (torch.randn(rows, 2, size, 16, generator=generator, dtype=torch.float64) for _ in range(3))
    eager = flex_attention(q, k, v, block_mask=tiles)
    oracle = torch.nn.functional.scaled_dot_product_attention(q, k, v, attn_mask=dense)
    torch.testing.assert_close(eager, oracle)


def test_grid_blocks_hold_prompt_and_answer_alike():
    assert grid_blocks(9, 4).tolist() == [0, 0, 0, 0, 1, 1, 1, 1, 2]
    assert grid_blocks(9, 4, shift=3).tolist() == [0, 1, 1, 1, 1, 2, 2, 2, 2]


def test_response_blocks_start_anew_and_are_truncated():
    """Two turns of a conversation: answers of 5 and 2 tokens in blocks of 4."""
    response = torch.tensor([0, 0, 1, 1, 1, 1, 1, 0, 1, 1], dtype=torch.bool)
    assert response_blocks(response, 4).tolist() == [0, 0, 1, 1, 1, 1, 2, 3, 4, 4]


def test_the_one_row_form_equals_brute_force():
    prompt, turn = 3, np.array([0, 0, 1, 1, 1, 2])
    n = len(turn)
    mask = training_mask(prompt, turn).numpy()
    stream = np.array([0] * (prompt + n) + [1] * n + [2] * n)
    place = np.concatenate([np.arange(prompt + n), prompt + np.arange(n), prompt + np.arange(n)])
    block = np.concatenate([[-1] * prompt, turn, turn, turn])
    for q in range(len(mask)):
        for k in range(len(mask)):
            assert mask[q, k] == paper_table(block, place, stream, q, k, "token"), (q, k)


def test_turns_never_cross_sections_and_hold_at_most_block_size_values(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    for seed in range(30):
        size = (4, 8, 16, 32)[seed % 4]
        turn = random_turns(template, size, np.random.default_rng(seed))
        assert (np.diff(turn) >= 0).all() and (np.diff(turn) <= 1).all()
        for t in np.unique(turn):
            assert template.is_value[turn == t].sum() <= size
            assert len(np.unique(template.section[turn == t])) == 1


def test_complementary_copies_partition_the_values(tokenizer):
    template = compile_template(NANO, tokenizer, 32)
    turn = random_turns(template, 32, np.random.default_rng(0))
    maskable = torch.from_numpy(template.is_value & ~first_of_block(turn))
    noise = complementary_noise(
        maskable,
        torch.from_numpy(template.section),
        torch.tensor(SECTION_BETA),
        0.0,
        torch.Generator().manual_seed(0),
        400,
    )
    assert (noise.sum(1) == maskable).all()  # each maskable token hidden exactly once, scaffold never
    assert not noise[:, :, ~torch.from_numpy(template.is_value)].any()
    trajectory = torch.from_numpy(template.section == 3) & maskable
    share = noise[:, 0][:, trajectory].float().mean()
    assert abs(float(share) - 2 / 3) < 0.05  # mean of Beta(2, 1)
