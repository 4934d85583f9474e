"""WOD-E2E end to end: frames as the protos hold them, planners, damaged files, submissions, prediction files."""

import io
import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("crc32c")
pytest.importorskip("waymo_open_dataset")

from efficientgen.eval.io_wod import data_protos, submission_protos, write_records  # noqa: E402
from efficientgen.eval.offline import (  # noqa: E402
    Driver,
    Journal,
    NothingToScoreError,
    Skips,
    compare_results,
    file_driver,
    planner_driver,
)
from efficientgen.eval.offline_wod import (  # noqa: E402
    ClusterFileError,
    WodTask,
    predictions_of,
    read_clusters,
    score_wod,
    wod_result,
)
from efficientgen.eval.predictions import (  # noqa: E402
    PredictionError,
    PredictionFileError,
    prediction_record,
    read_predictions,
    trajectory_of,
    write_predictions,
)
from efficientgen.eval.resample import HorizonError  # noqa: E402
from efficientgen.eval.sight import Sight  # noqa: E402
from efficientgen.eval.wod_e2e import TIMES_S, rater_feedback_score  # noqa: E402
from efficientgen.eval.wod_frames import WodObserver, sample_of  # noqa: E402
from efficientgen.eval.wod_submission import (  # noqa: E402
    SubmissionError,
    SubmissionForm,
    read_submission,
    write_submission,
)
from efficientgen.perception.observation import NotEnoughHistoryError  # noqa: E402
from efficientgen.perception.types import Command  # noqa: E402

SPEED, RADIUS = 8.0, 50.0
BLIND = Sight((), 0, 1, None)


def arc(t, speed=SPEED, radius=RADIUS):
    """Place on a left bend, t s from now, in the vehicle frame of now."""
    a = speed * np.asarray(t) / radius
    return np.stack([radius * np.sin(a), radius * (1 - np.cos(a))], -1)


