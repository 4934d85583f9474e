"""`ros2 launch efficientgen drive.launch.py scenario:=... planner:=...`: one drive, recorded to `record_dir`.

Nodes and arguments come from the table in `efficientgen_ros.bringup`, which `efficientgen bringup` uses too.  The
planner is led through configure and activate; the launch ends when the recorder has written the log.
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    GroupAction,
    LogInfo,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.conditions import UnlessCondition
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.substitutions import EqualsSubstitution, LaunchConfiguration
from launch_ros.actions import LifecycleNode, Node
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from efficientgen import share
from efficientgen_ros.bringup import ARGUMENTS, CONFIG, NODES, Argument, NodeSpec, dds_environment
from launch import LaunchDescription


def declare(argument: Argument) -> DeclareLaunchArgument:
    """A launch argument with the default, description and choices of the parameter that it fills."""
    parameter = argument.parameter
    default = str(parameter.default).lower() if isinstance(parameter.default, bool) else str(parameter.default)
    if argument.name in ("scenario", "record_dir"):
        return DeclareLaunchArgument(argument.name, description=parameter.description)  # no default: must be given
    choices = {"choices": list(parameter.choices)} if parameter.choices else {}
    return DeclareLaunchArgument(argument.name, default_value=default, description=parameter.description, **choices)


def make_node(spec: NodeSpec) -> Node:
    """The launch action of one row of the table."""
    filled = {
        argument.name: ParameterValue(LaunchConfiguration(argument.name), value_type=type(argument.parameter.default))
        for argument in ARGUMENTS
        if spec.name in argument.nodes
    }
    kind = LifecycleNode if spec.lifecycle else Node
    return kind(
        package="efficientgen",
        executable=spec.executable,
        name=spec.name,
        namespace=spec.namespace,
        remappings=list(spec.remaps),
        parameters=[str(share(CONFIG)), filled],
        output="screen",
    )


def lead(node: LifecycleNode) -> list:
    """Configure now; activate as soon as that has succeeded."""
    to = {
        name: EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))
        for name, transition in (
            ("configure", Transition.TRANSITION_CONFIGURE),
            ("activate", Transition.TRANSITION_ACTIVATE),
        )
    }
    activate = OnStateTransition(
        target_lifecycle_node=node, start_state="configuring", goal_state="inactive", entities=[to["activate"]]
    )
    return [RegisterEventHandler(activate), to["configure"]]


def generate_launch_description() -> LaunchDescription:
    """Arguments, environment, nodes, and what ends the drive."""
    nodes = {spec.name: make_node(spec) for spec in NODES}
    without_planner = UnlessCondition(EqualsSubstitution(LaunchConfiguration("planner"), "expert"))
    planner = GroupAction([nodes["planner"], *lead(nodes["planner"])], condition=without_planner)
    end = [
        RegisterEventHandler(
            OnProcessExit(
                target_action=nodes[spec.name],
                on_exit=[LogInfo(msg=f"{spec.name} has left"), EmitEvent(event=Shutdown(reason=f"{spec.name} left"))],
            )
        )
        for spec in NODES
        if spec.required
    ]
    return LaunchDescription(
        [
            *[declare(argument) for argument in ARGUMENTS],
            *[SetEnvironmentVariable(name, value) for name, value in dds_environment().items()],
            *end,
            *[nodes[spec.name] for spec in NODES if spec.name != "planner"],
            planner,
        ]
    )
