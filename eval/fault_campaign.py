"""The fault campaign in process: hundreds of faults inside ordinary drives, each judged against an undisturbed twin.

A job is one drive of one scenario and seed with a few separated faults (`faults.schedule`).  Its twin is the same drive
without them; `fault_judgement` says what escaped.  Most drives are the expert's, who plans on the oracle and answers as
a `Planner`: it keeps its lane, so what goes astray is the ladder's doing.  A part is driven by the learned planner.
With the ladder off the same jobs show who drives: only their scores count then.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from efficientgen.eval.fault_judgement import Outcome, false_alarms, outcomes
from efficientgen.eval.faults import KINDS, Fault, Saboteur, Truncator, schedule
from efficientgen.eval.metrics import score
from efficientgen.eval.runner import drive, handover_stamp
from efficientgen.eval.step_log import StepLog
from efficientgen.perception.types import (
    CHUNK_NS,
    EgoState,
    Observation,
    OracleFrame,
    Plan,
)
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.safety import SafetyParams
from efficientgen.worldsim.scenario import Scenario

DISGUISED = "expert-in-disguise"
PER_DRIVE = 4


class Watched:
    """An oracle that remembers its last frame, for the expert in disguise."""

    def __init__(self, oracle: Any) -> None:
        self._oracle = oracle
        self.frame: OracleFrame | None = None

    @property
    def route(self) -> Any:
        return self._oracle.route

    @property
    def town(self) -> Any:
        return self._oracle.town

    def reset(self) -> OracleFrame:
        self.frame = self._oracle.reset()
        return self.frame

    def step(self, states: tuple[EgoState, ...]) -> tuple[OracleFrame, ...]:
        ticks: tuple[OracleFrame, ...] = self._oracle.step(states)
        self.frame = ticks[-1]
        return ticks

    def close(self) -> None:
        self._oracle.close()


class ExpertInDisguise:
    """The privileged expert behind the `Planner` contract.  For fault campaigns only: it looks at the truth."""

    name = DISGUISED

    def __init__(self, oracle: Watched, frames_per_camera: int) -> None:
        self._oracle, self.frames_per_camera = oracle, frames_per_camera

    def reset(self, seed: int) -> None:
        """It keeps nothing."""

    def plan(self, observation: Observation) -> Plan:
        """The expert's plan for the oracle's present, stamped as the observation is."""
        frame = self._oracle.frame
        assert frame is not None, "the drive has begun"
        return replace(expert_plan(self._oracle.route, frame), stamp_ns=observation.stamp_ns)


@dataclass(frozen=True)
class Job:
    """One drive with faults; `kinds` empty: the twin."""

    scenario: str
    seed: int
    planner: str
    kinds: tuple[str, ...]
    checked: bool = True

    @property
    def key(self) -> str:
        ladder = "on" if self.checked else "off"
        return "/".join((self.scenario, str(self.seed), self.planner, "+".join(self.kinds), ladder))

    @property
    def needs_eyes(self) -> bool:
        """Whether pictures must be drawn for it."""
        return self.planner != DISGUISED or any(KINDS[k].where == "camera" for k in self.kinds)

    @property
    def twin(self) -> Job:
        return replace(self, kinds=())


def jobs_for(scenarios: Sequence[str], count: int, planner: str, first_seed: int = 0) -> list[Job]:
    """Drives with `PER_DRIVE` faults each, every kind equally often, until `count` are planned."""
    plain = [name for name, kind in KINDS.items() if kind.where != "camera"]
    seen = [name for name, kind in KINDS.items() if kind.where == "camera"]
    share = len(seen) / len(KINDS)
    jobs: list[Job] = []
    planned, next_of = Counter[str](), {"plain": 0, "seen": 0}
    while sum(planned.values()) < count:
        drawn = planned.total() > 0 and sum(planned[k] for k in seen) < share * planned.total()
        group, pool = ("seen", seen) if drawn else ("plain", plain)
        at = next_of[group]
        kinds = tuple(pool[(at + i) % len(pool)] for i in range(min(PER_DRIVE, len(pool))))
        next_of[group] += len(kinds)
        seed, place = divmod(len(jobs), len(scenarios))
        jobs.append(Job(scenarios[place], first_seed + seed, planner, kinds))
        planned.update(kinds)
    return jobs


def run_drive(
    job: Job,
    scenario: Scenario,
    world: Any,
    learned: Any = None,
    parser: Truncator | None = None,
    faults: Sequence[Fault] | None = None,
) -> tuple[StepLog, Saboteur]:
    """Drive one job, with its faults or those given.  `learned` is the planner unless it is the expert in disguise."""
    from efficientgen.worldsim.oracle import Oracle  # loads SUMO

    oracle = Watched(Oracle(scenario, job.seed))
    eyes = world if job.needs_eyes else None
    try:
        planner = learned if job.planner != DISGUISED else ExpertInDisguise(oracle, 2 if eyes is not None else 0)
        saboteur = Saboteur(planner, faults_of(job, scenario) if faults is None else tuple(faults), parser)
        safety = SafetyParams(enabled=job.checked)
        log = drive(scenario, job.seed, saboteur, eyes, oracle=oracle, disturb=saboteur.transform, safety=safety)
    finally:
        oracle.close()
    return log, saboteur


def faults_of(job: Job, scenario: Scenario) -> tuple[Fault, ...]:
    """The faults of a job: from two plans after the hand-over on."""
    return schedule(job.kinds, handover_stamp(scenario) + 2 * CHUNK_NS, job.key.rsplit("/", 1)[0])


@dataclass(frozen=True)
class Record:
    """One finished job, as plain data for JSON."""

    key: str
    planner: str
    checked: bool
    score: float  # driving score with the faults ...
    twin_score: float  # ... and without, the ladder on or off in both
    injected: int
    outcomes: tuple[Outcome, ...]  # () with the ladder off: nothing is meant to be caught then
    false_alarms: tuple[str, ...]


_kept: dict[str, Any] = {}  # the world, the learned planner and the parser of this process


def run_job(job: Job) -> Record:
    """Drive a job and its twin in this process and judge the faults."""
    from efficientgen.planning.load import load_planner
    from efficientgen.worldsim.scenario import load_scenario

    scenario = load_scenario(job.scenario)
    if job.needs_eyes and "world" not in _kept:
        from efficientgen.worldsim.reference.world import ReferenceWorld  # loads Panda3D

        _kept["world"] = ReferenceWorld()
    if job.planner != DISGUISED and job.planner not in _kept:
        _kept[job.planner] = load_planner(job.planner)
    if "parser" not in _kept:
        _kept["parser"] = Truncator.shipped()
    held = (_kept.get("world"), _kept.get(job.planner), _kept["parser"])
    log, saboteur = run_drive(job, scenario, *held)
    twin, _ = run_drive(job.twin, scenario, *held)
    metrics, undisturbed = score(log), score(twin)

    def replay(faults: Sequence[Fault]) -> StepLog:
        return run_drive(job, scenario, *held, faults)[0]

    judged = outcomes(log, twin, saboteur.faults, saboteur.touched, undisturbed, replay=replay) if job.checked else ()
    return Record(
        key=job.key,
        planner=job.planner,
        checked=job.checked,
        score=metrics.driving_score,
        twin_score=undisturbed.driving_score,
        injected=len(set(saboteur.touched.values())),
        outcomes=tuple(judged),
        false_alarms=tuple(false_alarms(log, {*saboteur.changed, *saboteur.touched}) + false_alarms(twin)),
    )


def scores(records: Iterable[Record]) -> dict[str, dict[str, dict[str, float]]]:
    """planner -> "ladder on" | "ladder off" -> mean driving score without and with faults, and how many drives.

    Only drives that were made with the ladder on and off count, so that all four means are over the same drives.
    """
    held = {(r.planner, r.key.rsplit("/", 1)[0], r.checked): r for r in records}
    out: dict[str, dict[str, dict[str, float]]] = {}
    for planner in sorted({planner for planner, _, _ in held}):
        both = [k for p, k, on in held if p == planner and on and (planner, k, False) in held]
        for on in (True, False) if both else ():
            mine = [held[planner, k, on] for k in both]
            out.setdefault(planner, {})["ladder on" if on else "ladder off"] = {
                "no faults": float(np.mean([r.twin_score for r in mine])),
                "faults": float(np.mean([r.score for r in mine])),
                "drives": len(mine),
            }
    return out
