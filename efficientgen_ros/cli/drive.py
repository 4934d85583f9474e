"""`efficientgen drive` and `efficientgen bringup`: drive over ROS 2, and turn the drives into a report."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from efficientgen import share
from efficientgen.planning.load import CONSTANT_VELOCITY, DEFAULT, EXPERT, checked_directory, load_planner
from efficientgen.worldsim.worlds import WORLDS, check_world, load_world, require_cameras
from efficientgen_ros.cli.rerun import drive_again, taken_up, told

if TYPE_CHECKING:
    from efficientgen.eval.metrics import Metrics
    from efficientgen.eval.rerun import Recording
    from efficientgen.eval.step_log import Step, StepLog
    from efficientgen.worldsim.scenario import Scenario

DEFAULT_SCENARIOS = ("maple_right", "birch_people")
LAYOUT = "launch/foxglove/drive.json"
MODES = ("sync", "latency", "realtime")
ROS_MODES = ("sync", "realtime")


def drive_command(
    context: typer.Context,
    scenario: Annotated[list[str], typer.Argument(help="Scenarios; `efficientgen scenarios` lists them.")] = None,  # type: ignore[assignment]
    planner: Annotated[
        str, typer.Option(help="nano-ddrive, fast-ddrive, fast-dvlm, expert, constant-velocity.")
    ] = DEFAULT,
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    schema: Annotated[str, typer.Option(help="Answer to ask for: wod-e2e, nuscenes; empty: the checkpoint's.")] = "",
    decoder: Annotated[str, typer.Option(help="How the planner decodes; empty: scaffold-spec.")] = "",
    device: Annotated[str, typer.Option(help="Where its model runs: cpu, cuda, cuda:1.")] = "cpu",
    dtype: Annotated[str, typer.Option(help="Of its weights; empty: float32 on a CPU, bfloat16 elsewhere.")] = "",
    rollouts: Annotated[
        int, typer.Option(min=1, max=64, help="Trajectories sampled and averaged per plan; 1: greedy.")
    ] = 1,
    seed: Annotated[int, typer.Option(min=0, help="Of traffic, signals and houses.")] = 0,
    world: Annotated[str, typer.Option(help="What draws the cameras: reference, nano, sana-wm.")] = "reference",
    world_dir: Annotated[Path | None, typer.Option(help="Weights of an imagined world.")] = None,
    world_device: Annotated[str, typer.Option(help="Where it runs; empty: the accelerator if there is one.")] = "",
    world_refine: Annotated[
        bool, typer.Option("--world-refine", help="sana-wm: put the release's refiner into the loop.")
    ] = False,
    weather: Annotated[str, typer.Option(help="day, dusk, night, rain or fog; by default the scenario's own.")] = "",
    mode: Annotated[
        str,
        typer.Option(help="sync, latency (plans take effect --latency late; in process) or realtime (wall clock)."),
    ] = "sync",
    latency: Annotated[str, typer.Option(help="Seconds, 'measured', or a profile of launch/config/latency.yaml.")] = "",
    in_process: Annotated[bool, typer.Option("--in-process", help="No ROS: the same loop in this process.")] = False,
    kill_planner_at: Annotated[
        float | None, typer.Option(help="Kill the planner process at this second, to watch the safety ladder.")
    ] = None,
    baselines: Annotated[
        bool, typer.Option("--baselines/--no-baselines", help="Also drive expert and constant velocity.")
    ] = True,
    runs: Annotated[Path, typer.Option(help="Where runs are kept.")] = Path("runs"),
    picture: Annotated[
        Path | None, typer.Option(help="Also write a still of the first drive here (JPEG, at most 250 kB).")
    ] = None,
    from_run: Annotated[
        Path | None, typer.Option("--from", help="A recorded drive to take up again at --step, in this process.")
    ] = None,
    step: Annotated[int | None, typer.Option(help="Of --from: the plan period (0.4 s) to take over at.")] = None,
    live: Annotated[bool, typer.Option("--live", help="Serve the drives for Foxglove while they run.")] = False,
    port: Annotated[int, typer.Option(min=1, max=65535, help="Port of --live, on this host.")] = 8765,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """Drive scenarios in closed loop over ROS 2 and write a report with video."""
    from efficientgen.eval.beside import compared
    from efficientgen.eval.report import STILL, Entry, write_bytes, write_report  # these load video and map readers
    from efficientgen.eval.run_index import write_index
    from efficientgen.worldsim.scenario import load_scenario, with_weather
    from efficientgen_ros.live import require_sdk

    _check(mode, MODES, "--mode")
    _check(world, WORLDS, "--world")
    recording: Recording | None = None
    if from_run is not None or step is not None:
        recording = taken_up(from_run, step, scenario or [], mode)
        scenario, seed, in_process = scenario or [recording.log.scenario], recording.log.seed, True
        weather = weather or recording.log.start.weather
        source = context.get_parameter_source("planner")
        planner = recording.log.planner if source is None or source.name == "DEFAULT" else planner
    check_world(world, world_dir)
    if (mode == "latency") != bool(latency):
        raise typer.BadParameter("--mode latency and --latency (seconds, 'measured' or a profile) go together")
    if mode == "latency" and not in_process:
        raise typer.BadParameter("--mode latency drives in this process only: add --in-process")
    if mode == "realtime" and in_process:
        raise typer.BadParameter("--mode realtime needs the ROS 2 graph: leave --in-process out")
    if planner not in (EXPERT, CONSTANT_VELOCITY):
        checked_directory(planner, checkpoint)
    if live and in_process:
        raise typer.BadParameter("--live shows ROS 2 messages, which --in-process does not send; leave one out")
    if live:
        require_sdk()
    scenarios = [with_weather(load_scenario(name), weather) for name in scenario or DEFAULT_SCENARIOS]
    run = runs / datetime.now().strftime("%Y%m%d-%H%M%S")
    console = Console(stderr=as_json)
    where = "in this process" if in_process else "ROS 2 nodes in separate processes"
    console.print(f"[bold]{planner}[/] drives {len(scenarios)} scenarios, {where}, {mode}")
    if live:
        console.print(f"live: open ws://localhost:{port} in Foxglove (layout: {share(LAYOUT)})", soft_wrap=True)
    tuning: dict[str, Any] = {"recorder": {"live_port": port}} if live else {}
    model: dict[str, Any] = {"schema": schema, "decoder": decoder, "device": device, "dtype": dtype}
    tuning["planner"] = model | {"rollouts": rollouts}
    drawn_by = load_world(world, world_dir, world_device, refine=world_refine) if in_process else None
    imagined: dict[str, Any] = {"world": world, "world_dir": str(world_dir or ""), "world_device": world_device}
    imagined["world_refine"] = world_refine
    entries: list[Entry] = []
    with _progress(console) as progress:
        for each in scenarios:
            if recording is not None and step is not None:
                log = drive_again(recording, step, each, planner, checkpoint, tuning["planner"], drawn_by, progress)
            elif in_process:
                log = _drive_here(each, seed, planner, checkpoint, tuning["planner"], latency, drawn_by, progress)
            else:
                log = _drive_ros(
                    each, seed, planner, checkpoint, imagined, mode, kill_planner_at, run, tuning, progress
                )
            log, extra = compared(log, world)
            entries.append(Entry(_keep(log, run), log, extra=extra))
            for other in (EXPERT, CONSTANT_VELOCITY) if baselines else ():
                if other != planner:
                    beside = _drive_plain(each, seed, other, progress)
                    entries.append(Entry(_keep(beside, run), beside, show=False))
        task = progress.add_task("report", total=None)
        facts = told(recording, step) if recording is not None and step is not None else {}
        page = write_report(entries, run, facts=facts, progress=lambda words: progress.update(task, description=words))
        index = write_index(runs)
        progress.remove_task(task)
    if picture is not None:
        picture.parent.mkdir(parents=True, exist_ok=True)
        write_bytes(picture, (run / STILL).read_bytes())
    if as_json:
        print(
            json.dumps(
                {"report": str(page), "index": str(index), "drives": [asdict(e.metrics) for e in entries]}, indent=1
            )
        )
        return
    console.print(_table([e.metrics for e in entries]))
    for line in _events([e.log for e in entries if e.log is not None]):
        console.print(line)
    if not in_process:
        console.print(f"recordings: {run}/*/drive.mcap   (Foxglove; layout: {share(LAYOUT)})", soft_wrap=True)
    console.print(f"report: [bold]{page}[/]   (open it in a browser; all runs: {index})", soft_wrap=True)


def bringup_command(
    scenario: Annotated[str, typer.Argument(help="Scenario name or YAML file.")] = DEFAULT_SCENARIOS[0],
    planner: Annotated[str, typer.Option()] = DEFAULT,
    checkpoint: Annotated[str, typer.Option()] = "",
    schema: Annotated[str, typer.Option(help="Answer to ask for: wod-e2e, nuscenes; empty: the checkpoint's.")] = "",
    device: Annotated[str, typer.Option(help="Where the planner's model runs: cpu, cuda, cuda:1.")] = "cpu",
    seed: Annotated[int, typer.Option(min=0)] = 0,
    world: Annotated[str, typer.Option()] = "reference",
    world_dir: Annotated[Path | None, typer.Option(help="Weights of an imagined world.")] = None,
    world_device: Annotated[str, typer.Option(help="Where it runs; empty: the accelerator if there is one.")] = "",
    weather: Annotated[str, typer.Option(help="day, dusk, night, rain or fog; by default the scenario's own.")] = "",
    mode: Annotated[str, typer.Option(help="sync or realtime")] = "sync",
    record_dir: Annotated[Path, typer.Option(help="Gets the MCAP, the step log and the nodes' output.")] = Path(
        "runs/bringup"
    ),
) -> None:
    """Start the ROS 2 graph of one drive, as `ros2 launch efficientgen drive.launch.py` does, and wait for its end."""
    from efficientgen.eval.metrics import score
    from efficientgen.worldsim.scenario import load_scenario, with_weather
    from efficientgen_ros.bringup import drive_ros

    _check(mode, ROS_MODES, "--mode")
    console = Console()
    with _progress(console) as progress:
        task = progress.add_task(f"{scenario} · {planner}", total=None)
        here = with_weather(load_scenario(scenario), weather)
        tuning: dict[str, Any] = {"planner": {"schema": schema, "device": device}}
        log = drive_ros(
            here, seed, planner, checkpoint, world, mode, record_dir, world_dir=str(world_dir or ""),
            world_device=world_device, on_step=_ticker(progress, task), tuning=tuning,
        )  # fmt: skip
    console.print(_table([score(log)]))
    console.print(f"recorded: {record_dir / 'drive.mcap'}   (Foxglove; layout: {share(LAYOUT)})", soft_wrap=True)


def _drive_here(
    scenario: Scenario,
    seed: int,
    planner: str,
    checkpoint: str,
    model: dict[str, Any],
    latency: str,
    world: Any,
    progress: Progress,
) -> StepLog:
    """The drive that the report shows, with its pictures, in this process; an imagined world notes what it cost."""
    from dataclasses import replace

    from efficientgen.eval.latency import resolve
    from efficientgen.eval.runner import drive, measure_latency

    task = progress.add_task(f"{scenario.name} · {planner}", total=scenario.duration_s)
    began = time.monotonic()
    driver: Any = planner if planner == EXPERT else load_planner(planner, checkpoint, **model)
    require_cameras(driver, tuple(camera.name for camera in world.rig))
    log = drive(
        scenario,
        seed,
        driver,
        world,
        keep_frames=True,
        on_step=_ticker(progress, task),
        mode="latency" if latency else "sync",
        latency=resolve(latency, lambda: measure_latency(driver, scenario, seed, world)) if latency else 0.0,
    )
    if hasattr(world, "diagnostics"):
        log = replace(log, notes=log.notes | {"world": world.diagnostics()})
    _done(log, scenario, began, progress, task)
    return log


def _drive_ros(
    scenario: Scenario,
    seed: int,
    planner: str,
    checkpoint: str,
    world: dict[str, Any],
    mode: str,
    kill_planner_at: float | None,
    run: Path,
    tuning: dict[str, Any],
    progress: Progress,
) -> StepLog:
    """The same over ROS 2."""
    from efficientgen_ros.bringup import Disturbance, drive_ros

    task = progress.add_task(f"{scenario.name} · {planner}", total=scenario.duration_s)
    began = time.monotonic()
    log = drive_ros(
        scenario,
        seed,
        planner,
        checkpoint,
        mode=mode,
        record_dir=run / f"{scenario.name}-{planner}-{seed}",
        **world,
        keep_frames=True,
        on_step=_ticker(progress, task),
        chaos=() if kill_planner_at is None else (Disturbance(kill_planner_at, "kill"),),
        tuning=tuning,
    )
    _done(log, scenario, began, progress, task)
    return log


def _done(log: StepLog, scenario: Scenario, began: float, progress: Progress, task: TaskID) -> None:
    progress.update(task, completed=scenario.duration_s)
    progress.console.print(f"  {scenario.name}: {log.end_reason} after {len(log.steps) * 0.4:.1f} s "
                           f"({time.monotonic() - began:.0f} s wall)")  # fmt: skip


def _drive_plain(scenario: Scenario, seed: int, planner: str, progress: Progress) -> StepLog:
    """A baseline drive in this process, without pictures."""
    from efficientgen.eval.runner import drive

    task = progress.add_task(f"{scenario.name} · {planner}", total=scenario.duration_s)
    driver: Any = planner if planner == EXPERT else load_planner(planner)
    log = drive(scenario, seed, driver, on_step=_ticker(progress, task))
    progress.remove_task(task)
    return log


def _keep(log: StepLog, run: Path) -> Metrics:
    """Score a drive and store both under the run's directory."""
    from dataclasses import replace

    from efficientgen.eval.metrics import score
    from efficientgen.eval.rerun import origin
    from efficientgen.eval.store import run_directory, save

    metrics = score(log)
    bare = replace(log, steps=tuple(replace(step, frames=None) for step in log.steps))
    bare = replace(bare, notes={**bare.notes, **origin(log.scenario)})
    save(bare, run_directory(run.parent, run.name, log) / "log", metrics)
    return metrics


