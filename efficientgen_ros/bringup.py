"""Starting a drive: which nodes there are, with what parameters, and how they are run, watched and stopped.

`NODES` and `ARGUMENTS` are the one table behind both ways to start: `launch/drive.launch.py` for those who have
`ros2 launch`, and `drive_ros` for those who have only pip.  Importing this module needs no ROS.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from threading import current_thread, main_thread
from time import monotonic
from typing import Any

import yaml

import efficientgen
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.eval.store import load
from efficientgen.worldsim.scenario import Scenario, ScenarioError, load_scenario
from efficientgen_ros.parameters import Parameter, Value, check_all, find
from efficientgen_ros.supervisor import Supervisor, own_domain

CONFIG, PROFILE = "launch/config/drive.yaml", "launch/fastdds.xml"
_SIGNALS = {"kill": signal.SIGKILL, "stop": signal.SIGSTOP, "continue": signal.SIGCONT, "restart": signal.SIGKILL}
STALL_TIMEOUT_S = 180.0  # wall time without a finished step after which a drive is given up


@dataclass(frozen=True)
class NodeSpec:
    """One process of a drive: `python -m <module>`, installed as console script `<executable>`."""

    name: str
    module: str
    executable: str
    lifecycle: bool = False  # is led through configure and activate
    required: bool = True  # the drive ends when it dies
    namespace: str = ""
    remaps: tuple[tuple[str, str], ...] = ()


NODES: tuple[NodeSpec, ...] = (
    NodeSpec("recorder", "efficientgen_ros.recorder_node", "recorder_node"),
    NodeSpec("vehicle", "efficientgen_ros.vehicle_node", "vehicle_node"),
    NodeSpec("safety", "efficientgen_ros.safety_node", "safety_node"),
    NodeSpec("world", "efficientgen_ros.world_node", "world_node"),
    NodeSpec("planner", "efficientgen_ros.planner_node", "planner_node", lifecycle=True, required=False),
)


@dataclass(frozen=True)
class Argument:
    """One argument of a drive and the node parameters of the same name that it fills."""

    name: str
    nodes: tuple[str, ...]

    @property
    def parameter(self) -> Parameter:
        return find(self.nodes[0], self.name)


ARGUMENTS: tuple[Argument, ...] = (
    Argument("scenario", ("world",)),
    Argument("seed", ("world",)),
    Argument("planner", ("world", "planner", "vehicle", "safety", "recorder")),
    Argument("checkpoint", ("planner",)),
    *(Argument(name, ("planner",)) for name in ("schema", "decoder", "device", "dtype", "rollouts")),
    Argument("world", ("world", "planner")),
    Argument("world_dir", ("world",)),
    Argument("world_device", ("world",)),
    Argument("world_refine", ("world",)),
    Argument("mode", ("world",)),
    Argument("record_dir", ("recorder",)),
    Argument("keep_frames", ("world", "recorder")),
)


@dataclass(frozen=True)
class Disturbance:
    """Something done to a node's process when the drive reaches `at_s`."""

    at_s: float
    action: str  # "kill" (-9) | "stop" (SIGSTOP) | "continue" (SIGCONT) | "restart" (kill -9, start, lead to active)
    node: str = "planner"


class BringupError(RuntimeError):
    """The nodes could not be started or the drive could not begin; the message holds the node's last words."""


def nodes_for(planner: str) -> tuple[NodeSpec, ...]:
    """The nodes to start: the expert drives from the world node and needs no planner."""
    return tuple(spec for spec in NODES if spec.name != "planner" or planner != "expert")


def node_parameters(values: dict[str, Value]) -> dict[str, dict[str, Value]]:
    """Argument values as the parameters of each node, checked; what is not given stays at its default.

    Raises:
        ParameterError: an argument that does not fit its parameter.
    """
    shares: dict[str, dict[str, Value]] = {spec.name: {} for spec in NODES}
    for argument in ARGUMENTS:
        for node in argument.nodes:
            shares[node][argument.name] = values.get(argument.name, argument.parameter.default)
    return {node: check_all(node, share) for node, share in shares.items()}


def dds_environment() -> dict[str, str]:
    """What every process of a drive needs in its environment: the Fast DDS profile, and DDS kept on this host."""
    older = os.environ.get("ROS_DISTRO") in ("humble", "iron", "jazzy")  # Fast DDS 2 calls the variable otherwise
    return {
        f"{'FASTRTPS' if older else 'FASTDDS'}_DEFAULT_PROFILES_FILE": str(efficientgen.share(PROFILE)),
        "ROS_AUTOMATIC_DISCOVERY_RANGE": os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST"),
    }


