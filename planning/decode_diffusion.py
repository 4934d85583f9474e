"""Confidence-threshold block diffusion: Fast-dLLM v2 (2509.26328), Fast-dVLM (2604.06832), Fast-dDrive's sectioned
diffusion (2605.23163) and Efficient-DLM (2512.14067) as one loop.

What differs between them is the model's config: with token shift, row p - 1 predicts position p, and the first token of
a block is an AR prediction from the block before; without, row p predicts p and nothing is known at first.  A finished
block is read again as clean context, causally or (clean_context "block") as a whole; later blocks see only that.

Block diffusion is NOT lossless against AR: it is another decoder, usually a slightly worse one.  What is exact is the
cache: a pass that attends to cached K/V gives what recomputing the whole sequence under the block mask gives.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from efficientgen.planning.cache import KVCache
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.decode_form import Answer, Counts, Form, Run, runner
from efficientgen.planning.model import VisionLanguageModel

CONFIDENCE = 0.9


@dataclass(frozen=True)
class Pass:
    """One denoising pass, for whoever wants to check it: rows [low, high) of a block were computed.

    The first token of a block under token shift is an entry of its own, without rows.
    """

    start: int  # answer position of the block
    low: int
    high: int
    block: list[int]  # before the pass, MASK where nothing is written yet
    window: tuple[int, int]  # the sub-block that tokens were committed in
    committed: dict[int, int]  # index in the block -> token
    confidence: dict[int, float]  # of every MASK in the window


def decode_diffusion(
    model: VisionLanguageModel,
    cache: KVCache,
    form: Form,
    prompt_logits: Tensor,
    next_position: int,
    *,
    confidence: float = CONFIDENCE,
    sub_block: int | None = None,
    reuse: bool = True,
    passes: int | None = None,
    trace: list[Pass] | None = None,
) -> Answer:
    """Unmask block after block: in each pass every token surer than `confidence`, or else the surest one.

    Args:
        prompt_logits: (V,) of the last prompt token under the clean context; without token shift nobody reads them.
        sub_block: tokens that are unmasked before the next ones of the block; default: the config's `sub_block_size`.
        reuse: later passes over a sub-block compute only its rows and take the rest of the block as the first pass over
            it left them (the sub-block cache).  False recomputes the block in every pass.
        passes: at most so many per sub-block; the last one commits all that is left.  A pass commits at least one
            token, so there are never more than the sub-block has MASKs.
        trace: is given every pass.

    Not lossless against AR.  With `reuse=False` it equals its own definition without any cache, in exact arithmetic:
    the whole sequence read anew in every pass, committed blocks under the clean-context mask, the current block seeing
    them and itself.  So does `reuse=True` with sub-blocks as large as the block.  With smaller ones the sub-block cache
    approximates that: it equals the recomputation in which the block's other rows stay as the last whole pass saw them.
    """
    config, counts, trace = model.config, Counts(), [] if trace is None else trace
    run = runner(model, cache, next_position, counts)
    mask, shift, width = config.mask_token_id, config.token_shift, sub_block or config.sub_block_size
    last = max((p + 1 for p, s in enumerate(form.scaffold) if s < 0), default=0)
    ids: list[int] = []
    previous = prompt_logits[None]  # logits that predict the next block's first token
    for start, end in form.blocks:
        block = form.blank(start, end, mask)
        if shift and block[0] == mask:
            seed = form.pick(previous, start)[0]
            trace.append(Pass(start, 0, 0, list(block), (0, 1), {0: seed}, {}))
            block[0] = seed
        for low in range(0, len(block), width):
            high, done = min(low + width, len(block)), 0
            while mask in block[low:high] and not form.stopped(block, start, mask):
                whole = not reuse or done == 0 or (shift and block[low] == mask)
                rows = (0, len(block)) if whole else (low, high)
                done += 1
                sure = 0.0 if done == passes else confidence
                logits = _look(run, cache, block, start, *rows)
                proposed = _propose(form, block, start, logits, rows, (low, high), config)
                chosen = _choose(proposed, sure)
                counts.cycles += 1
                counts.drafted, counts.accepted = counts.drafted + len(proposed), counts.accepted + len(chosen)
                surenesses = {p: c for p, (_, c) in proposed.items()}
                trace.append(Pass(start, *rows, list(block), (low, high), chosen, surenesses))
                for p, token in chosen.items():
                    block[p] = token
        ids += block
        if form.complete(ids) or end >= last:
            break
        previous = run(block, start, "causal" if config.clean_context == "token" else "block")[-1:]
    return form.answer(ids + form.scaffold[len(ids) :], counts)


def decode_section_diffusion(
    model: VisionLanguageModel,
    cache: KVCache,
    form: Form,
    prompt_logits: Tensor,
    next_position: int,
    *,
    confidence: float = CONFIDENCE,
    passes: int | None = None,
    trace: list[Pass] | None = None,
) -> Answer:
    """Sectioned diffusion (Fast-dDrive, "SD"): whole section blocks, no sub-blocks; at most `passes` per block.

    Not lossless against AR; it equals its own definition without any cache, in exact arithmetic (`decode_diffusion`).
    """
    whole = max(end - start for start, end in form.blocks)
    return decode_diffusion(
        model, cache, form, prompt_logits, next_position,
        confidence=confidence, sub_block=whole, reuse=False, passes=passes, trace=trace,
    )  # fmt: skip


def _look(run: Run, cache: KVCache, block: list[int], start: int, low: int, high: int) -> Tensor:
    """Logits of rows [low, high) of the current block; they see the cache and the whole block, nothing is committed.

    The rows' K/V stay behind the cache's end, so that a later look at fewer rows finds the others there.
    """
    held = cache.length
    cache.length = held + low
    logits = run(block[low:high], start + low, "block", behind=len(block) - high)
    cache.length = held
    return logits


def _propose(
    form: Form,
    block: list[int],
    start: int,
    logits: Tensor,
    rows: tuple[int, int],
    window: tuple[int, int],
    config: ModelConfig,
) -> dict[int, tuple[int, float]]:
    """For every MASK of the window, by its index in the block: the best allowed token and its probability.

    `logits` (n, V) are those of the block's rows [rows[0], rows[1]); what they predict lies `token_shift` later.
    """
    low = max(window[0], rows[0] + config.token_shift)  # under token shift the first row's own token is known
    first = low - config.token_shift - rows[0]
    tokens, confidences = form.weigh(logits[first : first + window[1] - low], start + low)
    both = enumerate(zip(tokens, confidences, strict=True), low)
    return {p: proposal for p, proposal in both if block[p] == config.mask_token_id}


def _choose(proposed: dict[int, tuple[int, float]], sure: float) -> dict[int, int]:
    """The tokens that are surer than `sure`, or else the surest one."""
    surest = max(proposed, key=lambda p: proposed[p][1])
    return {p: token for p, (token, c) in proposed.items() if c > sure} or {surest: proposed[surest][0]}
