"""Plain autoregressive decoding, and the same with jump-forward over the scaffold: the fair baseline of every speed-up.

The token at position p is the best allowed one under the causal logits of position p - 1; a scaffold token is forced.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientgen.planning.cache import TextCache
from efficientgen.planning.decode_form import Answer, Counts, Form, reader, require_next_token
from efficientgen.planning.decode_head import Head
from efficientgen.planning.model import VisionLanguageModel


def decode_ar(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int
) -> Answer:
    """One token per forward with the scaffold forced.  `prompt_logits` (V,) are those of the last prompt token.

    Lossless against: itself.  It is the definition that every speculative decoder is compared with.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts = Counts()
    read, head = reader(model, cache, next_position, counts), Head(model, form)
    written = [form.choose(prompt_logits[None], 0)]  # on the device: only a stop token has to be looked for
    while not _ended(form, written, len(written)):
        written.append(head.choose(read(written[-1], len(written) - 1, "causal"), len(written)))
    counts.cycles = counts.forwards
    return form.answer(torch.cat(written).tolist(), counts)


def decode_ar_jump(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int
) -> Answer:
    """One value token per forward: the scaffold that follows it rides along in the same forward.

    Lossless against `decode_ar`, in exact arithmetic: a forced token is known before it is read, and reading several
    known tokens in one causal forward gives the logits that reading them one by one gives.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts, size = Counts(), 0
    read, head = reader(model, cache, next_position, counts), Head(model, form)
    written, best = list[Tensor](), form.choose(prompt_logits[None], 0)
    while True:
        end = size + 1
        while end < len(form) and form.scaffold[end] >= 0:
            end += 1
        written.append(torch.cat([best[-1:], form.forced[size + 1 : end]]))
        if _ended(form, written, end):
            break
        best = head.choose(read(written[-1], size, "causal"), size + 1)
        size = end
    counts.cycles = counts.forwards
    return form.answer(torch.cat(written).tolist(), counts)


def _ended(form: Form, written: list[Tensor], size: int) -> bool:
    """Is the form full, or a stop token among the `size` tokens?"""
    return size >= len(form) or form.stop is not None and form.complete(torch.cat(written).tolist())
