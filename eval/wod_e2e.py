"""WOD-E2E: the Rater Feedback Score and ADE, as the Waymo Open Dataset's `rater_feedback_utils` defines them.

Three raters' trajectories with scores from 0 to 10 stand for what people would accept.  Around each rater lies a trust
region that grows with speed, long ahead and narrow to the side, judged at 3 s and at 5 s.  Inside, a prediction gets
the rater's score; outside, the score decays tenfold per threshold, but never below 4.  Pure numpy, in float64, all
frames at once; the single-frame functions are a batch of one.

Trajectories are 20 points at 0.25 .. 5 s (4 Hz) in the vehicle frame of the frame (x forward, y left).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from efficientgen.perception.types import F64

POINTS = 20
FREQUENCY = 4  # Hz
RATERS = 3
TIMES_S = np.arange(1, POINTS + 1) / FREQUENCY
_JUDGED = np.array([3, 5]) * FREQUENCY - 1  # indices of 3 s and 5 s
_LATERAL_M = np.array([1.0, 1.8])  # thresholds at 3 s and 5 s; four times that ahead
_LONGITUDINAL = 4.0
_SLOW, _FAST = 1.4, 11.0  # m/s: half the thresholds up to the one, all from the other
_DECAY = 0.1
FLOOR = 4.0  # outside the trust region
CLUSTERS = (
    "construction", "intersection", "pedestrian", "cyclist", "multi_lane_maneuver", "single_lane_maneuver", "cut_in",
    "foreign_object_debris", "special_vehicle", "spotlight", "others",
)  # fmt: skip


class TrajectoryShapeError(ValueError):
    """Arrays of the wrong shape, or numbers that are not finite."""


class UnratedFrameError(ValueError):
    """A frame that no rater has judged: it has no Rater Feedback Score."""


@dataclass(frozen=True)
class RaterFeedback:
    """One frame, or a batch of B frames with a leading axis."""

    score: float | F64  # () or (B,): expectation over the predictions' probabilities, 0 .. 10
    per_prediction: F64  # (P,) or (B, P)
    within_trust_region: NDArray[np.bool_]  # (P,) or (B, P): of one rater, at 3 s and at 5 s


def rater_feedback_score(
    predictions: ArrayLike,
    probabilities: ArrayLike,
    rater_trajectories: Sequence[ArrayLike] | NDArray[np.float64],
    rater_scores: ArrayLike,
    initial_speed: float,
) -> RaterFeedback:
    """The Rater Feedback Score of one frame.

    Args:
        predictions: (P, 20, 2) m.
        probabilities: (P,), of the predictions.
        rater_trajectories: (R, 20, 2) m; also R arrays (T, 2): they are cut to 20 points, or repeat their last one.
            The first three count; where there are fewer, the last one stands in.
        rater_scores: (R,), 0 .. 10.
        initial_speed: m/s, now: hypot of the last past velocity.

    Raises:
        UnratedFrameError: no rater, or a negative score (the data set's mark of an unrated frame).
        TrajectoryShapeError: a wrong shape, NaN or infinity.
    """
    raters, scores = three_raters(rater_trajectories, rater_scores)
    predicted, weights = np.asarray(predictions, np.float64), np.asarray(probabilities, np.float64)
    got = rater_feedback_batch(predicted[None], weights[None], raters[None], scores[None], np.array([initial_speed]))
    return RaterFeedback(float(np.asarray(got.score)[0]), got.per_prediction[0], got.within_trust_region[0])


def three_raters(trajectories: Sequence[ArrayLike] | NDArray[np.float64], scores: ArrayLike) -> tuple[F64, F64]:
    """Exactly three trajectories (3, 20, 2) with scores (3,), by cutting or by repeating the last.

    Raises:
        UnratedFrameError: no rater, or a negative score.
        TrajectoryShapeError: trajectories and scores do not belong together.
    """
    held = [np.asarray(t, np.float64) for t in trajectories][:RATERS]
    rated = np.asarray(scores, np.float64)
    if not held or not rated.size:
        raise UnratedFrameError("the frame has no rater trajectory: only rated frames have a Rater Feedback Score")
    if rated.ndim != 1 or len(rated) != len(trajectories):
        raise TrajectoryShapeError(f"{len(trajectories)} rater trajectories with scores of shape {rated.shape}")
    if any(t.ndim != 2 or t.shape[1] != 2 or not len(t) for t in held):
        raise TrajectoryShapeError(f"rater trajectories must be (T, 2), got {[t.shape for t in held]}")
    if (rated[:RATERS] < 0).any():
        raise UnratedFrameError("a rater's score is negative: the data set marks unrated frames so")
    held = [np.concatenate([t[:POINTS], np.repeat(t[-1:], max(0, POINTS - len(t)), 0)]) for t in held]
    fill = RATERS - len(held)
    return np.stack(held + held[-1:] * fill), np.concatenate([rated[:RATERS], np.repeat(rated[-1:], fill)])


def rater_feedback_batch(
    predictions: ArrayLike,
    probabilities: ArrayLike,
    rater_trajectories: ArrayLike,
    rater_scores: ArrayLike,
    initial_speeds: ArrayLike,
) -> RaterFeedback:
    """`rater_feedback_score` of B frames: (B, P, 20, 2), (B, P), (B, R, 20, 2), (B, R), (B,)."""
    predicted, weights = np.asarray(predictions, np.float64), np.asarray(probabilities, np.float64)
    raters, scores = np.asarray(rater_trajectories, np.float64), np.asarray(rater_scores, np.float64)
    speeds = np.asarray(initial_speeds, np.float64)
    _check(predicted, weights, raters, scores, speeds)
    ahead = _directions(raters)  # (B, R, 2, 2): at 3 s and 5 s, along the rater's way
    left = np.stack([-ahead[..., 1], ahead[..., 0]], -1)
    off = predicted[:, None, :, _JUDGED] - raters[:, :, None, _JUDGED]  # (B, R, P, 2, 2)
    longitudinal = np.abs((ahead[:, :, None] * off).sum(-1))  # (B, R, P, 2)
    lateral = np.abs((left[:, :, None] * off).sum(-1))
    scale = np.clip(0.5 + 0.5 * (speeds - _SLOW) / (_FAST - _SLOW), 0.5, 1.0)  # (B,)
    across = (scale[:, None] * _LATERAL_M)[:, None, None]  # (B, 1, 1, 2)
    along = (scale[:, None] * (_LATERAL_M * _LONGITUDINAL))[:, None, None]
    distance = np.maximum(longitudinal / along, lateral / across)  # in thresholds
    value = scores[:, :, None, None] * _DECAY ** np.maximum(distance - 1.0, 0.0)
    each = value.max(1).mean(-1)  # (B, P): the best rater may differ between 3 s and 5 s
    within = (distance <= 1.0).all(-1).any(1)  # (B, P): inside of one rater's region at both times
    each = np.where(within, each, np.maximum(each, FLOOR))
    return RaterFeedback((weights * each).sum(-1), each, within)


def ade(prediction: ArrayLike, reference: ArrayLike, seconds: int) -> float:
    """Mean distance (m) of two trajectories (>= 4 s points, 2) over the first `seconds`.

    Raises:
        TrajectoryShapeError: one is too short.
    """
    n = seconds * FREQUENCY
    a, b = np.asarray(prediction, np.float64), np.asarray(reference, np.float64)
    if len(a) < n or len(b) < n or a.shape[1:] != (2,) or b.shape[1:] != (2,):
        raise TrajectoryShapeError(f"ADE@{seconds}s needs {n} points (x, y), got {a.shape} and {b.shape}")
    return float(np.hypot(*(a[:n] - b[:n]).T).mean())


def best_rater(trajectories: Sequence[ArrayLike] | NDArray[np.float64], scores: ArrayLike) -> F64:
    """The trajectory (20, 2) with the highest score, the first of equals: what the leaderboard's ADE is measured on."""
    raters, rated = three_raters(trajectories, scores)
    return np.asarray(raters[int(rated.argmax())])


def cluster_means(values: Iterable[tuple[str, float]]) -> tuple[dict[str, float], float]:
    """Mean per scenario cluster, and the mean of those means (the data set's RFS); NaN when there is nothing."""
    groups: dict[str, list[float]] = {}
    for cluster, value in values:
        groups.setdefault(cluster, []).append(value)
    means: Mapping[str, float] = {name: float(np.mean(groups[name])) for name in sorted(groups)}
    return dict(means), float(np.mean(list(means.values()))) if means else float("nan")


def _directions(raters: F64) -> F64:
    """Unit vectors (B, R, 2, 2) of a rater's last movement up to 3 s and 5 s; (1, 0) where it has not moved yet."""
    begin = np.zeros_like(raters[:, :, :1])
    steps = np.diff(raters, axis=2, prepend=begin)  # (B, R, 20, 2)
    length = np.sqrt((steps**2).sum(-1))
    index = np.where(length > 0, np.arange(POINTS), -1)
    last = np.maximum.accumulate(index, axis=-1)[..., _JUDGED]  # (B, R, 2), -1: stood still
    picked = np.take_along_axis(steps, np.maximum(last, 0)[..., None], axis=2)
    picked = np.where((last < 0)[..., None], [1.0, 0.0], picked)
    return np.asarray(picked / np.sqrt((picked**2).sum(-1, keepdims=True)))


def _check(predicted: F64, weights: F64, raters: F64, scores: F64, speeds: F64) -> None:
    b = len(predicted)
    shapes = (predicted.shape[1:], raters.shape[1:])
    if predicted.ndim != 4 or raters.ndim != 4 or any(s[1:] != (POINTS, 2) for s in shapes):
        raise TrajectoryShapeError(
            f"predictions and raters are {shapes[0]} and {shapes[1]}; each trajectory is ({POINTS}, 2): 4 Hz to 5 s"
        )
    if weights.shape != predicted.shape[:2] or scores.shape != raters.shape[:2] or speeds.shape != (b,):
        raise TrajectoryShapeError(
            f"{predicted.shape[:2]} predictions with probabilities {weights.shape}, {raters.shape[:2]} raters with "
            f"scores {scores.shape}, {speeds.shape} speeds: one each"
        )
    if len(raters) != b or not raters.shape[1]:
        raise UnratedFrameError("a frame without raters has no Rater Feedback Score")
    for name, array in (("predictions", predicted), ("probabilities", weights), ("rater trajectories", raters),
                        ("rater scores", scores), ("initial speeds", speeds)):  # fmt: skip
        if not np.isfinite(array).all():
            raise TrajectoryShapeError(f"the {name} hold NaN or infinity")
