"""Faults on real graphs: a planner that hangs, one that is started again, plans in a wrong frame; and the messages."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")
pytest.importorskip("libsumo")

from efficientgen.eval.faults import Fault
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, NS, CameraFrame, Plan, Source
from efficientgen.planning.safety import Reason
from efficientgen_ros.bringup import Disturbance, drive_ros
from efficientgen_ros.fault_drives import STRAIGHT, diagnostic_levels, ros_jobs
from efficientgen_ros.intake import Intake, Lack
from efficientgen_ros.messages import ego_messages, image_message, info_message, mount_message, plan_from, plan_message
from efficientgen_ros.parameters import ParameterError
from efficientgen_ros.sabotage import TamperedImages, TamperedPlans, dump_faults, load_faults


def test_a_hanging_planner_is_noticed_and_taken_back(tmp_path):
    """SIGSTOP: the process is there but silent, the car brakes; SIGCONT: it drives on with plans of its present."""
    log = drive_ros(
        replace(STRAIGHT, duration_s=30.0),
        0,
        "constant-velocity",
        world="none",
        record_dir=tmp_path,
        chaos=(Disturbance(7.0, "stop"), Disturbance(14.0, "continue")),
    )
    sent = {e["text"]: e["stamp_ns"] for e in log.notes["events"] if e["kind"] == "chaos"}
    assert sent == {"stop planner": 7_200_000_000, "continue planner": 14_000_000_000}, "the drive waits for both"
    missed = [s.stamp_ns for s in log.steps if s.verdict.source.fallback]
    assert missed == list(range(sent["stop planner"], missed[-1] + 1, CHUNK_NS)), "from the stop on, without a gap"
    assert missed[-1] >= sent["continue planner"] - CHUNK_NS  # its liveliness may take a little to be noticed again
    stopped = [s for s in log.steps if missed[0] <= s.stamp_ns <= missed[-1]]
    rungs = [Source.SHIFTED, Source.BRAKE, Source.STOP]
    heights = [rungs.index(s.verdict.source) for s in stopped]
    assert heights == sorted(heights) and {0, 1} <= set(heights), "down the ladder"
    assert log.notes["timeouts"] >= 6
    assert all(Reason.of(s.verdict.reason) in (Reason.NO_NEW_PLAN, Reason.NO_PLAN) for s in stopped)
    after = [s.verdict.source for s in log.steps if s.stamp_ns > missed[-1]]
    assert after and set(after) == {Source.NOMINAL}, "it recovers, also from the loss of what it did not read"
    followed = [s for s in log.steps if s.verdict.source is Source.NOMINAL]
    assert all(s.verdict.plan_age_s <= 0.9 for s in followed), "what it was asked before it hung is not followed"
    levels = diagnostic_levels(tmp_path / "drive.mcap")
    assert max(levels.get(s.stamp_ns, 0) for s in stopped) == 3, "STALE: liveliness is lost"


def test_a_planner_that_is_started_again_drives_again(tmp_path):
    """The new process is led through configure and activate, gathers its history and drives; then the test stops it."""
    down: list[int] = []
    back: list[int] = []

    def watch(step) -> None:
        if step.stamp_ns >= 7 * NS and step.verdict.source in (Source.BRAKE, Source.STOP):
            down.append(step.stamp_ns)
        if down and step.verdict.source is Source.NOMINAL:
            back.append(step.stamp_ns)
            if len(back) == 3:
                raise KeyboardInterrupt  # what Ctrl-C does: the nodes leave in order, and there is a log

    log = drive_ros(
        replace(STRAIGHT, duration_s=300.0),
        0,
        "constant-velocity",
        world="none",
        record_dir=tmp_path,
        chaos=(Disturbance(7.0, "restart"),),
        on_step=watch,
    )
    (death,) = [e for e in log.notes["events"] if e["kind"] == "node_exit"]
    assert "SIGKILL" in death["text"]
    assert len(down) >= 3 and len(back) >= 3, "it was missed, and it drives again"
    assert all("ego state missing" in e["text"] for e in log.notes["events"] if e["kind"] == "planner_error")
    assert log.notes["exit_codes"]["planner"] == 0, "the second planner left in order"
    assert [s.stamp_ns for s in log.steps] == [k * CHUNK_NS for k in range(len(log.steps))], "one verdict per stamp"


def test_plans_in_a_wrong_frame_are_refused_by_name(tmp_path):
    fault = Fault("wrong_frame", 8 * NS, 4 * CHUNK_NS, 0.0, 0.0)
    log = drive_ros(
        replace(STRAIGHT, duration_s=14.0),
        0,
        "constant-velocity",
        world="none",
        record_dir=tmp_path,
        tuning={"planner": {"faults": dump_faults((fault,))}},
    )
    during = [s for s in log.steps if fault.active(s.stamp_ns)]
    assert len(during) == 4 and all(s.verdict.source.fallback for s in during)
    assert all(Reason.of(s.verdict.reason) is Reason.WRONG_FRAME and "'map'" in s.verdict.reason for s in during)
    others = [s for s in log.steps if s.stamp_ns >= log.handover_ns and not fault.active(s.stamp_ns)]
    assert all(s.verdict.source is Source.NOMINAL for s in others)
    refused = [e for e in log.notes["events"] if e["kind"] == "refused_plan"]
    assert [e["stamp_ns"] for e in refused] == [s.stamp_ns for s in during]
    levels = diagnostic_levels(tmp_path / "drive.mcap")
    assert all(levels[s.stamp_ns] > 0 for s in during) and all(levels[s.stamp_ns] == 0 for s in others)


# --- without a graph ---


class Wire:
    def __init__(self) -> None:
        self.sent: list = []

    def publish(self, message) -> None:
        self.sent.append(message)


def plan_at(stamp_ns: int) -> Plan:
    times = np.arange(1, 7) * 0.5
    return Plan(stamp_ns, np.stack([8.0 * times, 0.0 * times], 1), times)


def test_plans_are_tampered_with_only_within_their_window():
    kinds = ("nan", "stale", "wrong_frame", "clock_jump", "dds_loss")
    faults = tuple(Fault(kind, (10 + 2 * i) * NS, NS, 0.5, 1.0) for i, kind in enumerate(kinds))
    wire = Wire()
    publisher = TamperedPlans(wire, faults)
    for second in range(9, 21):
        publisher.publish(plan_message(plan_at(second * NS)))
    stamps = [plan_from(m).stamp_ns // NS for m in wire.sent]
    assert stamps[0] == 9 and 18 not in stamps and len(wire.sent) == 11
    by = {second: m for second, m in zip([*range(9, 18), 19, 20], wire.sent, strict=True)}
    assert not np.isfinite(plan_from(by[10]).waypoints).all()
    assert plan_from(by[12]).stamp_ns == 12 * NS - round(2.5 * NS)
    assert by[14].header.frame_id == "map" and by[9].header.frame_id == "base_link"
    assert abs(plan_from(by[16]).stamp_ns - 16 * NS) >= NS
    for second in (9, 11, 13, 15, 17, 19, 20):
        np.testing.assert_array_equal(plan_from(by[second]).waypoints, plan_at(0).waypoints)


def picture(k: int):
    camera = NANO_RIG[1]
    image = np.random.default_rng(k).integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
    return image_message(CameraFrame(camera.name, k * CHUNK_NS, image, camera.intrinsics, camera.camera_to_ego))


@pytest.mark.parametrize("kind", ["dropped", "late", "black", "frozen"])
def test_pictures_are_tampered_with_only_within_their_window(kind):
    turn = 0.1  # of the three cameras, sorted: FRONT
    fault = Fault(kind, 10 * CHUNK_NS, 3 * CHUNK_NS, 0.3, turn)
    wire, other = Wire(), Wire()
    ours, theirs = TamperedImages(wire, "FRONT", (fault,)), TamperedImages(other, "FRONT_LEFT", (fault,))
    for k in range(8, 18):
        ours.publish(picture(k))
        theirs.publish(picture(k))
    stamps = [(m.header.stamp.sec * NS + m.header.stamp.nanosec) // CHUNK_NS for m in wire.sent]
    whole = list(range(8, 18))
    assert len(other.sent) == 10 and all(bytes(m.data) == bytes(picture(k).data) for k, m in enumerate(other.sent, 8))
    if kind == "dropped":
        assert stamps == [8, 9, 13, 14, 15, 16, 17]
        return
    assert stamps == whole, "nothing is lost, and nothing overtakes"
    changed = [k for k, m in zip(whole, wire.sent, strict=True) if bytes(m.data) != bytes(picture(k).data)]
    assert changed == ([] if kind == "late" else [10, 11, 12])
    if kind == "frozen":
        assert bytes(wire.sent[3].data) == bytes(picture(9).data)
    if kind == "black":
        assert np.ptp(np.frombuffer(wire.sent[3].data, np.uint8)) == 0


def test_late_pictures_are_held_back():
    fault = Fault("late", 10 * CHUNK_NS, 3 * CHUNK_NS, 0.3, 0.1)  # by two periods
    wire = Wire()
    publisher = TamperedImages(wire, "FRONT", (fault,))
    counts = []
    for k in range(8, 15):
        publisher.publish(picture(k))
        counts.append(len(wire.sent))
    assert counts == [1, 2, 2, 2, 3, 6, 7]


def test_the_faults_parameter_is_checked():
    fault = Fault("nan", 0, CHUNK_NS, 0.0, 0.0)
    assert load_faults(dump_faults((fault,))) == (fault,) and load_faults("") == ()
    for wrong in ("[", "[{}]", json.dumps([{**json.loads(dump_faults((fault,)))[0], "kind": "gremlin"}])):
        with pytest.raises(ParameterError, match="faults"):
            load_faults(wrong)


def test_every_kind_is_injected_on_graphs_in_every_mode():
    from efficientgen.eval.faults import KINDS

    jobs = ros_jobs(("sync", "realtime"), 1, "nano-ddrive")
    for mode in ("sync", "realtime"):
        assert sorted(k for job in jobs if job.mode == mode for k in job.kinds) == sorted(KINDS)


# --- the planner's inputs ---


def states(intake: Intake, first: int, last: int) -> None:
    from efficientgen.perception.types import EgoState

    for k in range(first, last + 1):
        for message in ego_messages(EgoState(k * NS // 10, 0.8 * k, 0.0, 0.0, 8.0, 0.0, 0.0, 0.0)):
            intake.add_ego(message)


def started(look: int, timeout_s: float = 0.1) -> tuple[Intake, list[str]]:
    from efficientgen.perception.types import Command
    from efficientgen_ros.session import CommandAt, Session
    from tests.eval.synthetic import road

    said: list[str] = []
    intake = Intake(look, timeout_s, said.append)
    intake.add_session(Session("s", "t", 0, "p", "reference", "sync", 4 * NS, CHUNK_NS, road(), {}))
    intake.add_command(CommandAt(4 * NS, Command.GO_STRAIGHT))
    for camera in NANO_RIG:
        intake.add_camera(camera.name, info_message(camera, 0))
        intake.add_camera(camera.name, mount_message(camera))
    return intake, said


def test_what_does_not_come_is_said_in_time():
    intake, said = started(look=2)
    states(intake, 0, 40)
    found = intake.wait()
    assert isinstance(found, Lack) and found.stamp_ns == 4 * NS and "frame at 3.6 s" in found.what and not said


def test_a_restarted_planner_does_not_wait_for_a_past_that_it_never_saw():
    intake, _ = started(look=0, timeout_s=600.0)
    states(intake, 20, 40)
    found = intake.wait()
    assert isinstance(found, Lack) and "ego state" in found.what


def test_stamps_that_leap_or_go_back_are_refused_and_do_not_stop_what_follows():
    intake, said = started(look=0)
    states(intake, 0, 20)
    states(intake, 60, 60)  # 4 s ahead
    states(intake, 15, 15)  # back again
    states(intake, 21, 40)
    found = intake.wait()
    assert not isinstance(found, Lack) and found is not None and found.stamp_ns == 4 * NS
    assert said == [
        "ego state at 6.0 s, +4.0 s from the last: refused",
        "ego state at 1.5 s, -0.5 s from the last: refused",
    ]


@pytest.mark.parametrize("gap", [30, -15])
def test_a_gap_that_stays_is_taken_for_the_present(gap: int):
    """Messages lost while the process stood still, or a clock set for good: history begins anew, either way."""
    intake, said = started(look=0)
    states(intake, 0, 20)
    states(intake, 20 + gap, 20 + gap + 45)
    assert sum("refused" in words for words in said) == 5 and "anew" in said[-1]
    from efficientgen.perception.types import Command
    from efficientgen_ros.session import CommandAt

    stamp = (20 + gap + 44) // 4 * CHUNK_NS
    intake.add_command(CommandAt(stamp, Command.GO_STRAIGHT))
    found = intake.wait()
    assert not isinstance(found, Lack) and found is not None and found.stamp_ns == stamp


# --- the command line ---


def test_the_campaign_by_command_goes_on_where_it_was_cut_short(tmp_path):
    out = tmp_path / "faults.json"
    arguments = ["eval", "faults", "--learned", "0", "--mode", "none", "--workers", "1", "--scenario", "cedar_right"]
    first = command(*arguments, "--count", "2", "--out", str(out), "--json")
    assert first.returncode == 0, first.stderr
    told = json.loads(first.stdout)
    assert told == json.loads(out.read_text()) and told["injected"] >= 2 and told["escaped"] == 0
    told["drives"][0]["outcomes"][0]["escaped"] = "on purpose"
    out.write_text(json.dumps(told))
    again = command(*arguments, "--count", "2", "--out", str(out))
    assert again.returncode == 1 and "on purpose" in again.stdout, "held results are not driven again, escapes tell"


def test_mistakes_get_one_line_with_the_remedy(tmp_path):
    (tmp_path / "other.json").write_text('{"drives": [1]}')
    for arguments, remedy in (
        (("faults", "--out", str(tmp_path / "other.json")), "--fresh"),
        (("faults", "--scenario", "nowhere"), "there are:"),
        (("faults", "--planner", "nobody"), "choose one of"),
        (("braking", "--logs", str(tmp_path)), "leave out --logs"),
    ):
        result = command("eval", *arguments)
        assert result.returncode == 2 and "Traceback" not in result.stderr
        assert remedy in " ".join(result.stderr.split())


def command(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "efficientgen_ros.cli", *arguments], capture_output=True, text=True, timeout=240
    )
