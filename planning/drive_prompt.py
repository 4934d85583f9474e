"""How the released planners are asked: tasks, pictures, route command and three seconds of ego history, as chat text.

The structure is that of Fast-dDrive's WOD-E2E prompt (2605.23163, section 4.1; dVLM-AD): a role, four tasks in the
order of the answer's sections, then the input.  The words are our own, and a released checkpoint drives best on those
that it was trained with: put them into the checkpoint directory as `prompt.txt`, and one point of the history as
`history.txt` (or `prompt_template` and `history_template` in its `config.json`).  In the text stand for

    <image>            all pictures; or as many times as there are pictures, for one each
    {command}          GO_STRAIGHT, GO_LEFT or GO_RIGHT
    {history}          the points of the history, oldest first, joined by "; "
    {t} {x} {y} {ax} {ay} {vx} {vy}    in a history point: seconds (-3.0 ... +0.0), m, m/s^2, m/s in the ego frame now

Text with `<|im_start|>` in it is taken as the whole conversation, other text becomes the user's turn of one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from efficientgen.perception.types import HISTORY_PERIOD_NS, NS, Command, EgoHistory, EgoState
from efficientgen.planning.schema import CRITICAL_OBJECTS, LATERAL, LONGITUDINAL, NUSCENES, Schema
from efficientgen.planning.tokenizer import IM_END, IM_START, IMAGE_PAD, VISION_END, VISION_START, Vocabulary

TASKS = """You are driving a car. Look at the road, then write one JSON object with these four parts, in this order.
1. "critical_objects": is there one that matters for the car? Answer "yes" or "no" for each of: {objects}.
2. "explanation": what you see, what the others will do, and what the car should do because of it.
3. "future_meta_behavior": "longitudinal", one of {longitudinal}, and "lateral", one of {lateral}.
4. "trajectory": where the car will be, {points} points [x, y], one every {period} s up to {horizon} s from now, in \
metres, x to the front and y to the left of where it is now.
Input:
- {views}: <image>
- route command: {command}
- the car until now, as time, position, acceleration and velocity: {history}
Output:"""
VIEWS = "pictures of the front left, the front and the front right camera, now"
PAST_VIEWS = "three pictures of the front camera over the last second, the last one now"
POINT = "({t} s) position [{x}, {y}] m, acceleration [{ax}, {ay}] m/s^2, velocity [{vx}, {vy}] m/s"
SYSTEM = "You are a helpful assistant."
SEPARATOR, WITHHELD = "; ", "not known"
EVERY, POINTS = 2, 7  # every second state at 4 Hz: 7 points, 0.5 s apart


class PromptError(ValueError):
    """A prompt text that cannot be filled in; the message says what it lacks."""


@dataclass(frozen=True)
class DrivePrompt:
    """The text to be filled in per observation, and one point of the history in it."""

    text: str
    point: str = POINT


def default_prompt(schema: Schema) -> DrivePrompt:
    """Our words for an answer schema."""
    listed = {"objects": CRITICAL_OBJECTS, "longitudinal": LONGITUDINAL, "lateral": LATERAL}
    values = {key: ", ".join(words) for key, words in listed.items()}
    times = schema.times_s
    values |= {"points": str(len(times)), "period": f"{times[0]:g}", "horizon": f"{times[-1]:g}"}
    values["views"] = PAST_VIEWS if schema.name == NUSCENES.name else VIEWS
    return DrivePrompt(_conversation(_fill(TASKS, values)))


def load_prompt(directory: Path, config: Mapping[str, Any], schema: Schema) -> DrivePrompt:
    """The prompt that a checkpoint directory brings, else ours.

    Raises:
        PromptError: its text has no `<image>`, is no text or not UTF-8.
    """
    ours = default_prompt(schema)
    text = _override(directory / "prompt.txt", config.get("prompt_template"))
    point = _override(directory / "history.txt", config.get("history_template"))
    if text is not None and "<image>" not in text:
        raise PromptError(f"the prompt of {directory} has no <image>: write it where the pictures belong")
    return DrivePrompt(ours.text if text is None else _conversation(text), point or ours.point)


def drive_prompt_ids(
    prompt: DrivePrompt,
    tokenizer: Vocabulary,
    tokens_per_picture: Sequence[int],
    command: Command,
    history: EgoHistory | None,
) -> list[int]:
    """Token ids up to the assistant's turn.

    Args:
        tokens_per_picture: vision tokens of each picture, in order.
        history: None withholds it.

    Raises:
        PromptError: the number of `<image>` is neither 1 nor that of the pictures, or the history is too short.
    """
    values = {"command": command.value, "history": history_text(history, prompt.point) if history else WITHHELD}
    pieces = _fill(prompt.text, values).split("<image>")
    if len(pieces) - 1 not in (1, len(tokens_per_picture)):
        raise PromptError(
            f"{len(pieces) - 1} <image> in the prompt for {len(tokens_per_picture)} pictures: write it once for all, "
            "or once for each"
        )
    start, pad, end = (tokenizer.id_of(token) for token in (VISION_START, IMAGE_PAD, VISION_END))
    seen = [[start, *[pad] * count, end] for count in tokens_per_picture]
    groups = seen if len(pieces) - 1 == len(seen) else [[i for picture in seen for i in picture]]
    ids = tokenizer.encode(pieces[0])
    for group, piece in zip(groups, pieces[1:], strict=True):
        ids += group + tokenizer.encode(piece)
    return ids


def history_text(history: EgoHistory, point: str = POINT) -> str:
    """The last three seconds, a point every 0.5 s, in the ego frame now, two decimals.

    Raises:
        PromptError: fewer states than that takes.
    """
    states = history.states[::-1][: EVERY * (POINTS - 1) + 1 : EVERY][::-1]
    if len(states) < POINTS:
        raise PromptError(
            f"{len(history.states)} ego states, {EVERY * (POINTS - 1) + 1} at 4 Hz are needed: plan later in the drive"
        )
    return SEPARATOR.join(_fill(point, _numbers(states[-1], state)) for state in states)


def _numbers(now: EgoState, then: EgoState) -> dict[str, str]:
    """A history point's values; acceleration has the part across, v times yaw rate, that keeps the car on its bend."""
    c, s = math.cos(now.yaw), math.sin(now.yaw)
    dx, dy, turn = then.x - now.x, then.y - now.y, then.yaw - now.yaw
    ct, st, across = math.cos(turn), math.sin(turn), then.speed * then.yaw_rate
    values = {
        "x": c * dx + s * dy,
        "y": -s * dx + c * dy,
        "ax": ct * then.acceleration - st * across,
        "ay": st * then.acceleration + ct * across,
        "vx": ct * then.speed,
        "vy": st * then.speed,
    }
    t = round((then.stamp_ns - now.stamp_ns) / HISTORY_PERIOD_NS) * HISTORY_PERIOD_NS / NS
    return {"t": f"{t:+.1f}"} | {key: f"{round(value, 2) + 0.0:.2f}" for key, value in values.items()}


def _conversation(text: str) -> str:
    """`text` as the user's turn, before the assistant's."""
    if IM_START in text:
        return text
    return f"{IM_START}system\n{SYSTEM}{IM_END}\n{IM_START}user\n{text}{IM_END}\n{IM_START}assistant\n"


def _fill(text: str, values: Mapping[str, str]) -> str:
    """Put values where their names stand in braces; every other brace stays."""
    for key, value in values.items():
        text = text.replace("{" + key + "}", value)
    return text


def _override(path: Path, given: Any) -> str | None:
    if path.exists():
        try:
            return path.read_text("utf-8")
        except UnicodeDecodeError as error:
            raise PromptError(f"{path} is not UTF-8 text ({error}); save it as UTF-8") from error
    if given is not None and not isinstance(given, str):
        raise PromptError(f"config.json: a prompt template is one string, got a {type(given).__name__}")
    return given