def jpeg(shade: int, width=192, height=128) -> bytes:
    rows, columns = np.mgrid[:height, :width]
    image = np.stack([rows + columns // 3, np.full_like(rows, shade), columns], -1).clip(0, 255).astype(np.uint8)
    out = io.BytesIO()
    Image.fromarray(image).save(out, "JPEG")
    return out.getvalue()


def frame(name="seg-007", raters=((0.0, 9.0), (3.0, 5.0)), past=16, future=20, stamp_us=10_000_000, shade=80):
    """A frame on the bend; raters are (m to the left of it, score)."""
    protos = data_protos()
    out = protos.E2EDFrame(intent=2)
    out.frame.context.name, out.frame.timestamp_micros = name, stamp_us
    t = np.arange(1 - past, 1) / 4 if past else np.zeros(0)
    a = SPEED * t / RADIUS
    place, lateral = arc(t), SPEED**2 / RADIUS
    out.past_states.pos_x.extend(place[:, 0])
    out.past_states.pos_y.extend(place[:, 1])
    out.past_states.vel_x.extend(SPEED * np.cos(a))
    out.past_states.vel_y.extend(SPEED * np.sin(a))
    out.past_states.accel_x.extend(-lateral * np.sin(a))
    out.past_states.accel_y.extend(lateral * np.cos(a))
    ahead = arc(np.arange(1, future + 1) / 4)
    out.future_states.pos_x.extend(ahead[:, 0])
    out.future_states.pos_y.extend(ahead[:, 1])
    for left, score in raters:
        path = arc(TIMES_S) + [0.0, left]
        out.preference_trajectories.add(pos_x=path[:, 0], pos_y=path[:, 1], preference_score=score)
    for number, degrees in ((1, 0.0), (2, 45.0), (3, -45.0), (7, 180.0)):
        c, s = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
        out.frame.images.add(name=number, image=jpeg(shade))
        calibration = out.frame.context.camera_calibrations.add(name=number, width=192, height=128)
        calibration.intrinsic.extend([204.0, 204.0, 96.0, 64.0, 0.01, 0.0, 0.0, 0.0, 0.0])
        calibration.extrinsic.transform.extend([c, -s, 0, 1.5, s, c, 0, 0, 0, 0, 1, 2.1, 0, 0, 0, 1])
    return out


def written(path: Path, frames) -> Path:
    write_records(path, [f if isinstance(f, bytes) else f.SerializeToString() for f in frames])
    return path


def driver(path=lambda o: arc(TIMES_S), times=TIMES_S, sight=BLIND):
    return Driver("made", sight, lambda key, observe: (times, path(observe()), ""), {"seed": 0})


def run(paths, who, tmp_path, task=None, on_error="skip", name="j.jsonl"):
    task, skips, journal = task or WodTask(), Skips(on_error), Journal(tmp_path / name, {})
    score_wod(paths, who, task, journal, skips)
    return wod_result(who, task, journal, skips), journal


def test_states_are_the_history():
    """Places and speeds as they are in the frame; headings along the velocity; the turn from what pulls aside."""
    sample = sample_of(frame())
    assert (sample.segment, sample.command, sample.speed) == ("seg", Command.GO_LEFT, pytest.approx(SPEED))
    for k, state in enumerate(reversed(sample.history.states)):
        assert (state.x, state.y) == pytest.approx(tuple(arc(-0.25 * k)), abs=1e-5)
        assert state.yaw == pytest.approx(-0.25 * k * SPEED / RADIUS, abs=1e-6)
        assert (state.speed, state.acceleration) == pytest.approx((SPEED, 0.0), abs=1e-5)
        assert state.yaw_rate == pytest.approx(SPEED / RADIUS, abs=1e-6)
    standing = frame()
    for key in ("vel_x", "vel_y", "accel_x", "accel_y"):
        getattr(standing.past_states, key)[:] = [0.0] * 16
    assert {s.yaw for s in sample_of(standing).history.states} == {0.0}
    with pytest.raises(NotEnoughHistoryError, match="11 past states"):
        sample_of(frame(past=11))


def test_scores_are_those_of_the_functions(tmp_path):
    """A plan 0.5 m to the left of the path that was driven."""
    path = written(
        tmp_path / "a.tfrecord", [frame(), frame("seg-008", raters=()), frame("t-001", raters=((1.0, 6.0),))]
    )
    shifted = arc(TIMES_S) + [0.0, 0.5]
    result, journal = run([path], driver(lambda o: shifted), tmp_path)
    scores = result["scores"]["made"]
    assert result["samples"] == 2 and result["skipped"]["unrated"]["samples"] == 1
    for seconds in (3, 5):
        assert scores[f"ade_{seconds}s_log"] == pytest.approx(0.5, abs=1e-6)
        assert scores[f"ade_{seconds}s_best_rater"] == pytest.approx(0.5, abs=1e-6)  # 0.5 m off 0 and off 1
    by_hand = [rater_feedback_score(shifted[None], [1.0], *r, SPEED).score for r in (
        ([arc(TIMES_S), arc(TIMES_S) + [0, 3.0]], [9.0, 5.0]), ([arc(TIMES_S) + [0, 1.0]], [6.0]))]  # fmt: skip
    assert scores["rfs"] == pytest.approx(np.mean(by_hand), abs=1e-4)
    assert "no table of clusters" in result["rfs_is"] and "best_rater" in result["ade_vs"]
    straight = result["scores"]["constant-velocity"]
    assert straight["ade_5s_log"] > straight["ade_3s_log"] > 0.5 > 0 and straight["rfs"] < scores["rfs"]
    clustered, _ = run([path], driver(lambda o: shifted), tmp_path, WodTask(clusters={"seg": "cyclist"}), name="c")
    assert set(clustered["scores"]["made"]["rfs_per_cluster"]) == {"cyclist", "unknown"}
    everything, _ = run([path], driver(lambda o: shifted), tmp_path, WodTask("all"), name="e")
    assert everything["samples"] == 3 and everything["scores"]["made"]["rfs_frames"] == 2
    assert compare_results(result, result)["rfs"] == 0.0


def test_the_constant_velocity_planner_to_a_micrometre(tmp_path):
    path = written(tmp_path / "a.tfrecord", [frame()])
    result, _ = run([path], planner_driver("constant-velocity"), tmp_path)
    ahead = np.stack([SPEED * TIMES_S, np.zeros(20)], 1)
    ade = np.hypot(*(ahead - arc(TIMES_S)).T).mean()
    assert result["scores"]["constant-velocity"]["ade_5s_log"] == pytest.approx(ade, abs=1e-6)
    assert list(result["horizon"]) == ["quintic, last velocity after 3 s"]


def test_short_plans_are_only_continued_on_request(tmp_path):
    half = np.arange(1, 7) * 0.5
    path = written(tmp_path / "a.tfrecord", [frame()])
    short = driver(lambda o: arc(half), half)
    with pytest.raises(HorizonError, match="--extrapolate"):
        run([path], short, tmp_path, name="a")
    result, _ = run([path], short, tmp_path, WodTask(extrapolate=True), name="b")
    assert result["horizon"] == {"quintic, last velocity after 3 s": 1}
    assert result["scores"]["made"]["ade_3s_log"] < 0.05 < result["scores"]["made"]["ade_5s_log"]


def damaged(tmp_path: Path) -> list[Path]:
    """Two files: a flipped byte in the second record of three, and one that ends inside its second record."""
    first = written(tmp_path / "a.tfrecord", [frame(f"a-{k}") for k in range(3)])
    data = bytearray(first.read_bytes())
    data[len(data) // 2] ^= 1
    first.write_bytes(data)
    second = written(tmp_path / "b.tfrecord", [frame(f"b-{k}") for k in range(2)])
    second.write_bytes(second.read_bytes()[:-100])
    third = written(tmp_path / "c.tfrecord", [frame("c-0", past=3), frame("c-1", raters=((0.0, -1.0),)), b"\xff\xff"])
    return [first, second, third]


def test_what_cannot_be_scored_is_counted_or_ends_the_run(tmp_path):
    paths = damaged(tmp_path)
    result, journal = run(paths, driver(), tmp_path)
    assert {r["key"] for r in journal.records()} == {"a-0", "a-2", "b-0"}
    assert {why: n["samples"] for why, n in result["skipped"].items()} == {
        "CorruptRecordError": 2, "TruncatedRecordError": 1, "NotEnoughHistoryError": 1, "unrated": 1}  # fmt: skip
    same = written(tmp_path / "d.tfrecord", [frame("d-0"), frame("d-0"), frame("")])
    twice, _ = run([same], driver(), tmp_path, name="twice")
    assert twice["samples"] == 1
    assert {why: n["samples"] for why, n in twice["skipped"].items()} == {"CorruptRecordError": 1, "seen before": 1}
    with pytest.raises(ValueError, match="checksum"):
        run(paths, driver(), tmp_path, on_error="stop", name="stop")
    with pytest.raises(NothingToScoreError, match="WaypointError"):
        run(paths, driver(lambda o: np.full((20, 2), np.nan)), tmp_path, name="nan")


def test_a_run_goes_on_where_it_stopped(tmp_path):
    path = written(tmp_path / "a.tfrecord", [frame(f"a-{k}") for k in range(5)])
    asked = []

    def counting(observation):
        asked.append(1)
        if len(asked) == 3:
            raise KeyboardInterrupt
        return arc(TIMES_S)

    with pytest.raises(KeyboardInterrupt):
        run([path], driver(counting), tmp_path)
    result, _ = run([path], driver(counting), tmp_path)
    assert len(asked) == 3 + 3 and result["samples"] == 5


def test_pictures_of_the_frame_before(tmp_path):
    """A planner of two frames gets the one 0.4 s before where there is one, else the same twice, which is counted."""
    who = planner_driver("nano-ddrive")
    observer = WodObserver(who.sight)
    frames = [sample_of(frame(f"s-{k}", stamp_us=10_000_000 + 400_000 * k, shade=40 + 60 * k)) for k in range(2)]
    for k, sample in enumerate(frames):
        observer.remember(sample)
        observation = observer.observe(sample)
        before, now = observation.cameras["FRONT"]
        assert observer.repeated == (k == 0) == np.array_equal(before.image, now.image)
        assert now.image.shape == (112, 224, 3) and now.stamp_ns - before.stamp_ns == 400_000_000
    path = written(tmp_path / "a.tfrecord", [frame("s-0")])
    result, journal = run([path], who, tmp_path, WodTask(extrapolate=True), on_error="stop")
    assert result["repeated_pictures"] == 1 and result["rollouts"] == 1 and result["checkpoint_sha256"]
    (record,) = journal.records()
    assert len(record["answer"]["waypoints"]) == 6 and len(record["prediction"]) == 20


FORM = SubmissionForm("a@b.org", "made", "7M", False, authors=("A",), description="d", affiliation="u")


def test_submissions_come_back(tmp_path):
    paths = {f"s-{k}": arc(TIMES_S) + [0.0, 0.1 * k] for k in range(7)}
    archive, count = write_submission(paths.items(), FORM, tmp_path / "out", per_shard=3)
    messages = list(read_submission(archive))
    assert count == 7 and [len(m.predictions) for m in messages] == [3, 3, 1]
    for message in messages:
        assert message.account_name == "a@b.org" and message.num_model_parameters == "7M"
        assert message.submission_type == submission_protos().E2EDChallengeSubmission.E2ED_SUBMISSION
        assert message.HasField("uses_public_model_pretraining") and not message.uses_public_model_pretraining
        for p in message.predictions:
            np.testing.assert_allclose(
                np.stack([p.trajectory.pos_x, p.trajectory.pos_y], 1), paths[p.frame_name], rtol=1e-6
            )
    import tarfile

    with tarfile.open(archive) as tar:
        assert tar.getnames() == [f"submission/part{k}" for k in range(3)]


def test_submissions_that_would_be_refused(tmp_path):
    good = arc(TIMES_S)
    with pytest.raises(SubmissionError, match="--parameters"):
        write_submission([("s", good)], SubmissionForm("a", "m", " ", True), tmp_path)
    for predictions in ([("s", good), ("s", good)], [("s", good[:19])], [("s", good * np.nan)], [("", good)], []):
        with pytest.raises(SubmissionError):
            write_submission(predictions, FORM, tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / "x.tar.gz").write_bytes(b"no")
    with pytest.raises(SubmissionError, match="no submission"):
        list(read_submission(tmp_path / "x.tar.gz"))


def test_the_hidden_test_set_is_submitted_without_scores(tmp_path):
    """No future, no raters: there is nothing to score, all to predict."""
    path = written(tmp_path / "a.tfrecord", [frame("s-0", (), future=0), frame("s-1", (), future=0)])
    result, journal = run([path], driver(), tmp_path, WodTask("all"))
    assert result["samples"] == 2 and result["scores"]["made"] == {}
    assert [name for name, _ in predictions_of(journal)] == ["s-0", "s-1"]


def test_prediction_files_come_back(tmp_path):
    path = tmp_path / "p.json"
    seconds = np.arange(1.0, 6.0)
    odd = np.array([0.7, 1.9])
    records = [prediction_record("s-0", seconds, arc(seconds), '{"trajectory": "..."}'),
               prediction_record("s-1", odd, arc(odd))]  # fmt: skip
    assert write_predictions(iter(records), path) == 2
    held = read_predictions(path)
    for name, times in (("s-0", seconds), ("s-1", odd)):
        got_times, got = trajectory_of(held[name])
        np.testing.assert_array_equal(got_times, times)
        np.testing.assert_array_equal(got, arc(times))
    data = written(tmp_path / "a.tfrecord", [frame("s-0"), frame("s-9")])
    result, _ = run([data], file_driver(path), tmp_path)
    assert result["samples"] == 1 and result["horizon"] == {"quintic": 1} and result["predictions_sha256"]
    assert result["skipped"]["PredictionError"]["samples"] == 1


def test_models_own_words():
    said = '{"explanation": "[1.0, 2.0] of them", "trajectory": "[[ +001.50, -000.04], [ +002.00, +001.00]]"}'
    for record in (
        {"model_output_raw": said},
        {"pred_trajectory": [], "model_output_raw": said},
        {"conversations": [{"from": "human", "value": "go"}, {"from": "gpt", "value": said}]},
    ):
        times, path = trajectory_of(record | {"sample_id": "s", "times_s": [1.0, 2.0]})
        np.testing.assert_array_equal(path, [[1.5, -0.04], [2.0, 1.0]])
    for record in (
        {"model_output_raw": "no idea"},
        {"pred_trajectory": [[1, 2]] * 4},
        {"pred_trajectory": [[1, math.nan]] * 5},
        {"pred_trajectory": [["a", 1]] * 5},
        {},
    ):
        with pytest.raises(PredictionError):
            trajectory_of(record | {"sample_id": "s"})


def test_files_that_are_none(tmp_path):
    path = tmp_path / "p.json"
    for text in ("{", "3", '[{"pred_trajectory": []}]', '[{"sample_id": "a"}, {"sample_id": "a"}]'):
        path.write_text(text)
        with pytest.raises(PredictionFileError):
            read_predictions(path)
    path.write_text(json.dumps({"predictions": [{"sample_id": "a"}]}))
    assert set(read_predictions(path)) == {"a"}
    path.write_text('["a"]')
    with pytest.raises(ClusterFileError):
        read_clusters(path)
