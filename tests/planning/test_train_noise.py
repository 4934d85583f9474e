"""Noise schedules: what is hidden how often, and that it is keyed."""

import math
from dataclasses import replace

import pytest
import torch

from efficientgen.planning.config import SECTION_NOISE, NoiseSchedule
from efficientgen.planning.masks import grid_blocks
from efficientgen.planning.train.noise import block_size_at, complement, draw
from efficientgen.planning.train.recipe import (
    EFFICIENT_DLM,
    FAST_DLLM_V2,
    FAST_DVLM,
    Recipe,
    RecipeError,
    draw_noise,
    fill_last_block,
)
from efficientgen.planning.train.rows import text_batch

SIZE = 16


def many(schedule, rows=4000, section=0, length=SIZE):
    block = grid_blocks(length, SIZE).expand(rows, -1)
    maskable = torch.ones(rows, length, dtype=torch.bool)
    sections = torch.full((rows, length), section)
    return draw(schedule, block, SIZE, maskable, sections, torch.Generator().manual_seed(0))


def test_uniform_noise_hides_half_and_is_uniform_in_its_level():
    hidden, level = many(NoiseSchedule(), length=2 * SIZE)
    assert abs(float(hidden.float().mean()) - 0.5) < 0.01
    assert (level[:, :SIZE] == level[:, :1]).all() and (level[:, SIZE] != level[:, 0]).any(), "one level per block"
    assert abs(float((level[:, 0] < 0.25).float().mean()) - 0.25) < 0.03


@pytest.mark.parametrize(("section", "mean"), [(0, 1 / 3), (1, 1 / 2), (2, 0.4), (3, 2 / 3)])
def test_section_noise_has_the_papers_means(section, mean):
    hidden, _ = many(SECTION_NOISE, section=section)
    assert abs(float(hidden.float().mean()) - mean) < 0.02


def test_position_dependent_noise_is_a_draw_without_replacement_with_the_papers_weights():
    """Conditioned on one hidden token, its index has probability proportional to exp(beta (1 - t) i)."""
    hidden, level = many(NoiseSchedule("position-dependent", half_life=0.1), rows=60000)
    count = hidden.sum(1)
    assert ((level[:, 0] * SIZE).round() == count).all() and count.min() >= 1
    ones = hidden[count == 1].float()
    beta = math.log(2) / (0.1 * SIZE)
    # k = round(t B) = 1 (or clamped from 0) for t in (0, 1.5 / B): average the softmax over that range
    t = (torch.arange(1000) + 0.5) / 1000 * 1.5 / SIZE
    expected = torch.softmax(beta * (1 - t)[:, None] * torch.arange(SIZE), 1).mean(0)
    torch.testing.assert_close(ones.mean(0), expected, atol=0.015, rtol=0)
    uniform = abs(float(hidden.float().mean()) - 0.5)
    assert uniform < 0.04, "half of the tokens, as with uniform noise"


def test_half_life_form_of_beta():
    """The facts' values for lambda = 0.1: 0.433 (B = 16), 0.217 (32), 0.108 (64)."""
    for size, beta in ((16, 0.433), (32, 0.217), (64, 0.108)):
        assert math.log(2) / (0.1 * size) == pytest.approx(beta, abs=6e-4)


def test_nothing_but_maskable_tokens_is_hidden_whatever_the_schedule():
    block = grid_blocks(20, 8, shift=3).expand(50, -1)
    maskable = torch.rand(50, 20, generator=torch.Generator().manual_seed(2)) < 0.6
    section = torch.randint(-1, 4, (50, 20), generator=torch.Generator().manual_seed(3))
    for schedule in (NoiseSchedule(), SECTION_NOISE, NoiseSchedule("position-dependent", half_life=0.1)):
        hidden, level = draw(schedule, block, 8, maskable, section, torch.Generator().manual_seed(4))
        assert not (hidden & ~maskable).any() and hidden.any()
        assert level.shape == hidden.shape and (level >= 0).all() and (level <= 1).all()
    touched = torch.zeros(50, 3).scatter_add(1, block, hidden.float()) > 0
    can = torch.zeros(50, 3).scatter_add(1, block, maskable.float()) > 0
    assert torch.equal(touched, can), "position-dependent: at least one in every block that can be"


