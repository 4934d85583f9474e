"""The report page holds what happened, plays by itself, and loads nothing."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest

from efficientgen.eval import words
from efficientgen.eval.bev import BirdsEye
from efficientgen.eval.metrics import score
from efficientgen.eval.overlay import draw_path, remaining, to_ego, to_map
from efficientgen.eval.report import Entry, write_report
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import Scene, jpeg, poster_tick, render, still
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CameraFrame, Plan
from tests.eval.synthetic import FakeOracle, ego_at


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory, log: StepLog, dead_log: StepLog, oracle: FakeOracle) -> str:
    short = replace(log, steps=log.steps[8:14])
    m = score(log, oracle.town)
    entries = [
        Entry(m, short),
        Entry(score(dead_log, oracle.town), replace(dead_log, steps=(*dead_log.steps[13:17], *dead_log.steps[-4:]))),
        Entry(replace(m, planner="expert", driving_score=97.0)),
    ]
    path = write_report(entries, tmp_path_factory.mktemp("runs") / "now", town=oracle.town)
    assert path.name == "index.html" and (path.parent / "summary.json").exists()
    return path.read_text(encoding="utf-8")


def test_page_is_self_contained(page: str):
    assert not re.findall(r"""(?:src|href)=["'](?!data:)""", page)
    assert "http:" not in page and "https:" not in page and "@import" not in page and "url(" not in page
    assert page.count("<video ") == 2 and page.count("data:video/webm;base64,") == 2
    assert not re.search(r"<!--[A-Z]+-->|/\*[A-Z]+\*/", page), "every mark of the template is filled"


def test_page_tells_the_truth(page: str):
    assert "planner died, car safe" in page and "the car stopped in its lane at" in page
    assert "97.0" in page and "expert" in page
    assert "keep a safe distance" in page and "nearby vehicle" in page
    assert "RuntimeError: the planner is dead" in page


def test_words_are_escaped(tmp_path: Path, log: StepLog, oracle: FakeOracle):
    plan = log.steps[-1].plan
    assert plan is not None
    evil = replace(plan, sections={"explanation": "</script><script>alert(1)</script>"}, text="<b>")
    held = replace(log, scenario="<i>x", steps=(*log.steps[-2:-1], replace(log.steps[-1], plan=evil)))
    page = write_report([Entry(score(held, oracle.town), held)], tmp_path, town=oracle.town).read_text(encoding="utf-8")
    assert "<script>alert" not in page and "<i>x" not in page


def test_report_needs_no_logs(tmp_path: Path, log: StepLog, oracle: FakeOracle):
    page = write_report([Entry(score(log, oracle.town))], tmp_path).read_text(encoding="utf-8")
    assert "<video " not in page and "Beside the baselines" in page
    with pytest.raises(ValueError, match="at least one"):
        write_report([], tmp_path)


def test_video_has_one_picture_per_tick(log: StepLog, oracle: FakeOracle):
    short = replace(log, steps=log.steps[9:14])
    video = render(short, oracle.town)
    with av.open(io.BytesIO(video.data)) as container:
        frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        assert container.streams.video[0].average_rate == 10
    assert len(frames) == 20 and video.seconds == 2.0
    assert frames[0].shape == (video.height, video.width, 3)
    drawn = np.asarray(Scene(short, oracle.town).draw(0), int)
    assert np.abs(drawn - frames[0]).mean() < 6.0, "the encoder keeps the picture"


def test_without_pictures_the_birds_eye_view_remains(dead_log: StepLog, oracle: FakeOracle):
    picture = Scene(dead_log, oracle.town).draw(0)
    assert picture.height == 448 and picture.width == 1344


def test_birds_eye_puts_things_where_they_are(oracle: FakeOracle):
    bev = BirdsEye(oracle.town, oracle.route, (600, 400), 6.0)
    frame = oracle.step((ego_at(oracle.route, 10.0, 5.0),))[0]
    image = np.asarray(bev.draw(frame))
    lead = next(actor for actor in frame.actors if actor.id == "lead")
    ((u, v),) = bev.to_pixels(np.array([[lead.x, lead.y]]), frame.ego)
    assert u == pytest.approx(300, abs=2) and v < 400 * 0.74, "the lead car is straight ahead"
    assert tuple(image[round(v), round(u)]) == (150, 170, 196)
    ((u, v),) = bev.to_pixels(np.array([[frame.ego.x, frame.ego.y]]), frame.ego)
    assert image[round(v) - 4, round(u)].min() > 200, "the ego is white"


def test_ribbon_lies_on_the_road_ahead():
    from PIL import Image

    camera = NANO_RIG[1]
    black = np.zeros((camera.height, camera.width, 3), np.uint8)
    frame = CameraFrame(camera.name, 0, black, camera.intrinsics, camera.camera_to_ego)
    from efficientgen.perception.types import EgoState

    ego = EgoState(0, 100.0, 50.0, 0.7, 8.0, 0, 0, 0)
    path = to_map(np.array([[0.0, 0.0], [40.0, 0.0]]), ego)
    assert to_ego(path, ego) == pytest.approx(np.array([[0.0, 0.0], [40.0, 0.0]]))
    image = Image.new("RGB", (448, 224))
    draw_path(image, frame, path, ego, (0, 255, 0))
    green = np.asarray(image)[..., 1] > 60
    assert green[112:].sum() > 2000 and green[:112].sum() == 0, "below the horizon only"
    columns = np.flatnonzero(green[200])
    assert abs(columns.mean() - 223.5) < 1.5


def test_remaining_starts_where_the_trajectory_is_now(log: StepLog):
    step = log.steps[12]
    path = remaining(step.verdict.trajectory, step.ticks[1].stamp_ns)
    assert np.hypot(*(path[0] - (step.ticks[1].ego.x, step.ticks[1].ego.y))) < 0.3
    assert len(path) < len(step.verdict.trajectory.points)


def test_words_of_learned_planner_expert_and_nobody():
    learned = {
        "critical_objects": {"pedestrian": "yes", "cyclist": "no", "traffic_element": "yes"},
        "explanation": "wait",
        "future_meta_behavior": {"longitudinal": "slow down", "lateral": "go straight"},
    }
    plan = Plan(0, np.zeros((2, 2)), np.ones(2), learned)
    assert words.words_of(plan) == words.Words(("pedestrian", "traffic element"), "Wait", "slow down, go straight")
    assert words.words_of(replace(plan, sections={"cause": "red_light"})) == words.Words((), "Red light", "")
    assert words.words_of(replace(plan, sections={"critical_objects": 3})) == words.words_of(None) == words.Words()


def test_endings(log: StepLog, dead_log: StepLog):
    assert words.ending(log) == "Time was up at 12.0 s, before the end of the route."
    assert words.ending(dead_log).startswith("The planner died at 6.0 s; the car stopped in its lane at ")
    assert words.ending(replace(log, end_reason="completed")) == "Reached the end of the route after 12.0 s."
