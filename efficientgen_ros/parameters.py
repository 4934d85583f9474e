"""Every node parameter as data: type, default, description, range, choices, read-only; and how a node declares them.

The table is the whole truth: nodes declare from it, `launch/config/*.yaml` is checked against it, `bringup` and the
launch file fill it.  A value that does not fit is refused at start with `ParameterError`, later by the parameter
service, both with the name, what was given and what is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efficientgen.planning.load import DTYPES
from efficientgen.worldsim.worlds import WORLDS

if TYPE_CHECKING:
    from rclpy.node import Node

Value = str | int | float | bool


class ParameterError(ValueError):
    """A parameter does not exist or its value does not fit; the message says what does."""


@dataclass(frozen=True)
class Parameter:
    """One parameter.  The type is the default's; `low`..`high` is the closed range of a number."""

    name: str
    default: Value
    description: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    read_only: bool = True

    def check(self, value: Any) -> Value:
        """`value` in this parameter's type; an int where a float is wanted is accepted.

        Raises:
            ParameterError: wrong type, out of range, not one of the choices.
        """
        kind = type(self.default)
        if kind is float and type(value) is int:
            value = float(value)
        if type(value) is not kind:
            given = type(value).__name__
            raise ParameterError(f"parameter '{self.name}' is a {kind.__name__}, got {value!r} ({given})")
        if self.choices and value not in self.choices:
            raise ParameterError(f"parameter '{self.name}' is one of {', '.join(self.choices)}, got {value!r}")
        low, high = self.low, self.high
        if isinstance(value, (int, float)) and (low is not None and value < low or high is not None and value > high):
            raise ParameterError(f"parameter '{self.name}' lies in [{low}, {high}], got {value!r}")
        return value


_MODE = Parameter(
    "mode",
    "sync",
    "sync: the world waits for everyone, latency costs nothing, deterministic; "
    "realtime: the wall clock rules and a plan takes effect when it arrives",
    choices=("sync", "realtime"),
)
_PLANNER = Parameter(
    "planner",
    "constant-velocity",
    "who drives after the hand-over: expert, constant-velocity, nano-ddrive; with a checkpoint fast-ddrive, fast-dvlm",
)
_WORLD = Parameter("world", "reference", "what draws the pictures", choices=(*WORLDS, "none"))
_KEEP_FRAMES = Parameter("keep_frames", False, "record camera pictures, so that the drive can be shown")

_FAULTS = Parameter("faults", "", "faults to inject (fault campaigns): a JSON list of eval.faults.Fault; empty: none")

PARAMETERS: dict[str, tuple[Parameter, ...]] = {
    "world": (
        Parameter("scenario", "", "scenario to drive (`efficientgen scenarios` lists them)"),
        Parameter("seed", 0, "seed of the traffic; same seed, same drive", low=0, high=2**31 - 1),
        _WORLD,
        Parameter("world_dir", "", "directory of an imagined world's weights; empty: nano's that ship"),
        Parameter("world_device", "", "where an imagined world runs: cpu, cuda; empty: the accelerator, if any"),
        Parameter("world_refine", False, "sana-wm: put the release's refiner into the loop"),
        _MODE,
        _PLANNER,
        _KEEP_FRAMES,
        Parameter("sensors", "", "also publish any of depth, labels, instances, lidar (comma-separated); empty: none"),
        Parameter("start_timeout_s", 120.0, "wall time to wait for the other nodes before giving up", 1.0, 3600.0),
        _FAULTS,
        Parameter(
            "hold_at_s",
            "",
            "sync mode: a JSON list of times (s) at which the drive waits for a call of /simulation/proceed, so that "
            "what is done to the nodes' processes happens at that time on any machine; empty: none",
        ),
    ),
    "planner": (
        _PLANNER,
        _WORLD,
        Parameter("checkpoint", "", "directory of the model; empty: the one shipped under the planner's name"),
        Parameter("decoder", "", "how a learned planner decodes; empty: its default"),
        Parameter("schema", "", "answer to ask for: wod-e2e, nuscenes or nano; empty: the checkpoint's own"),
        Parameter("device", "cpu", "where a learned planner's model runs: cpu, cuda, cuda:1"),
        Parameter(
            "dtype",
            "",
            "number format of its weights; empty: float32 on a CPU, bfloat16 elsewhere",
            choices=("", *DTYPES),
        ),  # fmt: skip
        Parameter("rollouts", 1, "trajectories a learned planner samples and averages per plan; 1: greedy", 1, 64),
        Parameter("threads", 1, "threads of the process for a learned planner's model", 1, 64),
        Parameter("warm_up", True, "plan once on an empty scene while configuring, so that the first plan is not slow"),
        Parameter(
            "input_timeout_s",
            3.0,
            "sync mode: wall time to wait for what an observation lacks before saying so instead of planning",
            0.05,
            600.0,
        ),
        _FAULTS,
    ),
    "safety": (
        _PLANNER,
        Parameter(
            "sync_timeout_s",
            10.0,
            "sync mode: wall time to wait for a live planner's plan before ruling without it",
            0.1,
            600.0,
            read_only=False,
        ),
    ),
    "vehicle": (_PLANNER,),
    "answerer": (
        Parameter("planner", "nano-dvlm", "who answers: nano-dvlm, or fast-dvlm with a checkpoint"),
        Parameter("checkpoint", "", "directory of the model; empty: the one shipped under the planner's name"),
        Parameter("decoder", "self-spec", "how answers are decoded: self-spec, ar, fused-self-spec, diffusion"),
        Parameter("device", "cpu", "where the model runs: cpu, cuda, cuda:1"),
        Parameter("dtype", "", "number format of its weights; empty: float32 on a CPU, bfloat16 elsewhere"),
        Parameter("threads", 1, "threads of the process for the model", 1, 64),
        Parameter("autostart", True, "configure and activate at start; false: somebody leads the node through that"),
    ),
    "recorder": (
        _PLANNER,
        Parameter("record_dir", "", "directory for drive.mcap and the step log"),
        _KEEP_FRAMES,
        Parameter("bag", True, "write every topic to an MCAP bag in record_dir"),
        Parameter(
            "live_port", 0, "serve a live view for Foxglove on this port of this host; 0: none", low=0, high=65535
        ),
    ),
}

