"""The structured answer as data: literal text that is never invented, slots to fill (Fast-dDrive, 2605.23163).

A `Schema` is a list of literals and slots, grouped in sections.  `compile_template` turns it into token arrays: the
scaffold token or none at every position, the allow-list of every slot position, and the section blocks that diffusion
drafts at once.  A literal is tokenised on its own, so a slot never fuses with the text around it.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientgen.planning.tokenizer import NULL, TokenizerError, Vocabulary

CRITICAL_OBJECTS = (
    "nearby_vehicle", "pedestrian", "cyclist", "construction", "traffic_element", "weather_condition", "road_hazard",
    "emergency_vehicle", "animal", "special_vehicle", "conflicting_vehicle", "door_opening_vehicle",
)  # fmt: skip
LONGITUDINAL = ("keep speed", "speed up", "slow down", "come to stop")
LATERAL = ("go straight", "turn left", "turn right")
SECTIONS = ("critical_objects", "explanation", "future_meta_behavior", "trajectory")
SCAFFOLD = -1  # allow-list index of a position that holds no value


class AnswerError(ValueError):
    """A decoded answer that does not hold a trajectory."""


@dataclass(frozen=True)
class Literal:
    """Fixed text of the answer."""

    text: str


@dataclass(frozen=True)
class Slot:
    """`length` value tokens drawn from the allow-list `alphabet`; shorter values are filled up with NULL."""

    name: str
    length: int
    alphabet: str


@dataclass(frozen=True)
class Schema:
    """An answer format: per section its literals and slots, and the trajectory's sampling."""

    name: str
    sections: Mapping[str, tuple[Literal | Slot, ...]]
    times_s: tuple[float, ...]
    integers: int  # digits before the point of a coordinate
    decimals: int
    before_sign: str = ""  # text that a sign's token begins with


def driving_schema(
    name: str,
    times_s: Sequence[float],
    explanation: int,
    integers: int,
    decimals: int = 2,
    spaced: bool = False,
) -> Schema:
    """The Fast-dDrive answer with `explanation` text tokens and waypoints at `times_s` seconds.

    Args:
        spaced: the released form: a space before every sign, so that in Qwen's BPE signs never fuse with the structure
            before them, and the decimal point a value that the model writes.
    """
    objects: list[Literal | Slot] = [Literal('{"critical_objects": {"' + CRITICAL_OBJECTS[0] + '": "')]
    for i, key in enumerate(CRITICAL_OBJECTS):
        objects.append(Slot(key, 1, "yes_no"))
        if i + 1 < len(CRITICAL_OBJECTS):
            objects.append(Literal('", "' + CRITICAL_OBJECTS[i + 1] + '": "'))
    explain = (Literal('"}, "explanation": "'), Slot("explanation", explanation, "text"))
    meta = (
        Literal('", "future_meta_behavior": {"longitudinal": "'),
        Slot("longitudinal", 3, "text"),
        Literal('", "lateral": "'),
        Slot("lateral", 3, "text"),
    )
    path: list[Literal | Slot] = [Literal('"}, "trajectory": "[[')]
    for i in range(len(times_s)):
        for axis in "xy":
            path += [Slot(f"{axis}{i}.sign", 1, "sign"), Slot(f"{axis}{i}.int", integers, "digit")]
            path.append(Slot(f"{axis}{i}.point", 1, "point") if spaced else Literal("."))
            path.append(Slot(f"{axis}{i}.frac", decimals, "digit"))
            if axis == "x":
                path.append(Literal(","))
        path.append(Literal("], [" if i + 1 < len(times_s) else ']]"}'))
    sections = dict(zip(SECTIONS, (tuple(objects), explain, meta, tuple(path)), strict=True))
    return Schema(name, sections, tuple(times_s), integers, decimals, " " if spaced else "")


