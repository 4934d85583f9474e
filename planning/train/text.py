"""A corpus of short texts, one a line, as training batches."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from efficientgen.planning.tokenizer import IM_END, PAD, Tokenizer
from efficientgen.planning.train.rows import Batch, text_batch


class CorpusError(ValueError):
    """A corpus file that is missing or empty."""


def read_corpus(path: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of every line, each with the end token behind it.

    Raises:
        CorpusError: there is no such file, or no line in it.
        UnknownTextError: a word is not in the vocabulary.
    """
    if not path.exists():
        raise CorpusError(f"{path} does not exist; write it with `efficientgen data text`")
    end = tokenizer.id_of(IM_END)
    lines = [[*tokenizer.encode(line), end] for line in path.read_text().splitlines() if line]
    if not lines:
        raise CorpusError(f"{path} is empty; write it anew with `efficientgen data text`")
    return lines


class TextData:
    """`batch` texts drawn with replacement; the whole text is learned, there is no prompt."""

    def __init__(self, lines: Sequence[list[int]], batch: int, tokenizer: Tokenizer):
        self.lines, self.batch = lines, batch
        self.pad, self.end = tokenizer.id_of(PAD), tokenizer.id_of(IM_END)

    def __call__(self, generator: torch.Generator) -> Batch:
        picks = torch.randint(len(self.lines), (self.batch,), generator=generator).tolist()
        batch = text_batch([self.lines[i] for i in picks], [0] * self.batch, self.pad, self.end)
        return batch
