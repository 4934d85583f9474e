"""Which tokens a training step hides: the noise schedules of the four papers, keyed by a generator.

`uniform` (Fast-dLLM v2 2509.26328, Fast-dVLM 2604.06832), `beta-per-section` (Fast-dDrive 2605.23163) and
`position-dependent` (Efficient-DLM 2512.14067) answer the same question, so they have one form: given the blocks of B
rows, a bool per token and the level t that its block was drawn with.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from efficientgen.planning.config import NoiseSchedule


def block_size_at(progress: float, bd_size: int) -> int:
    """Annealed block size (Fast-dVLM): S = {2, 4, ..., bd_size}, S[min(floor(u |S|), |S| - 1)] at progress u in [0, 1].

    The released code has S from 4, the index floor(sqrt(u) |S|) and a progress that defaults to 1, which turns it off.
    """
    sizes = [2**k for k in range(1, int(math.log2(bd_size)) + 1)]
    return sizes[min(int(progress * len(sizes)), len(sizes) - 1)]


def draw(
    schedule: NoiseSchedule,
    block: Tensor,
    block_size: int,
    maskable: Tensor,
    section: Tensor,
    generator: torch.Generator,
) -> tuple[Tensor, Tensor]:
    """Hidden tokens, bool (B, L), and their noise level t, float (B, L); drawn on the generator's device.

    Args:
        block, section: int (B, L); blocks count up from 0 and hold at most `block_size` maskable tokens.
        maskable: bool (B, L); nothing else is ever hidden.
    """
    if schedule.kind == "position-dependent":
        return _position_dependent(math.log(2) / (schedule.half_life * block_size), block, maskable, generator)
    blocks = int(block.max()) + 1
    if schedule.kind == "uniform":
        level = _uniform((len(block), blocks), generator).gather(1, block)
    else:
        sections = len(schedule.beta)
        ab = torch.tensor(schedule.beta).expand(len(block), blocks, sections, 2).contiguous()
        gamma = torch._standard_gamma(ab.to(block.device), generator=generator)
        beta = gamma[..., 0] / gamma.sum(-1)  # (B, blocks, sections)
        level = beta.flatten(1).gather(1, block * sections + section.clamp(min=0))
    probability = (1 - schedule.floor) * level + schedule.floor
    return (_uniform(tuple(block.shape), generator) < probability) & maskable, level


def complement(hidden: Tensor, maskable: Tensor, always: Tensor) -> Tensor:
    """(B, 2, L): the drawn copy and its complement; `always` (the end token) is hidden in both."""
    return torch.stack([hidden | always, maskable & ~hidden | always], 1)


def _position_dependent(
    beta: float, block: Tensor, maskable: Tensor, generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """k = round(t n) of a block's n maskable tokens, drawn without replacement with weights exp(beta (1 - t) i).

    i is the index in the block and `beta` = ln 2 / (half_life B): with little noise late tokens are preferred, as a
    decoder that goes from left to right leaves them.  The k largest of log-weight + Gumbel noise are such a draw
    (Gumbel-top-k).  At least one token is hidden, and the level returned is the share k / n that really was.
    """
    rows, length = block.shape
    blocks, device = int(block.max()) + 1, block.device
    of_block = torch.zeros(rows, blocks, dtype=torch.long, device=device)
    size = of_block.scatter_add(1, block, maskable.long())  # (B, blocks) maskable tokens
    width = of_block.scatter_add(1, block, torch.ones_like(block))  # (B, blocks) all tokens
    t = _uniform((rows, blocks), generator)
    count = (t * size).round().clamp(min=1).minimum(size)
    first = torch.full((rows, blocks), length, device=device).scatter_reduce(
        1, block, torch.arange(length, device=device).expand(rows, -1), "amin"
    )
    index = torch.arange(length, device=device) - first.gather(1, block)
    score = beta * (1 - t.gather(1, block)) * index - torch.log(-torch.log(_uniform((rows, length), generator)))
    score = score.masked_fill(~maskable, -torch.inf)
    # rank within the block: sort by (block, score descending), then count from each block's first
    order = score.argsort(1, descending=True)
    order = order.gather(1, block.gather(1, order).argsort(dim=1, stable=True))
    start = width.cumsum(1) - width  # (B, blocks) where each block begins in the sorted row
    rank = torch.empty_like(order).scatter_(1, order, torch.arange(length, device=device).expand(rows, -1))
    rank = rank - start.gather(1, block)
    hidden = (rank < count.gather(1, block)) & maskable
    return hidden, (count / size.clamp(min=1)).gather(1, block)


def _uniform(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """U(0, 1) without its ends, whose logarithms are infinite."""
    return torch.rand(shape, generator=generator, device=generator.device).clamp(1e-7, 1 - 1e-7)
