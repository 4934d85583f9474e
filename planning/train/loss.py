"""SASD: section-aware structured diffusion training (Fast-dDrive, 2605.23163, section 3.2).

    L = [ sum over noisy copies, masked tokens of w_section CE  +  sum over clean answer tokens of CE ] / (2 N)

with N the number of answer tokens.  Logits at p - 1 predict the token at p, in the clean and in the noisy stream.
Ours beside the paper: a coordinate's last digit counts less (`FRACTION_WEIGHT`), because it is mostly noise, and
on request the two answers to a yes/no question count alike however rare one of them is (`object_balance`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from efficientgen.planning.masks import COPIES, complementary_noise, first_of_block, training_mask
from efficientgen.planning.model import Attend, VisionLanguageModel
from efficientgen.planning.schema import CRITICAL_OBJECTS, Template
from efficientgen.planning.tokenizer import Tokenizer

# in the order of schema.SECTIONS: critical_objects, explanation, future_meta_behavior, trajectory
SECTION_WEIGHTS = (1.5, 1.0, 2.0, 3.0)
FRACTION_WEIGHT = 0.4  # of the digits after the point
BALANCE_LIMIT = 5.0
SECTION_BETA = ((1.0, 2.0), (1.0, 1.0), (1.0, 1.5), (2.0, 1.0))


@dataclass(frozen=True)
class LossParts:
    """Scalars: the training loss and its two halves, each a mean per token."""

    total: Tensor
    clean: Tensor
    noisy: Tensor


def ar_loss(
    model: VisionLanguageModel, embeds: Tensor, positions: Tensor, answer: Tensor, template: Template, weights: Tensor
) -> LossParts:
    """Cross-entropy of the clean answer.

    `embeds` (B, P, hidden) of the prompt, `answer` (B, L), `positions` (3, P), `weights` of `token_weights`.
    """
    return _loss(model, embeds, positions, answer, weights, None, None, None)


def object_balance(template: Template, tokenizer: Tokenizer, answers: Tensor) -> Tensor:
    """(L, V) weight of each token at each yes/no position, 1 elsewhere: both answers of a class count alike in sum.

    Pedestrians are in view in one picture of seven; without balance, "no" is a good answer to everything.  Weights are
    kept below `BALANCE_LIMIT`, so that classes which are hardly ever there do not take over.
    """
    out = torch.ones(len(template), tokenizer.vocab_size, device=answers.device)
    yes, no = (tokenizer.id_of(word) for word in ("yes", "no"))
    for name, start, _ in template.slots:
        if name in CRITICAL_OBJECTS:
            share = float((answers[:, start] == yes).float().mean())
            if 0 < share < 1:
                out[start, yes] = min(0.5 / share, BALANCE_LIMIT)
                out[start, no] = min(0.5 / (1 - share), BALANCE_LIMIT)
    return out


def token_weights(template: Template, answer: Tensor, balance: Tensor | None) -> Tensor:
    """(B, L) weight of each answer token: its place in a number and, with the `balance` of `object_balance`, how rare
    this answer to its question is."""
    place = torch.from_numpy(place_weights(template)).to(answer.device)
    if balance is None:
        return place.expand(len(answer), -1)
    return place * balance.expand(len(answer), -1, -1).gather(2, answer[..., None])[..., 0]


def place_weights(template: Template) -> NDArray[np.float32]:
    """(L,) weight of each answer token by its place in a number; 1 outside fractions."""
    weights = np.ones(len(template), np.float32)
    for name, start, end in template.slots:
        if name.endswith(".frac"):
            weights[start:end] = FRACTION_WEIGHT
    return weights


def sasd_loss(
    model: VisionLanguageModel,
    embeds: Tensor,
    positions: Tensor,
    answer: Tensor,
    template: Template,
    weights: Tensor,
    turn: NDArray[np.int64],
    full_probability: float,
    generator: torch.Generator,
    section_weights: Sequence[float] = SECTION_WEIGHTS,
    section_beta: Sequence[tuple[float, float]] = SECTION_BETA,
) -> LossParts:
    """AR loss on the clean answer plus section-weighted diffusion loss on the complementary noisy pair."""
    device = answer.device
    section = torch.from_numpy(template.section).to(device)
    maskable = torch.from_numpy(template.is_value & ~first_of_block(turn)).to(device)
    beta = torch.tensor(section_beta, device=device)
    hidden = complementary_noise(maskable, section, beta, full_probability, generator, len(answer))
    noisy_weights = torch.tensor(section_weights, device=device)[section] * weights
    mask = training_mask(positions.shape[1], turn).to(device)
    return _loss(model, embeds, positions, answer, weights, hidden, noisy_weights, mask)


def _loss(
    model: VisionLanguageModel,
    embeds: Tensor,
    positions: Tensor,
    answer: Tensor,
    weights: Tensor,
    hidden: Tensor | None,
    noisy_weights: Tensor | None,
    mask: Tensor | None,
) -> LossParts:
    batch, length = answer.shape
    prompt = embeds.shape[1]
    after = torch.arange(length, device=answer.device).expand(3, -1) + positions.max() + 1
    ids = [answer]
    if hidden is not None:
        ids += [torch.where(hidden[:, c], model.config.mask_token_id, answer) for c in range(COPIES)]
    row = torch.cat([embeds, model.embed(torch.cat(ids, 1)).to(embeds.dtype)], 1)  # (B, S, hidden)
    states = model(row, torch.cat([positions, *[after] * len(ids)], 1), dense_attend(mask))
    answer_states = states[:, prompt - 1 :]  # predictors: of clean answer token 0, 1, ...
    logits = model.logits(answer_states[:, :length])
    ce = F.cross_entropy(logits.flatten(0, 1).float(), answer.flatten(), reduction="none")
    clean = (ce.view(batch, -1) * weights).sum()
    count = batch * length
    if hidden is None or noisy_weights is None:
        return LossParts(clean / count, clean.detach() / count, torch.zeros((), device=answer.device))
    noisy = clean.new_zeros(())
    for copy in range(COPIES):
        start = prompt + (1 + copy) * length
        logits = model.logits(states[:, start : start + length - 1])  # predict answer tokens 1 .. L - 1
        ce = F.cross_entropy(logits.flatten(0, 1).float(), answer[:, 1:].flatten(), reduction="none")
        noisy = noisy + (ce.view(batch, -1) * hidden[:, copy, 1:] * noisy_weights[:, 1:]).sum()
    masked = hidden.sum().clamp(min=1)
    return LossParts((noisy + clean) / (2 * count), clean.detach() / count, noisy.detach() / masked)


def dense_attend(mask: Tensor | None) -> Attend:
    """Dense masked attention; None is causal.  K/V heads are repeated, which keeps the fused kernels for masks."""

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]
        k, v = k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1)
        return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=mask is None)

    return lambda layer: one