def drive_ros(
    scenario: Scenario | str,
    seed: int,
    planner: str,
    checkpoint: str = "",
    world: str = "reference",
    mode: str = "sync",
    record_dir: Path | str = "",
    *,
    world_dir: str = "",
    world_device: str = "",
    world_refine: bool = False,
    keep_frames: bool = False,
    on_step: Callable[[Step], None] | None = None,
    chaos: tuple[Disturbance, ...] = (),
    tuning: dict[str, dict[str, Value]] | None = None,
) -> StepLog:
    """Drive one scenario on a ROS 2 graph of separate processes; the log that `eval.runner.drive` would return.

    Args:
        scenario: a `Scenario`, a scenario's name, or the path of a scenario YAML file.
        planner: "expert", "constant-velocity", or the name of a checkpoint.
        checkpoint: the model's directory, when it is not the shipped one of that name.
        record_dir: gets `drive.mcap`, `log/` (the step log) and `logs/` (what the nodes printed).
        keep_frames: draw and record every tick's pictures.
        on_step: called with each finished step, without its pictures.
        world_dir, world_device, world_refine: of an imagined world, as `worldsim.worlds.load_world` takes them.
        chaos: what is done to the nodes' processes, and when.
        tuning: more parameters per node, over those of `launch/config/drive.yaml`.

    Raises:
        BringupError: a node failed before the drive could begin, or nothing was recorded.
        ParameterError: an argument does not fit.
        ScenarioError: no such scenario.
    """
    if not str(record_dir):
        raise BringupError("record_dir is needed: the directory for the bag, the step log and the nodes' output")
    directory = Path(record_dir).resolve()
    directory.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(directory / "log", ignore_errors=True)
    parameters = node_parameters(
        {
            "scenario": _scenario_argument(scenario, directory),
            "seed": seed,
            "planner": planner,
            "checkpoint": str(checkpoint or ""),
            "world": world,
            "world_dir": world_dir,
            "world_device": world_device,
            "world_refine": world_refine,
            "mode": mode,
            "record_dir": str(directory),
            "keep_frames": keep_frames,
        }
    )
    if chaos:  # a sync drive waits at these times: however busy the machine is, what is done is done then
        parameters["world"]["hold_at_s"] = json.dumps([disturbance.at_s for disturbance in chaos])
    for node, more in (tuning or {}).items():
        parameters[node] |= check_all(node, more)
    specs = nodes_for(planner)
    began = monotonic()
    with own_domain() as domain, _environment(domain) as environment, _termination_as_interrupt():
        supervisor = Supervisor(environment, directory / "logs")
        try:
            commands = {spec.name: _command(spec, parameters[spec.name], directory) for spec in specs}
            for name, command in commands.items():
                supervisor.start(name, command)
            events = _run(specs, commands, supervisor, domain, on_step, chaos)
        finally:
            supervisor.stop()
    return _collect(directory, specs, supervisor, events, monotonic() - began)


def _run(
    specs: tuple[NodeSpec, ...],
    commands: dict[str, list[str]],
    supervisor: Supervisor,
    domain: int,
    on_step: Callable[[Step], None] | None,
    chaos: tuple[Disturbance, ...],
) -> list[dict[str, Any]]:
    """Lead the graph from start to end; what happened to its processes."""
    from efficientgen_ros.monitor import Monitor

    events: list[dict[str, Any]] = []
    stamp_ns, heard = 0, monotonic()
    report = on_step or (lambda step: None)
    required = {spec.name for spec in specs if spec.required}
    ahead, reborn = sorted(chaos, key=lambda disturbance: disturbance.at_s), set[str]()
    try:
        with Monitor(domain, [spec.name for spec in specs if spec.lifecycle]) as monitor:
            while supervisor.running("recorder"):
                for step in monitor.spin(0.05):
                    stamp_ns, heard = step.ticks[-1].stamp_ns, monotonic()
                    report(step)
                while ahead and stamp_ns >= ahead[0].at_s * 1e9:
                    done = ahead.pop(0)
                    monitor.proceed()
                    supervisor.signal(done.node, _SIGNALS[done.action])
                    reborn |= {done.node} if done.action == "restart" else set()
                    events.append({"stamp_ns": stamp_ns, "kind": "chaos", "text": f"{done.action} {done.node}"})
                for ended in supervisor.poll():
                    if ended.node == "recorder":
                        continue
                    text = f"{ended.node} (pid {ended.pid}) {ended.words}"
                    events.append({"stamp_ns": stamp_ns, "kind": "node_exit", "node": ended.node, "text": text})
                    if ended.node in reborn:
                        reborn.discard(ended.node)
                        monitor.lead_again(ended.node)
                        supervisor.start(ended.node, commands[ended.node])
                    elif ended.node in required or not stamp_ns:
                        return events
                if monitor.refused or monotonic() - heard > STALL_TIMEOUT_S:
                    text = monitor.refused or f"no step was finished for {STALL_TIMEOUT_S:.0f} s of wall time"
                    node = "planner" if monitor.refused else "world"
                    events.append({"stamp_ns": stamp_ns, "kind": "stalled", "node": node, "text": text})
                    return events
            while steps := monitor.spin(0.0):  # those that came with the recorder's farewell
                for step in steps:
                    report(step)
    except KeyboardInterrupt:
        events.append({"stamp_ns": stamp_ns, "kind": "interrupted", "text": "stopped by the user"})
    return events


