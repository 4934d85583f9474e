"""Open-loop planning metrics: against a painter with OpenCV, and by what each convention promises."""

import numpy as np
import pytest

from efficientgen.eval.collision_cells import LIDAR_AHEAD, cell_centres, collisions, footprint_cells, occupied_cells
from efficientgen.eval.nuscenes_planning import (
    CONVENTIONS,
    PlanningInputError,
    UnknownConventionError,
    planning_metrics,
    planning_metrics_batch,
)

NOBODY = [np.zeros((0, 5))] * 6
AHEAD = np.stack([np.zeros(6), 4.0 * np.arange(1, 7)], 1)  # 8 m/s straight on
ALL = np.ones(6)


def box(x, y, yaw=np.pi / 2, length=4.5, width=1.9):
    return np.array([[x, y, yaw, length, width]])


def scene(rng, agents=12):
    """A plan, a truth near it and road users around; everything may cross the grid's rim."""
    speed, turn = rng.uniform(0, 20), rng.uniform(-0.3, 0.3)
    t = 0.5 * np.arange(1, 7)
    truth = np.stack([turn * t**2 * 2, speed * t], 1) + rng.normal(0, 0.1, (6, 2))
    plan = truth + rng.normal(0, 1.0, (6, 2)) * t[:, None]
    near = plan[rng.integers(0, 6, agents)] + rng.normal(0, 4, (agents, 2))
    place = np.where(rng.random((agents, 1)) < 0.7, near, rng.uniform(-60, 60, (agents, 2)))
    size = rng.choice([[4.5, 1.9], [12.0, 2.9], [0.7, 0.7], [1.8, 0.6]], agents) * rng.uniform(0.9, 1.1, (agents, 2))
    yaw = rng.uniform(-np.pi, np.pi, (agents, 1))
    steps = [np.concatenate([place + rng.normal(0, 0.5, 2) * k, yaw, size], 1) for k in range(6)]
    return plan, truth, steps


def painted(convention, plan, truth, boxes):
    """obj_box_col and obj_col by painting every box with OpenCV and looking up each footprint cell one by one."""
    cv2 = pytest.importorskip("cv2")
    fine = convention == "omnidrive"
    n, res = (1000, np.float64(np.float32(0.1))) if fine else (200, 0.5)
    first = np.float64(np.float32(-50 + 0.05)) if fine else -49.75
    x_sign, y_sign = (-1 if convention == "stp3" else 1), (-1 if convention == "vad" else 1)
    sheets = np.zeros((6, n, n))
    for sheet, step in zip(sheets, boxes, strict=True):
        for x, y, yaw, length, width in step:
            if fine:
                x, y, yaw = y + LIDAR_AHEAD, -x, yaw - np.pi / 2
            turn = np.array([[np.cos(yaw), -np.sin(yaw)], [np.sin(yaw), np.cos(yaw)]])
            corners = np.array([[1, 1], [-1, 1], [-1, -1], [1, -1]]) * [length / 2, width / 2] @ turn.T + [x, y]
            pixels = np.round((corners * [x_sign, y_sign] - first + res / 2) / res).astype(np.int32)
            cv2.fillPoly(sheet, [pixels], 1.0)

    def rectangle(shift):
        f = (np.array([shift - 2.042, shift + 2.042]) - first) / res
        s = (np.array([-0.925, 0.925]) - first) / res
        return [(r, c) for r in range(n) if f[0] <= r < f[1] for c in range(n) if s[0] <= c < s[1]]

    def box_hits(path):
        out, previous = [], np.zeros(2)
        for t, way in enumerate(path):
            if fine:
                way = np.array([way[1], -way[0]])
                d = way - previous
                angle = np.arctan2(d[1], d[0]) if np.hypot(*d) >= 1 else 0.0
                previous = way
            hit = False
            for r, c in CELLS_OF[convention]:
                if fine:
                    x, y = r + first / res, c + first / res
                    x, y = x * np.cos(angle) - y * np.sin(angle), x * np.sin(angle) + y * np.cos(angle)
                    column = int(way[0] / res + np.round(x - first / res))
                    row = int(way[1] / res + np.round(y - first / res))
                else:
                    row, column = way[1] / res + r, int(x_sign * way[0] / res + c)
                    row = int(200 - row) if convention == "vad" else int(row)
                hit |= bool(sheets[t, min(max(row, 0), n - 1), min(max(column, 0), n - 1)])
            out.append(hit)
        return np.array(out)

    if convention not in CELLS_OF:
        CELLS_OF[convention] = rectangle(0.5 + LIDAR_AHEAD if fine else 0.5)
    clear = ~box_hits(truth)
    point = np.zeros(6)
    for t, (x, y) in enumerate(plan):
        column, row = (y, -x) if fine else (x_sign * x, y)
        column, row = int((column - first) / res), int((row - first) / res)
        if 0 <= row < n and 0 <= column < n:
            point[t] = sheets[t, row, column]
    return box_hits(plan) * clear, point * clear


