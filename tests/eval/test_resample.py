"""Plans at other times: the published quintic, solved here by its linear system."""

import numpy as np
import pytest

from efficientgen.eval.resample import HorizonError, WaypointError, quintic, resample

TIMES = np.arange(1.0, 6.0)
FOUR_HZ = np.arange(1, 21) / 4


def solved(times, values, wanted):
    """One coordinate, one interval after the other: six conditions for six coefficients."""
    t, p = np.r_[0.0, times], np.r_[0.0, values]
    v = np.r_[(p[1] - p[0]) / (t[1] - t[0]), (p[2:] - p[:-2]) / (t[2:] - t[:-2]), (p[-1] - p[-2]) / (t[-1] - t[-2])]
    s = np.diff(p) / np.diff(t)
    second = 2 * np.diff(s) / (np.diff(t)[1:] + np.diff(t)[:-1])
    a = np.r_[-second[0], second, second[-1]]
    out = []
    for w in wanted:
        i = min(np.searchsorted(t, w, side="right") - 1, len(t) - 2)
        h = t[i + 1] - t[i]
        rows = [[0.0**k for k in range(6)], [k * 0.0 ** max(k - 1, 0) for k in range(6)], [0, 0, 2, 0, 0, 0],
                [h**k for k in range(6)], [k * h ** max(k - 1, 0) for k in range(6)],
                [k * (k - 1) * h ** max(k - 2, 0) for k in range(6)]]  # fmt: skip
        c = np.linalg.solve(np.array(rows, float), [p[i], v[i], a[i], p[i + 1], v[i + 1], a[i + 1]])
        out.append(sum(c[k] * (w - t[i]) ** k for k in range(6)))
    return np.array(out)


def test_it_is_the_published_curve():
    rng = np.random.default_rng(1)
    for times in (TIMES, np.arange(1, 7) * 0.5, np.cumsum(rng.uniform(0.2, 1.5, 5))):
        points = np.cumsum(rng.normal([4, 0], 1, (len(times), 2)), 0)
        wanted = np.linspace(0.05, times[-1], 37)
        got = quintic(times, points, wanted)
        for axis in (0, 1):
            np.testing.assert_allclose(got[:, axis], solved(times, points[:, axis], wanted), atol=1e-9)


def test_it_passes_through_and_commutes_with_the_mean():
    rng = np.random.default_rng(3)
    paths = np.cumsum(rng.normal([6, 0], 1, (8, 5, 2)), 1)
    np.testing.assert_allclose(quintic(TIMES, paths[0], TIMES), paths[0], atol=1e-12)
    each = [resample(TIMES, path, FOUR_HZ)[0] for path in paths]
    np.testing.assert_allclose(resample(TIMES, paths.mean(0), FOUR_HZ)[0], np.mean(each, 0), atol=1e-12)
    steady = np.stack([7.0 * TIMES, -2.0 * TIMES], 1)
    np.testing.assert_allclose(resample(TIMES, steady, FOUR_HZ)[0], np.stack([7.0 * FOUR_HZ, -2.0 * FOUR_HZ], 1))


def test_what_was_answered_stays_as_it_is():
    half = np.arange(1, 7) * 0.5
    points = np.random.default_rng(0).normal(0, 5, (6, 2))
    got, how = resample(half, points, [0.5, 1.0, 3.0])
    assert how == "as answered"
    np.testing.assert_array_equal(got, points[[0, 1, 5]])


def test_the_end_of_a_plan():
    half = np.arange(1, 7) * 0.5
    points = np.stack([4.0 * half, half**2], 1)
    with pytest.raises(HorizonError, match="ends at 3 s.*--extrapolate"):
        resample(half, points, FOUR_HZ)
    got, how = resample(half, points, FOUR_HZ, extrapolate=True)
    assert how == "quintic, last velocity after 3 s"
    np.testing.assert_allclose(got[12:], points[-1] + (FOUR_HZ[12:, None] - 3.0) * [4.0, 5.5])
    np.testing.assert_allclose(got[:12], resample(half, points, FOUR_HZ[:12])[0])


@pytest.mark.parametrize("times, points", [([1, 2], [[0, 0]]), ([2, 1], [[0, 0], [1, 1]]), ([1], [[np.nan, 0]]),
                                           ([0, 1], [[0, 0], [1, 1]]), ([], np.zeros((0, 2)))])  # fmt: skip
def test_no_trajectory(times, points):
    with pytest.raises(WaypointError):
        resample(times, points, [1.0])
