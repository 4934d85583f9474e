"""`ros2 launch efficientgen planner.launch.py rig:=rig.yaml planner:=...`: the planner alone, on foreign topics.

The rig file names cameras, odometry and route command; plans come out on /planning/planner/*.  Node and arguments come
from the table in `efficientgen_ros.foreign`.  The planner is led through configure and activate; the launch ends with
it.
"""

from launch.actions import (
    DeclareLaunchArgument,
    EmitEvent,
    LogInfo,
    RegisterEventHandler,
    SetEnvironmentVariable,
)
from launch.event_handlers import OnProcessExit
from launch.events import Shutdown, matches_action
from launch.substitutions import LaunchConfiguration
from launch_ros.actions import LifecycleNode
from launch_ros.event_handlers import OnStateTransition
from launch_ros.events.lifecycle import ChangeState
from launch_ros.parameter_descriptions import ParameterValue
from lifecycle_msgs.msg import Transition

from efficientgen import share
from efficientgen_ros.bringup import Argument, dds_environment
from efficientgen_ros.foreign import ARGUMENTS, CONFIG, NODE
from launch import LaunchDescription


def declare(argument: Argument) -> DeclareLaunchArgument:
    """A launch argument with the default and description of the parameter that it fills; the rig must be given."""
    parameter = argument.parameter
    if argument.name == "rig":
        return DeclareLaunchArgument(argument.name, description=parameter.description)
    choices = {"choices": list(parameter.choices)} if parameter.choices else {}
    default = str(parameter.default)
    return DeclareLaunchArgument(argument.name, default_value=default, description=parameter.description, **choices)


def generate_launch_description() -> LaunchDescription:
    """Arguments, environment, the node, and what leads and ends it."""
    filled = {
        argument.name: ParameterValue(LaunchConfiguration(argument.name), value_type=type(argument.parameter.default))
        for argument in ARGUMENTS
    }
    node = LifecycleNode(
        package="efficientgen",
        executable=NODE.executable,
        name=NODE.name,
        namespace=NODE.namespace,
        remappings=list(NODE.remaps),
        parameters=[str(share(CONFIG)), filled],
        output="screen",
    )
    configure, activate = (
        EmitEvent(event=ChangeState(lifecycle_node_matcher=matches_action(node), transition_id=transition))
        for transition in (Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    )
    configured = OnStateTransition(
        target_lifecycle_node=node, start_state="configuring", goal_state="inactive", entities=[activate]
    )
    refused = OnStateTransition(
        target_lifecycle_node=node,
        start_state="configuring",
        goal_state="unconfigured",
        entities=[LogInfo(msg="the planner could not be configured"), EmitEvent(event=Shutdown(reason="no planner"))],
    )
    left = OnProcessExit(
        target_action=node, on_exit=[LogInfo(msg="the planner has left"), EmitEvent(event=Shutdown(reason="it left"))]
    )
    return LaunchDescription(
        [
            *[declare(argument) for argument in ARGUMENTS],
            *[SetEnvironmentVariable(name, value) for name, value in dds_environment().items()],
            *[RegisterEventHandler(handler) for handler in (left, configured, refused)],
            node,
            configure,
        ]
    )