def test_the_end_token_is_hidden_in_both_copies():
    batch = text_batch([[5, 6, 7, 9], [5, 9]], [0, 0], pad=0, end=9)
    noise = draw_noise(replace(FAST_DVLM, bd_size=4), batch, 4, torch.Generator().manual_seed(0))
    assert noise.hidden[0, :, 3].all() and noise.hidden[1, :, 1].all()
    rest = batch.maskable & ~batch.always
    assert ((noise.hidden.sum(1) == 1) | ~rest).all(), "every other token is hidden in exactly one copy"
    assert not noise.hidden[1, :, 2:].any(), "padding never"
    hidden, maskable, never = (torch.tensor([x]) for x in ([True, False], [True, True], [False, False]))
    assert complement(hidden, maskable, never).tolist() == [[[True, False], [False, True]]]


def test_noise_is_keyed_by_its_generator_alone():
    batch = text_batch([list(range(5, 40))] * 3, [4, 4, 4], 0, 1)
    draws = [draw_noise(EFFICIENT_DLM, batch, 16, torch.Generator().manual_seed(s)).hidden for s in (1, 1, 2)]
    assert torch.equal(draws[0], draws[1]) and not torch.equal(draws[0], draws[2])


def test_a_full_copy_is_the_state_that_drafting_starts_from():
    batch = text_batch([list(range(5, 21))] * 200, [0] * 200, 0, 1)
    noise = draw_noise(replace(EFFICIENT_DLM, full=0.5), batch, 16, torch.Generator().manual_seed(0))
    full = noise.hidden[:, 0].all(1)
    assert 0.4 < float(full.float().mean()) < 0.65 and (noise.level[full] == 1).all()


def test_gap_rows_hide_one_stretch_of_every_block():
    batch = text_batch([list(range(5, 25))] * 300, [0] * 300, 0, 1)
    noise = draw_noise(replace(EFFICIENT_DLM, gaps=1.0), batch, 8, torch.Generator().manual_seed(0))
    begins = set()
    for row, level in zip(noise.hidden[:, 0], noise.level, strict=True):
        for start, size in ((0, 8), (8, 8), (16, 4)):
            where = torch.nonzero(row[start : start + size])[:, 0].tolist()
            assert where == list(range(where[0], where[-1] + 1)) and 1 <= len(where) <= size // 2
            assert float(level[start]) == pytest.approx(len(where) / size)
            begins.add(where[0])
    assert begins == set(range(8)), "anywhere in the block"


def test_block_sizes_anneal_as_the_paper_says():
    assert [block_size_at(u, 32) for u in (0, 0.19, 0.2, 0.5, 0.79, 0.8, 1.0, 2.0)] == [2, 2, 4, 8, 16, 32, 32, 32]
    assert block_size_at(0.0, 2) == 2


def test_last_blocks_are_filled_as_the_recipe_says():
    batch = text_batch([[5, 6, 7, 8, 9], [5, 9]], [1, 0], pad=0, end=9)
    same = fill_last_block(FAST_DVLM, batch, mask_id=2, end_id=9)
    assert same is batch, "auto-truncation adds nothing"
    masked = fill_last_block(replace(FAST_DLLM_V2, bd_size=4), batch, mask_id=2, end_id=9)
    assert masked.ids[masked.real].tolist() == [5, 6, 7, 8, 9, 2, 2, 2, 5, 9, 2, 2]
    assert masked.real.sum(1).tolist() == [8, 4] and masked.answer.sum(1).tolist() == [4, 2]
    ended = fill_last_block(replace(EFFICIENT_DLM, bd_size=4), batch, mask_id=2, end_id=9)
    assert ended.ids[ended.real].tolist() == [5, 6, 7, 8, 9, 9, 9, 9, 5, 9, 9, 9]
    assert ended.answer.sum(1).tolist() == [7, 4] and ended.positions[0, 1, :4].tolist() == [0, 1, 2, 3]


def test_contradictions_are_refused_with_their_remedy():
    with pytest.raises(RecipeError, match="objective 'v2'"):
        Recipe(objective="dvlm", clean_context="block")
    with pytest.raises(RecipeError, match="keep 'text'"):
        Recipe(blocks="grid", keep="answer")
