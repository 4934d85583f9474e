"""Planners in the released layout (toy size, random weights) on both data sets: pictures, horizon and answer."""

import numpy as np
import pytest

pytest.importorskip("nuscenes")
pytest.importorskip("waymo_open_dataset")

from efficientgen.eval.io_nuscenes import NuScenesReader  # noqa: E402
from efficientgen.eval.nuscenes_drive import Observer  # noqa: E402
from efficientgen.eval.offline import Journal, Skips, planner_driver  # noqa: E402
from efficientgen.eval.offline_nuscenes import NuScenesTask, nuscenes_result, score_nuscenes  # noqa: E402
from efficientgen.eval.offline_wod import WodTask, score_wod, wod_result  # noqa: E402
from efficientgen.eval.wod_frames import WodObserver, sample_of  # noqa: E402
from tests.eval import tiny_nuscenes  # noqa: E402
from tests.eval.test_wod_score import frame, written  # noqa: E402
from tests.planning.tiny_release import write_release  # noqa: E402


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    return write_release(tmp_path_factory.mktemp("release") / "my-ddrive", "fast-ddrive")


def test_wod_e2e_needs_no_extrapolation(release, tmp_path):
    """Five points up to 5 s, the quintic between them; one picture per camera, as the data set has it."""
    who = planner_driver("fast-ddrive", str(release))
    observation = WodObserver(who.sight).observe(sample_of(frame()))
    assert {n: [f.image.shape for f in fs] for n, fs in observation.cameras.items()} == {
        name: [(128, 192, 3)] for name in ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")
    }
    path = written(tmp_path / "a.tfrecord", [frame()])
    journal, skips = Journal(tmp_path / "j.jsonl", {}), Skips("stop")
    score_wod([path], who, WodTask(), journal, skips)
    result = wod_result(who, WodTask(), journal, skips)
    assert result["horizon"] == {"quintic": 1} and result["repeated_pictures"] == 0
    (record,) = journal.records()
    assert record["answer"]["times_s"] == [1.0, 2.0, 3.0, 4.0, 5.0]
    np.testing.assert_allclose(np.array(record["prediction"])[3::4], record["answer"]["waypoints"], atol=1e-9)
    again = planner_driver("fast-ddrive", str(release)).answer("", lambda: observation)
    np.testing.assert_array_equal(again[1], record["answer"]["waypoints"])


def test_nuscenes_shows_three_fronts(release, tmp_path):
    """Six points, as answered; three pictures of the front camera over the last second."""
    who = planner_driver("fast-ddrive", str(release), schema="nuscenes")
    reader = NuScenesReader(tiny_nuscenes.write(tmp_path / "data", samples=15), "v1.0-mini")
    key_frame = list(reader.key_frames())[8]
    observation = Observer(reader, who.sight).observe(key_frame)
    (fronts,) = observation.cameras.values()
    assert [observation.stamp_ns - f.stamp_ns for f in fronts] == [1_000_000_000, 500_000_000, 0]
    assert fronts[0].image.shape == (tiny_nuscenes.HEIGHT, tiny_nuscenes.WIDTH, 3)
    assert not np.array_equal(fronts[0].image, fronts[2].image)
    journal, skips, task = Journal(tmp_path / "j.jsonl", {}), Skips("skip"), NuScenesTask("stp3", "lidar")
    score_nuscenes(reader, who, task, journal, skips)
    result = nuscenes_result(who, task, reader, journal, skips)
    assert result["horizon"] == {"as answered": 7} and result["samples"] == 1 and result["schema"] == "nuscenes"
