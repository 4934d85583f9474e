"""The training-time row of block diffusion and who may see whom in it (Fast-dVLM 2604.06832, Fast-dDrive 2605.23163).

One row holds [clean prompt | clean answer | noisy answer A | noisy answer B].  A and B are the complementary pair: B
masks what A left visible.  They share the clean stream, which the papers' doubled batch computes twice, and the noisy
prompt is left out, because no answer token ever looks at it.  Rules, with `turn` the block of an answer position:
clean sees clean at or before it (causal context); noisy sees the clean prompt, clean answer tokens of earlier blocks
and its own copy's tokens of the same block; nothing clean sees anything noisy; A and B do not see each other.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from efficientgen.planning.schema import Template

COPIES = 2  # complementary noisy answers per row


def training_mask(prompt: int, turn: NDArray[np.int64]) -> Tensor:
    """Bool (S, S), True where the row's token may attend to the column's; S = prompt + 3 L, `turn` (L,) block index."""
    length = len(turn)
    clean = prompt + length
    mask = torch.zeros(clean + COPIES * length, clean + COPIES * length, dtype=torch.bool)
    mask[:clean, :clean] = torch.ones(clean, clean, dtype=torch.bool).tril()
    block = torch.from_numpy(turn)
    for copy in range(COPIES):
        rows = slice(clean + copy * length, clean + (copy + 1) * length)
        mask[rows, :prompt] = True
        mask[rows, prompt:clean] = block[None, :] < block[:, None]
        mask[rows, rows] = block[None, :] == block[:, None]
    return mask


def random_turns(template: Template, block_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Block index (L,) of each answer position for one training step.

    With probability 1/2 the sections' own blocks of `block_size` values; else the same with a random shift, because a
    block that decoding re-drafts after a rejection may begin anywhere.
    """
    turn = np.zeros(len(template), np.int64)
    values = template.is_value
    shift = int(rng.integers(1, block_size)) if block_size > 1 and rng.random() < 0.5 else 0
    block = 0
    for section in np.unique(template.section):
        count = 0
        for p in np.flatnonzero(template.section == section):
            boundary = values[p] and count > 0 and (count + shift) % block_size == 0
            block += int(boundary or (count == 0 and p > 0 and template.section[p - 1] != section))
            turn[p] = block
            count += int(values[p])
    return turn


def first_of_block(turn: NDArray[np.int64]) -> NDArray[np.bool_]:
    """(L,) True where a block begins: decoding always knows that token, so training never masks it."""
    return np.concatenate([[True], turn[1:] != turn[:-1]])


def complementary_noise(
    maskable: Tensor,
    section: Tensor,
    alpha_beta: Tensor,
    full_probability: float,
    generator: torch.Generator,
    batch: int,
) -> Tensor:
    """Bool (B, 2, L), True where copy A or B hides a token; every maskable token is hidden in exactly one of them.

    Noise level t ~ Beta(alpha, beta) per row and section (`alpha_beta` (sections, 2)), probability (1 - eps) t + eps
    with eps = 1e-3.  With `full_probability` copy A of a row hides all values, the state that drafting starts from.
    """
    device = maskable.device
    ab = alpha_beta.to(device).expand(batch, -1, -1)
    gamma = torch._standard_gamma(ab, generator=generator)
    level = gamma[..., 0] / gamma.sum(-1)  # (B, sections)
    level = torch.where(torch.rand(batch, 1, device=device, generator=generator) < full_probability, 1.0, level)
    probability = ((1 - 1e-3) * level + 1e-3)[:, section]  # (B, L)
    hidden = torch.rand(probability.shape, device=device, generator=generator) < probability
    return torch.stack([hidden & maskable, ~hidden & maskable], 1)