def _check(value: str, allowed: tuple[str, ...], option: str) -> None:
    if value not in allowed:
        raise typer.BadParameter(f"{option} {value!r} is not one of {', '.join(allowed)}")


def _progress(console: Console) -> Progress:
    columns = (
        TextColumn("{task.description:<34}"),
        BarColumn(),
        TextColumn("{task.fields[note]}"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )

    class WithNote(Progress):
        def add_task(self, *args: Any, **fields: Any) -> TaskID:
            return super().add_task(*args, **{"note": "", **fields})

    return WithNote(*columns, console=console)


def _ticker(progress: Progress, task: TaskID) -> Any:
    def on_step(step: Step) -> None:
        note = f"{step.ego.speed * 3.6:4.0f} km/h {step.verdict.source.value}"
        progress.update(task, completed=step.stamp_ns / 1e9 + 0.4, note=note)

    return on_step


def _table(metrics: list[Metrics]) -> Table:
    """Fits 80 columns."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name, right in (("scenario", False), ("planner", False), ("score", True), ("end", False),
                        ("fallback", True), ("plan ms", True)):  # fmt: skip
        table.add_column(name, justify="right" if right else "left", no_wrap=name != "end", overflow="fold")
    for m in metrics:
        kinds = (("at fault", m.collision_at_fault), ("off road", m.off_road), ("red light", m.red_lights))
        table.add_row(
            m.scenario,
            m.planner,
            f"{m.driving_score:.1f}",
            ", ".join([m.end_reason.replace("_", " "), *(word for word, there in kinds if there)]),
            f"{m.fallback_share:.1%}",
            "" if m.plan_p50_s is None or m.forwards_per_plan is None else f"{m.plan_p50_s * 1e3:.0f}",
        )
    return table


def _events(logs: list[StepLog]) -> list[str]:
    lines = []
    for log in logs:
        for event in log.notes.get("events", []):
            words = event.get("text", event.get("kind", ""))
            lines.append(f"[yellow]{log.scenario}[/] {event.get('stamp_ns', 0) / 1e9:.1f} s: {words}")
    return lines
