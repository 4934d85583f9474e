"""How well questions are answered: accuracy per type, beside what can be said without looking.

Three answerers who see nothing stand beside the model: the control, trained alike on zeros in place of pictures; the
most frequent training answer to each question for each route command; and the most frequent one overall.  Balanced
accuracy is the mean over a type's answers of how often each, being true, is given.  Intervals are 95 % bootstraps over
drives, drawn alike for all answerers; "above" says that the whole interval of the difference to the control is above 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from efficientgen.eval.metrics import Estimate, estimate, resampling

MODEL, UNSEEN, CONTROL, TABLE, MAJORITY = "model", "unseen wording", "no-image control", "command table", "majority"
I64 = NDArray[np.int64]


@dataclass(frozen=True)
class Truth:
    """One half of a set without its pictures: true answers (N, T), -1 not asked; command (N,); drive of each moment."""

    answers: I64
    command: I64
    drives: Sequence[str]


def without_looking(train: Truth, test: Truth) -> dict[str, I64]:
    """(N, T) 1 right, 0 wrong, -1 not asked of the two answerers that only count: `TABLE` and `MAJORITY`."""
    table, majority = np.full_like(test.answers, -1), np.full_like(test.answers, -1)
    for t in range(test.answers.shape[1]):
        for kind, commands in ((table, np.unique(train.command)), (majority, (None,))):
            for command in commands:
                mine, theirs = _asked(train, t, command), _asked(test, t, command)
                best = np.bincount(train.answers[mine, t]).argmax() if mine.any() else -1
                kind[theirs, t] = test.answers[theirs, t] == best
    return {TABLE: table, MAJORITY: majority}


def score_questions(
    names: Sequence[str],
    answers: Sequence[Sequence[str]],
    truth: Truth,
    right: Mapping[str, I64],
    resamples: int = 1000,
    seed: int = 0,
) -> dict[str, Any]:
    """Per type and answerer accuracy and balanced accuracy, the model's difference to the control, and counts.

    Args:
        names, answers: the types and their possible answers.
        right: by answerer (N, T): 1 right, 0 wrong, -1 not asked; one may have been asked less than another.
    """
    drives, drive = np.unique(np.array(truth.drives), return_inverse=True)
    out: dict[str, Any] = {}
    for t, name in enumerate(names):
        count = (len(drives), len(answers[t]))
        picks = resampling(len(drives), name, resamples, seed)
        row: dict[str, Any] = {"asked": int((truth.answers[:, t] >= 0).sum())}
        drawn: dict[str, NDArray[np.float64]] = {}
        for who, marks in right.items():
            held = marks[:, t] >= 0
            asked = _counts(drive[held], truth.answers[held, t], np.ones(held.sum()), count)
            hits = _counts(drive[held], truth.answers[held, t], marks[held, t], count)
            accuracy, balanced = _scores(asked.sum(0)[None], hits.sum(0)[None])
            many = _scores(asked[picks].sum(1), hits[picks].sum(1))
            drawn[who] = many[1]
            row[who] = {
                "accuracy": asdict(_estimate(accuracy[0], many[0], int(held.sum()))),
                "balanced": asdict(_estimate(balanced[0], many[1], int(held.sum()))),
            }
            if who == MODEL:
                row["answers"] = {
                    answer: [int(asked[:, k].sum()), int(hits[:, k].sum())] for k, answer in enumerate(answers[t])
                }
        if MODEL in right and CONTROL in right:
            gain = row[MODEL]["balanced"]["mean"] - row[CONTROL]["balanced"]["mean"]
            difference = _estimate(gain, drawn[MODEL] - drawn[CONTROL], row["asked"])
            row["over control"] = asdict(difference)
            row["above"] = difference.low > 0
        out[name] = row
    return out


def means(types: Mapping[str, Any], who: str) -> dict[str, float]:
    """Unweighted means over types of an answerer's accuracy and balanced accuracy."""
    return {key: float(np.mean([row[who][key]["mean"] for row in types.values()])) for key in ("accuracy", "balanced")}


def _asked(half: Truth, t: int, command: int | None) -> NDArray[np.bool_]:
    held = half.answers[:, t] >= 0
    return held if command is None else held & (half.command == command)


def _counts(drive: I64, answer: I64, value: NDArray[Any], shape: tuple[int, int]) -> NDArray[np.float64]:
    """(D, A) sums of `value` by drive and true answer."""
    out = np.zeros(shape)
    np.add.at(out, (drive, answer), value)
    return out


def _scores(asked: NDArray[np.float64], hits: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Accuracy and balanced accuracy (R,) from counts (R, A); answers that are never true are left out."""
    with np.errstate(invalid="ignore", divide="ignore"):
        recall = hits / asked
        balanced = np.nanmean(np.where(asked > 0, recall, np.nan), 1)
        return hits.sum(1) / asked.sum(1), balanced


def _estimate(value: float, drawn: NDArray[np.float64], count: int) -> Estimate:
    return estimate(float(value), drawn[~np.isnan(drawn)], count)