HALF_SECONDS = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)
NANO = driving_schema("nano", HALF_SECONDS, explanation=12, integers=2, decimals=1)
WOD_E2E = driving_schema("wod-e2e", (1.0, 2.0, 3.0, 4.0, 5.0), explanation=192, integers=3, spaced=True)
NUSCENES = driving_schema("nuscenes", HALF_SECONDS, explanation=192, integers=3, spaced=True)
SCHEMAS = {schema.name: schema for schema in (NANO, WOD_E2E, NUSCENES)}


@dataclass(frozen=True)
class Template:
    """A schema in tokens; L positions, K allow-lists, V vocabulary."""

    schema: Schema
    scaffold: NDArray[np.int64]  # (L,) token id, or -1 where the model writes
    allow: NDArray[np.int64]  # (L,) row of `allow_lists`, SCAFFOLD (-1) at scaffold positions
    allow_lists: NDArray[np.bool_]  # (K, V)
    section: NDArray[np.int64]  # (L,) index into SECTIONS
    slots: tuple[tuple[str, int, int], ...]  # (name, start, end)
    blocks: tuple[tuple[int, int], ...]  # (start, end) of every diffusion block, in order
    filler: int  # token id that fills up short values

    def __len__(self) -> int:
        return len(self.scaffold)

    @property
    def is_value(self) -> NDArray[np.bool_]:
        return self.scaffold < 0


def compile_template(
    schema: Schema, tokenizer: Vocabulary, bd_size: int, vocab_size: int = 0, filler: str = NULL
) -> Template:
    """Tokenise `schema` and cut each section into blocks of `bd_size` value tokens.

    Args:
        vocab_size: width of the model's logits, where that is more than the vocabulary (released models are padded).
        filler: the token that fills up short text.

    Raises:
        TokenizerError: the vocabulary lacks a token that a slot needs, or has more than `vocab_size`.
    """
    if vocab_size and tokenizer.vocab_size > vocab_size:
        raise TokenizerError(
            f"the vocabulary has {tokenizer.vocab_size} tokens, the model {vocab_size}: they do not belong together; "
            "take tokenizer files and weights from one release"
        )
    ids: list[int] = []
    allow: list[int] = []
    section: list[int] = []
    slots: list[tuple[str, int, int]] = []
    allowed = {name: list(tokens) for name, tokens in tokenizer.alphabets.items()}
    null, fill = tokenizer.id_of(NULL), tokenizer.id_of(filler)
    allowed["text"] = sorted({fill, *allowed["text"]} - {null} | ({null} & {fill}))
    alphabets = {name: i for i, name in enumerate(allowed)}
    needed = {part.alphabet for parts in schema.sections.values() for part in parts if isinstance(part, Slot)}
    if lacking := sorted(needed - alphabets.keys()):
        raise TokenizerError(
            f"the vocabulary cannot write a '{schema.name}' answer, it has no {', '.join(lacking)} tokens: ask for the "
            "schema that the model was trained with"
        )
    for s, parts in enumerate(schema.sections.values()):
        for part in parts:
            if isinstance(part, Literal):
                tokens, row = tokenizer.encode(part.text), SCAFFOLD
            else:
                slots.append((part.name, len(ids), len(ids) + part.length))
                tokens, row = [-1] * part.length, alphabets[part.alphabet]
            ids += tokens
            allow += [row] * len(tokens)
            section += [s] * len(tokens)
    lists = np.zeros((len(alphabets), vocab_size or tokenizer.vocab_size), bool)
    for name, row in alphabets.items():
        lists[row, allowed[name]] = True
    scaffold, sections = np.array(ids), np.array(section)
    blocks = section_blocks(scaffold < 0, sections, bd_size)
    return Template(schema, scaffold, np.array(allow), lists, sections, tuple(slots), blocks, fill)


