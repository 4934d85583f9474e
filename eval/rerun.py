"""A recorded drive again from one of its steps on: to look at a failure, or to see what another planner makes of it.

The oracle is a pure function of scenario, seed and the ego's poses, so the world at step K is restored by driving the
recorded poses through it; safety's memory is restored by judging the recorded plans again.  With the planner and the
code of the recording the poses then go on bit for bit as they did; whether the code is the same is checked and told,
and so is the first tick at which the restored traffic differs from the recorded one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from efficientgen.eval.provenance import code_sha256, scenario_sha256
from efficientgen.eval.runner import World, drive
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.eval.store import load
from efficientgen.perception.types import NS, Planner
from efficientgen.worldsim.scenario import Scenario, ScenarioError

CODE, SCENARIO = "code_sha256", "scenario_sha256"  # among a log's notes


class NoRecordingError(ValueError):
    """A directory that holds no step log of one drive."""


class StepRangeError(ValueError):
    """A step that the recorded drive has not."""


@dataclass(frozen=True)
class Recording:
    """A stored drive, and what of it is not as it was."""

    directory: Path
    log: StepLog
    warnings: tuple[str, ...]


def origin(scenario: str) -> dict[str, str]:
    """What a log's notes must say so that its drive can be taken up again: code and scenario, by their digests."""
    digest = _scenario_digest(scenario)
    return {CODE: code_sha256()} | ({SCENARIO: digest} if digest else {})


def read_recording(run: Path | str) -> Recording:
    """The one drive stored in `run`: a run's directory with one drive in it, a drive's, or its `log`.

    Raises:
        NoRecordingError: there is none, or there are several.
        LogFormatError: the log is of another version.
    """
    run = Path(run)
    found = [p.parent for p in (run / "log.json", run / "log" / "log.json") if p.exists()]
    found = found or sorted(p.parent for p in run.glob("*/log/log.json"))
    if len(found) > 1:
        found = [p for p in found if not p.parent.name.rsplit("-", 1)[0].endswith(("-expert", "-constant-velocity"))]
    if len(found) != 1:
        names = ", ".join(str(p.parent) for p in found)
        what = f"several drives with a log: give one of {names}" if found else "no drive with a log (log/log.json)"
        raise NoRecordingError(f"{run} holds {what}; `efficientgen drive` keeps one per drive under runs/")
    log = load(found[0])
    return Recording(found[0], log, tuple(_warnings(log)))


def _warnings(log: StepLog) -> list[str]:
    out = []
    if CODE not in log.notes:
        out.append("the recording does not say by which code it was driven: what follows may differ from it")
    elif log.notes[CODE] != code_sha256():
        out.append("the recording was driven by other code: what follows may differ from it")
    if SCENARIO in log.notes and log.notes[SCENARIO] != _scenario_digest(log.scenario):
        out.append(f"the scenario {log.scenario} has changed since the recording")
    if not log.deterministic or log.mode == "realtime":
        out.append("the recording was ruled by wall time: from the step on it will not go as it went")
    return out


def _scenario_digest(name: str) -> str:
    """ "" for a scenario that is a file of the user's, which a name does not find."""
    try:
        return scenario_sha256(name)
    except ScenarioError:
        return ""


def check_step(log: StepLog, step: int) -> None:
    """Raises:
    StepRangeError: the drive has no such step.
    """
    if not 0 <= step < len(log.steps):
        handover = next((k for k, s in enumerate(log.steps) if s.stamp_ns >= log.handover_ns), len(log.steps))
        raise StepRangeError(
            f"step {step} is not in the recording: it has 0 to {len(log.steps) - 1}, 0.4 s each; the planner took over "
            f"at step {handover}"
        )


def rerun(
    log: StepLog,
    step: int,
    scenario: Scenario,
    planner: Planner | Literal["expert"],
    world: World | None = None,
    *,
    keep_frames: bool = False,
    oracle: Any = None,
    on_step: Callable[[Step], None] | None = None,
) -> StepLog:
    """Drive `log` again, from `step` on by `planner`.

    The new log holds the recorded steps before it; its notes say `rerun`: from which step, and `traffic_differs_s`, the
    first tick at which the restored oracle frames are not the recorded ones (None: nowhere).  Another planner than the
    recorded one counts as handed over to at `step`, so that only its own driving is scored.

    Raises:
        StepRangeError: the drive has no such step.
    """
    check_step(log, step)
    held = log.notes.get("latency")
    again = drive(
        scenario,
        log.seed,
        planner,
        world,
        keep_frames=keep_frames,
        oracle=oracle,
        on_step=on_step,
        mode="latency" if held else "sync",
        latency=float(held["delay_s"]) if held else 0.0,
        recorded=log.steps[:step],
    )
    pairs = zip(
        [log.start, *(t for s in log.steps[:step] for t in s.ticks)],
        [again.start, *(t for s in again.steps[:step] for t in s.ticks)],
        strict=False,
    )
    differs = next((ours.stamp_ns / NS for theirs, ours in pairs if theirs != ours), None)
    told = {"step": step, "planner": log.planner, "traffic_differs_s": differs}
    handover = again.handover_ns
    if again.planner != log.planner and step:  # what the other planner did is not this one's to be scored for
        handover = max(handover, log.steps[step].stamp_ns)
    return replace(again, handover_ns=handover, notes={**again.notes, "rerun": told})
