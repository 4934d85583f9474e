"""N trajectories for one scene: shared-prefix rollouts (Fast-dDrive, 2605.23163, section 3.4), batched.

The answer's first three sections are written once, greedily.  Then N rows write the trajectory, each sampling from the
verifier at temperature `temperature`; the K/V of prompt and first sections is stored once and read once for all rows.
A row's sample at a position is argmax(logits / temperature + its own Gumbel noise there) (Gumbel-max), so it is a
function of (noise, prefix) alone: which rows share a batch, how far a draft reaches and where it is rejected change
nothing, and every rollout equals plain AR sampling with the same noise.  Drafts use the same noise as the verifier,
which makes the two agree more often than the paper's greedy draft would; that, too, changes only the speed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientgen.planning.cache import ForkedCache, KVCache, Mode
from efficientgen.planning.decode_form import Answer, Counts, TemplateOnDevice, require_next_token, runner
from efficientgen.planning.decode_speculative import agreed, section_ahead, speculate, tally
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import SECTIONS, AnswerError, Template, decode_answer
from efficientgen.planning.tokenizer import Vocabulary


def gumbel_noise(
    seed: int, stamp_ns: int, rollouts: int, positions: int, vocabulary: int, tokens: Sequence[int] | None = None
) -> Tensor:
    """(N, positions, vocabulary) float64 standard Gumbel draws, keyed by (seed, stamp, rollout, position, token).

    With `tokens`, ascending, only theirs: (N, positions, len(tokens)), the same numbers.  For the two dozen tokens of a
    trajectory, the draws of a whole released vocabulary would cost 0.3 GB and a second.  A draw takes one step of the
    generator, so the draws of others are stepped over.
    """
    shape = (positions, vocabulary if tokens is None else len(tokens))
    out = np.empty((rollouts, *shape))
    runs = [] if tokens is None else _runs(tokens)
    for r, rows in enumerate(out):
        rng = np.random.default_rng([seed, stamp_ns, r])
        if tokens is None:
            rows[:] = rng.gumbel(size=shape)
            continue
        at = 0  # draws so far
        for p in range(positions):
            for column, first, count in runs:
                rng.bit_generator.advance(p * vocabulary + first - at)  # type: ignore[attr-defined]
                rows[p, column : column + count] = rng.gumbel(size=count)
                at = p * vocabulary + first + count
    return torch.from_numpy(out)


def trajectory_tokens(template: Template) -> list[int]:
    """Every token that may be written somewhere in the trajectory, ascending."""
    where = (template.section == SECTIONS.index("trajectory")) & template.is_value
    return np.flatnonzero(template.allow_lists[np.unique(template.allow[where])].any(0)).tolist()


def _runs(tokens: Sequence[int]) -> list[tuple[int, int, int]]:
    """Neighbouring ids as (index of the first, first id, how many)."""
    out: list[tuple[int, int, int]] = []
    for i, token in enumerate(tokens):
        if out and token == out[-1][1] + out[-1][2]:
            out[-1] = (*out[-1][:2], out[-1][2] + 1)
        else:
            out.append((i, token, 1))
    return out


def decode_rollouts(
    model: VisionLanguageModel,
    cache: KVCache,
    template: TemplateOnDevice,
    prompt_logits: Tensor,
    next_position: int,
    noise: Tensor,
    temperature: float,
    tokens: Sequence[int] | None = None,
) -> tuple[list[Answer], Counts]:
    """N whole answers that share all but the trajectory, and what they cost together.

    Args:
        noise: (N, T, V) Gumbel draws for the T positions of the trajectory section; (N, T, len(tokens)) with `tokens`.
        temperature: of the verifier; 0 is greedy, and all rollouts are then the answer of `decode_scaffold_spec`.
        tokens: whose draws they are, if not the whole vocabulary's; all that the trajectory allows.

    Lossless against AR sampling with the same noise, scaffold forced, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    mask, counts = model.config.mask_token_id, Counts()
    start = len(template) - noise.shape[1]
    run, ahead = runner(model, cache, next_position, counts), section_ahead(template, mask)
    shared, logits = speculate(run, cache, template, prompt_logits, ahead, mask, counts, start)
    rows = len(noise)
    widest = max(end - begin for begin, end in template.blocks if begin >= start)
    tails = ForkedCache(cache, rows, noise.shape[1] + widest)
    written: list[list[int]] = [[] for _ in range(rows)]
    previous = logits.expand(rows, 1, -1)  # (N, 1, V), predict each row's next token
    device = cache.store.device
    noise = noise.to(device, logits.dtype)
    columns = slice(None) if tokens is None else torch.tensor(tokens, device=device)

    def pick(scores: Tensor, r: int, first: int) -> list[int]:
        if temperature > 0:
            scores = scores / temperature
            scores[:, columns] += noise[r, first : first + len(scores)]
        return template.pick(scores, start + first)

    def forward(blocks: list[list[int]], firsts: list[int], mode: Mode) -> Tensor:
        counts.forwards += 1
        width = max(map(len, blocks))
        ids = torch.tensor([block + [mask] * (width - len(block)) for block in blocks], device=device)
        begin = torch.tensor(firsts, device=device)[:, None] + torch.arange(width, device=device)  # (N, W)
        positions = (begin + start + next_position).expand(3, -1, -1)
        attend = tails.append(mode, list(map(len, blocks)), width)
        return model.logits(model(model.embed(ids), positions, attend))

    while any(len(ids) < noise.shape[1] for ids in written):
        firsts = [len(ids) for ids in written]
        blocks: list[list[int]] = []  # of each row; empty where it has written everything
        for r, i in enumerate(firsts):
            rest = ahead(start + i)
            blocks.append(pick(previous[r], r, i) + rest[1:] if rest else [])
        counts.cycles += 1
        if any(mask in block for block in blocks):
            drafts = forward(blocks, firsts, "block")
            tails.drop(list(map(len, blocks)))
            for r, block in enumerate(blocks):
                if mask in block:
                    block[1:] = pick(drafts[r, : len(block) - 1], r, firsts[r] + 1)
        verified = forward(blocks, firsts, "causal")
        following = []
        for r, block in enumerate(blocks):
            keep = 0
            if block:
                keep = agreed(block, pick(verified[r, : len(block) - 1], r, firsts[r] + 1))
                tally(counts, template, start + firsts[r], len(block), keep)
                written[r] += block[:keep]
            following.append(verified[r, max(keep - 1, 0)][None])
            blocks[r] = block[keep:]
        tails.drop(list(map(len, blocks)))
        previous = torch.stack(following)
    counts.values = template.values(0, start) + rows * template.values(start, len(template))
    return [Answer(shared + ids, counts) for ids in written], counts


class NoValidRolloutError(AnswerError):
    """None of the sampled answers holds a trajectory."""


@dataclass(frozen=True)
class Rollouts:
    """The rollouts that can be read, as (JSON text, sections), and how many were rejected."""

    valid: list[tuple[str, dict[str, Any]]]
    rejected: int


def read_rollouts(template: Template, tokenizer: Vocabulary, answers: Sequence[Answer]) -> Rollouts:
    """Read sampled answers; those that are not the schema's object are rejected and counted, never averaged.

    Raises:
        AnswerError: there was one answer, and it is not.
        NoValidRolloutError: none of several is.
    """
    valid: list[tuple[str, dict[str, Any]]] = []
    reason: AnswerError | None = None
    for answer in answers:
        try:
            valid.append(decode_answer(template, tokenizer, answer.ids))
        except AnswerError as error:
            reason = reason or error
    if not valid and reason is not None and len(answers) == 1:
        raise reason
    if not valid:
        raise NoValidRolloutError(f"none of {len(answers)} rollouts holds a trajectory; the first: {reason}")
    return Rollouts(valid, len(answers) - len(valid))
