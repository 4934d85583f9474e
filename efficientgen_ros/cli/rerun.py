"""`efficientgen drive --from RUN --step K`: take a recorded drive up again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer
from rich.progress import Progress

from efficientgen.planning.load import EXPERT, load_planner

if TYPE_CHECKING:
    from efficientgen.eval.rerun import Recording
    from efficientgen.eval.step_log import Step, StepLog
    from efficientgen.worldsim.scenario import Scenario


def taken_up(run: Path | None, step: int | None, scenarios: list[str], mode: str) -> Recording:
    """The recording of --from, checked against the other options.

    Raises:
        BadParameter: options that do not go together.
        NoRecordingError, StepRangeError: no such drive, or no such step in it.
    """
    from efficientgen.eval.rerun import check_step, read_recording

    if run is None or step is None:
        raise typer.BadParameter("--from RUN and --step K go together")
    if len(scenarios) > 1:
        raise typer.BadParameter("--from takes the recording's scenario; name one only where it is a file of yours")
    if mode != "sync":
        raise typer.BadParameter("--from drives as the recording did, in its mode and latency; leave --mode out")
    recording = read_recording(run)
    check_step(recording.log, step)
    return recording


def told(recording: Recording, step: int) -> dict[str, str]:
    """What the report says about it."""
    log = recording.log
    words = f"from step {step} ({log.steps[step].stamp_ns / 1e9:.1f} s) of {log.planner}'s drive {recording.directory}"
    return {"Taken up again": words, "Unlike the recording": "; ".join(recording.warnings) or "nothing known"}


def drive_again(
    recording: Recording, step: int, scenario: Scenario, planner: str, checkpoint: str, model: dict[str, Any],
    world: Any, progress: Progress,
) -> StepLog:  # fmt: skip
    """The drive from `step` on, with its pictures; what is not as it was is printed."""
    from efficientgen.eval.rerun import rerun
    from efficientgen.eval.runner import name_of

    console = progress.console
    for words in recording.warnings:
        console.print(f"[yellow]warning[/]: {words}", soft_wrap=True)
    if recording.log.world not in ("none", name_of(world)):
        console.print(f"[yellow]warning[/]: recorded in world {recording.log.world}, now drawn by {name_of(world)}")
    task = progress.add_task(f"{scenario.name} · {planner} from step {step}", total=scenario.duration_s)

    def on_step(done: Step) -> None:
        progress.update(task, completed=done.stamp_ns / 1e9 + 0.4)

    driver: Any = planner if planner == EXPERT else load_planner(planner, checkpoint, **model)
    log = rerun(recording.log, step, scenario, driver, world, keep_frames=True, on_step=on_step)
    progress.update(task, completed=scenario.duration_s)
    differs = log.notes["rerun"]["traffic_differs_s"]
    if differs is not None:
        console.print(f"[yellow]warning[/]: the restored traffic differs from the recorded one from {differs:.1f} s on")
    elif planner == recording.log.planner:
        parted = next(
            (a.stamp_ns / 1e9 for a, b in zip(log.steps, recording.log.steps, strict=False) if a.ticks != b.ticks), None
        )
        same = "as recorded, to the bit" if parted is None else f"as recorded until {parted:.1f} s"
        console.print(f"  {scenario.name}: {same}")
    return log
