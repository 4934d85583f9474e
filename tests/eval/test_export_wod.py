"""A WOD-E2E export as the real protos read it: states, cameras, calibrations, intent, synthetic raters, round trip."""

import io
import json
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("waymo_open_dataset", reason="needs the WOD protos (requirements-devkits.txt)")
pytest.importorskip("libsumo")

from PIL import Image
from waymo_open_dataset import dataset_pb2

from efficientgen.eval.export_scene import Drive, ExportError
from efficientgen.eval.export_wod import export_wod, relative, stamps_of, states_at
from efficientgen.eval.io_wod import frames
from efficientgen.eval.offline import Driver, Journal, Skips, straight_on
from efficientgen.eval.offline_wod import WodTask, score_wod
from efficientgen.eval.runner import drive
from efficientgen.eval.sight import Sight
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.rig import WOD_RIG, scaled
from efficientgen.perception.types import CHUNK_NS
from efficientgen.worldsim.scenario import load_scenario

FLOAT32_M = 1e-5  # positions within a hundred metres, stored as float32


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    log = drive(replace(load_scenario("birch_people"), duration_s=10.8), 0, "expert")
    here = Drive(tmp_path_factory.mktemp("run"), log)
    out = export_wod([here], tmp_path_factory.mktemp("wod") / "export", 96, 800_000_000, raters=True)
    (path,) = out.glob("*.tfrecord-*")
    return here, path, list(frames(path))


def egos(here):
    return {tick.stamp_ns: tick.ego for tick in all_ticks(here.log)}


def test_frames_hold_what_the_protos_promise(made):
    here, path, held = made
    assert len(held) == len(stamps_of(here, 800_000_000)) == 3
    names = [frame.frame.context.name for frame in held]
    assert len(set(names)) == 3 and {name[-4:] for name in names} == {"-000", "-001", "-002"}
    for frame in held:
        past, future = frame.past_states, frame.future_states
        for name in ("pos_x", "pos_y", "pos_z", "vel_x", "vel_y", "accel_x", "accel_y"):
            assert len(getattr(past, name)) == 16
        assert len(future.pos_x) == len(future.pos_y) == 20 and not len(future.vel_x)
        assert abs(past.pos_x[-1]) < 1e-9 and past.pos_x[0] < 0 < future.pos_x[-1]  # ends now, at the origin
        assert frame.intent in (1, 2, 3)


def test_cameras_are_matched_by_name_and_calibrated(made):
    _, _, held = made
    rig = {camera.name: camera for camera in scaled(WOD_RIG, 96)}
    for frame in held:
        images = {dataset_pb2.CameraName.Name.Name(image.name): image for image in frame.frame.images}
        assert set(images) == set(rig)
        for calibration in frame.frame.context.camera_calibrations:
            camera = rig[dataset_pb2.CameraName.Name.Name(calibration.name)]
            assert (calibration.width, calibration.height) == (96, 64)
            assert np.allclose(np.reshape(calibration.extrinsic.transform, (4, 4)), camera.camera_to_ego)
            assert calibration.intrinsic[0] == pytest.approx(camera.focal)
            picture = np.asarray(Image.open(io.BytesIO(images[camera.name].image)))
            assert picture.shape == (64, 96, 3) and picture.std() > 5


def test_the_speed_now_is_the_cars(made):
    here, _, held = made
    for frame, stamp in zip(held, stamps_of(here, 800_000_000), strict=True):
        speed = np.hypot(frame.past_states.vel_x[-1], frame.past_states.vel_y[-1])
        assert speed == pytest.approx(egos(here)[stamp].speed, abs=1e-5)


def test_the_round_trip_keeps_the_ade_to_float32(made):
    """Straight on at the present speed, held against the exported future and against the log."""
    here, _, held = made
    states = egos(here)
    for frame, stamp in zip(held, stamps_of(here, 800_000_000), strict=True):
        times = np.arange(1, 21) * 0.25
        plan = np.stack([states[stamp].speed * times, 0 * times], 1)
        coming = states_at(states, [stamp + round(t * 1e9) for t in times])
        direct = np.hypot(*(plan - relative(coming, states[stamp])).T).mean()
        future = np.stack([frame.future_states.pos_x, frame.future_states.pos_y], 1)
        back = np.hypot(*(plan - future).T).mean()
        assert direct > 0.01 and abs(back - direct) < FLOAT32_M


def test_the_scorer_finds_the_ade_that_the_log_holds(made, tmp_path):
    here, path, held = made
    states = egos(here)
    names = {frame.frame.context.name: stamp for frame, stamp in zip(held, stamps_of(here, 800_000_000), strict=True)}
    blind = Sight((), 0, CHUNK_NS, None)
    driver = Driver("straight", blind, lambda key, observe: (*straight_on(states[names[key]].speed), ""),
                    always_straight_on=True)  # fmt: skip
    journal = Journal(tmp_path / "scored.jsonl", {})
    score_wod([path], driver, WodTask("rated"), journal, Skips("stop"))
    records = list(journal.records())
    assert len(records) == 3
    for record in records:
        now = states[names[record["key"]]]
        times = np.arange(1, 21) * 0.25
        coming = relative(states_at(states, [now.stamp_ns + round(t * 1e9) for t in times]), now)
        errors = np.hypot(*(np.stack([now.speed * times, 0 * times], 1) - coming).T)
        for name, reach in (("ade_3s_log", 12), ("ade_5s_log", 20), ("ade_5s_best_rater", 20)):
            assert abs(record["planner"][name] - errors[:reach].mean()) < FLOAT32_M  # the best rater is the driven path
        assert 0 <= record["planner"]["rfs"] <= 10


def test_synthetic_raters_say_so_and_put_the_driven_path_first(made):
    _, path, held = made
    assert "synthetic-raters" in path.name
    assert json.loads((path.parent / "export.json").read_text())["raters"].startswith("synthetic: 10 points")
    for frame in held:
        rated = frame.preference_trajectories
        assert len(rated) == 3 and all(len(t.pos_x) == 20 and 0 <= t.preference_score <= 10 for t in rated)
        assert np.allclose(rated[0].pos_x, frame.future_states.pos_x)
        driven, _, braking = (t.preference_score for t in rated)
        assert driven > braking  # the expert drove without fault and braking for nothing costs progress


def test_without_the_flag_nothing_is_rated(made, tmp_path):
    here, _, _ = made
    short = Drive(here.directory, replace(here.log, steps=here.log.steps[:23]))  # 9.2 s: one frame
    out = export_wod([short], tmp_path / "plain", 48, 4_000_000_000)
    (path,) = out.glob("*.tfrecord-*")
    (frame,) = frames(path)
    assert not len(frame.preference_trajectories) and "synthetic" not in path.name
    assert json.loads((out / "export.json").read_text())["raters"] == "none"


def test_what_cannot_be_exported_is_refused(made, tmp_path):
    here, _, _ = made
    with pytest.raises(ExportError, match="3.75 s before and 5 s after"):
        export_wod([Drive(here.directory, replace(here.log, steps=here.log.steps[:20]))], tmp_path / "out")
    with pytest.raises(ExportError, match="multiple of 0.1"):
        export_wod([here], tmp_path / "out", period_ns=250_000_000)
    assert not (tmp_path / "out").exists()