def section_blocks(
    is_value: NDArray[np.bool_], section: NDArray[np.int64], bd_size: int
) -> tuple[tuple[int, int], ...]:
    """Blocks as (start, end): values by running index within their section, scaffold with its nearest value.

    (Fast-dDrive, section-aware blocks.)  A scaffold token between two values at equal distance goes with the later one.
    """
    block = np.full(len(is_value), -1)
    next_block = 0
    for s in np.unique(section):
        positions = np.flatnonzero(section == s)
        values = positions[is_value[positions]]
        block[values] = next_block + np.arange(len(values)) // bd_size
        for p in positions[~is_value[positions]]:
            block[p] = block[min(values, key=lambda v: (abs(v - p), v < p))]
        next_block += -(-len(values) // bd_size)
    edges = np.flatnonzero(np.diff(block)) + 1
    return tuple(zip([0, *edges.tolist()], [*edges.tolist(), len(block)], strict=True))


def format_number(value: float, integers: int, decimals: int) -> str:
    """Fixed-width signed decimal, saturating: -3.456 with (2, 2) is '-03.46'."""
    limit = 10**integers - 10**-decimals
    return f"{min(max(value, -limit), limit):+0{integers + decimals + 2}.{decimals}f}"


def encode_answer(template: Template, tokenizer: Vocabulary, sections: Mapping[str, Any]) -> NDArray[np.int64]:
    """Ground truth to answer tokens (L,).  `sections` holds the four sections, the trajectory as (T, 2) m.

    An explanation that is longer than its slot is cut.

    Raises:
        AnswerError: a value cannot stand in its slot (a quote in the explanation, say).
    """
    schema = template.schema
    values: dict[str, str] = dict(sections["critical_objects"])
    values["explanation"] = sections["explanation"]
    values |= sections["future_meta_behavior"]
    path = np.asarray(sections["trajectory"], np.float64)
    if path.shape != (len(schema.times_s), 2) or not np.isfinite(path).all():
        raise AnswerError(f"a '{schema.name}' trajectory is ({len(schema.times_s)}, 2) finite m, got {path.shape}")
    for i, point in enumerate(path):
        for axis, value in zip("xy", point, strict=True):
            text = format_number(float(value), schema.integers, schema.decimals)
            values[f"{axis}{i}.sign"], values[f"{axis}{i}.point"] = schema.before_sign + text[0], "."
            values[f"{axis}{i}.int"], values[f"{axis}{i}.frac"] = text[1:].split(".")
    ids = template.scaffold.copy()
    for name, start, end in template.slots:
        tokens = tokenizer.encode(values[name])
        if len(tokens) > end - start and name != "explanation":
            raise AnswerError(f"{values[name]!r} is {len(tokens)} tokens, the {name} has {end - start} tokens at most")
        tokens = tokens[: end - start]
        if not template.allow_lists[template.allow[start], tokens].all():
            raise AnswerError(f"{values[name]!r} cannot be the {name}: no quotes, backslashes, line ends or odd tokens")
        ids[start:end] = tokens + [template.filler] * (end - start - len(tokens))
    return ids


def decode_answer(template: Template, tokenizer: Vocabulary, ids: Sequence[int]) -> tuple[str, dict[str, Any]]:
    """Answer tokens (L,) to the JSON text and its sections, the trajectory as a list of [x, y] in m.

    Raises:
        AnswerError: the text is not the JSON object that the schema describes.
    """
    text = tokenizer.decode([int(i) for i in ids if i != template.filler])
    try:
        answer = json.loads(text)
        numbers = [float(n) for n in re.findall(r"[+-]\d+\.\d+", answer["trajectory"])]
    except (json.JSONDecodeError, KeyError, TypeError) as error:
        raise AnswerError(f"the answer is not the schema's JSON object ({error}): {text[:120]}...") from error
    steps = len(template.schema.times_s)
    if len(numbers) != 2 * steps:
        raise AnswerError(f"{len(numbers)} coordinates where the schema '{template.schema.name}' has {2 * steps}")
    return text, answer | {"trajectory": [list(pair) for pair in zip(numbers[::2], numbers[1::2], strict=True)]}
