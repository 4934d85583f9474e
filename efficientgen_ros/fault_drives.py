"""The fault campaign on real graphs: processes killed, stopped, restarted; messages lost, late, black, frozen, wrong.

Each job is one drive of `bringup.drive_ros` with a few separated faults.  Process faults are signals from the starter,
the others change messages where they leave a node (`sabotage`).  The drive's log is judged as the in-process campaign
judges it (`eval.fault_judgement`), against an undisturbed twin in process; and the recorded `/diagnostics` must show
each fault as WARN, ERROR or STALE.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from efficientgen.eval.fault_campaign import Record
from efficientgen.eval.fault_judgement import Outcome, outcomes
from efficientgen.eval.faults import Fault, schedule
from efficientgen.eval.metrics import score
from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.health import FROZEN_MOVED_M
from efficientgen.perception.types import CHUNK_NS, NS, TICK_NS
from efficientgen.planning.load import CONSTANT_VELOCITY, load_planner
from efficientgen.worldsim.scenario import Scenario, load_scenario
from efficientgen_ros.bringup import Disturbance, drive_ros
from efficientgen_ros.interfaces import TOPICS, message_class
from efficientgen_ros.messages import stamp_of
from efficientgen_ros.parameters import Value
from efficientgen_ros.sabotage import dump_faults

STRAIGHT = Scenario(
    name="faults-straight",
    family="free_road",
    description="A straight road to drive, stop and drive on",
    town="cedar",
    split="train",
    edges=("n0-n13", "n13-n5"),
    start_pos=10.0,
    duration_s=26.0,
    start_speed=4.0,
    vehicles=4,
    pedestrians=4,
)
SEEN_SCENARIO = "cedar_lead"  # for faults of cameras, which only a planner with eyes notices
FIRST_NS = 7 * NS  # real time hands over at 5.2 s
PLAIN_DRIVES: tuple[tuple[str, ...], ...] = (
    ("nan", "stale"),
    ("jump", "unreachable"),
    ("wrong_frame", "dds_loss"),
    ("truncated", "clock_jump"),
    ("hang",),
    ("restart",),
    ("death",),
)
SEEN_DRIVES: tuple[tuple[str, ...], ...] = (("dropped", "late"), ("black", "frozen"))
PROCESS = {"death": "kill", "hang": "stop", "restart": "restart"}


@dataclass(frozen=True)
class RosJob:
    """One drive on a graph."""

    mode: str
    planner: str
    seed: int
    kinds: tuple[str, ...]

    @property
    def key(self) -> str:
        return "/".join(("ros2", self.mode, self.planner, str(self.seed), "+".join(self.kinds)))

    @property
    def scenario(self) -> Scenario:
        if self.planner != CONSTANT_VELOCITY:
            return load_scenario(SEEN_SCENARIO)
        if "restart" in self.kinds and self.mode == "sync":  # it drives on while the planner starts, faster than time
            return replace(STRAIGHT, duration_s=120.0)
        return STRAIGHT

    @property
    def faults(self) -> tuple[Fault, ...]:
        """In real time at least three plans long: a single bad plan may be overtaken by the next before any verdict."""
        drawn = schedule(self.kinds, FIRST_NS, self.key)
        least = 3 * CHUNK_NS if self.mode == "realtime" else CHUNK_NS
        return tuple(replace(fault, duration_ns=max(fault.duration_ns, least)) for fault in drawn)


def ros_jobs(modes: tuple[str, ...], rounds: int, learned: str) -> list[RosJob]:
    """`rounds` times every kind in every mode; cameras break before the learned planner's eyes."""
    return [
        RosJob(mode, planner, seed, kinds)
        for seed in range(rounds)
        for mode in modes
        for planner, drives in ((CONSTANT_VELOCITY, PLAIN_DRIVES), (learned, SEEN_DRIVES))
        for kinds in drives
    ]


