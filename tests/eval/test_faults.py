"""Every kind of fault, in a drive on a made-up town: never followed, always told, for the right reason."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from efficientgen.eval.fault_campaign import DISGUISED, Record, jobs_for, scores
from efficientgen.eval.fault_judgement import false_alarms, outcomes, table
from efficientgen.eval.faults import (
    GAP_NS,
    KINDS,
    Fault,
    Saboteur,
    Truncator,
    schedule,
    tamper_plan,
)
from efficientgen.eval.metrics import Metrics, score
from efficientgen.eval.runner import drive, handover_stamp
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.types import CHUNK_NS, NS, Plan, SensorFrames, Source
from efficientgen.planning.safety import Reason, SafetyParams, validate
from tests.eval.synthetic import FakeOracle, FakePlanner, FakeWorld, ego_at, plan_along, road, scenario
from tests.perception.test_health import observation

FAULT_NS = handover_stamp(scenario()) + 4 * CHUNK_NS


@cache
def noise(tick: int, shape: tuple[int, ...]) -> np.ndarray:
    """The same in every drive."""
    return np.random.default_rng(tick).integers(0, 255, shape, dtype=np.uint8)


class TexturedWorld(FakeWorld):
    """Pictures with something on them, which changes from tick to tick."""

    def step(self, frames):
        drawn = super().step(frames)
        cameras = {}
        for name, taken in drawn.cameras.items():
            cameras[name] = tuple(replace(f, image=noise(f.stamp_ns // 1000, f.image.shape)) for f in taken)
        return SensorFrames(drawn.stamps_ns, cameras)


class Seeing(FakePlanner):
    """Knows the route by heart and looks all the same."""

    frames_per_camera = 2


def faulty_drive(
    faults: tuple[Fault, ...], checked: bool = True, lead_gap: float = 60.0, lead_speed: float = 8.0
) -> tuple[StepLog, Saboteur]:
    oracle = FakeOracle(lead_gap, lead_speed)
    saboteur = Saboteur(Seeing(oracle.route), faults, Truncator.shipped())
    log = drive(
        scenario(16.0),
        0,
        saboteur,
        TexturedWorld(),
        oracle=oracle,
        disturb=saboteur.transform,
        safety=SafetyParams(enabled=checked),
    )
    return log, saboteur


@pytest.fixture(scope="module", autouse=True)
def made_up_town():
    """`score` looks the town up by name; this one exists only here."""
    import efficientgen.eval.fault_judgement as judgement

    oracle = FakeOracle()
    patch = pytest.MonkeyPatch()
    patch.setattr(judgement, "score", lambda log: score(log, oracle.town))
    yield
    patch.undo()


@pytest.fixture(scope="module")
def twin() -> StepLog:
    log, _ = faulty_drive(())
    assert all(s.verdict.source in (Source.EXPERT, Source.NOMINAL) for s in log.steps)
    assert false_alarms(log) == []
    return log


@pytest.fixture(scope="module")
def undisturbed(twin: StepLog) -> Metrics:
    return score(twin, FakeOracle().town)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("size", "turn"), [(0.0, 0.3), (0.6, 3.4)])
def test_every_fault_is_caught(kind: str, size: float, turn: float, twin: StepLog, undisturbed: Metrics):
    fault = Fault(kind, FAULT_NS, 3 * CHUNK_NS, size, turn)
    log, saboteur = faulty_drive((fault,))
    assert saboteur.touched and set(saboteur.touched.values()) == {0}
    (found,) = outcomes(log, twin, (fault,), saboteur.touched, undisturbed)
    assert not found.escaped, found
    assert found.caught_by in KINDS[kind].caught_by and found.detection_s == 0.0
    assert found.start_s == FAULT_NS / NS
    assert false_alarms(log, saboteur.touched) == []
    after = [s.verdict.source for s in log.steps if s.stamp_ns >= fault.end_ns + 2 * CHUNK_NS]
    assert (Source.NOMINAL in after) is not KINDS[kind].lasting, "the drive goes on, unless the planner stays dead"


def test_a_camera_that_freezes_while_the_car_creeps_is_changed_but_no_fault():
    """So a finding about it is no false alarm, and its absence no escape."""
    first, later = observation(speed=1.0), observation(speed=1.0)
    later = replace(later, stamp_ns=later.stamp_ns + CHUNK_NS)
    fault = Fault("frozen", later.stamp_ns, CHUNK_NS, 0.0, 0.0)
    saboteur = Saboteur(FakePlanner(road()), (fault,))
    saboteur.transform(first)
    saboteur.transform(later)
    assert saboteur.changed == {later.stamp_ns} and not saboteur.touched


@pytest.mark.parametrize("kind", ["jump", "unreachable", "wrong_frame"])
def test_without_the_ladder_the_same_faults_drive_the_car(kind: str, twin: StepLog, undisturbed: Metrics):
    """The judgement can say "escaped": unchecked, these plans are followed and that is what it says."""
    fault = Fault(kind, FAULT_NS, 3 * CHUNK_NS, 0.3, 1.2)
    log, saboteur = faulty_drive((fault,), checked=False)
    (found,) = outcomes(log, twin, (fault,), saboteur.touched, undisturbed)
    assert "followed" in found.escaped


def test_unchecked_plans_without_numbers_leave_the_last_trajectory(twin: StepLog):
    fault = Fault("nan", FAULT_NS, 2 * CHUNK_NS, 0.0, 0.0)
    log, _ = faulty_drive((fault,), checked=False)
    steps = {s.stamp_ns: s for s in log.steps}
    before, at = steps[FAULT_NS - CHUNK_NS], steps[FAULT_NS]
    assert at.verdict.trajectory is before.verdict.trajectory and at.verdict.source is Source.SHIFTED


def test_a_silent_and_a_lucky_catch_count_as_escaped(twin: StepLog, undisturbed: Metrics):
    fault = Fault("nan", FAULT_NS, CHUNK_NS, 0.0, 0.0)
    log, saboteur = faulty_drive((fault,))

    def judged(change) -> str:
        steps = tuple(replace(s, verdict=change(s.verdict)) if s.stamp_ns == FAULT_NS else s for s in log.steps)
        (found,) = outcomes(replace(log, steps=steps), twin, (fault,), saboteur.touched, undisturbed)
        return found.escaped

    assert judged(lambda verdict: verdict) == ""
    assert judged(lambda verdict: replace(verdict, reason="")) == "silent"
    assert "luck" in judged(lambda verdict: replace(verdict, reason=Reason.SHORT.value))
    assert "followed" in judged(lambda verdict: replace(log.steps[0].verdict, source=Source.NOMINAL,
        trajectory=replace(verdict.trajectory, stamp_ns=FAULT_NS)))  # fmt: skip


def test_a_car_out_of_its_lane_is_astray_unless_a_valid_plan_led_it_there(twin: StepLog, undisturbed: Metrics):
    fault = Fault("hang", FAULT_NS, 3 * CHUNK_NS, 0.0, 0.0)
    log, saboteur = faulty_drive((fault,))

    def aside(step, metres: float):
        def moved(ego):
            return replace(ego, x=ego.x - metres * np.sin(ego.yaw), y=ego.y + metres * np.cos(ego.yaw))

        return replace(step, ticks=tuple(replace(tick, ego=moved(tick.ego)) for tick in step.ticks))

    def judged(metres: float, plan_too: bool):
        steps = []
        for step in log.steps:
            step = aside(step, metres) if fault.active(step.stamp_ns) else step
            if plan_too and step.stamp_ns == FAULT_NS - CHUNK_NS:  # the last valid plan, as far to the side
                normal = metres * np.array([-np.sin(step.ego.yaw), np.cos(step.ego.yaw)])
                path = replace(step.verdict.trajectory, points=step.verdict.trajectory.points + normal)
                step = replace(step, verdict=replace(step.verdict, trajectory=path))
            steps.append(step)
        moved = replace(log, steps=tuple(steps))
        (found,) = outcomes(moved, twin, (fault,), saboteur.touched, undisturbed)
        return found

    assert judged(0.0, False).escaped == "" and judged(0.7, False).escaped == "", "inside its lane"
    assert "astray" in judged(1.6, False).escaped and judged(1.6, False).led_m == 0.0
    led = judged(1.6, True)
    assert led.escaped == "" and led.led_m > 1.0 and led.extra_m > 1.0


@pytest.mark.parametrize(("chunks", "gap", "own"), [(1, 50.0, True), (3, 44.0, False)])
def test_harm_is_the_planners_own_only_when_it_drives_into_it(
    chunks: int, gap: float, own: bool, twin: StepLog, undisturbed: Metrics
):
    """A car stands on the road: hit while the ladder holds an old plan, or by a planner that is back and blind."""
    fault = Fault("dds_loss", FAULT_NS, chunks * CHUNK_NS, 0.0, 0.0)
    log, saboteur = faulty_drive((fault,), lead_gap=gap, lead_speed=0.0)
    assert log.end_reason == "collision" and log.steps[-1].verdict.source.fallback is not own
    (found,) = outcomes(log, twin, (fault,), saboteur.touched, undisturbed)
    words = "collision with a car"
    assert (found.escaped, found.led_to) == (("", words) if own else (words, ""))


def test_harm_that_comes_without_the_fault_as_well_is_not_its_doing(twin: StepLog, undisturbed: Metrics):
    """The drive is made again with the faults before it alone: no harm there, and it has escaped."""
    first, second = (
        Fault("nan", FAULT_NS - 4 * CHUNK_NS, CHUNK_NS, 0.0, 0.0),
        Fault("dds_loss", FAULT_NS, 3 * CHUNK_NS, 0.0, 0.0),
    )
    log, saboteur = faulty_drive((first, second), lead_gap=44.0, lead_speed=0.0)
    for again, escaped in ((twin, "collision with a car"), (log, "")):
        asked = []

        def replay(faults, again=again, asked=asked):
            asked.append(list(faults))
            return again

        found = outcomes(log, twin, (first, second), saboteur.touched, undisturbed, replay=replay)
        assert [o.escaped for o in found] == ["", escaped] and found[1].led_to == (
            "" if escaped else "collision with a car"
        )
        assert asked == [[first]]


def test_faults_of_one_drive_are_separated_and_keyed():
    kinds = ("death", "nan", "black", "hang")
    faults = schedule(kinds, 5 * NS, "here")
    assert [f.kind for f in faults][-1] == "death" and {f.kind for f in faults} == set(kinds)
    for before, after in zip(faults, faults[1:], strict=False):
        assert after.start_ns - before.end_ns >= GAP_NS
    assert faults == schedule(kinds, 5 * NS, "here") != schedule(kinds, 5 * NS, "there")
    assert all(f.start_ns % CHUNK_NS == (5 * NS) % CHUNK_NS for f in faults)


def test_the_campaign_injects_every_kind_about_equally_often():
    planned = [kind for job in jobs_for(("a", "b", "c"), 300, DISGUISED) for kind in job.kinds]
    counts = {kind: planned.count(kind) for kind in KINDS}
    assert len(planned) >= 300 and min(counts.values()) >= 15 and max(counts.values()) <= 25
    keys = [job.key for job in jobs_for(("a", "b", "c"), 300, DISGUISED)]
    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("speed", [0.0, 1.0, 4.0, 8.0, 12.0])
@pytest.mark.parametrize("kind", ["nan", "jump", "unreachable"])
def test_impossible_contents_are_refused_at_any_speed_and_in_any_direction(kind: str, speed: float):
    """Over the whole range of sizes and directions, and on plans that already brake or speed up."""
    route = road()
    for wanted in (0.0, speed, speed + 4.0):
        car = ego_at(route, 60.0, speed)
        plan = plan_along(route, car, wanted)
        assert validate(plan, car, 0) == ""
        for size in np.linspace(0.0, 0.99, 7):
            for turn in np.linspace(0.0, 6.28, 17):
                broken = tamper_plan(Fault(kind, 0, CHUNK_NS, float(size), float(turn)), plan, speed)
                assert validate(broken, car, 0), f"{kind} {size:.2f} {turn:.2f} at {speed} m/s"


def test_a_small_error_is_no_fault():
    route, rng = road(), np.random.default_rng(0)
    car = ego_at(route, 60.0, 8.0)
    plan: Plan = plan_along(route, car, 8.0)
    coarse = replace(plan, waypoints=plan.waypoints[1::2], times_s=plan.times_s[1::2])
    for _ in range(50):
        assert validate(replace(coarse, waypoints=coarse.waypoints + rng.normal(0, 0.08, (10, 2))), car, 0) == ""


def test_table_and_scores_add_up(twin: StepLog, undisturbed: Metrics):
    fault = Fault("jump", FAULT_NS, CHUNK_NS, 0.5, 1.0)
    log, saboteur = faulty_drive((fault,))
    held = outcomes(log, twin, (fault,), saboteur.touched, undisturbed)
    rows = table(held)
    assert rows["jump"]["injected"] == 1 and rows["jump"]["escaped"] == 0
    assert rows["jump"]["caught_by"] == {Reason.UNREACHABLE.value: 1}
    records = [
        Record("s/0/p/jump/on", "p", True, 90.0, 100.0, 1, tuple(held), ()),
        Record("s/0/p/jump/off", "p", False, 20.0, 98.0, 1, (), ()),
        Record("s/1/p/jump/on", "p", True, 0.0, 0.0, 1, (), ()),  # no counterpart: left out
    ]
    assert scores(records)["p"] == {
        "ladder on": {"no faults": 100.0, "faults": 90.0, "drives": 1},
        "ladder off": {"no faults": 98.0, "faults": 20.0, "drives": 1},
    }
