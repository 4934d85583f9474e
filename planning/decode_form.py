"""What a decoder is asked for and what it hands back: the form to fill in, the forward to call, the answer, its cost.

A `Form` says at every answer position which token is forced (the scaffold) or which may be written (an allow-list), and
where diffusion blocks end.  A structured answer is a form, and so is free text: nothing is forced but what the
prompt left over in its last block, everything but MASK may be written, and a stop token ends it.  So every decoder is
written once, for both.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from efficientgen.planning.cache import Mode, TextCache, sent
from efficientgen.planning.decode_head import FEW
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.schema import Template

OPEN = -1  # in `scaffold`: the model writes here


@dataclass
class Counts:
    """What a decode cost, prefill apart; scaffold costs nothing.

    `verified` holds (start, length, kept) of every block that a verifier read, its first token included.
    `cycles` are rounds of draft and verify, or denoising passes.  `drafted` value tokens were proposed, `accepted` of
    those kept: by the verifier, or in block diffusion by their confidence.  The answer holds `values`.
    """

    forwards: int = 0
    cycles: int = 0
    drafted: int = 0
    accepted: int = 0
    values: int = 0
    verified: list[tuple[int, int, int]] = field(default_factory=list)


@dataclass(frozen=True)
class Answer:
    """Answer tokens (L,) and their cost."""

    ids: list[int]
    counts: Counts


class Form:
    """L positions to fill: `scaffold` (L,) forced tokens or `OPEN`, `allow` (L,) rows of `penalty` (K, V)."""

    def __init__(
        self,
        scaffold: list[int],
        allow: list[int],
        penalty: Tensor,
        blocks: Sequence[tuple[int, int]],
        stop: int | None = None,
    ):
        self.scaffold, self.allow, self.penalty, self.blocks, self.stop = scaffold, allow, penalty, blocks, stop
        self._few: dict[tuple[int, ...], tuple[Tensor, Tensor] | None] = {}
        self.rows = torch.tensor(allow, dtype=torch.long, device=penalty.device)  # (L,)
        self.forced = torch.tensor(scaffold, dtype=torch.long, device=penalty.device)  # (L,)

    def __len__(self) -> int:
        return len(self.scaffold)

    def allowed(self, logits: Tensor, first: int) -> Tensor:
        """Logits (n, V) of positions first, first + 1, ... with what their allow-lists leave out at -inf."""
        return logits + self.penalty[self.rows[first : first + len(logits)]]

    def choose(self, logits: Tensor, first: int | Tensor) -> Tensor:
        """Greedy tokens (n,) of positions first, first + 1, ... from their logits (n, V), or of positions `first` (n,).

        Scaffold positions give theirs; there is no token behind the last position.  Nothing waits for the device.
        """
        if isinstance(first, Tensor):
            best = (logits + self.penalty[self.rows[first]]).argmax(-1)
            forced = self.forced[first]
        else:
            best = self.allowed(logits[: len(self) - first], first).argmax(-1)
            forced = self.forced[first : first + len(best)]
        return torch.where(forced >= 0, forced, best)

    def few(self, first: int, count: int) -> tuple[Tensor, Tensor] | None:
        """The tokens (K,), ascending, that some of `count` positions from `first` allow, and `penalty` of them (P, K).

        None where one of the positions allows more than `FEW`.
        """
        written = (p for p in range(first, first + count) if self.scaffold[p] < 0)
        lists = tuple(sorted({self.allow[p] for p in written}))
        if lists not in self._few:
            allowed = (self.penalty[list(lists)] == 0).any(0).nonzero()[:, 0]  # waits, once for each set of lists
            if not len(allowed):
                allowed = torch.zeros(1, dtype=torch.long, device=self.penalty.device)
            self._few[lists] = (allowed, self.penalty[:, allowed].contiguous()) if len(allowed) <= FEW else None
        return self._few[lists]

    def pick(self, logits: Tensor, first: int) -> list[int]:
        """`choose` as numbers on the host."""
        return self.choose(logits, first).tolist()

    def weigh(self, logits: Tensor, first: int) -> tuple[list[int], list[float]]:
        """What `pick` gives, and each token's probability among the allowed ones (of no meaning where it is forced)."""
        scores = self.allowed(logits, first)
        scores = scores if scores.dtype == torch.float64 else scores.float()
        return self.pick(logits, first), (scores.amax(-1) - scores.logsumexp(-1)).exp().tolist()

    def blank(self, start: int, end: int, mask: int) -> list[int]:
        """Positions [start, end) as a draft sees them before it begins: the scaffold, and MASK to be written."""
        return [s if s >= 0 else mask for s in self.scaffold[start:end]]

    def reach(self, position: int) -> int:
        """End of the diffusion block that holds `position`; `position` itself behind the last."""
        return next((end for _, end in self.blocks if position < end), position)

    def values(self, start: int, end: int) -> int:
        """How many of the positions [start, end) the model writes."""
        return sum(s < 0 for s in self.scaffold[start:end])

    def complete(self, ids: list[int]) -> bool:
        """Do `ids`, from position 0, fill the form or hold a stop token that the model wrote?"""
        return len(ids) >= len(self) or self._stopped_at(ids, 0) is not None

    def stopped(self, block: list[int], start: int, mask: int) -> bool:
        """Does `block`, from position `start`, hold a written stop token with no MASK before it?"""
        end = self._stopped_at(block, start)
        return end is not None and mask not in block[:end]

    def answer(self, ids: list[int], counts: Counts) -> Answer:
        """`ids` up to the stop token, with the number of values entered in `counts`."""
        ids = ids[: self._stopped_at(ids, 0)]
        counts.values = self.values(0, len(ids))
        return Answer(ids, counts)

    def _stopped_at(self, ids: list[int], start: int) -> int | None:
        if self.stop is None:
            return None
        written = (i + 1 for i, t in enumerate(ids) if t == self.stop and self.scaffold[start + i] < 0)
        return next(written, None)


