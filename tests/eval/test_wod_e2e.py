"""The Rater Feedback Score by its properties, against a slow reading of the definition, and ADE."""

import numpy as np
import pytest

from efficientgen.eval.wod_e2e import (
    CLUSTERS,
    TrajectoryShapeError,
    UnratedFrameError,
    ade,
    best_rater,
    cluster_means,
    rater_feedback_batch,
    rater_feedback_score,
)

T = np.arange(1, 21) / 4
STRAIGHT = np.stack([8.0 * T, np.zeros(20)], 1)


def score(prediction, raters=(STRAIGHT,), scores=(9.0,), speed=11.0):
    return rater_feedback_score(np.asarray(prediction)[None], [1.0], np.array(raters), list(scores), speed)


def shifted(along=0.0, across=0.0, by=STRAIGHT):
    return by + np.array([along, across])


def by_the_book(predictions, probabilities, raters, scores, speed):
    """Step by step, in loops."""
    raters, scores = list(raters)[:3], list(scores)[:3]
    while len(raters) < 3:
        raters, scores = raters + raters[-1:], scores + scores[-1:]
    scale = min(max(0.5 + 0.5 * (speed - 1.4) / 9.6, 0.5), 1.0)
    total = 0.0
    for prediction, probability in zip(predictions, probabilities, strict=True):
        deltas = np.zeros((3, 2))
        for r, rater in enumerate(raters):
            heading, before, k = np.array([1.0, 0.0]), np.zeros(2), 0
            for i, point in enumerate(rater):
                step = point - before
                heading = step / np.linalg.norm(step) if np.linalg.norm(step) > 0 else heading
                before = point
                if i in (11, 19):
                    off = prediction[i] - point
                    side = abs(heading[0] * off[1] - heading[1] * off[0])
                    deltas[r, k] = max(abs(heading @ off) / (scale * (4.0, 7.2)[k]), side / (scale * (1.0, 1.8)[k]))
                    k += 1
        values = np.array(scores)[:, None] * 0.1 ** np.maximum(deltas - 1, 0)
        value = values.max(0).mean()
        if not (deltas <= 1).all(1).any():
            value = max(4.0, value)
        total += probability * value
    return total


def test_random_frames_by_the_book():
    rng = np.random.default_rng(2)
    for _ in range(200):
        raters = np.cumsum(rng.normal([1.5, 0], [1.0, 0.3], (rng.integers(1, 5), 20, 2)), 1)
        raters[rng.random(raters.shape[:2]) < 0.1] = 0.0
        standing = rng.random() < 0.3
        raters[0, 8:] = raters[0, 7] if standing else raters[0, 8:]
        predictions = raters[rng.integers(0, len(raters), 4)] + rng.normal(0, 2.0, (4, 1, 2)) * T[:, None] / 3
        p = rng.dirichlet(np.ones(4))
        scores, speed = rng.uniform(0, 10, len(raters)), rng.uniform(0, 15)
        got = rater_feedback_score(predictions, p, raters, scores, speed)
        assert got.score == pytest.approx(by_the_book(predictions, p, raters, scores, speed), abs=1e-9)
        assert got.score == pytest.approx(float(p @ got.per_prediction))


@pytest.mark.parametrize("speed, scale", [(0.0, 0.5), (1.4, 0.5), (6.2, 0.75), (11.0, 1.0), (30.0, 1.0)])
@pytest.mark.parametrize("threshold, direction", [((4.0, 7.2), (1, 0)), ((1.0, 1.8), (0, 1))])
def test_thresholds_and_how_they_grow_with_speed(speed, scale, threshold, direction):
    """Displaced by the thresholds a prediction is inside, and nothing is lost; beyond, a tenth per threshold."""
    by = np.zeros((20, 2))
    by[11], by[19] = scale * threshold[0] * np.array(direction), scale * threshold[1] * np.array(direction)
    tight = 1 - 1e-9
    inside = score(STRAIGHT + tight * by, speed=speed)
    assert inside.within_trust_region[0] and inside.score == pytest.approx(9.0)
    outside = score(STRAIGHT + (1 + 1e-6) * by, speed=speed)
    assert not outside.within_trust_region[0] and outside.score == pytest.approx(9.0, abs=1e-3)
    assert score(STRAIGHT + 1.2 * by, speed=speed).score == pytest.approx(9.0 * 0.1**0.2)
    assert score(STRAIGHT + 3.0 * by, speed=speed).score == 4.0


def test_exactly_on_the_threshold_is_inside():
    on = STRAIGHT.copy()
    on[11] += [0.0, 1.0]
    on[19] += [0.0, 1.8]
    assert score(on).within_trust_region[0]
    on = STRAIGHT.copy()
    on[11] += [4.0, 0.0]
    assert score(on).within_trust_region[0]


def test_the_floor_is_only_outside():
    """Close to a rater whom nobody liked: no floor.  Far from everybody: the floor."""
    assert score(STRAIGHT, scores=(0.5,)).score == pytest.approx(0.5)
    assert score(shifted(across=9.0), scores=(0.5,)).score == 4.0
    assert score(shifted(across=9.0), scores=(9.5,)).score == 4.0


