"""Self-speculation: one set of weights drafts a block bidirectionally and verifies it causally.

Linear self-speculation (Fast-dVLM, 2604.06832), scaffold speculation (Fast-dDrive, 2605.23163, section 3.3), and both
in their fused, "quadratic" form, which verifies a draft and makes the next one in a single forward.

Why they are lossless: every committed token is the best allowed one under causal logits over a committed prefix, or it
is forced.  The draft decides only how many of them one forward yields, so whatever it says, in exact arithmetic the
answer is that of plain AR.  In bf16 a forward of another shape rounds differently, and tokens whose logits nearly tie
may swap.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from efficientgen.planning.cache import TextCache, sent
from efficientgen.planning.decode_form import Answer, Counts, Form, Run, reader, require_next_token
from efficientgen.planning.decode_head import Head
from efficientgen.planning.model import VisionLanguageModel

Ahead = Callable[[int], list[int]]  # position -> the block that begins there as its draft sees it, MASK to be written
Agree = Callable[[list[int], list[int], int], int]  # block, what the verifier would write behind each, position -> kept


def agreed(block: list[int], verified: list[int], position: int = 0) -> int:
    """How many tokens of `block` the verifier would have written itself; its first is always one of them."""
    keep = 1
    while keep < len(block) and verified[keep - 1] == block[keep]:
        keep += 1
    return keep


def section_ahead(form: Form, mask: int, width: int | None = None) -> Ahead:
    """Drafts reach to the end of the section block, or `width` tokens if that is nearer, and see its scaffold."""
    if width is None:
        return lambda i: form.blank(i, form.reach(i), mask)
    return lambda i: form.blank(i, min(form.reach(i), i + width), mask)


def sliding_ahead(form: Form, mask: int, width: int) -> Ahead:
    """Drafts are `width` tokens long wherever they begin, and see no scaffold."""
    return lambda i: [mask] * min(width, len(form) - i)


def decode_scaffold_spec(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int,
    agree: Agree | None = None,
) -> Answer:  # fmt: skip
    """Draft a section block around its scaffold, verify it, keep what agrees; a rejection re-drafts the remainder.

    Lossless against `decode_ar` of the same weights, allow-lists and scaffold, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts, mask = Counts(), model.config.mask_token_id
    read, head = reader(model, cache, next_position, counts), Head(model, form)
    ahead = section_ahead(form, mask)
    ids, _ = speculate(read, head, cache, form, prompt_logits, ahead, mask, counts, len(form), agree or agreed)
    return form.answer(ids, counts)


def decode_self_spec(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int,
    agree: Agree | None = None,
) -> Answer:  # fmt: skip
    """Linear self-speculation: draft the next `decode_block_size` tokens, verify them, keep what agrees.

    Sections and scaffold mean nothing to the draft; on a structured answer, scaffold speculation improves on that.

    Lossless against `decode_ar` of the same weights, allow-lists and scaffold, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    counts, mask = Counts(), model.config.mask_token_id
    read, head = reader(model, cache, next_position, counts), Head(model, form)
    ahead = sliding_ahead(form, mask, model.config.decode_block_size)
    ids, _ = speculate(read, head, cache, form, prompt_logits, ahead, mask, counts, len(form), agree or agreed)
    return form.answer(ids, counts)


def speculate(
    read: Run,
    head: Head,
    cache: TextCache,
    form: Form,
    prompt_logits: Tensor,
    ahead: Ahead,
    mask: int,
    counts: Counts,
    until: int,
    agree: Agree = agreed,
) -> tuple[list[int], Tensor]:
    """Draft and verify from answer position 0 up to `until`: the tokens, and the logits (V,) of the next one.

    Drafts stay on the device; the host waits once a cycle, for the block and what the verifier says of it.
    """
    ids: list[int] = []
    states, keep = None, 0
    seed = form.pick(prompt_logits[None], 0)
    while (i := len(ids)) < until and not form.complete(ids):
        counts.cycles += 1
        block = seed + ahead(i)[1:]
        tokens = sent(block, prompt_logits.device)
        if mask in block:
            draft = read(tokens, i, "block")
            cache.drop(len(block))
            tokens = torch.cat([tokens[:1], head.choose(draft, i + 1, len(block) - 1)])
        states = read(tokens, i, "causal")
        told = torch.cat([tokens, head.choose(states, i + 1)]).tolist()
        block, verified = told[: len(block)], told[len(block) :]
        keep = agree(block, verified, i)
        tally(counts, form, i, len(block), keep)
        ids += block[:keep]
        cache.drop(len(block) - keep)
        seed = verified[keep - 1 : keep]
    return ids, prompt_logits if states is None else head.model.logits(states)[keep - 1]


def decode_fused_scaffold_spec(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int,
    agree: Agree | None = None, width: int | None = None,
) -> Answer:  # fmt: skip
    """Scaffold speculation with one forward per cycle (`speculate_fused`).

    Lossless against `decode_ar` of the same weights, allow-lists and scaffold, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    ahead = section_ahead(form, model.config.mask_token_id, fused_width(cache, width))
    return speculate_fused(model, cache, form, prompt_logits, next_position, ahead, agree or agreed)


