"""How well a converted model fills blocks, for many texts at once: accuracy and tokens per forward at a confidence.

The clean half of a training row is the committed context, so all blocks of all texts are decoded in one batch, each
after the true text before it.  That leaves out how errors add up over blocks, and is many times cheaper than decoding
text by text; it is what the ablations compare.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from efficientgen.planning.masks import grid_blocks
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.train.convert import attend_in
from efficientgen.planning.train.rows import Batch, build_rows


@dataclass(frozen=True)
class Filled:
    """Share of hidden tokens that came out right, and hidden tokens per forward (reading a block again counts)."""

    accuracy: float
    tokens_per_forward: float


@torch.no_grad()
def fill_blocks(
    model: VisionLanguageModel, batch: Batch, hidden: Tensor, block_size: int, confidence: float = 0.9
) -> Filled:
    """Decode the `hidden` (B, L) tokens of `batch` by confidence, block by block of the grid.

    With token shift the first token of a block is the AR prediction of the clean context and costs nothing, as in
    `decode_diffusion`; the first token of a text is never hidden then, as nothing predicts it.
    """
    config = model.config
    block = grid_blocks(batch.ids.shape[1], block_size).expand(len(batch.ids), -1)
    hidden = hidden & batch.real
    if config.token_shift:
        hidden[:, 0] = False
    rows = build_rows(batch, block, hidden[:, None], "all")
    attend = attend_in(rows.layout, config.clean_context)
    length = batch.ids.shape[1]
    guess = torch.where(hidden, config.mask_token_id, batch.ids)
    open_, touched = hidden.clone(), _blocks_with(hidden, block)
    passes = 0

    def look() -> tuple[Tensor, Tensor]:
        """Clean and noisy predictions (B, L, V)."""
        states = model(model.embed(torch.cat([batch.ids, guess], 1)), rows.positions, attend)
        if config.token_shift:
            states = torch.cat([states[:, :length].roll(1, 1), states[:, length:].roll(1, 1)], 1)
        logits = model.logits(states)
        logits[..., config.mask_token_id] = -torch.inf
        return logits[:, :length], logits[:, length:]

    if config.token_shift:
        first = block != block.roll(1, 1)
        seed = open_ & first
        guess = torch.where(seed, look()[0].argmax(-1), guess)
        open_ &= ~seed
    while open_.any():
        passes += int(_blocks_with(open_, block).sum())
        sure, tokens = look()[1].softmax(-1).max(-1)
        sure = sure.masked_fill(~open_, -1.0)
        best = torch.full(touched.shape, -1.0, dtype=sure.dtype).scatter_reduce(1, block, sure, "amax")
        chosen = open_ & ((sure > confidence) | (sure == best.gather(1, block)))
        guess = torch.where(chosen, tokens, guess)
        open_ &= ~chosen
    right = (guess == batch.ids) & hidden
    total = int(hidden.sum())
    return Filled(int(right.sum()) / total, total / (passes + int(touched.sum())))


def _blocks_with(where: Tensor, block: Tensor) -> Tensor:
    """Bool (B, blocks): those that hold a True."""
    count = torch.zeros(len(block), int(block.max()) + 1, dtype=torch.long)
    return count.scatter_add(1, block, where.long()) > 0


def spans(batch: Batch, block_size: int, length: int, generator: torch.Generator) -> Tensor:
    """Bool (B, L): in every whole block of a text, `length` tokens in a row, not at its beginning."""
    hidden = torch.zeros_like(batch.real)
    for row, real in enumerate(batch.real.sum(1).tolist()):
        for start in range(0, real - block_size + 1, block_size):
            begin = start + 1 + int(torch.randint(block_size - length, (), generator=generator))
            hidden[row, begin : begin + length] = True
    return hidden
