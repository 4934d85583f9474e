"""The report page holds what happened, plays by itself, and loads nothing."""

from __future__ import annotations

import io
import json
import re
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from efficientgen.eval import words
from efficientgen.eval.bev import BirdsEye
from efficientgen.eval.drive_charts import over_time
from efficientgen.eval.happenings import happenings
from efficientgen.eval.metrics import aggregate, score
from efficientgen.eval.overlay import draw_path, remaining, to_ego, to_map
from efficientgen.eval.report import Entry, write_report
from efficientgen.eval.report_tables import ROWS, comparison
from efficientgen.eval.step_log import StepLog
from efficientgen.eval.video import STILL_BYTES, Scene, jpeg, poster_tick, render, still
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CameraFrame, Plan, Source
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


def test_drives_are_plotted_beside_the_experts(tmp_path: Path, log: StepLog, oracle: FakeOracle):
    """The expert's line is there only with its log of this very scenario and seed, and ends with this drive."""
    m = score(log, oracle.town)
    expert = replace(log, planner="expert", steps=log.steps[:20])

    def series(*beside: Entry) -> list[dict]:
        held = write_report([Entry(m, replace(log, steps=log.steps[:14])), *beside], tmp_path, town=oracle.town)
        text = re.search(r'class="series">(.*?)</script>', held.read_text(encoding="utf-8"))
        assert text
        return json.loads(text[1])

    alone = series(Entry(replace(m, planner="expert", seed=9), expert, show=False))
    beside = series(Entry(replace(m, planner="expert"), expert, show=False))
    assert len(beside) == len(alone) + 3, "speed, acceleration, offset"
    ticks = [log.start, *(tick for step in log.steps[:14] for tick in step.ticks)]
    assert beside[0]["v"] == pytest.approx([3.6 * tick.ego.speed for tick in ticks], abs=1e-3)
    assert beside[0]["t"] == beside[1]["t"] == pytest.approx([tick.stamp_ns / 1e9 for tick in ticks])


def test_plots_show_what_the_plans_cost(log: StepLog):
    page = over_time(log)
    for told in ("Time for a plan", "deadline: plan period, 0.4 s", "vision", "decode", "Draft tokens accepted",
                  "Value tokens per cycle", "Spread of rollouts after 5 s", "5 rollouts"):  # fmt: skip
        assert told in page
    series = json.loads(re.search(r'class="series">(.*?)</script>', page)[1])  # type: ignore[index]
    steps = [step for step in log.steps if step.stamp_ns >= log.handover_ns and step.plan]
    shares = [100 * step.plan.stats.accepted / step.plan.stats.drafted for step in steps if step.plan]
    assert any(one["v"] == pytest.approx(shares, abs=1e-3) for one in series)
    bare = replace(log, steps=tuple(replace(step, plan=None) for step in log.steps))
    assert "Time for a plan" not in over_time(bare), "a plot without anything to show is left out"


def test_a_plan_far_too_long_does_not_flatten_the_others(log: StepLog):
    late = replace(log.steps[-3], plan_wall_s=30.0)
    page = over_time(replace(log, steps=(*log.steps[:-3], late, *log.steps[-2:])))
    assert "1 cut at the top, the longest took 30.0 s" in page


def test_faults_are_told_once_and_in_order(dead_log: StepLog):
    kill = {"stamp_ns": 6 * 10**9, "kind": "chaos", "text": "kill -9 planner"}
    stale = {"stamp_ns": 7 * 10**9, "until_ns": 8 * 10**9, "kind": "fault", "text": "stale <stamp>"}
    held = replace(dead_log, notes=dead_log.notes | {"events": [*dead_log.notes["events"], stale, kill]})
    told = happenings(held)
    assert [h.start_s for h in told] == sorted(h.start_s for h in told)
    assert (told[0].what, told[0].words) == ("injected", "kill -9 planner")
    errors = [h for h in told if h.what == "planner error"]
    assert sum(h.count for h in errors) == len(dead_log.notes["events"]) > len(errors) >= 1
    assert [h.end_s - h.start_s for h in told if h.what == "injected fault"] == [1.0]
    rungs = [h.source for h in told if h.source is not None]
    assert rungs == [Source.SHIFTED, Source.BRAKE, Source.STOP]
    page = over_time(held)
    assert page.count('class="event"') == len([h for h in told if h.source is None]) and "stale &lt;stamp&gt;" in page


def test_every_figure_of_a_drive_is_in_the_tables(log: StepLog, oracle: FakeOracle):
    m = score(log, oracle.town)
    table = comparison([m, replace(m, planner="expert")], m.planner)
    labels = {row[0] for row in ROWS}
    for key in set(aggregate([m])) - {"chunk_s", "deterministic"}:
        assert (key in labels) != (f">{key}</th>" in table), f"{key}: in words, or under its own name"
    assert "HD-Score" not in table or hasattr(m, "hd_score")


def test_still_fits_and_shows_the_turn(log: StepLog, oracle: FakeOracle):
    data = still(log, oracle.town)
    picture = np.asarray(Image.open(io.BytesIO(data)), int)
    assert len(data) <= STILL_BYTES and picture.shape[:2] == (680, 1360)
    at = poster_tick(log)
    scene = Scene(log, oracle.town)
    assert scene.stamp_ns(at) > log.handover_ns
    assert np.abs(picture - np.asarray(scene.draw(at), int)).mean() < 3.0
    other = still(log, oracle.town, at_s=1.0)
    assert np.abs(np.asarray(Image.open(io.BytesIO(other)), int) - np.asarray(scene.draw(9), int)).mean() < 3.0
    noise = Image.fromarray(np.random.default_rng(0).integers(0, 255, (680, 1360, 3), dtype=np.uint8))
    assert len(jpeg(noise, 600_000)) <= 600_000


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


def test_rollouts_are_drawn_on_the_road_and_from_above(log: StepLog, oracle: FakeOracle):
    step = next(step for step in log.steps if step.stamp_ns > log.handover_ns)
    assert step.plan is not None and len(step.plan.rollouts) == 5
    alone = replace(step, plan=replace(step.plan, rollouts=np.zeros((0, 0, 2)), spread_m=np.zeros(0)))
    drawn, bare = (np.asarray(Scene(replace(log, steps=(s,)), oracle.town).draw(0), int) for s in (step, alone))
    new = (np.abs(drawn - (255, 236, 196)).max(-1) < 70) & (np.abs(drawn - bare).max(-1) > 25)
    assert new[:224].sum() > 40 and new[232:, :900].sum() > 40, "in the cameras, and in the bird's-eye view"
    assert (drawn != bare)[232:, 928:].any(), "and the panel counts them"


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
