"""The training sequence's visibility rules, against a brute-force reading of the papers' table."""

import numpy as np
import torch

from efficientgen.planning.masks import complementary_noise, first_of_block, random_turns, training_mask
from efficientgen.planning.schema import NANO, compile_template
from efficientgen.planning.train.loss import SECTION_BETA


def test_mask_equals_brute_force():
    prompt, turn = 3, np.array([0, 0, 1, 1, 1, 2])
    n = len(turn)
    mask = training_mask(prompt, turn).numpy()
    kind = ["clean"] * (prompt + n) + ["a"] * n + ["b"] * n
    place = list(range(prompt + n)) + [prompt + i for i in range(n)] * 2
    for q in range(len(kind)):
        for k in range(len(kind)):
            block = lambda i: -1 if place[i] < prompt else int(turn[place[i] - prompt])  # noqa: E731
            if kind[q] == "clean":
                expected = kind[k] == "clean" and place[k] <= place[q]
            elif kind[k] == "clean":
                expected = block(k) < block(q)
            else:
                expected = kind[k] == kind[q] and block(k) == block(q)
            assert mask[q, k] == expected, (q, k)


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
