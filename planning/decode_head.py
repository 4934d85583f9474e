"""The head of a decoder: hidden states to greedy tokens, by the rows of the vocabulary that the slots may hold.

A structured answer allows most slots a handful of tokens (digits, signs, yes and no), and the head is the largest
matrix of the planner: 0.6 GB of 152 thousand rows at the 3B shape, and a float per row and position behind it.  Where
all slots of a forward allow few tokens, only theirs are computed.  The choice is the same in exact arithmetic; a sum
may round otherwise, which is why a CPU, where answers are bit for bit what they were, keeps the whole head.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor

if TYPE_CHECKING:
    from efficientgen.planning.decode_form import Form
    from efficientgen.planning.model import VisionLanguageModel

FEW = 2048  # tokens


def narrow_on(device: torch.device) -> bool:
    """Are few logits computed there where few tokens are allowed?"""
    return device.type == "cuda"


class Head:
    """Greedy tokens of answer positions from hidden states.

    Args:
        narrow: compute few logits where few tokens are allowed; by default on a GPU.
    """

    def __init__(self, model: VisionLanguageModel, form: Form, narrow: bool | None = None):
        self.model, self.form = model, form
        self.narrow = narrow_on(form.penalty.device) if narrow is None else narrow

    def choose(self, hidden: Tensor, first: int, count: int | None = None) -> Tensor:
        """`Form.choose` of `count` positions first, first + 1, ... (all that there are) by hidden states (n, H)."""
        form = self.form
        count = min(len(hidden) if count is None else count, len(form) - first)
        few = form.few(first, count) if self.narrow else None
        if few is None:
            return form.choose(self.model.logits(hidden)[:count], first)
        tokens, penalty = few
        at = slice(first, first + count)
        best = tokens[(self.logits(hidden[:count], tokens) + penalty[form.rows[at]]).argmax(-1)]
        return torch.where(form.forced[at] >= 0, form.forced[at], best)

    def logits(self, hidden: Tensor, tokens: Tensor) -> Tensor:
        """Of `tokens` (K,) alone: (..., K)."""
        return F.linear(hidden, self.model.head[tokens])