def decode_fused_self_spec(
    model: VisionLanguageModel, cache: TextCache, form: Form, prompt_logits: Tensor, next_position: int,
    agree: Agree | None = None, width: int | None = None,
) -> Answer:  # fmt: skip
    """Quadratic self-speculation: linear self-speculation with one forward per cycle (`speculate_fused`).

    Lossless against `decode_ar` of the same weights, allow-lists and scaffold, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    width = fused_width(cache, width)
    ahead = sliding_ahead(form, model.config.mask_token_id, width or model.config.decode_block_size)
    return speculate_fused(model, cache, form, prompt_logits, next_position, ahead, agree or agreed)


def speculate_fused(
    model: VisionLanguageModel,
    cache: TextCache,
    form: Form,
    prompt_logits: Tensor,
    next_position: int,
    ahead: Ahead,
    agree: Agree = agreed,
) -> Answer:
    """Verify a block of n tokens and draft what comes next, for every length k that the verifier may accept, at once.

    The forward holds the n verify rows, causal, and for each k a fork: the block that begins behind the k-th token, its
    first token still MASK because the verifier is only now choosing it.  A fork sees the cache, the first k verify rows
    and itself.  With blocks of B that is B (B + 1) rows.  Only a value can be rejected, so no fork begins at a scaffold
    token inside the block; and there is none where nothing is left to draft.  The host waits once a cycle.
    """
    require_next_token(model)
    counts, mask, device = Counts(), model.config.mask_token_id, cache.store.device
    read, head = reader(model, cache, next_position, counts), Head(model, form)
    ids: list[int] = []
    block = form.choose(prompt_logits[None], 0)  # (n,), on the device
    while True:
        i, n = len(ids), len(block)
        counts.cycles += 1
        forks = {k: ahead(i + k) for k in range(1, n + 1) if k == n or form.scaffold[i + k] < 0}
        drafted = {k: fork for k, fork in forks.items() if mask in fork[1:]}
        more = [t for fork in drafted.values() for t in fork]
        rows = torch.cat([block, sent(more, device)])
        where = list(range(i, i + n)) + [i + k + j for k, fork in drafted.items() for j in range(len(fork))]
        cache.reserve(cache.length + len(rows))
        seen = fork_mask(n, tuple((k, len(fork)) for k, fork in drafted.items()), device)
        states = read(rows, where, seen)  # of the forks, one at most will need its logits
        chosen = head.choose(states[:n], i + 1)
        told = torch.cat([block, chosen]).tolist()
        keep = agree(told[:n], told[n:], i)
        tally(counts, form, i, n, keep)
        ids += told[:keep]
        cache.drop(len(rows) - keep)
        if form.complete(ids):
            return form.answer(ids, counts)
        seed, following = chosen[keep - 1 : keep], sent(forks[keep][1:], device)
        if keep in drafted:
            start = n + sum(len(fork) for k, fork in drafted.items() if k < keep)
            following = head.choose(states[start : start + len(following)], i + keep + 1)
        block = torch.cat([seed, following])


def fused_width(cache: TextCache, width: int | None) -> int | None:
    """The longest draft B, up to `width`, whose B (B + 1) rows the cache takes in one forward; None: any."""
    if cache.widest is None:
        return width
    fits = (math.isqrt(4 * cache.widest + 1) - 1) // 2
    return min(fits, width) if width else fits


@lru_cache(maxsize=256)
@torch.inference_mode(False)  # kept: the first caller may be a planner, the next a test with gradients
def fork_mask(verify: int, forks: tuple[tuple[int, int], ...], device: torch.device | None = None) -> Tensor:
    """Bool (S, S) of one fused forward: True where the row's token sees the column's; `forks` (accept length, rows)."""
    total = verify + sum(rows for _, rows in forks)
    seen = torch.zeros(total, total, dtype=torch.bool)
    seen[:verify, :verify] = torch.ones(verify, verify, dtype=torch.bool).tril_()
    start = verify
    for accepted, rows in forks:
        seen[start : start + rows, :accepted] = True
        seen[start : start + rows, start : start + rows] = True
        start += rows
    return seen.to(device)


def tally(counts: Counts, form: Form, i: int, length: int, keep: int) -> None:
    """Enter a verified block of `length` tokens from position i, `keep` of which stay; its first was not drafted."""
    counts.drafted += form.values(i + 1, i + length)
    counts.accepted += form.values(i + 1, i + keep)
    counts.verified.append((i, length, keep))
