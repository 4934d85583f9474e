"""A nuScenes export as the real devkit reads it: tables, lidar, CAN bus, map, detection evaluation, round trip."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes", reason="needs nuscenes-devkit (requirements-devkits.txt)")
pytest.importorskip("libsumo")

from nuscenes import NuScenes
from nuscenes.can_bus.can_bus_api import NuScenesCanBus
from nuscenes.eval.common.config import config_factory
from nuscenes.eval.detection.evaluate import DetectionEval
from nuscenes.eval.detection.utils import category_to_detection_name
from nuscenes.map_expansion import arcline_path_utils
from nuscenes.map_expansion.map_api import NuScenesMap
from nuscenes.prediction import PredictHelper
from nuscenes.utils import splits
from nuscenes.utils.data_classes import LidarPointCloud
from PIL import Image
from pyquaternion import Quaternion

from efficientgen.eval.export_nuscenes import _NO_CAN_BUS, _scene_names, export_nuscenes
from efficientgen.eval.export_nuscenes_map import LOCATION, expansion, place
from efficientgen.eval.export_scene import Drive, ExportError, NoRunsError, drives_in
from efficientgen.eval.io_nuscenes import NuScenesReader
from efficientgen.eval.offline import Driver, Journal, Skips, straight_on
from efficientgen.eval.offline_nuscenes import NuScenesTask, score_nuscenes
from efficientgen.eval.overlay import to_ego
from efficientgen.eval.runner import drive
from efficientgen.eval.sensor_still import write_still
from efficientgen.eval.sight import Sight
from efficientgen.eval.step_log import all_ticks
from efficientgen.eval.store import save
from efficientgen.perception.rig import NUSCENES_RIG
from efficientgen.perception.types import CHUNK_NS
from efficientgen.worldsim.scenario import load_scenario
from efficientgen.worldsim.town import load_town

STEPS = 10  # 4 s: nine key frames


@pytest.fixture(scope="module")
def log():
    whole = drive(replace(load_scenario("birch_people"), duration_s=5.0), 0, "expert")
    return replace(whole, steps=whole.steps[:STEPS])


@pytest.fixture(scope="module")
def root(log, tmp_path_factory):
    folder = tmp_path_factory.mktemp("nuscenes")
    save(log, folder / "run" / "drive" / "log")
    return export_nuscenes(drives_in([folder / "run"]), folder / "export", width=160)


@pytest.fixture(scope="module")
def nusc(root):
    return NuScenes("v1.0-mini", str(root), verbose=False)


@pytest.fixture(scope="module")
def samples(nusc):
    held = [nusc.get("sample", nusc.scene[0]["first_sample_token"])]
    while held[-1]["next"]:
        held.append(nusc.get("sample", held[-1]["next"]))
    return held


def pose_of(nusc, sample):
    return nusc.get("ego_pose", nusc.get("sample_data", sample["data"]["LIDAR_TOP"])["ego_pose_token"])


def test_the_devkit_finds_a_whole_scene(nusc, samples, log):
    assert len(nusc.scene) == 1 and nusc.scene[0]["nbr_samples"] == len(samples) == 9
    assert "simulated: birch_people" in nusc.scene[0]["description"]
    assert np.diff([sample["timestamp"] for sample in samples]).tolist() == [500_000] * 8
    for sample in samples:
        assert set(sample["data"]) == {*(camera.name for camera in NUSCENES_RIG), "LIDAR_TOP"}
        for token in sample["data"].values():
            record = nusc.get("sample_data", token)
            assert Path(nusc.get_sample_data_path(token)).is_file() and record["is_key_frame"]
    annotated = [token for sample in samples for token in sample["anns"]]
    assert len(annotated) == len(nusc.sample_annotation) > 20
    for instance in nusc.instance:  # chains are whole
        token, count = instance["first_annotation_token"], 0
        while token:
            count, last = count + 1, token
            token = nusc.get("sample_annotation", token)["next"]
        assert count == instance["nbr_annotations"] and last == instance["last_annotation_token"]


def test_cameras_project_as_our_rig_does(nusc, samples):
    from efficientgen.perception.rig import project, scaled

    rig = scaled(NUSCENES_RIG, 160)
    point = np.array([[9.0, 2.0, 0.7], [-9.0, 2.0, 0.7]])
    for camera in rig:
        record = nusc.get("sample_data", samples[0]["data"][camera.name])
        held = nusc.get("calibrated_sensor", record["calibrated_sensor_token"])
        there = Quaternion(held["rotation"]).inverse.rotation_matrix @ (point - held["translation"]).T
        pixel = np.array(held["camera_intrinsic"]) @ there
        ours, depth = project(point, camera.intrinsics, camera.camera_to_ego)
        assert np.allclose(there[2], depth)
        assert np.allclose((pixel[:2] / pixel[2]).T, ours)


def test_lidar_points_lie_in_the_boxes_that_count_them(nusc, samples):
    seen = 0
    for sample in samples[::4]:
        path, boxes, _ = nusc.get_sample_data(sample["data"]["LIDAR_TOP"])
        cloud = LidarPointCloud.from_file(path).points  # (4, N), the devkit drops the ring
        assert 15_000 < cloud.shape[1] < 35_000 and 0 <= cloud[3].min() and cloud[3].max() <= 255
        for box in boxes:
            record = nusc.get("sample_annotation", box.token)
            local = box.rotation_matrix.T @ (cloud[:3] - box.center[:, None])
            half = np.array([box.wlh[1], box.wlh[0], box.wlh[2]])[:, None] / 2
            inside = (np.abs(local) <= half + 0.06).all(0)
            assert record["num_lidar_pts"] <= inside.sum()  # those on the ground are not counted
            seen += record["num_lidar_pts"] > 5
    assert seen >= 3


def test_boxes_stand_and_move_as_the_oracles_actors(nusc, samples, log):
    ticks = {tick.stamp_ns: tick for tick in all_ticks(log)}
    moving = 0
    for k, sample in enumerate(samples):
        tick = ticks[k * 500_000_000]
        shift = np.array(pose_of(nusc, sample)["translation"][:2]) - (tick.ego.x, tick.ego.y)
        there = np.array([(a.x, a.y) for a in tick.actors]) + shift
        for token in sample["anns"]:
            record = nusc.get("sample_annotation", token)
            if nusc.get("attribute", record["attribute_tokens"][0])["name"] == "vehicle.parked":
                continue
            away = np.hypot(*(there - record["translation"][:2]).T)
            actor = tick.actors[int(away.argmin())]
            assert away.min() < 1e-9
            assert np.allclose(record["size"], (actor.width, actor.length, actor.height))
            assert Quaternion(record["rotation"]).yaw_pitch_roll[0] == pytest.approx(actor.yaw)
            if record["prev"] and record["next"]:  # a second's mean against the instant
                along = nusc.box_velocity(token)[:2] @ (np.cos(actor.yaw), np.sin(actor.yaw))
                assert abs(along - actor.speed) < 1.2
                moving += actor.speed > 1.0
    assert moving > 5


def test_the_can_bus_says_what_the_ego_did(root, samples, log):
    bus = NuScenesCanBus(str(root))
    name = "scene-0103"
    pose, steering = bus.get_messages(name, "pose"), bus.get_messages(name, "steeranglefeedback")
    ticks = all_ticks(log)
    assert len(pose) == len(steering) == len(ticks)
    assert [p["vel"][0] for p in pose] == [tick.ego.speed for tick in ticks]
    assert pose[5]["utime"] == samples[1]["timestamp"]
    turning = np.array([tick.ego.steering for tick in ticks])
    assert np.allclose([s["value"] for s in steering], -15 * turning)
    assert len(bus.get_messages(name, "vehicle_monitor")) == 9 and len(bus.get_messages(name, "route")) > 10


def test_the_map_knows_where_the_car_is(root, nusc, samples):
    town = NuScenesMap(str(root), LOCATION)
    for sample in samples[::3]:
        x, y, _ = pose_of(nusc, sample)["translation"]
        assert town.layers_on_point(x, y)["drivable_area"]
        lane = town.get_closest_lane(x, y, radius=3)
        points = np.array(arcline_path_utils.discretize_lane(town.get_arcline_path(lane), 0.5))
        assert np.hypot(*(points[:, :2] - (x, y)).T).min() < 1.5
        assert nusc.map[0]["mask"].is_on_mask(x, y).all()
    mask = town.get_map_mask((x, y, 80, 80), 0.0, ["drivable_area", "lane", "walkway", "ped_crossing"], (160, 160))
    assert 0.05 < mask[0].mean() < 0.6 and (mask[1] & ~mask[0]).sum() < 0.01 * mask[1].sum()
    assert mask[2].any()
    outgoing = [town.get_outgoing_lane_ids(lane["token"]) for lane in town.lane]
    connectors = {connector["token"] for connector in town.lane_connector}
    assert sum(bool(lanes) for lanes in outgoing) > 0.8 * len(outgoing)
    assert all(lane in connectors for lanes in outgoing for lane in lanes)


def test_agents_have_pasts_and_futures(nusc, samples):
    helper = PredictHelper(nusc)
    agents = [nusc.get("sample_annotation", token)["instance_token"] for token in samples[2]["anns"]]
    lengths = [len(helper.get_future_for_agent(agent, samples[2]["token"], 3, True)) for agent in agents]
    assert max(lengths) == 6


def test_perfect_detections_score_one(nusc, root, samples, tmp_path):
    results, classes = {}, set()
    for sample in samples:
        held = []
        for token in sample["anns"]:
            record = nusc.get("sample_annotation", token)
            name = category_to_detection_name(record["category_name"])
            velocity = np.nan_to_num(nusc.box_velocity(token)[:2]).tolist()
            held.append({"sample_token": sample["token"], "translation": record["translation"], "size": record["size"],
                         "rotation": record["rotation"], "velocity": velocity, "detection_name": name,
                         "detection_score": 1.0,
                         "attribute_name": nusc.get("attribute", record["attribute_tokens"][0])["name"]})  # fmt: skip
            if record["num_lidar_pts"]:
                classes.add(name)
        results[sample["token"]] = held
    meta = {f"use_{kind}": kind == "lidar" for kind in ("camera", "lidar", "radar", "map", "external")}
    (tmp_path / "results.json").write_text(json.dumps({"meta": meta, "results": results}))
    judge = DetectionEval(nusc, config_factory("detection_cvpr_2019"), str(tmp_path / "results.json"), "mini_val",
                          str(tmp_path), verbose=False)  # fmt: skip
    found = judge.main(render_curves=False)
    present = {
        name for name in classes if judge.gt_boxes.all and any(b.detection_name == name for b in judge.gt_boxes.all)
    }
    assert len(present) >= 2
    for name in present:
        assert found["mean_dist_aps"][name] == pytest.approx(1.0)
        assert found["label_tp_errors"][name]["trans_err"] == pytest.approx(0.0, abs=1e-9)


def constant_velocity_ade(places: np.ndarray, yaws: np.ndarray, speeds: np.ndarray) -> float:
    """ADE over 3 s at 2 Hz of driving on straight, from every instant with a whole future."""
    errors = []
    for k in range(len(places) - 6):
        ahead = np.stack([np.cos(yaws[k]), np.sin(yaws[k])])
        plan = places[k] + speeds[k] * np.arange(1, 7)[:, None] * 0.5 * ahead
        errors.append(np.hypot(*(plan - places[k + 1 : k + 7]).T).mean())
    return float(np.mean(errors))


def test_the_round_trip_keeps_the_ade(nusc, root, samples, log):
    ticks = [tick.ego for tick in all_ticks(log) if tick.stamp_ns % 500_000_000 == 0]
    direct = constant_velocity_ade(
        np.array([(e.x, e.y) for e in ticks]), np.array([e.yaw for e in ticks]), np.array([e.speed for e in ticks])
    )
    poses = [pose_of(nusc, sample) for sample in samples]
    bus = {p["utime"]: p["vel"][0] for p in NuScenesCanBus(str(root)).get_messages("scene-0103", "pose")}
    back = constant_velocity_ade(
        np.array([p["translation"][:2] for p in poses]),
        np.array([Quaternion(p["rotation"]).yaw_pitch_roll[0] for p in poses]),
        np.array([bus[p["timestamp"]] for p in poses]),
    )
    assert direct > 0.05 and abs(back - direct) < 1e-6


def test_the_scorer_finds_the_l2_that_the_log_holds(root, samples, log, tmp_path):
    """Drive, export, score offline: the errors of driving straight on, held against the step log itself."""
    egos = [tick.ego for tick in all_ticks(log) if tick.stamp_ns % 500_000_000 == 0]
    speeds = {sample["token"]: ego.speed for sample, ego in zip(samples, egos, strict=True)}
    blind = Sight((), 0, CHUNK_NS, None)
    driver = Driver("straight", blind, lambda key, observe: (*straight_on(speeds[key]), ""), always_straight_on=True)
    reader, journal = NuScenesReader(root, "v1.0-mini", "mini_val"), Journal(tmp_path / "scored.jsonl", {})
    score_nuscenes(reader, driver, NuScenesTask("uniad", "ego"), journal, Skips("stop"))
    records = list(journal.records())
    assert len(records) == len(samples)
    largest = 0.0
    for k, record in enumerate(records):
        for j, later in enumerate(egos[k + 1 : k + 7]):
            (place,) = to_ego(np.array([[later.x, later.y]]), egos[k])
            direct = np.hypot(*(place - (egos[k].speed * 0.5 * (j + 1), 0.0)))
            assert abs(record["planner"]["l2"][j] - direct) < 1e-6
            assert abs(record["baseline"]["l2"][j] - direct) < 1e-6  # whose speed comes from the CAN bus
            largest = max(largest, direct)
    assert largest > 0.3


def test_a_still_shows_every_sensor(log, tmp_path):
    path = write_still(Drive(tmp_path, log), 2.0, tmp_path / "sensors.jpg", 64)
    picture = np.asarray(Image.open(path)).astype(int)
    assert picture.shape == (144, 384, 3)
    for panel in (picture[:72, :192], picture[:72, 192:], picture[72:, :192], picture[72:, 192:]):
        assert panel.std() > 8
    with pytest.raises(ExportError, match="no tick at 99"):
        write_still(Drive(tmp_path, log), 99.0, tmp_path / "never.jpg", 64)


def test_sweeps_fill_the_time_between_key_frames(log, tmp_path):
    short = replace(log, steps=log.steps[:2])  # nine ticks, key frames at 0 and 0.5 s
    out = export_nuscenes([Drive(tmp_path, short)], tmp_path / "out", width=64, split="mini_train", sweeps=True)
    nusc = NuScenes("v1.0-mini", str(out), verbose=False)
    assert [scene["name"] for scene in nusc.scene] == ["scene-0061"]
    first, last = nusc.sample
    for channel, token in first["data"].items():
        chain = []
        while token:
            chain.append(nusc.get("sample_data", token))
            token = chain[-1]["next"]
        assert [record["is_key_frame"] for record in chain] == [True, False, False, False, False, True]
        assert [record["timestamp"] - first["timestamp"] for record in chain] == [100_000 * k for k in range(6)]
        assert chain[-1]["token"] == last["data"][channel] and chain[2]["sample_token"] == last["token"]
        assert all((out / record["filename"]).is_file() for record in chain)
        assert {Path(record["filename"]).parts[0] for record in chain} == {"samples", "sweeps"}


def test_towns_lie_side_by_side_on_one_map():
    placed, (width, height) = place([load_town("birch"), load_town("maple")])
    spans = []
    for each in placed:
        points = np.concatenate([each.put(lane.shape) for lane in each.town.lanes])
        assert (points >= 0).all() and (points <= (width, height)).all()
        spans.append((points[:, 0].min(), points[:, 0].max()))
    assert spans[0][1] < spans[1][0]
    content = expansion(placed, (width, height))
    tokens = [record["token"] for layer in content.values() if isinstance(layer, list)
              for record in layer if isinstance(record, dict)]  # fmt: skip
    assert len(tokens) == len(set(tokens))


def test_names_of_the_large_splits_are_the_devkits():
    names = _scene_names("val", 150 - len(_NO_CAN_BUS & {int(name[-4:]) for name in splits.val}))
    assert set(names) < set(splits.val) or set(names) == set(splits.val)
    assert not {int(name[-4:]) for name in names} & set(_NO_CAN_BUS)


def test_what_cannot_be_exported_is_refused_and_leaves_nothing(log, root, tmp_path):
    here = Drive(tmp_path, log)
    with pytest.raises(ExportError, match="exists"):
        export_nuscenes([here], root)
    with pytest.raises(ExportError, match="2 scenes of mini_val"):
        export_nuscenes([here] * 3, tmp_path / "out")
    with pytest.raises(ExportError, match="no split 'test'"):
        export_nuscenes([here], tmp_path / "out", split="test")
    with pytest.raises(ExportError, match="two key frames"):
        export_nuscenes([Drive(tmp_path, replace(log, steps=log.steps[:1]))], tmp_path / "out", width=160)
    with pytest.raises(NoRunsError, match="efficientgen drive"):
        drives_in([tmp_path])
    with pytest.raises(ValueError, match="multiple of 16"):
        export_nuscenes([here], tmp_path / "out", width=401)
    assert list(tmp_path.iterdir()) == []