def run_ros_job(job: RosJob) -> Record:
    """Drive a job on a graph of its own, and judge it."""
    scenario, faults = job.scenario, job.faults
    world = "none" if job.planner == CONSTANT_VELOCITY else "reference"
    messages = tuple(fault for fault in faults if fault.kind not in PROCESS)
    tuning: dict[str, dict[str, Value]] = {
        "planner": {"faults": dump_faults(messages), "input_timeout_s": 1.0},
        "world": {"faults": dump_faults(messages)},
        "safety": {"sync_timeout_s": 3.0},
    }
    with tempfile.TemporaryDirectory() as directory:
        log = drive_ros(
            scenario,
            job.seed,
            job.planner,
            world=world,
            mode=job.mode,
            record_dir=directory,
            chaos=disturbances(faults),
            tuning=tuning,
        )
        levels = diagnostic_levels(Path(directory) / "drive.mcap")
    twin = _twin(job, scenario)
    undisturbed, metrics = score(twin), score(log)
    touched = touched_stamps(log, faults)
    judged = outcomes(log, twin, faults, touched, undisturbed, layer="ros2")
    return Record(
        key=job.key,
        planner=job.planner,
        checked=True,
        score=metrics.driving_score,
        twin_score=undisturbed.driving_score,
        injected=len(judged),
        outcomes=tuple(shown(outcome, levels) for outcome in judged),
        false_alarms=(),
    )


def disturbances(faults: tuple[Fault, ...]) -> tuple[Disturbance, ...]:
    """What the starter does to the planner's process."""
    out = [Disturbance(f.start_ns / NS, PROCESS[f.kind]) for f in faults if f.kind in PROCESS]
    out += [Disturbance(f.end_ns / NS + 2.0, "continue") for f in faults if f.kind == "hang"]
    return tuple(out)


def touched_stamps(log: StepLog, faults: tuple[Fault, ...]) -> dict[int, int]:
    """Plan stamps that each fault changed: from its window, or from when its signal was sent to the process."""
    out: dict[int, int] = {}
    sent = {e["text"].split()[0]: e["stamp_ns"] for e in log.notes["events"] if e["kind"] == "chaos"}
    for i, fault in enumerate(faults):
        if fault.kind in PROCESS:
            at = sent.get(PROCESS[fault.kind])
            until = sent.get("continue", at) if fault.kind == "hang" else at
            stamps = [s.stamp_ns for s in log.steps if at is not None and at <= s.stamp_ns <= (until or at)]
        else:
            stamps = [s.stamp_ns for s in log.steps if fault.active(s.stamp_ns) and s.stamp_ns >= log.handover_ns]
        if fault.kind == "frozen":
            # Of a standing car it shows what there is.  In real time cameras tick every 0.1 s, so the first plan after
            # a freeze looks at a picture that is at most a tick too old; a plan period later it is a fault.
            true_ns = fault.start_ns - (TICK_NS if log.mode == "realtime" else CHUNK_NS)
            speeds = {s.stamp_ns: s.ego.speed for s in log.steps}
            moving = [s for s in stamps if speeds[s] * CHUNK_NS / NS > 2.0 * FROZEN_MOVED_M]
            stamps = [s for s in moving if s - true_ns >= CHUNK_NS]
        out |= dict.fromkeys(stamps, i)
    return out


def shown(outcome: Outcome, levels: Mapping[int, int]) -> Outcome:
    """`outcome`, escaped if the diagnostics did not rise above OK when it was caught."""
    seen = round((outcome.start_s + (outcome.detection_s or 0.0)) * NS)
    if outcome.escaped or levels.get(seen, 0) > 0:
        return outcome
    return replace(outcome, escaped="not in the diagnostics")


def diagnostic_levels(bag: Path) -> dict[int, int]:
    """Highest level of any diagnostic status per header stamp: 0 OK, 1 WARN, 2 ERROR, 3 STALE."""
    from mcap.reader import make_reader
    from rclpy.serialization import deserialize_message

    topic = TOPICS["diagnostics"]
    kind: Any = message_class(topic.type)
    out: dict[int, int] = {}
    with bag.open("rb") as file:
        for _, _, held in make_reader(file).iter_messages(topics=[topic.name]):
            message = deserialize_message(held.data, kind)
            stamp = stamp_of(message.header.stamp)
            out[stamp] = max([out.get(stamp, 0), *(int.from_bytes(s.level, "little") for s in message.status)])
    return out


def _twin(job: RosJob, scenario: Scenario) -> StepLog:
    """The same drive without faults, in process."""
    if job.planner == CONSTANT_VELOCITY:
        return drive(scenario, job.seed, load_planner(CONSTANT_VELOCITY))
    from efficientgen.worldsim.reference.world import ReferenceWorld

    world = ReferenceWorld()
    try:
        return drive(scenario, job.seed, load_planner(job.planner), world)
    finally:
        world.close()