CELLS_OF: dict = {}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_collisions_are_those_of_a_painter(convention):
    rng = np.random.default_rng(7)
    hits = 0
    for _ in range(12 if convention == "omnidrive" else 80):
        plan, truth, boxes = scene(rng)
        got = planning_metrics(plan, truth, ALL, boxes, convention)
        box_col, point_col = painted(convention, plan, truth, boxes)
        np.testing.assert_array_equal(got.obj_box_col, box_col)
        if convention == "vad":
            assert np.isnan(got.obj_col).all()
        else:
            np.testing.assert_array_equal(got.obj_col, point_col)
        hits += box_col.sum()
    assert hits > 5


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_batch_is_its_samples(convention):
    rng = np.random.default_rng(3)
    scenes = [scene(rng) for _ in range(20)]
    masks = np.ones((20, 6))
    masks[3, 4:] = masks[11] = 0
    plans, truths, boxes = (list(part) for part in zip(*scenes, strict=True))
    batch = planning_metrics_batch(np.array(plans), np.array(truths), masks, boxes, convention)
    single = [planning_metrics(*s[:2], m, s[2], convention) for s, m in zip(scenes, masks, strict=True)]
    for name in ("counted", "l2", "obj_col", "obj_box_col"):
        np.testing.assert_array_equal(getattr(batch, name), np.array([getattr(s, name) for s in single]))
    for key, value in batch.summary.items():
        each = [s.summary[key] for s in single if s.counted]
        assert value == pytest.approx(np.mean(each), abs=1e-12)


def test_conventions_disagree_about_the_same_plan():
    """One plan that drifts by 0.1 m more each step, and touches a car at 1 s only."""
    plan = AHEAD + np.stack([0.1 * np.arange(1, 7), np.zeros(6)], 1)
    boxes = [np.zeros((0, 5)), box(2.2, 8.5), *NOBODY[2:]]
    got = {c: planning_metrics(plan, AHEAD, ALL, boxes, c).summary for c in CONVENTIONS}
    assert got["uniad"]["L2_3s"] == pytest.approx(0.6) and got["uniad"]["L2_avg"] == pytest.approx(0.4)
    for c in ("stp3", "vad", "omnidrive"):
        assert got[c]["L2_3s"] == pytest.approx(0.35) and got[c]["L2_avg"] == pytest.approx(0.25)
    hit = [boxes[0], box(0.5, 8.5), *NOBODY[2:]]
    hit_free_truth = AHEAD - [8.0, 0.0]
    rate = {c: planning_metrics(AHEAD, hit_free_truth, ALL, hit, c).summary for c in CONVENTIONS}
    horizons = [[rate[c][f"obj_box_col_{h}s"] for h in (1, 2, 3)] for c in CONVENTIONS]
    assert horizons == [[1, 0, 0], [1 / 2, 1 / 4, 1 / 6], [1 / 2, 1 / 4, 1 / 6], [1, 1, 1]]


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_a_step_at_which_the_truth_collides_counts_as_none(convention):
    boxes = [box(0.0, 4.0 * k) for k in range(1, 7)]  # a box where both are
    assert not planning_metrics(AHEAD, AHEAD, ALL, boxes, convention).obj_box_col.any()
    aside = AHEAD + [6.0, 0.0]  # the truth is elsewhere: now the plan collides
    got = planning_metrics(AHEAD, aside, ALL, boxes, convention)
    assert got.obj_box_col.all() and (convention == "vad" or got.obj_col.all())


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_masks(convention):
    mask = np.array([1, 1, 1, 1, 0, 0])
    truth = np.where(mask[:, None], AHEAD, np.nan)
    got = planning_metrics(AHEAD + [0.3, 0.0], truth, mask, [box(0.3, 4.0 * k) for k in range(1, 7)], convention)
    if convention == "uniad":
        assert got.counted
        np.testing.assert_allclose(got.l2, [0.3] * 4 + [0.0] * 2)  # what does not exist counts as no error
        assert got.summary["L2_3s"] == 0.0 and not got.obj_box_col[4:].any()
    else:
        assert not got.counted and np.isnan(got.l2).all() and np.isnan(got.summary["L2_avg"])
    whole = planning_metrics(AHEAD, AHEAD, ALL, NOBODY, convention)
    assert whole.counted and whole.summary["L2_avg"] == 0.0


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_l2_knows_no_direction(convention):
    rng = np.random.default_rng(5)
    plan, truth, _ = scene(rng)
    plain = planning_metrics(plan, truth, ALL, NOBODY, convention).l2
    c, s = np.cos(1.1), np.sin(1.1)
    for change in (np.array([[c, -s], [s, c]]), np.diag([-1.0, 1.0])):
        np.testing.assert_allclose(planning_metrics(plan @ change, truth @ change, ALL, NOBODY, convention).l2, plain)


