"""A text model as a user meets it: complete a text, or fill the gaps of one, at batch 1 (Efficient-DLM, 2512.14067).

Around `decode_text` this adds words for tokens, gaps whose length is not known, and the shifted grid: a model trained
with `shifted_grid` may begin a block anywhere, so the block of a gap begins at the gap and shows the most of what
stands behind it.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from pathlib import Path

import torch

from efficientgen.planning.cache import KVCache
from efficientgen.planning.checkpoint import load_model
from efficientgen.planning.decode import Counts, TextForm, decode_diffusion
from efficientgen.planning.decode_diffusion import CONFIDENCE, Pass
from efficientgen.planning.decode_form import OPEN, runner
from efficientgen.planning.decode_text import complete
from efficientgen.planning.load import model_directory
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.tokenizer import IM_END, Tokenizer

GAP = re.compile(r" ?\[gap(?::(\d+))?\]")
MAX_GAP = 12


class TextRequestError(ValueError):
    """A text that cannot be completed or filled as asked."""


@dataclass(frozen=True)
class Written:
    """What the model wrote, and what that cost; `forwards` count prompt and committing reads too."""

    text: str  # the whole text, prompt included
    ids: list[int]
    tokens: int  # that the model wrote
    forwards: int

    @property
    def tokens_per_forward(self) -> float:
        return self.tokens / max(self.forwards, 1)


class TextLM:
    """A block-diffusion (or autoregressive) text model with its tokenizer."""

    def __init__(self, model: VisionLanguageModel, tokenizer: Tokenizer):
        self.model, self.tokenizer = model, tokenizer
        self.diffusion = model.config.token_shift == 0

    @staticmethod
    def from_pretrained(name: str, checkpoint: str | Path = "") -> TextLM:
        """The shipped model `name`, or the directory `checkpoint`.

        Raises:
            UnknownPlannerError: nothing of that name is shipped.
            CheckpointError: the directory is incomplete or damaged.
        """
        directory = model_directory(name, checkpoint)
        return TextLM(load_model(directory), Tokenizer.load(directory))

    def complete(self, text: str, max_new_tokens: int = 96, confidence: float = CONFIDENCE) -> Written:
        """Continue `text` to its end: by block diffusion, or greedily where the model predicts next tokens.

        Raises:
            TextRequestError: the text is empty.
            UnknownTextError: a word is not in the vocabulary.
        """
        ids = self.tokenizer.encode(text)
        if not ids:
            raise TextRequestError("nothing to continue; give the beginning of a text")
        if self.diffusion:
            answer = complete(self.model, ids, max_new_tokens, "diffusion", confidence=confidence)
        else:
            answer = complete(self.model, ids, max_new_tokens, "ar")
        end = self.tokenizer.id_of(IM_END)
        new = [t for t in answer.ids if t != end]
        return Written(self.tokenizer.decode(ids + new), ids + new, len(answer.ids), answer.counts.forwards + 1)

    def infill(self, text: str, confidence: float = CONFIDENCE) -> Written:
        """Fill each `[gap]` of `text`; `[gap:5]` is one of 5 tokens.

        A gap without a length is filled with each of 1 to 12 tokens, and the filling that the model is surest of stays:
        the one with the largest mean log-probability over the gap and the tokens of its block behind it.

        Raises:
            TextRequestError: there is no gap, or the model is autoregressive.
            UnknownTextError: a word is not in the vocabulary.
        """
        if not self.diffusion:
            raise TextRequestError("an autoregressive model cannot see what stands behind a gap; take a converted one")
        gaps = list(GAP.finditer(text))
        if not gaps:
            raise TextRequestError(
                "the text has no gap; write [gap], or [gap:5] for 5 tokens, where something is missing"
            )
        begin, ids, written, forwards, block = 0, list[int](), 0, 0, self.model.config.decode_block_size
        for i, gap in enumerate(gaps):
            ids += self.tokenizer.encode(text[begin : gap.start()])
            begin = gap.end()
            behind = self.tokenizer.encode(text[begin : gaps[i + 1].start() if i + 1 < len(gaps) else len(text)])
            lengths = [int(gap[1])] if gap[1] else range(1, min(MAX_GAP, block) + 1)
            best: tuple[float, list[int]] | None = None
            for length in lengths:
                filling, sureness, cost = fill_gap(self.model, ids, length, behind, confidence)
                forwards += cost
                if best is None or sureness > best[0]:
                    best = (sureness, filling)
            assert best is not None
            ids += best[1]
            written += len(best[1])
        ids += self.tokenizer.encode(text[begin:])
        end = self.tokenizer.id_of(IM_END)
        return Written(self.tokenizer.decode([t for t in ids if t != end]), ids, written, forwards)


@torch.inference_mode()
def fill_gap(
    model: VisionLanguageModel, before: list[int], length: int, behind: list[int], confidence: float = CONFIDENCE
) -> tuple[list[int], float, int]:
    """`length` tokens between `before` and `behind`, how sure they are, and the forwards that took.

    The gap begins a block; what the block has left shows the first tokens of `behind`.  Sureness is the mean
    log-probability of the gap's tokens when they were written and of the first four behind it, each masked at its
    own place given all others (so a filling of the wrong length, which does not go on as the text does, is unlikely).

    Raises:
        TextRequestError: the gap is empty or larger than a block.
    """
    config = model.config
    block = config.decode_block_size
    if not 0 < length <= block:
        raise TextRequestError(f"a gap of {length} tokens; this model fills 1 to {block} at once")
    seen = behind[: block - length]
    device = next(model.parameters()).device
    cache = KVCache(config.text, len(before) + block, next(model.parameters()).dtype, device)
    counts = Counts()
    logits = torch.zeros(config.text.vocab_size, device=device)
    if before:
        turn = (torch.arange(len(before)) + (block - len(before) % block) % block) // block
        mask = (turn[:, None] >= turn).to(device)
        logits = runner(model, cache, 0, counts)(before, 0, mask)[-1]
    form = TextForm([OPEN] * length + seen, block, config.mask_token_id, config.text.vocab_size, device)
    trace: list[Pass] = []
    answer = decode_diffusion(model, cache, form, logits, len(before), confidence=confidence, trace=trace)
    written = [p.confidence[i] for p in trace for i in p.committed]
    sure = [math.log(max(c, 1e-9)) for c in written]
    forwards = counts.forwards + answer.counts.forwards
    if seen:
        sure += _log_probabilities(
            model, cache, answer.ids, range(length, min(length + 4, len(answer.ids))), len(before)
        )
        forwards += 1
    return answer.ids[:length], sum(sure) / len(sure), forwards


def _log_probabilities(
    model: VisionLanguageModel, cache: KVCache, ids: list[int], places: range, start: int
) -> list[float]:
    """log p of each of `places` in the block `ids` with that one masked; one batch of rows over the cached prefix."""
    rows = torch.tensor([ids] * len(places))
    for row, place in enumerate(places):
        rows[row, place] = model.config.mask_token_id
    wide = KVCache(model.config.text, cache.length + len(ids), cache.store.dtype, cache.store.device, len(places))
    wide.store[..., : cache.length, :] = cache.store[..., : cache.length, :]
    wide.length = cache.length
    positions = torch.arange(start, start + len(ids)).expand(3, -1)
    states = model(model.embed(rows), positions, wide.append("block", len(ids)))
    logits = model.logits(torch.stack([states[row, place] for row, place in enumerate(places)]))
    return logits.log_softmax(-1)[torch.arange(len(places)), [ids[p] for p in places]].tolist()
