"""The closed form of fillPoly against OpenCV itself, inside the image, across its rim and far outside."""

import numpy as np
import pytest

from efficientgen.eval.fill_poly import fill, row_spans

cv2 = pytest.importorskip("cv2")


@pytest.mark.parametrize(("cells", "resolution", "count"), [(200, 0.5, 1200), (1000, 0.1, 40)])
def test_as_opencv_paints(cells, resolution, count):
    rng = np.random.default_rng(cells)
    sizes = np.array([[0.5, 0.5], [0.7, 0.6], [1.8, 0.6], [4.5, 1.9], [12.0, 2.9], [18.0, 3.0]])
    for k in range(count):
        place, yaw = rng.uniform(-60, 60, 2), rng.uniform(-np.pi, np.pi)
        yaw = yaw if k % 7 else np.round(yaw / (np.pi / 4)) * np.pi / 4  # some along the axes and the diagonals
        length, width = rng.choice(sizes) * rng.uniform(0.8, 1.2, 2)
        turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
        corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2] @ turn.T + place
        pixels = np.round((corners + 50) / resolution).astype(np.int32)[:: 1 if k % 2 else -1]
        painted = np.zeros((cells, cells))
        cv2.fillPoly(painted, [np.ascontiguousarray(pixels)], 1.0)
        np.testing.assert_array_equal(fill(pixels[None].astype(np.int64), painted.shape), painted > 0)


def test_rows_that_are_not_painted_have_empty_runs():
    square = np.array([[[2, 2], [5, 2], [5, 5], [2, 5]]])
    lo, hi = row_spans(square, np.array([[1, 2, 5, 6, -1, 99]]), (10, 10))
    assert (hi - lo >= 0).tolist() == [[False, True, True, False, False, False]]
    assert (lo[0, 1], hi[0, 1]) == (2, 5)
