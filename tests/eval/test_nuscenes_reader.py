"""nuScenes through the real devkit: what is read is what was written, and planners are asked as on the road."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("nuscenes")

from efficientgen.eval.io_nuscenes import NuScenesDataError, NuScenesReader  # noqa: E402
from efficientgen.eval.nuscenes_drive import Observer  # noqa: E402
from efficientgen.eval.nuscenes_planning import planning_metrics  # noqa: E402
from efficientgen.eval.offline import (  # noqa: E402
    DifferentMetricError,
    Driver,
    Journal,
    JournalError,
    NothingToScoreError,
    NotOfflineError,
    Skips,
    compare_results,
    file_driver,
    planner_driver,
)
from efficientgen.eval.offline_nuscenes import (  # noqa: E402
    NuScenesTask,
    in_lidar,
    nuscenes_result,
    score_nuscenes,
)
from efficientgen.eval.predictions import prediction_record, write_predictions  # noqa: E402
from efficientgen.eval.resample import WaypointError  # noqa: E402
from efficientgen.eval.sight import Sight  # noqa: E402
from efficientgen.perception.observation import NotEnoughHistoryError  # noqa: E402
from efficientgen.perception.types import Command  # noqa: E402
from tests.eval import tiny_nuscenes  # noqa: E402

BLIND = Sight((), 0, 1, None)
SPEED, RADIUS = 6.0, 60.0
EGO = tiny_nuscenes.circle(SPEED, RADIUS)


def at_ego(t, ahead, left):
    """World place of a point given in the ego frame at a time."""
    x, y, yaw = EGO(t)
    return x + ahead * math.cos(yaw) - left * math.sin(yaw), y + ahead * math.sin(yaw) + left * math.cos(yaw)


def others(t):
    """In the ego frame at 4 s: who counts differs by convention."""
    place = dict(car=at_ego(4.0, 10.94, 3.0), far=at_ego(4.0, 40.0, 0.0), walker=at_ego(4.0, 5.0, -4.0),
                 hidden=at_ego(4.0, 8.0, 6.0), cone=at_ego(4.0, 6.0, 1.0), police=at_ego(4.0, 12.0, -5.0))  # fmt: skip
    yaw = EGO(4.0)[2]
    return [
        ("vehicle.car", *place["car"], yaw + 0.3, "4", 9),
        ("vehicle.truck", *place["far"], yaw, "4", 3),
        ("human.pedestrian.adult", *place["walker"], yaw, "3", 2),
        ("vehicle.car" if t >= 4.5 else "", *place["hidden"], yaw, "1", 1),  # appears later, hardly visible
        ("movable_object.trafficcone", *place["cone"], yaw, "4", 5),
        ("vehicle.emergency.police", *place["police"], yaw, "4", 4),
        ("vehicle.bicycle", *at_ego(4.0, 9.0, -2.0), yaw, "4", 0),  # nothing measured
    ]


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    return tiny_nuscenes.write(tmp_path_factory.mktemp("nuscenes"), EGO, others, samples=18, speed=SPEED)


@pytest.fixture(scope="module")
def reader(root: Path) -> NuScenesReader:
    return NuScenesReader(root, "v1.0-mini")


def test_the_path_that_was_driven(reader):
    frames = list(reader.key_frames())
    assert len(frames) == len(reader) == 18 and [f.token for f in frames[:2]] == ["s0", "s1"]
    t = 0.5 * np.arange(1, 7)
    chord = np.stack([RADIUS * np.sin(SPEED * t / RADIUS), RADIUS * (1 - np.cos(SPEED * t / RADIUS))], 1)
    turn = SPEED * t / RADIUS
    for frame in frames[:12]:
        assert frame.mask.all() and frame.command is Command.GO_LEFT
        np.testing.assert_allclose(frame.ego_path, np.stack([-chord[:, 1], chord[:, 0]], 1), atol=1e-9)
        lidar = chord + 0.94 * np.stack([np.cos(turn) - 1, np.sin(turn)], 1)
        np.testing.assert_allclose(frame.lidar_path, np.stack([-lidar[:, 1], lidar[:, 0]], 1), atol=1e-9)
    assert frames[14].mask.tolist() == [1, 1, 1, 0, 0, 0] and frames[17].mask.sum() == 0
    np.testing.assert_array_equal(frames[14].lidar_path[3:], frames[14].lidar_path[[2, 2, 2]])


def test_a_plan_that_follows_the_circle_is_right_for_the_lidar_too(reader):
    """The lidar's path follows from the ego's, exactly on a circle; leaving the mount out costs 0.2 m."""
    frame = next(reader.key_frames())
    ego = np.stack([frame.ego_path[:, 1], -frame.ego_path[:, 0]], 1)
    np.testing.assert_allclose(in_lidar(ego, frame.lidar_mount), frame.lidar_path, atol=1e-9)
    assert np.abs(frame.ego_path - frame.lidar_path).max() > 0.2
    np.testing.assert_allclose(in_lidar(ego, np.zeros(2)), frame.ego_path, atol=1e-12)


def test_boxes_lie_where_they_are(reader):
    """The car 10 m ahead of the lidar and 3 m to its left, turned 0.3 rad to the left of straight on."""
    steps = reader.agent_boxes("s8", "uniad")  # s8: 4 s
    car = min(steps[0], key=lambda b: np.hypot(b[0] + 3, b[1] - 10))
    np.testing.assert_allclose(car, [-3.0, 10.0, math.pi / 2 + 0.3, 4.5, 1.9], atol=1e-6)
    car = min(reader.agent_boxes("s8", "stp3")[0], key=lambda b: np.hypot(b[0] + 3, b[1] - 10.94))
    np.testing.assert_allclose(car[:2], [-3.0, 10.94], atol=1e-6)  # its labels start at the ego origin


@pytest.mark.parametrize(
    "convention, ahead",
    [
        ("uniad", [9.06 + 1, 39.06]),  # car and truck: visible, measured, of the seven classes
        ("stp3", [5.0, 9.0, 10.94, 12.0, 40.0]),  # all vehicles and people seen lately; from the ego origin
        ("vad", [4.06, 10.0]),  # there now, near, measured, and no police
        ("omnidrive", [8.06, 10.0, 11.06, 39.06]),  # every vehicle that is there now
    ],
)
def test_who_counts(reader, convention, ahead):
    want = [10.0 if abs(a - 10.06) < 1e-9 else a for a in ahead]
    for step in reader.agent_boxes("s8", convention):
        np.testing.assert_allclose(sorted(step[:, 1]), want, atol=1e-6)
    assert [len(step) for step in reader.agent_boxes("s15", convention)][2:] == [0, 0, 0, 0]  # the scene is over


def test_history_is_the_can_bus(reader):
    frames = list(reader.key_frames())
    observation = Observer(reader, BLIND).observe(frames[10])
    now = observation.history.states[-1]
    assert len(observation.history.states) == 16 and observation.command is Command.GO_LEFT
    for k, state in enumerate(reversed(observation.history.states)):
        x, y, yaw = EGO(5.0 - 0.25 * k)
        assert (state.x, state.y, state.yaw) == pytest.approx((x, y, yaw), abs=2e-3)
        assert state.speed == pytest.approx(SPEED) and state.yaw_rate == pytest.approx(SPEED / RADIUS, abs=1e-6)
    assert now.stamp_ns == observation.stamp_ns
    with pytest.raises(NotEnoughHistoryError, match="CAN bus"):
        Observer(reader, BLIND).observe(frames[7])


def driver(path, name="made", sight=BLIND):
    times = 0.5 * np.arange(1, 7)
    return Driver(name, sight, lambda key, observe: (times, path(observe()), ""), {"seed": 0})


def run(reader, who, task, journal, on_error="skip"):
    skips = Skips(on_error)
    score_nuscenes(reader, who, task, journal, skips)
    return nuscenes_result(who, task, reader, journal, skips)


def on_circle(observation):
    t = 0.5 * np.arange(1, 7)
    return RADIUS * np.stack([np.sin(SPEED * t / RADIUS), 1 - np.cos(SPEED * t / RADIUS)], 1)


@pytest.mark.parametrize("convention", ["uniad", "stp3", "vad", "omnidrive"])
def test_scores_of_a_planner_that_knows(reader, tmp_path, convention):
    """A planner on the path that was driven, 0.5 m to the left of it: 0.5 m of error in every convention."""
    task = NuScenesTask(convention, "ego")
    result = run(reader, driver(lambda o: on_circle(o) + [0.0, 0.5]), task, Journal(tmp_path / "j.jsonl", {}))
    scores = result["scores"]["made"]
    whole, seen = 4, 10  # key frames with history and six futures, and with history
    assert result["samples"] == (seen if convention == "uniad" else whole) and result["key_frames"] == seen
    assert result["skipped"]["NotEnoughHistoryError"]["samples"] == 8
    if convention == "uniad":  # what does not exist counts as no error
        assert scores["L2_3s"] == pytest.approx(0.5 * 4 / 10) and scores["L2_1s"] == pytest.approx(0.5 * 8 / 10)
    else:
        assert scores["L2_avg"] == pytest.approx(0.5) and scores["L2_at_3s"] == pytest.approx(0.5)
    assert result["scores"]["constant-velocity"]["L2_3s"] > scores["L2_3s"]
    assert {"convention", "mask_rule", "reference", "samples", "seed", "commands"} <= set(result)


def test_directly_computed_ade_is_the_score(reader, tmp_path):
    """Read, asked and scored offline gives the distance that one computes by hand, to a micrometre."""
    task = NuScenesTask("vad", "ego")
    result = run(reader, planner_driver("constant-velocity"), task, Journal(tmp_path / "j.jsonl", {}))
    t = 0.5 * np.arange(1, 7)
    ahead = np.stack([SPEED * t, np.zeros(6)], 1)
    by_hand = np.hypot(*(ahead - on_circle(None)).T)
    assert result["scores"]["constant-velocity"]["L2_3s"] == pytest.approx(by_hand.mean(), abs=1e-6)
    assert list(result["scores"]) == ["constant-velocity"]


def test_a_run_goes_on_where_it_stopped(reader, tmp_path):
    task, path = NuScenesTask("vad", "lidar"), tmp_path / "j.jsonl"
    asked = []

    def counting(observation):
        asked.append(1)
        if len(asked) == 6:
            raise KeyboardInterrupt
        return on_circle(observation)

    with pytest.raises(KeyboardInterrupt):
        run(reader, driver(counting), task, Journal(path, {"of": 1}))
    path.write_bytes(path.read_bytes()[:-20])  # and the last line is cut short
    result = run(reader, driver(counting), task, Journal(path, {"of": 1}))
    assert len(asked) == 6 + 6 and result["key_frames"] == 10
    whole = run(reader, driver(on_circle), task, Journal(tmp_path / "k.jsonl", {"of": 1}))
    assert whole["scores"] == result["scores"] and whole["samples_sha256"] == result["samples_sha256"]
    with pytest.raises(JournalError, match="remove it"):
        Journal(path, {"of": 2})


def test_errors_stop_or_are_counted(reader, tmp_path):
    task = NuScenesTask("vad", "lidar")
    with pytest.raises(NotEnoughHistoryError):
        run(reader, driver(on_circle), task, Journal(tmp_path / "a.jsonl", {}), on_error="stop")

    def broken(observation):
        return np.full((6, 2), np.nan)

    with pytest.raises(NothingToScoreError, match="WaypointError"):
        run(reader, driver(broken), task, Journal(tmp_path / "b.jsonl", {}))
    nan_only = driver(broken, sight=BLIND)
    with pytest.raises((WaypointError, NotEnoughHistoryError)):
        run(reader, nan_only, task, Journal(tmp_path / "c.jsonl", {}), on_error="stop")
    with pytest.raises(NotOfflineError, match="town"):
        planner_driver("expert")


def test_prediction_files_need_no_history(reader, tmp_path):
    """What a file predicts is scored on every key frame; a sample that it lacks is counted."""
    write_predictions(
        (prediction_record(f"s{k}", 0.5 * np.arange(1, 7), on_circle(None)) for k in range(17)), tmp_path / "p.json"
    )
    result = run(
        reader, file_driver(tmp_path / "p.json"), NuScenesTask("vad", "ego"), Journal(tmp_path / "j.jsonl", {})
    )
    assert result["samples"] == 12 and result["scores"]["p"]["L2_avg"] == pytest.approx(0.0, abs=1e-9)
    assert result["skipped"] == {
        "PredictionError": {"samples": 1, "first": result["skipped"]["PredictionError"]["first"]}
    }
    assert "s17" in result["skipped"]["PredictionError"]["first"]


def test_only_like_is_compared_with_like(reader, tmp_path):
    def result(convention, reference="ego", shift=0.0):
        journal = Journal(tmp_path / f"{convention}{reference}{shift}.jsonl", {})
        return run(reader, driver(lambda o: on_circle(o) + [0, shift]), NuScenesTask(convention, reference), journal)

    a, b = result("vad"), result("vad", shift=0.25)
    assert compare_results(a, b)["L2_avg"] == pytest.approx(0.25)
    for other in (result("uniad"), result("stp3"), result("vad", "lidar")):
        with pytest.raises(DifferentMetricError, match="mean different"):
            compare_results(a, other)
    with pytest.raises(DifferentMetricError, match="different samples"):
        compare_results(a, b | {"samples_sha256": "0"})


def test_the_shipped_planner_looks_at_nuscenes(reader, tmp_path):
    """Pictures of another rig, seen as its own: the same observation as in a drive, and a plan."""
    who = planner_driver("nano-ddrive")
    frame = list(reader.key_frames())[11]
    observation = Observer(reader, who.sight).observe(frame)
    assert {n: [f.image.shape for f in fs] for n, fs in observation.cameras.items()} == {
        name: [(112, 224, 3)] * 2 for name in ("FRONT_LEFT", "FRONT", "FRONT_RIGHT")
    }
    now, before = observation.cameras["FRONT"][1], observation.cameras["FRONT"][0]
    assert now.stamp_ns - before.stamp_ns == 400_000_000 and not np.array_equal(now.image, before.image)
    task = NuScenesTask("vad", "lidar")
    journal = Journal(tmp_path / "j.jsonl", {})
    for key in [f.token for f in reader.key_frames() if f.token != "s11"]:
        journal.done.add(key)
    skips = Skips("stop")
    score_nuscenes(reader, who, task, journal, skips)
    (record,) = journal.records()
    boxes = reader.agent_boxes("s11", "vad")
    plan = in_lidar(np.array(record["prediction"]), frame.lidar_mount)
    again = planning_metrics(plan, frame.lidar_path, frame.mask, boxes, "vad")
    np.testing.assert_allclose(record["planner"]["l2"], again.l2)
    assert record["how"] == "as answered" and '"trajectory"' in record["answer"]["text"]


def test_incomplete_data_sets_are_named(root, tmp_path):
    with pytest.raises(NuScenesDataError, match="v1.0-mini"):
        NuScenesReader(root, "v1.0-trainval")
    with pytest.raises(NuScenesDataError, match="no split"):
        NuScenesReader(root, "v1.0-mini", split="everything")
    with pytest.raises(NuScenesDataError, match="none of the scenes"):
        NuScenesReader(root, "v1.0-mini", split="mini_val")
    assert len(NuScenesReader(root, "v1.0-mini", split="mini_train").scenes) == 1
    copy = tmp_path / "broken"
    (copy / "v1.0-mini").mkdir(parents=True)
    (copy / "maps").mkdir()
    (copy / "maps" / "m.png").write_bytes((root / "maps" / "m.png").read_bytes())
    for path in (root / "v1.0-mini").iterdir():
        (copy / "v1.0-mini" / path.name).write_bytes(path.read_bytes())
    (copy / "v1.0-mini" / "instance.json").unlink()
    with pytest.raises(NuScenesDataError, match="lacks 1 of its 13 tables: instance"):
        NuScenesReader(copy, "v1.0-mini")
    whole = (root / "v1.0-mini" / "instance.json").read_text()
    for damaged in ("", "[", whole[: len(whole) // 2], '{"token": 3}'):
        (copy / "v1.0-mini" / "instance.json").write_text(damaged)
        with pytest.raises(NuScenesDataError, match="damaged"):
            NuScenesReader(copy, "v1.0-mini")
    rows = json.loads((root / "v1.0-mini" / "instance.json").read_text())
    (copy / "v1.0-mini" / "instance.json").write_text(json.dumps(rows[1:]))
    with pytest.raises(NuScenesDataError, match="do not fit together"):
        NuScenesReader(copy, "v1.0-mini")
    (copy / "v1.0-mini" / "instance.json").write_text(json.dumps(rows))
    with pytest.raises(NuScenesDataError, match="can_bus"):
        Observer(NuScenesReader(copy, "v1.0-mini"), BLIND)


def test_a_hole_in_the_can_bus_is_not_bridged(tmp_path):
    tiny_nuscenes.write(tmp_path, EGO, samples=12, speed=SPEED)
    path = tmp_path / "can_bus" / f"{tiny_nuscenes.SCENE}_pose.json"
    rows = json.loads(path.read_text())
    path.write_text(json.dumps([row for row in rows if not 3e6 < row["utime"] - tiny_nuscenes.BEGIN_US < 3.5e6]))
    reader = NuScenesReader(tmp_path, "v1.0-mini")
    with pytest.raises(NotEnoughHistoryError, match="hole"):
        Observer(reader, BLIND).observe(list(reader.key_frames())[10])
