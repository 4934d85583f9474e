"""Reading an answer that no scaffold held: what a model wrote freely, or a prediction file says it wrote.

The released post-processing (Fast-dDrive, WOD-E2E): drop fillers and masks, parse the JSON object, fall back on
patterns where it does not parse, and repeat the last waypoint where some are missing.  A `Reading` says which of that
was needed; a car must not be driven by a reading that was padded, a benchmark may score it.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import numpy as np

from efficientgen.perception.types import F64
from efficientgen.planning.schema import CRITICAL_OBJECTS, AnswerError, Schema
from efficientgen.planning.tokenizer import MASK, NULL

NUMBER = r"\s*([+-]?\s?\d+(?:\.\d+)?)\s*"
PAIR = re.compile(rf"\[{NUMBER},{NUMBER}\]")
STRING = r'"{key}"\s*:\s*"((?:[^"\\]|\\.)*)"?'


@dataclass(frozen=True)
class Reading:
    """What was understood: `sections` as `decode_answer` gives them, `waypoints` (T, 2) m."""

    sections: dict[str, Any]
    waypoints: F64
    parsed: bool  # the text is one JSON object, as the schema has it
    padded: int  # waypoints that were missing and repeat the last one


def read_answer(text: str, schema: Schema) -> Reading:
    """The sections and the trajectory in `text`, strict or not.

    Raises:
        AnswerError: not even one waypoint can be read.
    """
    for name in (NULL, MASK):
        text = text.replace(name, "")
    answer = _object(text)
    parsed = answer is not None
    if answer is None:
        answer = _patterns(text)
    path = answer.get("trajectory", "")
    # Where the trajectory's key is damaged, too, its pairs are all the pairs there are: no other section has any.
    pairs = PAIR.findall(path if isinstance(path, str) else json.dumps(path)) or PAIR.findall(text)
    points = [[float(re.sub(r"\s", "", n)) for n in pair] for pair in pairs][: len(schema.times_s)]
    if not points:
        raise AnswerError(f"no waypoint [x, y] to be read in the answer: {text[:120]!r}...")
    missing = len(schema.times_s) - len(points)
    waypoints = np.array(points + [points[-1]] * missing, np.float64)
    return Reading(answer | {"trajectory": waypoints.tolist()}, waypoints, parsed, missing)


def _object(text: str) -> dict[str, Any] | None:
    """The JSON object between the first and the last brace; None when there is none."""
    begin, end = text.find("{"), text.rfind("}")
    try:
        found = json.loads(text[begin : end + 1]) if 0 <= begin < end else None
    except (json.JSONDecodeError, RecursionError):
        return None
    return found if isinstance(found, dict) else None


def _patterns(text: str) -> dict[str, Any]:
    """The sections that patterns find in broken JSON."""
    answers = {key: re.search(rf'"{key}"\s*:\s*"(yes|no)"', text) for key in CRITICAL_OBJECTS}
    found: dict[str, Any] = {"critical_objects": {key: match[1] for key, match in answers.items() if match}}
    strings = {
        key: re.search(STRING.format(key=key), text) for key in ("explanation", "longitudinal", "lateral", "trajectory")
    }
    found |= {key: strings[key][1] for key in ("explanation", "trajectory") if strings[key]}  # type: ignore[index]
    meta = {key: strings[key][1] for key in ("longitudinal", "lateral") if strings[key]}  # type: ignore[index]
    return found | {"future_meta_behavior": meta}