class TemplateOnDevice(Form):
    """A structured answer: the template's scaffold, allow-lists and section blocks."""

    def __init__(self, template: Template, device: torch.device):
        forbidden = torch.from_numpy(~template.allow_lists).to(device)
        penalty = torch.zeros(forbidden.shape, device=device).masked_fill_(forbidden, -torch.inf)  # (K, V)
        allow = template.allow.clip(min=0).tolist()  # a scaffold position looks up any row
        super().__init__(template.scaffold.tolist(), allow, penalty, template.blocks)


class TextForm(Form):
    """Free text: `given` tokens where they are known and `OPEN` elsewhere, in blocks of `block` tokens.

    MASK is never written.  `stop` ends the text where the model writes it, not where it is given.
    """

    def __init__(
        self, given: list[int], block: int, mask: int, vocabulary: int, device: torch.device, stop: int | None = None
    ):
        penalty = torch.zeros(1, vocabulary, device=device)
        penalty[0, mask] = -torch.inf
        blocks = [(start, min(start + block, len(given))) for start in range(0, len(given), block)]
        super().__init__(given, [0] * len(given), penalty, blocks, stop)


# (token ids, position of the first or of each, mode or who sees whom among them, tokens kept behind them) -> (n, ...)
Run = Callable[..., Tensor]


def runner(model: VisionLanguageModel, cache: TextCache, next_position: int, counts: Counts) -> Run:
    """Forwards of answer tokens to logits (n, V)."""
    read = reader(model, cache, next_position, counts)
    return lambda ids, where, mode, behind=0: model.logits(read(ids, where, mode, behind))


def reader(model: VisionLanguageModel, cache: TextCache, next_position: int, counts: Counts) -> Run:
    """Forwards of answer tokens to hidden states (n, hidden), for who wants logits of a few rows only.

    Answer position 0 has text position `next_position` in all three M-RoPE axes.  Token ids are numbers, or a tensor
    that is already on the device: then nothing waits for it.
    """
    device = cache.store.device

    def read(ids: list[int] | Tensor, where: int | list[int], mode: Mode | Tensor, behind: int = 0) -> Tensor:
        counts.forwards += 1
        if isinstance(where, int):
            places = torch.arange(where, where + len(ids), device=device)
        else:
            places = sent(where, device)
        tokens = ids if isinstance(ids, Tensor) else sent(ids, device)
        return cache.read(model, tokens, places + next_position, mode, behind)

    return read


class NotAutoregressiveError(ValueError):
    """A decoder that needs next-token logits, asked of a model without token shift."""


def require_next_token(model: VisionLanguageModel) -> None:
    """Causal logits of position p - 1 must predict position p.

    Raises:
        NotAutoregressiveError: the model's do not.
    """
    if model.config.token_shift != 1:
        raise NotAutoregressiveError(
            f"a {model.config.family} model predicts each token at its own place (token_shift 0) and has no next-token "
            "logits to decode or verify with; use the decoder 'diffusion'"
        )
