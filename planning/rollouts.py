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
import torch.nn.functional as F
from torch import Tensor

from efficientgen.planning.cache import Mode, TextCache, sent
from efficientgen.planning.decode_form import Answer, Counts, TemplateOnDevice, reader, require_next_token
from efficientgen.planning.decode_head import Head
from efficientgen.planning.decode_speculative import Agree, agreed, section_ahead, speculate, tally
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
    cache: TextCache,
    template: TemplateOnDevice,
    prompt_logits: Tensor,
    next_position: int,
    noise: Tensor,
    temperature: float,
    tokens: Sequence[int] | None = None,
    agree: Agree = agreed,
    narrow: bool | None = None,
) -> tuple[list[Answer], Counts]:
    """N whole answers that share all but the trajectory, and what they cost together.

    Args:
        noise: (N, T, V) Gumbel draws for the T positions of the trajectory section; (N, T, len(tokens)) with `tokens`.
        temperature: of the verifier; 0 is greedy, and all rollouts are then the answer of `decode_scaffold_spec`.
        tokens: whose draws they are, if not the whole vocabulary's; all that the trajectory allows.
        narrow: compute the logits of `tokens` alone; by default on a GPU (`Head`).

    Lossless against AR sampling with the same noise, scaffold forced, in exact arithmetic.

    Raises:
        NotAutoregressiveError: the model has no next-token logits.
    """
    require_next_token(model)
    mask, counts = model.config.mask_token_id, Counts()
    start = len(template) - noise.shape[1]
    read, head = reader(model, cache, next_position, counts), Head(model, template, narrow)
    rows, steps = len(noise), noise.shape[1]
    ahead = section_ahead(template, mask)
    shared, logits = speculate(read, head, cache, template, prompt_logits, ahead, mask, counts, start, agree)
    widest = max(end - begin for begin, end in template.blocks if begin >= start)
    tails = cache.fork(rows, steps + widest)
    if tails.widest < widest:
        ahead = section_ahead(template, mask, tails.widest)
    device = cache.store.device
    wide = logits.dtype if logits.dtype.itemsize >= 4 else torch.float32
    noise = noise.to(device, wide)
    columns = slice(None) if tokens is None else sent(tokens, device)
    few = columns if head.narrow and isinstance(columns, Tensor) else None
    weights = None if few is None else model.head[few]
    penalty = None if few is None else template.penalty[:, few]
    each = torch.arange(rows, device=device)[:, None]

    def pick(hidden: Tensor, first: Tensor) -> Tensor:
        """Tokens (N, W) of positions first (N, 1), first + 1, ... of the trajectory by hidden states (N, W, H)."""
        at = (first + torch.arange(hidden.shape[1], device=device)).clamp(max=steps - 1)
        if few is None or weights is None or penalty is None:
            return sample(model.logits(hidden), at)
        scores = F.linear(hidden, weights)
        if temperature > 0:
            scores = scores.to(wide) / temperature + noise[each, at]
        best = few[(scores + penalty[template.rows[at + start]]).argmax(-1)]
        forced = template.forced[at + start]
        return torch.where(forced >= 0, forced, best)

    def sample(scores: Tensor, at: Tensor) -> Tensor:
        """The same from logits (N, W, V), of positions `at` (N, W)."""
        if temperature > 0:
            scores = scores.to(wide) / temperature
            scores[..., columns] += noise[each, at]
        return template.choose(scores.flatten(0, 1), (at + start).flatten()).view(at.shape)

    written: list[list[int]] = [[] for _ in range(rows)]
    zero = torch.zeros(rows, 1, dtype=torch.long, device=device)
    seeds = sample(logits.expand(rows, 1, -1), zero)[:, 0].tolist()  # of each row, the next token
    while any(len(ids) < steps for ids in written):
        firsts = [len(ids) for ids in written]
        blocks: list[list[int]] = []  # of each row; empty where it has written everything
        for seed, i in zip(seeds, firsts, strict=True):
            rest = ahead(start + i)
            blocks.append([seed, *rest[1:]] if rest else [])
        counts.cycles += 1
        lengths = list(map(len, blocks))
        width = max(lengths)
        ids = sent([block + [mask] * (width - len(block)) for block in blocks], device)  # (N, W)
        begin = sent(firsts, device)[:, None]
        places = begin + torch.arange(start + next_position, start + next_position + width, device=device)

        def forward(ids: Tensor, mode: Mode, places: Tensor = places, lengths: list[int] = lengths) -> Tensor:
            counts.forwards += 1
            return tails.read(model, ids, places, mode, lengths)

        drafted = [mask in block for block in blocks]
        if any(drafted):
            drafts = pick(forward(ids, "block"), begin + 1)
            tails.drop(lengths)
            inside = sent([n if d else 0 for n, d in zip(lengths, drafted, strict=True)], device)[:, None]
            inner = torch.arange(1, width, device=device) < inside
            ids = torch.cat([ids[:, :1], torch.where(inner, drafts[:, :-1], ids[:, 1:])], 1)
        told = torch.cat([ids, pick(forward(ids, "causal"), begin + 1)], 1).tolist()  # the only wait of a cycle
        for r, length in enumerate(lengths):
            block, verified, keep = told[r][:length], told[r][width:], 0
            if block:
                keep = agree(block, verified, start + firsts[r])
                tally(counts, template, start + firsts[r], length, keep)
                written[r] += block[:keep]
                seeds[r] = verified[keep - 1]
            lengths[r] = length - keep
        tails.drop(lengths)
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
