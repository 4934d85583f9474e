"""Decoders: plain AR, and scaffold speculative decoding (Fast-dDrive, 2605.23163, section 3.3).

Both write a `Template`: scaffold tokens are forced, value tokens are the argmax of causal logits among the slot's
allow-list.  Scaffold speculation drafts the rest of a section block in one bidirectional forward, verifies it in one
causal forward and keeps the longest prefix that the verifier would have written itself.  Every committed token is
therefore an argmax of causal logits over a committed prefix: in exact arithmetic the two decoders give the same tokens,
whatever the draft says; the draft only changes how many forwards they take.

The token at position p is predicted from the hidden state at p - 1 (token shift), in both modes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from efficientgen.planning.cache import KVCache, Mode
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import Template


@dataclass
class Counts:
    """What a decode cost.  `drafted`, `accepted` and `values` (written) count value tokens; scaffold costs nothing."""

    forwards: int = 0
    cycles: int = 0
    drafted: int = 0
    accepted: int = 0
    values: int = 0


@dataclass(frozen=True)
class Answer:
    """Answer tokens (L,) and their cost."""

    ids: list[int]
    counts: Counts


class TemplateOnDevice:
    """A template's lookups in the form that decoders need them."""

    def __init__(self, template: Template, device: torch.device):
        self.scaffold: list[int] = template.scaffold.tolist()
        self.allow: list[int] = template.allow.tolist()
        self.blocks = template.blocks
        forbidden = torch.from_numpy(~template.allow_lists).to(device)
        self.penalty = torch.zeros(forbidden.shape, device=device).masked_fill_(forbidden, -torch.inf)  # (K, V)

    def pick(self, logits: Tensor, first: int) -> list[int]:
        """Greedy tokens of positions first, first + 1, ... from their logits (n, V); scaffold positions give theirs."""
        allow = [max(0, a) for a in self.allow[first : first + len(logits)]]
        rows = torch.tensor(allow, dtype=torch.long, device=logits.device)
        best = (logits + self.penalty[rows]).argmax(-1).tolist()
        return [s if s >= 0 else b for s, b in zip(self.scaffold[first : first + len(logits)], best, strict=True)]


Run = Callable[[list[int], int, Mode], Tensor]  # (token ids, position of the first, mode) -> logits (n, V)


def runner(model: VisionLanguageModel, cache: KVCache, next_position: int, counts: Counts) -> Run:
    """Forwards of answer tokens; answer position 0 has text position `next_position` in all three M-RoPE axes."""
    device = cache.store.device

    def run(ids: list[int], first: int, mode: Mode) -> Tensor:
        counts.forwards += 1
        positions = torch.arange(first, first + len(ids), device=device).expand(3, -1) + next_position
        embeds = model.embed(torch.tensor([ids], device=device))
        return model.logits(model(embeds, positions, cache.append(mode, len(ids))))[0]

    return run


def decode_ar(
    model: VisionLanguageModel, cache: KVCache, template: TemplateOnDevice, prompt_logits: Tensor, next_position: int
) -> Answer:
    """One token per forward with the scaffold forced.  `prompt_logits` (V,) are those of the last prompt token.

    Lossless against: itself; it is the definition that `decode_scaffold_spec` is compared with.
    """
    counts = Counts()
    ids: list[int] = []
    run = runner(model, cache, next_position, counts)
    logits = prompt_logits[None]
    for i in range(len(template.scaffold)):
        ids += template.pick(logits, i)
        if i + 1 < len(template.scaffold):
            logits = run(ids[-1:], i, "causal")
    counts.cycles, counts.values = counts.forwards, sum(s < 0 for s in template.scaffold)
    return Answer(ids, counts)


def decode_scaffold_spec(
    model: VisionLanguageModel, cache: KVCache, template: TemplateOnDevice, prompt_logits: Tensor, next_position: int
) -> Answer:
    """Draft a block bidirectionally, verify it causally, keep what agrees; after a rejection re-draft the remainder.

    Lossless against `decode_ar` of the same weights, allow-lists and scaffold, in exact arithmetic.
    """
    counts = Counts()
    run = runner(model, cache, next_position, counts)
    ids, _ = speculate(run, cache, template, prompt_logits, template.blocks, model.config.mask_token_id, counts)
    return Answer(ids, counts)


def speculate(
    run: Run,
    cache: KVCache,
    template: TemplateOnDevice,
    prompt_logits: Tensor,
    blocks: Sequence[tuple[int, int]],
    mask: int,
    counts: Counts,
) -> tuple[list[int], Tensor]:
    """Scaffold speculation through `blocks`, from answer position 0: the tokens and the logits (V,) of the next one."""
    ids: list[int] = []
    previous = prompt_logits[None]  # logits that predict position i
    for _, end in blocks:
        while (i := len(ids)) < end:
            counts.cycles += 1
            block = template.pick(previous, i) + [s if s >= 0 else mask for s in template.scaffold[i + 1 : end]]
            if mask in block:
                draft = run(block, i, "block")
                cache.drop(len(block))
                block = block[:1] + template.pick(draft[:-1], i + 1)
            logits = run(block, i, "causal")
            keep = agreed(block, template.pick(logits[:-1], i + 1))
            tally(counts, template, i, end, keep)
            ids += block[:keep]
            cache.drop(len(block) - keep)
            previous = logits[keep - 1 : keep]
    return ids, previous[0]


def agreed(block: list[int], verified: list[int]) -> int:
    """How many tokens of `block` the verifier would have written itself; its first is always one of them."""
    keep = 1
    while keep < len(block) and verified[keep - 1] == block[keep]:
        keep += 1
    return keep


def tally(counts: Counts, template: TemplateOnDevice, i: int, end: int, keep: int) -> None:
    """Enter a verified block [i, end) of which `keep` tokens stay; its first token was not drafted."""
    values = [s < 0 for s in template.scaffold[i:end]]
    counts.drafted += sum(values[1:])
    counts.accepted += sum(values[1:keep])
    counts.values += sum(values[:keep])


DECODERS = {"ar": decode_ar, "scaffold-spec": decode_scaffold_spec}
