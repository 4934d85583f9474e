"""The training-time rows of block diffusion and who may see whom in them, for all four papers; noise is beside it.

Every variant is one rule over three numbers per token: its `stream` (0 clean, 1 and 2 the noisy copies, -1 padding),
its `place` in the clean sequence and its `block`.

    noisy sees noisy   of the same copy and block
    noisy sees clean   of earlier blocks
    clean sees clean   at or before its place ("token": Fast-dVLM 2604.06832, Fast-dDrive 2605.23163), or up to the
                       end of its block ("block": Fast-dLLM v2 2509.26328, Efficient-DLM 2512.14067)
    clean sees noisy   never

What the papers call blocks differs: a grid over the whole sequence (v2, Efficient-DLM), or blocks that start anew with
each response, the prompt before it being one more (Fast-dVLM), or with each section (Fast-dDrive).

The complementary pair, B masking what A left visible, is two noisy copies of one row here: they share the clean stream,
which the papers' doubled batch computes twice.  `rule` is FlexAttention's `mask_mod`; `dense_mask` is the same rule as
a matrix, the oracle of the tests.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask

from efficientgen.planning.config import CleanContext
from efficientgen.planning.schema import Template

COPIES = 2  # complementary noisy answers per row
CLEAN, PADDING = 0, -1  # streams; the noisy copies are 1, 2, ...

MaskMod = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]  # (batch, head, query, key) indices -> may see


@dataclass(frozen=True)
class Layout:
    """Where each token of B rows of S tokens stands; int64 (B, S) each."""

    stream: Tensor
    place: Tensor
    block: Tensor


def rule(layout: Layout, clean_context: CleanContext) -> MaskMod:
    """The table above as FlexAttention's `mask_mod`.  Padding sees itself alone, so that no softmax is empty."""
    stream, place, block = layout.stream, layout.place, layout.block
    reach = place if clean_context == "token" else block

    def may_see(b: Tensor, h: Tensor, q: Tensor, k: Tensor) -> Tensor:
        of, by = stream[b, q], stream[b, k]
        clean = (of == CLEAN) & (by == CLEAN) & (reach[b, k] <= reach[b, q])
        own = (of > CLEAN) & (of == by) & (block[b, k] == block[b, q])
        back = (of > CLEAN) & (by == CLEAN) & (block[b, k] < block[b, q])
        return clean | own | back | (q == k)

    return may_see


def dense_mask(layout: Layout, clean_context: CleanContext) -> Tensor:
    """Bool (B, 1, S, S), True where the row's token may attend to the column's."""
    rows, size = layout.stream.shape
    index = torch.arange(size, device=layout.stream.device)
    b = torch.arange(rows, device=layout.stream.device)[:, None, None]
    return rule(layout, clean_context)(b, b, index[:, None], index)[:, None]


def block_mask(layout: Layout, clean_context: CleanContext) -> BlockMask:
    """The same for FlexAttention, which skips the 128 x 128 tiles that hold no True."""
    rows, size = layout.stream.shape
    return create_block_mask(rule(layout, clean_context), rows, None, size, size, device=layout.stream.device.type)


def grid_blocks(length: int, block_size: int, shift: int = 0) -> Tensor:
    """Block index (L,) on the absolute grid, prompt included (v2, Efficient-DLM): (i + shift) // block_size.

    `shift` in [0, block_size) makes the first block shorter, for decoders whose blocks begin anywhere.
    """
    return (torch.arange(length) + shift) // block_size


def response_blocks(response: Tensor, block_size: int) -> Tensor:
    """Block index of bool `response` (L,): blocks start anew with each response (Fast-dVLM); a counter from 0.

    Each stretch of prompt is a block of its own.  The last block of a response ends with it, however short
    (auto-truncation): no block reaches into the next turn.
    """
    block = torch.zeros(len(response), dtype=torch.long)
    counter, inside = 0, 0
    for i in range(1, len(response)):
        inside = inside + 1 if response[i] == response[i - 1] else 0
        counter += int(response[i] != response[i - 1] or bool(response[i]) and inside % block_size == 0)
        block[i] = counter
    return block


def training_mask(prompt: int, turn: NDArray[np.int64]) -> Tensor:
    """Bool (S, S) of one row [clean prompt | clean answer | noisy answer A | noisy answer B], clean context by token.

    S = prompt + 3 L and `turn` (L,) is the block index of the answer.  The noisy prompt of the papers is left out: no
    answer token ever looks at it.
    """
    clean = torch.arange(prompt + len(turn))
    block = torch.cat([torch.full((prompt,), -1), torch.from_numpy(turn)])
    answer = slice(prompt, None)
    layout = Layout(
        torch.cat([torch.zeros_like(clean), *(torch.full((len(turn),), c) for c in (1, 2))])[None],
        torch.cat([clean, clean[answer], clean[answer]])[None],
        torch.cat([block, block[answer], block[answer]])[None],
    )
    return dense_mask(layout, "token")[0, 0]


def section_turns(
    section: NDArray[np.int64], is_value: NDArray[np.bool_], block_size: int, shift: int = 0
) -> NDArray[np.int64]:
    """Block index (L,): new with each section, and after every `block_size` values of it (Fast-dDrive).

    `shift` moves the boundaries inside the sections to earlier places.
    """
    turn = np.zeros(len(section), np.int64)
    block = 0
    for which in np.unique(section):
        count = 0
        for p in np.flatnonzero(section == which):
            boundary = is_value[p] and count > 0 and (count + shift) % block_size == 0
            block += int(boundary or (count == 0 and p > 0 and section[p - 1] != which))
            turn[p] = block
            count += int(is_value[p])
    return turn


def random_turns(template: Template, block_size: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Block index (L,) of each answer position for one training step.

    With probability 1/2 the sections' own blocks of `block_size` values; else the same with a random shift, because a
    block that decoding re-drafts after a rejection may begin anywhere.
    """
    shift = int(rng.integers(1, block_size)) if block_size > 1 and rng.random() < 0.5 else 0
    return section_turns(template.section, template.is_value, block_size, shift)


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