def mirrored(boxes):
    return [b * [-1, 1, -1, 1, 1] + [0, 0, np.pi, 0, 0] for b in boxes]


def test_st_p3_is_uniad_in_the_mirror():
    """Their grids differ in which way columns run, and in nothing else at a single step."""
    rng = np.random.default_rng(11)
    for _ in range(60):
        plan, truth, boxes = scene(rng)
        left = planning_metrics(plan, truth, ALL, boxes, "stp3")
        right = planning_metrics(plan * [-1, 1], truth * [-1, 1], ALL, mirrored(boxes), "uniad")
        np.testing.assert_array_equal(left.obj_box_col, right.obj_box_col)
        np.testing.assert_array_equal(left.obj_col, right.obj_col)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_clear_hits_and_misses_survive_mirroring_and_the_grid(convention):
    """A car two cells inside the footprint is hit, one two cells outside is not, on either side."""
    cell = 0.1 if convention == "omnidrive" else 0.5
    far = AHEAD + [30.0, 0.0]
    for side in (1, -1):
        for gap, hit in ((-2 * cell, True), (2 * cell, False)):
            x = side * (0.925 + 0.95 + gap)
            got = planning_metrics(AHEAD, far, ALL, [box(x, 4.0 * k + 0.5) for k in range(1, 7)], convention)
            assert got.obj_box_col.all() == hit and got.obj_box_col.any() == hit


def test_the_footprint_lies_half_a_metre_ahead():
    """Cars nose to tail along the lane: in front there is a metre less room than behind."""
    far = AHEAD + [30.0, 0.0]
    for c in CONVENTIONS:
        for offset, hit in ((2.042 + 0.5 + 2.25 - 0.6, True), (2.042 + 0.5 + 2.25 + 0.6, False),
                            (-2.042 + 0.5 - 2.25 + 0.6, True), (-2.042 + 0.5 - 2.25 - 0.6, False)):  # fmt: skip
            got = planning_metrics(AHEAD, far, ALL, [box(0.0, 4.0 * k + offset) for k in range(1, 7)], c)
            assert got.obj_box_col.all() == hit, (c, offset)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_pictures_show_the_cells_that_decide(convention):
    """The cells drawn for plan and boxes overlap exactly where the metric says so, and lie where things are."""
    rng = np.random.default_rng(23)
    for _ in range(2 if convention == "omnidrive" else 8):
        plan, truth, boxes = scene(rng)
        step = np.repeat(np.arange(6), [len(b) for b in boxes])
        _, hits, _ = collisions(convention, plan, truth, np.concatenate(boxes), step)
        for t, cells in enumerate(footprint_cells(convention, plan)):
            painted = {tuple(c) for c in occupied_cells(convention, boxes[t])}
            assert any(tuple(c) in painted for c in cells) == bool(hits[t])
    ahead = footprint_cells(convention, AHEAD)[2]
    np.testing.assert_allclose(cell_centres(convention, ahead).mean(0), [0.0, 12.5], atol=0.3)
    car = cell_centres(convention, occupied_cells(convention, box(5.0, 20.0)))
    np.testing.assert_allclose(car.mean(0), [5.0, 20.0], atol=0.3)


def test_only_omnidrive_turns_the_box_along_the_path():
    """Driving straight to the right: a turned car is long to the right, one that never turns is not."""
    right = AHEAD[:, ::-1]
    far = right - [0.0, 30.0]
    beside = [box(4.0 * k + 2.2, 0.0, 0.0, 0.4, 0.4) for k in range(1, 7)]  # ahead on the path
    hits = {c: planning_metrics(right, far, ALL, beside, c).obj_box_col.any() for c in CONVENTIONS}
    assert hits == {"uniad": False, "stp3": False, "vad": False, "omnidrive": True}
    creeping = planning_metrics(right / 8, far, ALL, [box(0.5 * k + 2.2, 0, 0, 0.4, 0.4) for k in range(1, 7)],
                                "omnidrive")  # fmt: skip
    assert not creeping.obj_box_col.any()  # below a metre per step the heading is not believed


def test_mistakes_are_named():
    with pytest.raises(UnknownConventionError, match="uniad, stp3"):
        planning_metrics(AHEAD, AHEAD, ALL, NOBODY, "nuscenes")
    for plan, truth, mask, boxes in (
        (AHEAD[:5], AHEAD, ALL, NOBODY),
        (AHEAD * np.nan, AHEAD, ALL, NOBODY),
        (AHEAD, AHEAD * np.nan, ALL, NOBODY),
        (AHEAD, AHEAD, ALL[:4], NOBODY),
        (AHEAD, AHEAD, ALL, NOBODY[:5]),
        (AHEAD, AHEAD, ALL, [np.zeros((2, 7))] * 6),
        (AHEAD, AHEAD, ALL, [np.full((1, 5), np.nan)] * 6),
    ):
        with pytest.raises(PlanningInputError):
            planning_metrics(plan, truth, mask, boxes, "vad")