_SHARED = ("planner", "checkpoint", "decoder", "schema", "device", "dtype", "rollouts", "threads", "warm_up")
PARAMETERS["foreign_planner"] = (
    Parameter("rig", "", "rig.yaml of the car whose topics are listened to (docs/replay.md)"),
    *(parameter for parameter in PARAMETERS["planner"] if parameter.name in _SHARED),
    Parameter("autostart", False, "configure and activate at once; a launch file leads the node instead"),
)


def find(node: str, name: str) -> Parameter:
    """The parameter `name` of `node`.

    Raises:
        ParameterError: there is none; the message lists those there are.
    """
    for parameter in PARAMETERS[node]:
        if parameter.name == name:
            return parameter
    known = ", ".join(parameter.name for parameter in PARAMETERS[node])
    raise ParameterError(f"node '{node}' has no parameter '{name}'; it has {known}")


def check_all(node: str, values: Mapping[str, Any]) -> dict[str, Value]:
    """`values` checked against the table of `node`.

    Raises:
        ParameterError: see `find` and `Parameter.check`.
    """
    return {name: find(node, name).check(value) for name, value in values.items()}


def declare(node: Node, table: str) -> dict[str, Value]:
    """Declare the parameters of `table` on `node`, with descriptors and a check of later changes; their values.

    Raises:
        ParameterError: a value given at start (file, `-p`, launch) does not fit.
    """
    from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
    from rclpy.parameter import Parameter as RosParameter

    values: dict[str, Value] = {}
    for parameter in PARAMETERS[table]:
        node.declare_parameter(parameter.name, None, ParameterDescriptor(dynamic_typing=True))  # whatever was given
        given = node.get_parameter(parameter.name)
        value = parameter.default if given.type_ is RosParameter.Type.NOT_SET else parameter.check(given.value)
        node.undeclare_parameter(parameter.name)
        node.declare_parameter(parameter.name, value, _descriptor(parameter), ignore_override=True)
        values[parameter.name] = value

    def validate(changes: list[Any]) -> SetParametersResult:
        try:
            for change in changes:
                if any(p.name == change.name for p in PARAMETERS[table]):
                    find(table, change.name).check(change.value)
        except ParameterError as error:
            return SetParametersResult(successful=False, reason=str(error))
        return SetParametersResult(successful=True)

    node.add_on_set_parameters_callback(validate)
    return values


def _descriptor(parameter: Parameter) -> Any:
    from rcl_interfaces.msg import FloatingPointRange, IntegerRange, ParameterDescriptor

    descriptor = ParameterDescriptor(
        name=parameter.name, description=parameter.description, read_only=parameter.read_only
    )
    if parameter.choices:
        descriptor.additional_constraints = "one of: " + ", ".join(parameter.choices)
    if parameter.low is not None and parameter.high is not None:
        if isinstance(parameter.default, float):
            limits = FloatingPointRange(from_value=float(parameter.low), to_value=float(parameter.high), step=0.0)
            descriptor.floating_point_range = [limits]
        else:
            integers = IntegerRange(from_value=int(parameter.low), to_value=int(parameter.high), step=1)
            descriptor.integer_range = [integers]
    return descriptor
