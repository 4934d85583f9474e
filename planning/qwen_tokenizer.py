"""Qwen2.5's byte-level BPE, read from the user's checkpoint directory or from an installed package; never shipped here.

The released planners share one vocabulary: 151 643 ranks and 24 special tokens behind them, the last two being the mask
and the filler of block diffusion.  `load_qwen(directory)` takes the first source there is: `tokenizer.json`, then
`vocab.json` with `merges.txt`, then `qwen.tiktoken` as the packages `dashscope` and `qwen-agent` carry it (their code
is not imported).  The same interface as the nano tokenizer's: `encode`, `decode`, `id_of`, `vocab_size`, `alphabets`.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from efficientgen.planning.tokenizer import MASK, NULL, TokenizerError

FIRST_SPECIAL = 151643
SPECIALS = (
    "<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|object_ref_start|>", "<|object_ref_end|>", "<|box_start|>",
    "<|box_end|>", "<|quad_start|>", "<|quad_end|>", "<|vision_start|>", "<|vision_end|>", "<|vision_pad|>",
    "<|image_pad|>", "<|video_pad|>", "<tool_call>", "</tool_call>", "<|fim_prefix|>", "<|fim_middle|>",
    "<|fim_suffix|>", "<|fim_pad|>", "<|repo_name|>", "<|file_sep|>", MASK, NULL,
)  # fmt: skip
# How Qwen2 cuts text before BPE: contractions, words with one leading mark or space, single digits, other marks, space.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SOURCES = {"dashscope": "resources/qwen.tiktoken", "qwen_agent": "utils/qwen.tiktoken"}
REMEDY = (
    "put the checkpoint's tokenizer.json (or vocab.json and merges.txt) into its directory, or install the vocabulary: "
    "pip install tiktoken && pip install --no-deps dashscope"
)


class QwenTokenizer:
    """One byte-level BPE behind the planner's small interface.

    Args:
        pieces: id -> bytes of every ordinary token; holes are allowed.
        special: name -> id of the tokens that stand for themselves.
        encode: text, special names included, to ids.
    """

    def __init__(
        self, pieces: Mapping[int, bytes], special: Mapping[str, int], encode: Callable[[str], list[int]], source: str
    ) -> None:
        self._pieces, self._special, self._encode = pieces, dict(special), encode
        self._names = {i: name.encode() for name, i in self._special.items()}
        self.vocab_size = max([*pieces, *self._names], default=-1) + 1
        self.source = source  # where the vocabulary came from

    def encode(self, text: str) -> list[int]:
        """Token ids of `text`; the name of a special token in it becomes that token."""
        return self._encode(unicodedata.normalize("NFC", text))

    def decode(self, ids: Sequence[int]) -> str:
        """The text of `ids`; bytes that are no UTF-8 become U+FFFD, ids without a token nothing."""
        return b"".join(self._pieces.get(i) or self._names.get(i, b"") for i in ids).decode("utf-8", errors="replace")

    def id_of(self, token: str) -> int:
        """The id of a special token, or of text that is one token.

        Raises:
            TokenizerError: it is not one token.
        """
        if token in self._special:
            return self._special[token]
        ids = self.encode(token)
        if len(ids) != 1:
            raise TokenizerError(
                f"{token!r} is {len(ids)} tokens in the vocabulary of {self.source}, not one; {REMEDY}"
            )
        return ids[0]

    @cached_property
    def alphabets(self) -> Mapping[str, Sequence[int]]:
        """What each kind of slot may hold.  A sign brings its space; text keeps the JSON string whole.

        Raises:
            TokenizerError: the vocabulary has no single token for a sign, digit, point, yes or no.
        """
        text = [i for i, piece in self._pieces.items() if piece and not any(b < 32 or b in b'"\\\x7f' for b in piece)]
        filler = [self._special[NULL]] if NULL in self._special else []
        return {
            "yes_no": [self.id_of("yes"), self.id_of("no")],
            "sign": [self.id_of(" +"), self.id_of(" -")],
            "digit": [self.id_of(d) for d in "0123456789"],
            "point": [self.id_of(".")],
            "text": sorted(text + filler),
        }


def load_qwen(directory: Path) -> QwenTokenizer:
    """The tokenizer of a released checkpoint.

    Raises:
        TokenizerError: no source has the vocabulary, or the file that should is damaged.
    """
    try:
        if (directory / "tokenizer.json").exists():
            return _from_backend(HFTokenizer.from_file(str(directory / "tokenizer.json")), "tokenizer.json")
        if (directory / "vocab.json").exists() and (directory / "merges.txt").exists():
            return _from_merges(directory)
    except Exception as error:  # `tokenizers` raises bare Exception for whatever is wrong with a file
        if isinstance(error, TokenizerError):
            raise
        raise TokenizerError(f"the tokenizer files of {directory} are damaged ({error}); fetch them again") from error
    path = installed_ranks()
    if path is None:
        raise TokenizerError(f"{directory} has no tokenizer files and no installed package has Qwen's; {REMEDY}")
    return from_ranks(path)


def installed_ranks() -> Path | None:
    """`qwen.tiktoken` of an installed package, found without importing it."""
    for package, inside in SOURCES.items():
        spec = find_spec(package)
        for root in (spec.submodule_search_locations or ()) if spec else ():
            if (path := Path(root) / inside).exists():
                return path
    return None


def from_ranks(path: Path) -> QwenTokenizer:
    """A tokenizer from a rank file (a line: base64 token, rank), with the 24 special tokens behind the last rank.

    Raises:
        TokenizerError: `tiktoken` is not installed, or the file does not hold ranks 0, 1, 2, ... once each.
    """
    try:
        import tiktoken
    except ImportError as error:
        raise TokenizerError(f"{path} needs the package tiktoken to be read: pip install tiktoken") from error
    try:
        lines = [line.split() for line in path.read_bytes().splitlines() if line]
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
    except ValueError as error:
        raise TokenizerError(f"{path} is no rank file ({error}); {REMEDY}") from error
    if sorted(ranks.values()) != list(range(len(lines))):
        raise TokenizerError(f"{path} is incomplete: {len(lines)} ranks with gaps or repeats; {REMEDY}")
    special = {name: len(ranks) + i for i, name in enumerate(SPECIALS)}
    bpe = tiktoken.Encoding("qwen2.5", pat_str=SPLIT, mergeable_ranks=ranks, special_tokens=special)
    pieces = {rank: token for token, rank in ranks.items()}
    return QwenTokenizer(pieces, special, lambda text: bpe.encode(text, allowed_special="all"), str(path.name))


def _from_merges(directory: Path) -> QwenTokenizer:
    """`vocab.json` and `merges.txt`, with the special tokens that the directory names or else Qwen's own."""
    backend = HFTokenizer(models.BPE.from_file(str(directory / "vocab.json"), str(directory / "merges.txt")))
    backend.normalizer = normalizers.NFC()
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(SPLIT), "isolated"), byte_level])
    backend.decoder = decoders.ByteLevel()
    added = directory / "added_tokens.json"
    names = json.loads(added.read_text("utf-8")) if added.exists() else {}
    for name in sorted(names, key=lambda n: int(names[n])) or SPECIALS:
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False)])
        if name in names and backend.token_to_id(name) != names[name]:
            raise TokenizerError(
                f"{directory}: added_tokens.json gives {name} id {names[name]}, vocab.json leaves "
                f"{backend.token_to_id(name)}: the two do not belong together; fetch both again"
            )
    return _from_backend(backend, "vocab.json")


def _from_backend(backend: HFTokenizer, source: str) -> QwenTokenizer:
    """Any byte-level BPE of HF `tokenizers`.  Mask and filler are added where a base model's file lacks them."""
    for name in (MASK, NULL):
        if backend.token_to_id(name) is None:
            backend.add_special_tokens([AddedToken(name, special=True, normalized=False)])
    special = {token.content: i for i, token in backend.get_added_tokens_decoder().items()}
    spelled = _byte_alphabet()
    pieces = {}
    for token, i in backend.get_vocab(with_added_tokens=False).items():
        if token in special:
            continue
        try:
            pieces[i] = bytes(spelled[c] for c in token)
        except KeyError as error:
            raise TokenizerError(f"{source} is no byte-level BPE: token {token!r} is not spelled in bytes") from error
    return QwenTokenizer(pieces, special, lambda text: backend.encode(text, add_special_tokens=False).ids, source)


def _byte_alphabet() -> dict[str, int]:
    """The printable stand-in of each byte in byte-level BPE (GPT-2): itself where printable, else 256, 257, ..."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [b for b in range(256) if b not in plain]
    return {chr(b): b for b in plain} | {chr(256 + i): b for i, b in enumerate(rest)}