def test_one_rater_must_hold_both_times():
    """Near one rater at 3 s and another at 5 s: each gives its score, but the prediction is not inside."""
    left = np.stack([8.0 * T, np.where(T > 3.5, 8.0, 0.0)], 1)
    right = np.stack([8.0 * T, np.where(T < 3.5, 8.0, 0.0)], 1)
    got = score(STRAIGHT, (left, right), (2.0, 3.0))
    assert not got.within_trust_region[0] and got.score == 4.0
    got = score(STRAIGHT, (left, right), (9.0, 7.0))
    assert not got.within_trust_region[0] and got.score == pytest.approx(8.0)


def test_raters_are_cut_and_filled_up():
    worse = shifted(across=30.0)
    three = score(STRAIGHT, (worse, worse, worse), (9, 9, 9)).score
    assert score(STRAIGHT, (worse, worse, worse, STRAIGHT), (9, 9, 9, 9)).score == three == 4.0
    short = rater_feedback_score(STRAIGHT[None], [1.0], [STRAIGHT[:8], STRAIGHT[:8]], [9.0, 8.0], 0.0)
    held = np.concatenate([STRAIGHT[:8], np.repeat(STRAIGHT[7:8], 12, 0)])
    assert short.score == score(STRAIGHT, (held,), (9.0,), 0.0).score
    long = np.concatenate([STRAIGHT, STRAIGHT + 40.0])
    assert rater_feedback_score(STRAIGHT[None], [1.0], [long], [9.0], 0.0).score == 9.0


def test_the_scene_turned_about_its_origin():
    rng = np.random.default_rng(4)
    raters = np.cumsum(rng.normal([1.5, 0], 0.5, (3, 20, 2)), 1)
    predictions = raters[:2] + rng.normal(0, 1, (2, 1, 2))
    plain = rater_feedback_score(predictions, [0.4, 0.6], raters, [5, 7, 9], 5.0)
    c, s = np.cos(0.7), np.sin(0.7)
    for change in (np.array([[c, -s], [s, c]]), np.diag([1.0, -1.0])):  # mirrored: left is right
        got = rater_feedback_score(predictions @ change, [0.4, 0.6], raters @ change, [5, 7, 9], 5.0)
        np.testing.assert_allclose(got.per_prediction, plain.per_prediction)


def test_a_rater_who_never_moves_looks_ahead():
    standing = np.zeros((20, 2))
    ahead, aside = np.tile([1.9, 0.0], (20, 1)), np.tile([0.0, 0.6], (20, 1))
    assert score(ahead, (standing,), speed=0.0).within_trust_region[0]
    assert not score(aside, (standing,), speed=0.0).within_trust_region[0]


def test_a_batch_is_its_frames():
    rng = np.random.default_rng(9)
    raters = np.cumsum(rng.normal([1.5, 0], 0.5, (50, 3, 20, 2)), 2)
    predictions = raters[:, :2] + rng.normal(0, 2, (50, 2, 1, 2))
    p, scores, speeds = rng.dirichlet([1, 1], 50), rng.uniform(0, 10, (50, 3)), rng.uniform(0, 14, 50)
    batch = rater_feedback_batch(predictions, p, raters, scores, speeds)
    single = [rater_feedback_score(*frame) for frame in zip(predictions, p, raters, scores, speeds, strict=True)]
    np.testing.assert_array_equal(batch.score, [s.score for s in single])
    np.testing.assert_array_equal(batch.within_trust_region, [s.within_trust_region for s in single])


def test_mistakes_are_named():
    with pytest.raises(UnratedFrameError, match="no rater"):
        rater_feedback_score(STRAIGHT[None], [1.0], [], [], 3.0)
    with pytest.raises(UnratedFrameError, match="negative"):
        score(STRAIGHT, scores=(-1.0,))
    for prediction, probabilities, scores in (
        (STRAIGHT[None, :19], [1.0], [9.0]),
        (STRAIGHT[None] * np.nan, [1.0], [9.0]),
        (STRAIGHT[None], [0.5, 0.5], [9.0]),
        (STRAIGHT[None], [1.0], [9.0, 8.0]),
    ):
        with pytest.raises(TrajectoryShapeError):
            rater_feedback_score(prediction, probabilities, STRAIGHT[None], scores, 3.0)


def test_ade():
    off = STRAIGHT + np.where(T > 3, 4.0, 1.0)[:, None] * [0.6, 0.8]
    assert ade(off, STRAIGHT, 3) == pytest.approx(1.0) and ade(off, STRAIGHT, 5) == pytest.approx((12 + 32) / 20)
    np.testing.assert_array_equal(best_rater([off, STRAIGHT], [5.0, 8.0]), STRAIGHT)
    with pytest.raises(TrajectoryShapeError, match="20 points"):
        ade(off, STRAIGHT[:12], 5)


def test_clusters_weigh_alike():
    means, whole = cluster_means([("cyclist", 8.0), ("cyclist", 6.0), ("cut_in", 5.0)])
    assert means == {"cut_in": 5.0, "cyclist": 7.0} and whole == 6.0 and set(means) <= set(CLUSTERS)
    assert np.isnan(cluster_means([])[1])
