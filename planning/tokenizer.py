"""The nano planners' tokenizer: one token per digit, sign, word and scaffold string, built with HF `tokenizers`.

The released planners use Qwen's BPE (`qwen_tokenizer.py`); what both share is the small interface `Vocabulary`.  A nano
checkpoint carries its vocabulary as `tokenizer.json`; `load_tokenizer` reads whichever a directory holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

PAD, NULL, MASK = "<|pad|>", "<|NULL|>", "|<MASK>|"
END_OF_TEXT = "<|endoftext|>"
IM_START, IM_END = "<|im_start|>", "<|im_end|>"
VISION_START, VISION_END, IMAGE_PAD = "<|vision_start|>", "<|vision_end|>", "<|image_pad|>"
SPECIAL = (PAD, NULL, MASK, IM_START, IM_END, VISION_START, VISION_END, IMAGE_PAD)


class TokenizerError(ValueError):
    """A vocabulary that is missing, damaged or lacks a token that is needed; the message says what to do."""


class Vocabulary(Protocol):
    """What schemas and prompts need of a tokenizer; `alphabets` are the allow-lists that slots name."""

    vocab_size: int

    @property
    def alphabets(self) -> Mapping[str, Sequence[int]]: ...

    def encode(self, text: str) -> list[int]: ...

    def decode(self, ids: Sequence[int]) -> str: ...

    def id_of(self, token: str) -> int: ...


class UnknownTextError(ValueError):
    """Text that the nano vocabulary cannot spell."""


class Tokenizer:
    """Longest-match word tokenizer over a closed vocabulary."""

    def __init__(self, backend: HFTokenizer):
        self.backend = backend
        self.vocab = backend.get_vocab()
        self.vocab_size = backend.get_vocab_size()
        words = [i for t, i in self.vocab.items() if re.fullmatch(r" ?[A-Za-z]+|[,.;]", t)]
        null = self.vocab[NULL]
        self._alphabets = {
            "yes_no": [self.vocab["yes"], self.vocab["no"]],
            "sign": [self.vocab["+"], self.vocab["-"]],
            "digit": [self.vocab[d] for d in "0123456789"],
            "text": sorted([*words, null]),
        }

    @property
    def alphabets(self) -> Mapping[str, Sequence[int]]:
        return self._alphabets

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`.

        Raises:
            UnknownTextError: a character or word is not in the vocabulary.
        """
        encoding = self.backend.encode(text, add_special_tokens=False)
        if "".join(encoding.tokens) != text:
            known = [t for t in encoding.tokens if t != PAD]
            raise UnknownTextError(f"the nano vocabulary cannot spell {text!r}; it got as far as {known}")
        return list(encoding.ids)

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(cast(str, self.backend.id_to_token(i)) for i in ids)

    def id_of(self, token: str) -> int:
        """The id of a token of the vocabulary.

        Raises:
            TokenizerError: it is none.
        """
        if token not in self.vocab:
            raise TokenizerError(f"the nano vocabulary has no token {token!r}: it belongs to another kind of planner")
        return self.vocab[token]

    def save(self, directory: Path) -> None:
        self.backend.save(str(directory / "tokenizer.json"))

    @staticmethod
    def load(directory: Path) -> Tokenizer:
        return Tokenizer(HFTokenizer.from_file(str(directory / "tokenizer.json")))


def load_tokenizer(directory: Path) -> Vocabulary:
    """The tokenizer of a model directory: a nano word list, or a byte-level BPE.

    Raises:
        TokenizerError: the directory's files are damaged, or there is no vocabulary.
    """
    path = directory / "tokenizer.json"
    if path.exists():
        try:
            if json.loads(path.read_text("utf-8"))["model"]["type"] == "WordLevel":
                return Tokenizer.load(directory)
        except Exception as error:  # `tokenizers` raises bare Exception for whatever is wrong with a file
            raise TokenizerError(f"{path} is damaged ({error!r}); fetch or train the checkpoint again") from error
    from efficientgen.planning.qwen_tokenizer import load_qwen

    return load_qwen(directory)


def build_tokenizer(literals: Iterable[str], sentences: Iterable[str], multiple_of: int = 64) -> Tokenizer:
    """A vocabulary that spells every literal in one token and every sentence in words.

    Words keep their leading space, so that the first word of a sentence and a later one are different tokens, as in a
    byte-level BPE.  The size is rounded up with unused tokens.
    """
    words = {w for s in sentences for w in re.findall(r" ?[A-Za-z]+|[,.;]", s)}
    tokens = [*SPECIAL, *"0123456789", "+", "-", ".", ",", " ", "\n", "yes", "no"]
    tokens += sorted((set(literals) | words) - set(tokens))
    while len(tokens) % multiple_of:
        tokens.append(f"<|unused_{len(tokens)}|>")
    backend = HFTokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=PAD))
    longest_first = "|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)
