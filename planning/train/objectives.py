"""The four papers' losses over the same per-token cross-entropies, one function each, under the papers' names.

Every function takes cross-entropies that are zero where there is nothing to predict: `noisy` (B, C, N) of hidden tokens
in the C noisy copies, `clean` (B, L) of answer tokens in the clean half.  Counts pass through `mean_over_ranks`, so
that the average of the ranks' losses is the loss of the whole batch, however unevenly the tokens are spread.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

MeanOverRanks = Callable[[Tensor], Tensor]


def v2(noisy: Tensor, hidden: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
    """Fast-dLLM v2 (2509.26328): mean cross-entropy of the hidden tokens of both copies; no 1/t, no AR term."""
    return noisy.sum() / mean_over_ranks(hidden.sum()).clamp(min=1)


def dvlm(
    noisy: Tensor,
    hidden: Tensor,
    clean: Tensor,
    answer: Tensor,
    mean_over_ranks: MeanOverRanks,
    alpha: float = 0.5,
    beta: float = 0.5,
) -> Tensor:
    """Fast-dVLM (2604.06832): alpha times v2's loss plus beta times the mean AR cross-entropy of the clean half."""
    return alpha * v2(noisy, hidden, mean_over_ranks) + beta * clean.sum() / mean_over_ranks(answer.sum()).clamp(min=1)


def sasd(noisy: Tensor, clean: Tensor, answer: Tensor, mean_over_ranks: MeanOverRanks) -> Tensor:
    """Fast-dDrive (2605.23163, section 3.2): [sum of w_section CE(noisy) + sum of CE(clean)] / (2 N), N answer tokens.

    `noisy` comes with its section weights applied.
    """
    return (noisy.sum() + clean.sum()) / (2 * mean_over_ranks(answer.sum())).clamp(min=1)


def efficient_dlm(
    noisy: Tensor, level: Tensor, block: Tensor, maskable: Tensor, mean_over_ranks: MeanOverRanks
) -> Tensor:
    """Efficient-DLM (2512.14067, section 3): mean over blocks of 1/B sum of 1/t CE, B the block's maskable tokens.

    Args:
        level, block, maskable: (B, N) of the noisy tokens: the level t of their block, its index, what could be hidden.
    """
    rows, blocks = len(block), int(block.max()) + 1
    size = torch.zeros(rows, blocks, device=noisy.device).scatter_add(1, block, maskable.float())
    share = 1 / (level * size.gather(1, block)).clamp(min=1e-9)
    return (noisy * share[:, None]).sum() / (noisy.shape[1] * mean_over_ranks((size > 0).sum())).clamp(min=1)
