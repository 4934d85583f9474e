"""How a question is put to a Fast-dVLM: the pictures, for the nano size the route command, and the words.

The released model takes Qwen2.5-VL's chat form and any text.  The nano one knows only the words it was taught: a
question is written in lower case without marks, and a word it has never met is an error that says so.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from tokenizers import Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as HFTokenizer

from efficientgen.perception.types import Command
from efficientgen.planning.prompt import COMMANDS
from efficientgen.planning.tokenizer import (
    IM_END,
    IM_START,
    IMAGE_PAD,
    PAD,
    VISION_END,
    VISION_START,
    Tokenizer,
)

ASK = "\nquestion:"
SYSTEM = "You are a helpful assistant."  # what Qwen2.5's chat form says when nobody says anything else
TURN = IM_END + "\n" + IM_START + "assistant\n"


class QuestionError(ValueError):
    """A question that is empty, too long, or in words that the model does not know."""


def nano_question(tokenizer: Tokenizer, question: str, examples: Sequence[str] = ()) -> list[int]:
    """Token ids of a question behind the nano prompt, up to the assistant's turn.

    Raises:
        QuestionError: it is empty or holds words that are not in the vocabulary.
    """
    words = normalised(question).split()
    hint = f"; it knows e.g. {', '.join(repr(e) for e in examples)}" if examples else ""
    if not words:
        raise QuestionError(f"the question is empty{hint}")
    if unknown := [word for word in words if f" {word}" not in tokenizer.vocab]:
        raise QuestionError(f"the nano model has never met {', '.join(map(repr, unknown))}{hint}")
    return tokenizer.encode(ASK + "".join(f" {word}" for word in words) + TURN)


def nano_scene(tokenizer: Tokenizer, tokens_per_image: Sequence[int], command: Command) -> list[int]:
    """Token ids of what comes before the question: pictures and the route command."""
    pictures = "".join(VISION_START + IMAGE_PAD * count + VISION_END for count in tokens_per_image)
    return tokenizer.encode(f"{IM_START}user\n{pictures}\ncommand: {COMMANDS[command]}")


def chat_question(tokens_per_image: Sequence[int], question: str) -> str:
    """The released models' whole prompt as text, image positions spelled out.

    Raises:
        QuestionError: the question is empty.
    """
    if not question.strip():
        raise QuestionError("the question is empty")
    pictures = "".join(VISION_START + IMAGE_PAD * count + VISION_END for count in tokens_per_image)
    return f"{IM_START}system\n{SYSTEM}{IM_END}\n{IM_START}user\n{pictures}{question.strip()}{TURN}"


def normalised(question: str) -> str:
    """Lower case, no marks, single spaces."""
    return " ".join(re.sub(r"[?!.,;:]", " ", question.lower()).split())


def question_vocabulary(base: Tokenizer, wordings: Iterable[str], answers: Iterable[str], multiple_of: int = 64) -> (
    Tokenizer
):  # fmt: skip
    """`base` with the words of questions and answers behind its own tokens, whose ids stay."""
    tokens = [token for token, _ in sorted(base.vocab.items(), key=lambda item: item[1])]
    asked = {f" {word}" for text in wordings for word in text.split()}
    said = {word for text in answers for word in re.findall(r" ?[A-Za-z]+|[,.;]", text)}
    tokens += sorted(({ASK} | asked | said) - set(tokens))
    while len(tokens) % multiple_of:
        tokens.append(f"<|unused_{len(tokens)}|>")
    backend = HFTokenizer(models.WordLevel({t: i for i, t in enumerate(tokens)}, unk_token=PAD))
    longest_first = "|".join(re.escape(t) for t in sorted(tokens, key=len, reverse=True))
    backend.pre_tokenizer = pre_tokenizers.Split(Regex(longest_first), "isolated")
    backend.decoder = decoders.Fuse()
    return Tokenizer(backend)
