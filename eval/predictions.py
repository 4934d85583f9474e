"""Prediction files in the JSON form of the Fast-dDrive and dVLM-AD scorers: read, score, write.

A list of records (or {"predictions": list}), each with `sample_id` and one of: `pred_trajectory` [[x, y], ...] in the
ego frame (x forward, y left), or the model's text (`model_output_raw`, or the last of `conversations`), whose
trajectory is then read leniently.  Five points stand for 1 .. 5 s, six for 0.5 .. 3 s, twenty for 0.25 .. 5 s.  The
released scorer replaces what it cannot read by a standing car; here it is an error that names the record, so that
nothing is scored that nobody predicted.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.perception.types import F64

TIMES_S: dict[int, F64] = {
    n: np.asarray(np.arange(1, n + 1) * dt, np.float64) for n, dt in ((5, 1.0), (6, 0.5), (20, 0.25))
}
_NUMBER = r"([+-]?(?:\d+(?:\.\d+)?|\.\d+))"
_PAIR = re.compile(rf"\[\s*{_NUMBER}\s*,\s*{_NUMBER}\s*\]")
_TEXTS = ("model_output_raw", "output", "response", "prediction", "text")


class PredictionFileError(ValueError):
    """A prediction file that cannot be read as a whole."""


class PredictionError(ValueError):
    """One sample's prediction that is missing or unreadable."""


def read_predictions(path: Path) -> dict[str, Mapping[str, Any]]:
    """Records by `sample_id`, not yet interpreted.

    Raises:
        PredictionFileError: no JSON of this form, or one sample twice.
    """
    try:
        held = json.loads(path.read_text("utf-8"))
    except FileNotFoundError as error:
        raise PredictionFileError(f"{path} does not exist") from error
    except ValueError as error:
        raise PredictionFileError(f"{path} is not JSON ({error})") from error
    records = held.get("predictions") if isinstance(held, dict) else held
    if not isinstance(records, list) or any(not isinstance(r, dict) or not r.get("sample_id") for r in records):
        raise PredictionFileError(
            f"{path} is no list of records with a sample_id (or such a list under 'predictions'): see docs/offline.md"
        )
    out = {str(record["sample_id"]): record for record in records}
    if len(out) != len(records):
        raise PredictionFileError(f"{path} predicts {len(records) - len(out)} samples more than once")
    return out


def trajectory_of(record: Mapping[str, Any]) -> tuple[F64, F64]:
    """Times (T,) s and way-points (T, 2) m of a record.

    Raises:
        PredictionError: no trajectory, NaN in it, or a number of points whose times are unknown.
    """
    name = record.get("sample_id", "?")
    points = record.get("pred_trajectory")
    if not points:
        points = _from_text(record)
    if not points:
        raise PredictionError(f"the prediction of {name} holds no trajectory")
    try:
        path = np.array(points, np.float64)
    except (TypeError, ValueError) as error:
        raise PredictionError(f"the trajectory of {name} is not a list of [x, y]") from error
    given = record.get("times_s")
    times: F64 | None = TIMES_S.get(len(path)) if given is None else np.array(given, np.float64)
    if path.ndim != 2 or path.shape[1] != 2 or times is None or times.shape != path.shape[:1]:
        raise PredictionError(
            f"the trajectory of {name} is {path.shape}: 5 points stand for 1 .. 5 s, 6 for 0.5 .. 3 s, 20 for 4 Hz to "
            "5 s; give 'times_s' for others"
        )
    if not np.isfinite(path).all():
        raise PredictionError(f"the trajectory of {name} holds NaN or infinity")
    return times, path


def prediction_record(sample: str, times_s: F64, waypoints: F64, text: str = "") -> dict[str, Any]:
    """One record of the file; `times_s` only where the number of points does not tell."""
    known = TIMES_S.get(len(waypoints))
    plain = {} if known is not None and np.allclose(known, times_s) else {"times_s": np.asarray(times_s).tolist()}
    return {"sample_id": sample, "pred_trajectory": np.asarray(waypoints).tolist(), "model_output_raw": text, **plain}


def write_predictions(records: Iterable[Mapping[str, Any]], path: Path) -> int:
    """Write a prediction file, whole or not at all, one record a line; returns how many there are."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    count = 0
    with draft.open("w", encoding="utf-8") as file:
        file.write("[")
        for record in records:
            file.write((",\n" if count else "\n") + json.dumps(record))
            count += 1
        file.write("\n]\n")
    os.replace(draft, path)
    return count


def _from_text(record: Mapping[str, Any]) -> list[tuple[float, float]]:
    """The pairs after the word trajectory in the model's own words; [] if there are none."""
    conversations = record.get("conversations")
    last = conversations[-1] if isinstance(conversations, list) and conversations else ""
    spoken = last.get("value", "") if isinstance(last, dict) else last
    for text in (spoken, *(record.get(key, "") for key in _TEXTS)):
        if isinstance(text, str) and text:
            tail = text[max(text.lower().rfind("trajectory"), 0) :].replace("\\", "")
            pairs = [(float(x), float(y)) for x, y in _PAIR.findall(tail.replace("[[", "[ ").replace("]]", " ]"))]
            if pairs:
                return pairs
    return []