def _collect(
    directory: Path, specs: tuple[NodeSpec, ...], supervisor: Supervisor, events: list[dict[str, Any]], wall_s: float
) -> StepLog:
    """The recorder's log, completed by what only the starter knows.

    Raises:
        BringupError: there is no log.
    """
    if not (directory / "log").is_dir():
        what = "; ".join(event["text"] for event in events) or "the recorder left without a log"
        culprits = [event["node"] for event in events if "node" in event] or [spec.name for spec in specs]
        words = "\n".join(f"[{node}] {supervisor.last_words(node)}" for node in culprits)
        raise BringupError(f"the drive did not begin: {what}\n{words}\nfull output: {directory / 'logs'}")
    log = load(directory / "log")
    died = any(event["kind"] in ("node_exit", "interrupted", "stalled") for event in events)
    notes = {
        **log.notes,
        "pids": supervisor.pids,
        "exit_codes": {node: ended.code for node, ended in supervisor.exits.items()},
        "events": sorted([*log.notes.get("events", []), *events], key=lambda event: event["stamp_ns"]),
        "bringup_wall_s": wall_s,
    }
    return replace(log, notes=notes, deterministic=log.deterministic and not died)


def _command(spec: NodeSpec, parameters: dict[str, Value], directory: Path) -> list[str]:
    """The command line of one node; its parameters go through a file, which keeps their types."""
    path = directory / "logs" / f"{spec.name}.params.yaml"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({spec.name: {"ros__parameters": parameters}}), encoding="utf-8")  # JSON is YAML
    remaps = [f"__node:={spec.name}", *([f"__ns:={spec.namespace}"] if spec.namespace else [])]
    remaps += [f"{old}:={new}" for old, new in spec.remaps]
    command = [sys.executable, "-m", spec.module, "--ros-args"]
    command += [word for remap in remaps for word in ("-r", remap)]
    return [*command, "--params-file", str(efficientgen.share(CONFIG)), "--params-file", str(path)]


def _scenario_argument(scenario: Scenario | str, directory: Path) -> str:
    """The name of a shipped scenario, else the path of a file that holds it."""
    if isinstance(scenario, str):
        load_scenario(scenario)
        return scenario
    try:
        if load_scenario(scenario.name) == scenario:
            return scenario.name
    except ScenarioError:
        pass  # not a shipped one
    path = directory / "scenario.yaml"
    path.write_text(yaml.safe_dump(json.loads(json.dumps(asdict(scenario)))), encoding="utf-8")
    return str(path)


@contextmanager
def _environment(domain: int) -> Iterator[dict[str, str]]:
    """The children's environment; ours, for the monitor, agrees with it while the context lasts."""
    from efficientgen_ros.environment import PARENT_VARIABLE

    ours = {**dds_environment(), "ROS_DOMAIN_ID": str(domain), "PYTHONUNBUFFERED": "1"}
    before = {name: os.environ.get(name) for name in ours}
    root = str(Path(efficientgen.__file__).resolve().parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH", "")]))
    os.environ.update(ours)
    try:
        yield {**os.environ, "PYTHONPATH": path, PARENT_VARIABLE: str(os.getpid())}
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


@contextmanager
def _termination_as_interrupt() -> Iterator[None]:
    """SIGTERM ends a drive as Ctrl-C does: in order, with a log."""

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    if current_thread() is not main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
