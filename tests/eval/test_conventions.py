"""The page that compares conventions: its scenes are the drive's, its table that of the committed result."""

import json
from pathlib import Path

import numpy as np
import pytest

from efficientgen.eval.conventions import PLANNERS, disagreements, measure, scenes_of, table_of
from tests.eval.made import ahead, car, made_log, straight

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def scenes():
    """8 m/s straight on, braking never; a car 30 m ahead of the start that stands half in the lane."""
    log = made_log(
        straight(), lambda t: (8.0 * t, 8.0), lambda t: (car(60.0, 2.6),), waypoints=lambda t: ahead(8.0), seconds=12.0
    )
    return scenes_of(log)


def test_scenes_are_the_drive(scenes):
    whole = [scene for scene in scenes if scene.mask.all()]
    assert len(scenes) > len(whole) > 5
    for scene in whole:
        np.testing.assert_allclose(scene.truth, np.stack([np.zeros(6), 4.0 * np.arange(1, 7)], 1), atol=1e-9)
        for name in PLANNERS:
            np.testing.assert_allclose(scene.plans[name], scene.truth, atol=1e-9)
        x, y, yaw = scene.vehicles[0][0, :3]  # 2.6 m to the left, standing; the lidar is 0.94 m ahead of the axle
        s = 8.0 * scene.stamp_ns / 1e9
        assert (x, y, yaw) == pytest.approx((-2.6, 60.0 - s - 0.94, np.pi / 2))


def test_a_perfect_plan_scores_so_everywhere(scenes):
    result = measure(scenes)
    assert result["whole"] < result["key_frames"]
    for conventions in result["scores"].values():
        for scores in conventions.values():
            assert scores["L2_avg"] == pytest.approx(0.0, abs=1e-9) and scores["obj_box_col_avg"] == 0.0
    assert not disagreements(scenes)
    assert table_of(result).count("\n") == 1 + 2 * 4


def test_pictures_are_drawn_the_same_twice(scenes, tmp_path):
    pytest.importorskip("matplotlib")
    from efficientgen.eval.convention_pictures import draw_averages, draw_cells, draw_collisions
    from efficientgen.eval.conventions import Disagreement

    result = measure(scenes)
    found = Disagreement(scenes[3], PLANNERS[0], 2, {c: c == "vad" for c in result["mask_rules"]})
    for draw, data in ((draw_averages, result), (draw_collisions, result), (draw_cells, found)):
        one, two = (draw(data, tmp_path / f"{draw.__name__}{k}.svg").read_bytes() for k in (1, 2))
        assert b"<svg" in one and len(one) > 5000 and one == two


def test_the_page_says_what_was_measured():
    result = json.loads((ROOT / "docs" / "results" / "conventions.json").read_text())
    page = (ROOT / "docs" / "offline.md").read_text()
    assert table_of(result) in page, "run: efficientgen score conventions, see docs/offline.md"
    assert f"same {result['whole']} key frames" in page.replace("\n", " ")
