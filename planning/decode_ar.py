"""Plain autoregressive decoding, and the same with jump-forward over the scaffold: the fair baseline of every speed-up.

The token at position p is the best allowed one under the causal logits of position p - 1; a scaffold token is forced.
"""

from __future__ import annotations

from torch import Tensor

from efficientgen.planning.cache import KVCache
from efficientgen.planning.decode_form import Answer, Counts, Form, require_next_token, runner
from efficientgen.planning.model import VisionLanguageModel


def decode_ar(
    model: VisionLanguageModel, cache: KVCache, form: Form, prompt_logits: Tensor, next_position: int
) -> Answer:
    """One token per forward with the scaffold forced.  `prompt_logits` (V,) are those of the last prompt token.

    Lossless against: itself.  It is the definition that every speculative decoder is compared with.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts, ids = Counts(), list[int]()
    run = runner(model, cache, next_position, counts)
    logits = prompt_logits[None]
    while True:
        ids += form.pick(logits, len(ids))
        if form.complete(ids):
            break
        logits = run(ids[-1:], len(ids) - 1, "causal")
    counts.cycles = counts.forwards
    return form.answer(ids, counts)


def decode_ar_jump(
    model: VisionLanguageModel, cache: KVCache, form: Form, prompt_logits: Tensor, next_position: int
) -> Answer:
    """One value token per forward: the scaffold that follows it rides along in the same forward.

    Lossless against `decode_ar`, in exact arithmetic: a forced token is known before it is read, and reading several
    known tokens in one causal forward gives the logits that reading them one by one gives.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts, ids = Counts(), list[int]()
    run = runner(model, cache, next_position, counts)
    logits = prompt_logits[None]
    while True:
        i = len(ids)
        ids += form.pick(logits[-1:], i)
        while len(ids) < len(form) and form.scaffold[len(ids)] >= 0:
            ids.append(form.scaffold[len(ids)])
        if form.complete(ids):
            break
        logits = run(ids[i:], i, "causal")
    counts.cycles = counts.forwards
    return form.answer(ids, counts)
