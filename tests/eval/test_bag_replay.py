"""Recordings of other cars: what the planner is shown, what its plans are measured against, what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from rosbags.convert.converter import convert

from efficientgen.eval.bag_journal import Journal
from efficientgen.eval.bag_reader import BagError, BagTopicError, commands, open_bag, survey
from efficientgen.eval.bag_replay import FRAMES, SUMMARY, NothingPlannedError, Replay, replay
from efficientgen.eval.bag_report import write_replay_report
from efficientgen.eval.bag_tally import command_words
from efficientgen.eval.foreign_bag import EPOCH_NS, ODOMETRY, TURN, ForeignWriter
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.foreign_messages import ExtrinsicsError, MessageError
from efficientgen.perception.rectify import Lens
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.rig_file import parse_rig
from efficientgen.perception.types import CHUNK_NS, NS, Command
from tests.eval import foreign
from tests.eval.foreign import RADIUS, SKEW_NS, SPEED, Watcher, circle, record, rig, sky
from tests.eval.synthetic import FakeOracle, FakePlanner, FakeWorld, scenario


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return record(tmp_path_factory.mktemp("foreign") / "circle", 8.4)


@pytest.fixture(scope="module")
def seen(bag: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Watcher, Replay]:
    watcher = Watcher()
    out = tmp_path_factory.mktemp("replay")
    return watcher, replay(bag, parse_rig(rig()), watcher, out, keep_s=2.0, keep_worst=2)


def missed(t: float, radius: float = RADIUS) -> float:
    """How far constant velocity is from a circle after `t` s."""
    angle = SPEED * t / radius
    return math.hypot(SPEED * t - radius * math.sin(angle), radius * (1 - math.cos(angle)))


def test_errors_are_those_of_the_circle(seen: tuple[Watcher, Replay]):
    error = seen[1].summary["error"]
    for t in (0.5, 1.0, 2.0, 3.0):
        assert error["at"][f"{t:g} s"]["plan_m"] == pytest.approx(missed(t), abs=2e-3)
    wanted = np.mean([missed(t) for t in (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)])
    assert error["ade_m"] == error["constant_velocity_ade_m"] == pytest.approx(wanted, abs=2e-3)
    assert error["fde_m"] == pytest.approx(missed(3.0), abs=2e-3)
    whole = error["plans"]
    assert 0 < whole < error["at"]["0.5 s"]["plans"] <= seen[1].summary["planned"], "the recording ends within some"


def test_pictures_show_the_planners_directions_at_their_own_times(seen: tuple[Watcher, Replay]):
    watcher, made = seen
    assert len(watcher.seen) == made.summary["planned"] >= 5
    observation = watcher.seen[2]
    for camera in NANO_RIG:
        frames = observation.cameras[camera.name]
        assert [f.stamp_ns for f in frames] == [observation.stamp_ns - CHUNK_NS, observation.stamp_ns]
        v, u = np.mgrid[: camera.height, : camera.width] + 0.5
        rays = np.stack([np.ones_like(u), (112 - u) / camera.focal, (56 - v) / camera.focal], -1).reshape(-1, 3)
        rays = rays @ camera.camera_to_ego[:3, :3].T
        first = EPOCH_NS + NS // 10 + 3_000_000  # of FRONT, which sets tick 0
        assert made.summary["origin_ns"] == first
        taken = (first - EPOCH_NS + observation.stamp_ns + SKEW_NS[camera.name] - 3_000_000) / NS
        yaw = circle(taken).yaw
        c, s = math.cos(yaw), math.sin(yaw)
        wanted = sky(rays @ np.array([[c, s, 0], [-s, c, 0], [0, 0, 1]])).reshape(frames[-1].image.shape)
        lit = frames[-1].image.any(-1)
        assert lit.mean() > 0.6
        apart = np.abs(frames[-1].image.astype(int) - wanted)[lit]
        assert np.median(apart) <= 2 and np.percentile(apart, 99) < 12
    told = made.summary["cameras"]
    assert {n: told[n]["offset_ms"]["median"] for n in told} == {n: abs(v) / 1e6 for n, v in SKEW_NS.items()}


def test_history_is_the_rear_axles(seen: tuple[Watcher, Replay]):
    observation = seen[0].seen[0]
    now, first = observation.history.states[-1], observation.history.states[0]
    true = circle(now.stamp_ns / NS + 0.1 + 0.0)
    assert (now.x, now.y) == pytest.approx((true.x, true.y), abs=2e-3), "stamps are the odometry's, not the recorder's"
    assert now.yaw == pytest.approx(true.yaw, abs=1e-4) and now.speed == pytest.approx(SPEED, abs=1e-6)
    assert now.yaw_rate == pytest.approx(SPEED / RADIUS) and now.acceleration == pytest.approx(0.0, abs=1e-6)
    assert now.steering == pytest.approx(math.atan(2.8 / RADIUS), abs=1e-6)
    assert now.stamp_ns - first.stamp_ns == 3_750_000_000 and observation.command is Command.GO_LEFT


@pytest.mark.parametrize(("storage", "kind"), [("sqlite3", "jpeg"), ("mcap", "raw")])
def test_other_storages_and_encodings(storage: str, kind: str, tmp_path: Path):
    bag = record(tmp_path / "bag", 5.4, storage, kind)
    watcher = Watcher()
    made = replay(bag, parse_rig(rig(kind)), watcher, tmp_path / "out")
    assert made.summary["planned"] >= 2 and not made.summary["skipped"]
    if kind == "raw":
        (file,) = bag.glob("*.mcap")
        again = replay(file, parse_rig(rig(kind)), Watcher(), tmp_path / "bare")
        assert again.summary["error"] == made.summary["error"]


def test_a_ros_1_bag_gives_the_same(bag: Path, seen: tuple[Watcher, Replay], tmp_path: Path):
    one = tmp_path / "circle.bag"
    convert([bag], one, "", 0, None, "", None, None, [], [], [], [])
    watcher = Watcher()
    made = replay(one, parse_rig(rig()), watcher, tmp_path / "out")
    assert made.summary["error"] == seen[1].summary["error"]
    for ours, theirs in zip(watcher.seen, seen[0].seen, strict=True):
        assert (ours.cameras["FRONT"][0].image == theirs.cameras["FRONT"][0].image).all()


def test_our_own_drive_comes_back_as_the_planner_saw_it(tmp_path: Path):
    oracle, world = FakeOracle(), FakeWorld()
    planner = type("Looking", (FakePlanner,), {"frames_per_camera": 2})(oracle.route)
    log = drive(scenario(6.4), 0, planner, world, keep_frames=True, oracle=oracle)
    driven = list(planner.seen)
    lens = Lens(224, 112, 160.0, 160.0, 111.5, 55.5)
    with ForeignWriter(tmp_path / "own") as writer:
        for tick in all_ticks(log):
            writer.odometry(ODOMETRY, tick.ego, EPOCH_NS + tick.stamp_ns, 0.0)
        for step in log.steps:
            writer.word(TURN, step.command.value, EPOCH_NS + step.stamp_ns + 5_000_000)
            for name, frames in step.frames.cameras.items():
                for frame in frames:
                    writer.picture(f"/{name}", frame.image, EPOCH_NS + frame.stamp_ns, name, "png")
                    writer.camera_info(f"/{name}/info", lens, EPOCH_NS + frame.stamp_ns, name)
    held = rig()
    held |= {"rear_axle": [0.0, 0.0, 0.0], "command": {"topic": TURN}}
    held["cameras"] = {
        c.name: {
            "topic": f"/{c.name}",
            "info": f"/{c.name}/info",
            "mount": {"position": list(c.mount), "yaw_deg": c.yaw_deg},
        }
        for c in NANO_RIG
    }
    watcher = Watcher()
    made = replay(tmp_path / "own", parse_rig(held), watcher, tmp_path / "out")
    shift = made.summary["origin_ns"] - EPOCH_NS  # of the first picture, one tick after the drive's start
    replayed = {o.stamp_ns + shift: o for o in watcher.seen}
    both = [o for o in driven if o.stamp_ns in replayed]
    assert shift == CHUNK_NS // 4 and len(replayed) >= 4 and not both, (
        "the drive planned on other ticks than the replay"
    )
    pictures = {(n, f.stamp_ns): f for s in log.steps for n, fs in s.frames.cameras.items() for f in fs}
    egos = {tick.stamp_ns: tick.ego for tick in all_ticks(log)}
    for stamp, observation in replayed.items():
        now, ego = observation.history.states[-1], egos[stamp]
        assert (now.x, now.y, now.yaw, now.speed) == (ego.x, ego.y, round(ego.yaw, 9), ego.speed)
        for name, frames in observation.cameras.items():
            true = pictures[name, stamp]
            assert (frames[-1].image == true.image).all() and (frames[-1].intrinsics == true.intrinsics).all()
            assert frames[-1].camera_to_ego == pytest.approx(true.camera_to_ego)


def test_a_camera_that_drops_out_is_skipped_shown_black_or_left_out_as_told(tmp_path: Path):
    dark = lambda name, k: name == "FRONT_LEFT" and 45 <= k <= 56  # noqa: E731
    bag = record(tmp_path / "bag", 7.0, drop=dark)
    watcher = Watcher()
    skip = replay(bag, parse_rig(rig()), watcher, tmp_path / "skip").summary
    assert skip["skipped"]["camera missing"] >= 3 and "FRONT_LEFT" in skip["examples"]["camera missing"]
    assert skip["planned"] == len(watcher.seen) >= 1
    assert skip["stamps"] == skip["planned"] + skip["before_history"] + sum(skip["skipped"].values())
    watcher = Watcher()
    black = replay(bag, parse_rig(rig(missing="black")), watcher, tmp_path / "black").summary
    assert black["planned"] == skip["planned"] + skip["skipped"]["camera missing"]
    assert black["cameras"]["FRONT_LEFT"]["plans_without"] == skip["skipped"]["camera missing"]
    blind = [o for o in watcher.seen if not o.cameras["FRONT_LEFT"][-1].image.any()]
    assert blind and all(o.cameras["FRONT"][-1].image.any() for o in blind)
    watcher = Watcher()  # which cannot do without it
    absent = replay(bag, parse_rig(rig(missing="absent")), watcher, tmp_path / "absent").summary
    assert absent["skipped"]["planner error"] == skip["skipped"]["camera missing"]
    assert "UnfitObservationError" in absent["examples"]["planner error"]


def test_a_planner_without_eyes_needs_no_camera(bag: Path, tmp_path: Path):
    from efficientgen.planning.constant_velocity import ConstantVelocity

    made = replay(bag, parse_rig(rig(cameras=())), ConstantVelocity(), tmp_path)
    assert made.summary["planned"] >= 5 and made.summary["cameras"] == {}


def test_nothing_to_plan_on_is_said_and_the_results_are_kept(tmp_path: Path):
    bag = record(tmp_path / "bag", 5.4, cameras=("FRONT", "FRONT_RIGHT"))
    with pytest.raises(NothingPlannedError, match="camera missing.*FRONT_LEFT"):
        replay(bag, parse_rig(rig()), Watcher(), tmp_path / "out")
    assert json.loads((tmp_path / "out" / SUMMARY).read_text())["planned"] == 0
    made = replay(bag, parse_rig(rig(missing="black")), Watcher(), tmp_path / "black", keep_s=5.0, keep_worst=1)
    assert made.summary["cameras"]["FRONT_LEFT"]["messages"] == 0 and made.summary["planned"] >= 1
    assert "not in the recording" in write_replay_report(made).read_text()


def test_clocks_that_differ_are_hinted_at(tmp_path: Path):
    bag = tmp_path / "bag"
    with ForeignWriter(bag) as writer:
        for k in range(300):
            writer.odometry(ODOMETRY, circle(0.02 * k), EPOCH_NS + k * NS // 50, 1.35)
        for k in range(1, 55):
            image = np.full((63, 112, 3), k, np.uint8)
            writer.picture("/cam/front/image", image, EPOCH_NS + 900 * NS + k * NS // 10, "front", "raw")
            writer.camera_info("/cam/front/camera_info", foreign.LENS, EPOCH_NS + k * NS // 10, "front")
    held = rig("raw", cameras=("FRONT",), command={"constant": "GO_LEFT"})
    held["cameras"]["FRONT"]["mount"] = {"position": [0.0, 0.0, 1.5]}
    with pytest.raises(NothingPlannedError, match=r"sync\.stamps: received"):
        replay(bag, parse_rig(held), Watcher(), tmp_path / "out")


def test_damaged_and_resized_pictures_are_findings(tmp_path: Path):
    broken = lambda name, k: "garbage" if name == "FRONT" and k >= 50 else False  # noqa: E731
    bag = record(tmp_path / "bag", 6.6, drop=broken)
    summary = replay(bag, parse_rig(rig()), Watcher(), tmp_path / "out").summary
    assert summary["planned"] >= 1
    assert summary["skipped"]["camera picture malformed"] >= 2
    assert "112x5 px" in summary["examples"]["camera picture malformed"]


def test_an_interrupted_replay_goes_on(bag: Path, seen: tuple[Watcher, Replay], tmp_path: Path):
    first = Watcher(dies_at=3, error=KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        replay(bag, parse_rig(rig()), first, tmp_path)
    assert not (tmp_path / FRAMES).exists() and not (tmp_path / SUMMARY).exists()
    second = Watcher()
    made = replay(bag, parse_rig(rig()), second, tmp_path)
    whole = seen[1]
    assert len(second.seen) == whole.summary["planned"] - 3
    assert made.summary["error"] == whole.summary["error"]
    lines = [json.loads(line) for line in (tmp_path / FRAMES).read_text().splitlines()]
    plain = [json.loads(line) for line in (whole.directory / FRAMES).read_text().splitlines()]
    assert [(a["stamp_ns"], a["plan"], a["errors_m"]) for a in lines[1:]] == [
        (b["stamp_ns"], b["plan"], b["errors_m"]) for b in plain[1:]
    ]
    other = Journal(tmp_path / "other.jsonl", "another key")
    assert not other.held


def test_planner_errors_are_counted_and_the_rest_is_planned(bag: Path, tmp_path: Path):
    summary = replay(bag, parse_rig(rig()), Watcher(dies_at=2), tmp_path).summary
    assert summary["planned"] == 2 and summary["skipped"]["planner error"] >= 3
    assert summary["examples"]["planner error"] == "RuntimeError: as told"


def test_commands_from_topic_constant_and_the_path_itself(bag: Path, tmp_path: Path):
    summary = replay(bag, parse_rig(rig(command={"constant": "GO_RIGHT"})), Watcher(), tmp_path / "right").summary
    assert summary["command"] == {"source": "constant GO_RIGHT", "heard": {"GO_RIGHT": summary["planned"]}}
    told = parse_rig(rig(command={"from": "driven_path"}))
    with open_bag(bag) as opened:
        known = commands(told, survey(opened, told))
    assert known(EPOCH_NS + NS) is Command.GO_LEFT, "0.67 rad within the next 40 m"
    assert known(EPOCH_NS + 8 * NS) is Command.GO_STRAIGHT and known(EPOCH_NS + 60 * NS) is None
    assert "what no car knows" in command_words(told)
    silent = record(tmp_path / "silent", 5.4, turn="backwards")
    with pytest.raises(MessageError, match=r"backwards.*command\.values"):
        replay(silent, parse_rig(rig()), Watcher(), tmp_path / "out")


def test_speed_derived_from_poses_alone(bag: Path, seen: tuple[Watcher, Replay], tmp_path: Path):
    watcher = Watcher()
    made = replay(bag, parse_rig(rig(odometry={"topic": ODOMETRY, "speed": "derived"})), watcher, tmp_path)
    now = watcher.seen[-1].history.states[-1]
    assert now.speed == pytest.approx(SPEED, rel=5e-3) and now.yaw_rate == pytest.approx(SPEED / RADIUS, rel=5e-3)
    assert made.summary["odometry"]["derived"][0].startswith("speed")
    assert made.summary["error"]["ade_m"] == pytest.approx(seen[1].summary["error"]["ade_m"], abs=0.05)


def test_recordings_that_cannot_serve(bag: Path, tmp_path: Path):
    out = tmp_path / "out"
    with pytest.raises(BagError, match="no recording"):
        replay(tmp_path / "nothing", parse_rig(rig()), Watcher(), out)
    fake = tmp_path / "fake.mcap"
    fake.write_bytes(b"not a recording at all" * 100)
    with pytest.raises(BagError, match="cannot be read"):
        replay(fake, parse_rig(rig()), Watcher(), out)
    (file,) = bag.glob("*.mcap")
    cut = tmp_path / "cut.mcap"
    cut.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    with pytest.raises((BagError, BagTopicError, NothingPlannedError)):
        replay(cut, parse_rig(rig()), Watcher(), out)
    with pytest.raises(BagTopicError, match=ODOMETRY):
        replay(bag, parse_rig(rig(odometry={"topic": "/odom"})), Watcher(), out)
    with pytest.raises(ExtrinsicsError, match="base_footprint"):
        replay(bag, parse_rig(rig(base_frame="base_footprint")), Watcher(), out)
    for key, topic, words in (("topic", TURN, "Image"), ("info", ODOMETRY, "CameraInfo")):
        odd = rig()
        odd["cameras"]["FRONT"][key] = topic
        with pytest.raises(BagTopicError, match=rf"{topic} is a .*{words}"):
            replay(bag, parse_rig(odd), Watcher(), out)
    with open_bag(bag) as opened, pytest.raises(MessageError, match="no pose"):
        survey(opened, parse_rig(rig(odometry={"topic": TURN})))


def test_the_page_shows_and_says_it(seen: tuple[Watcher, Replay]):
    page = write_replay_report(seen[1]).read_text()
    for words in ("<video", "replay report", "Worst moments", "plumb_bob, 112x63", "a plan nobody followed", TURN,
                  "28.0 / 28.0 ms", "FDE"):  # fmt: skip
        assert words in page, words
    assert "driving score" not in page.lower(), "nobody drove"


def test_memory_does_not_grow_with_the_recording(tmp_path: Path):
    import tracemalloc

    peaks = []
    for k, seconds in enumerate((4.8, 9.6)):
        bag = record(tmp_path / f"bag{k}", seconds, kind="raw", cameras=("FRONT",))
        held = parse_rig(rig("raw", cameras=("FRONT",), missing="black"))
        tracemalloc.start()
        replay(bag, held, type("Front", (Watcher,), {"plan": foreign.ConstantVelocity.plan})(), tmp_path / f"out{k}")
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.35 * peaks[0], peaks
