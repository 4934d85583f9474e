"""The nano prompt: three camera images, the command and a short ego history, always the same number of tokens.

The form follows the WOD-E2E prompt of Fast-dDrive (positions and speeds of the past, route command) cut to what a nano
model needs: positions at -1.5, -1.0 and -0.5 s, and speed, acceleration and yaw rate now.  A history that is withheld
(`known=False`, used in training against inertia) is spelled with NULL tokens, so the length never changes.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from efficientgen.perception.types import Command, EgoHistory, EgoState
from efficientgen.planning.schema import format_number
from efficientgen.planning.tokenizer import IM_END, IM_START, IMAGE_PAD, NULL, VISION_END, VISION_START, Vocabulary

COMMANDS = {Command.GO_STRAIGHT: "go straight", Command.GO_LEFT: "turn left", Command.GO_RIGHT: "turn right"}
HISTORY_INDICES = (-7, -5, -3)  # of the 4 Hz history: -1.5, -1.0, -0.5 s
LITERALS = (IM_START + "user\n", "\ncommand: ", "\npast: ", "\nspeed ", ", acceleration ", ", yaw rate ", "; ",
            IM_END + "\n" + IM_START + "assistant\n")  # fmt: skip


@dataclass(frozen=True)
class EgoNumbers:
    """What the prompt says of the ego: `past` [(x, y)] m in the ego frame now, oldest first, and its motion."""

    past: tuple[tuple[float, float], ...]
    speed: float
    acceleration: float
    yaw_rate: float


def ego_numbers(history: EgoHistory) -> EgoNumbers:
    """The prompt's numbers from a 4 Hz history that ends now."""
    now = history.states[-1]
    past = tuple(_in_ego(now, history.states[i]) for i in HISTORY_INDICES)
    return EgoNumbers(past, now.speed, now.acceleration, now.yaw_rate)


def _in_ego(now: EgoState, then: EgoState) -> tuple[float, float]:
    dx, dy = then.x - now.x, then.y - now.y
    c, s = math.cos(now.yaw), math.sin(now.yaw)
    return c * dx + s * dy, -s * dx + c * dy


def prompt_ids(
    tokenizer: Vocabulary, images: int, tokens_per_image: int, command: Command, ego: EgoNumbers, known: bool = True
) -> list[int]:
    """Token ids of the whole prompt up to the assistant's turn."""
    begin, say_command, say_past, say_speed, say_acceleration, say_yaw, separator, end = LITERALS
    picture = VISION_START + IMAGE_PAD * tokens_per_image + VISION_END
    head = begin + picture * images + say_command + COMMANDS[command] + say_past
    numbers = [f"{n}{separator}" for point in ego.past for n in (_number(point[0]), _number(point[1]))]
    tail = [
        say_speed + _number(ego.speed),
        say_acceleration + _number(ego.acceleration),
        say_yaw + _number(ego.yaw_rate),
    ]
    ids = tokenizer.encode(head)
    body = tokenizer.encode("".join(numbers + tail))
    if not known:
        null = tokenizer.id_of(NULL)
        spoken = set(tokenizer.alphabets["digit"]) | set(tokenizer.alphabets["sign"])
        body = [null if i in spoken else i for i in body]
    return ids + body + tokenizer.encode(end)


def _number(value: float) -> str:
    return format_number(value, integers=2, decimals=2)
