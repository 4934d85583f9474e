"""The launch files against a recording stand-in for `launch` and `launch_ros`, and the real ones if present."""

import importlib.util
import sys
from types import ModuleType
from typing import Any

import pytest
import yaml

from efficientgen import share
from efficientgen_ros import foreign
from efficientgen_ros.bringup import ARGUMENTS, NODES, PROFILE
from efficientgen_ros.parameters import check_all


class Recorded:
    """Stands in for every launch class and function: remembers how it was called."""

    def __init__(self, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        self.name, self.args, self.kwargs = name, args, kwargs


USED = {
    "launch": ["LaunchDescription"],
    "launch.actions": [
        "DeclareLaunchArgument", "EmitEvent", "GroupAction", "LogInfo", "RegisterEventHandler",
        "SetEnvironmentVariable",
    ],
    "launch.conditions": ["UnlessCondition"],
    "launch.event_handlers": ["OnProcessExit"],
    "launch.events": ["Shutdown", "matches_action"],
    "launch.substitutions": ["EqualsSubstitution", "LaunchConfiguration"],
    "launch_ros": [],
    "launch_ros.actions": ["LifecycleNode", "Node"],
    "launch_ros.event_handlers": ["OnStateTransition"],
    "launch_ros.events": [],
    "launch_ros.events.lifecycle": ["ChangeState"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
}  # fmt: skip


def recorder(name: str):
    return lambda *args, **kwargs: Recorded(name, args, kwargs)


def load_launch_file(name="drive"):
    spec = importlib.util.spec_from_file_location(f"{name}_launch", share(f"launch/{name}.launch.py"))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def stand_in(monkeypatch):
    pytest.importorskip("lifecycle_msgs")
    for module_name, names in USED.items():
        module = ModuleType(module_name)
        for name in names:
            setattr(module, name, recorder(name))
        monkeypatch.setitem(sys.modules, module_name, module)


@pytest.fixture
def entities(stand_in):
    return load_launch_file().generate_launch_description().args[0]


def named(entities, kind):
    return [entity for entity in entities if entity.name == kind]


def test_every_argument_is_declared_with_a_description(entities):
    declared = {entity.args[0]: entity.kwargs for entity in named(entities, "DeclareLaunchArgument")}
    assert set(declared) == {argument.name for argument in ARGUMENTS}
    assert all(kwargs["description"] for kwargs in declared.values())
    assert "default_value" not in declared["scenario"] and declared["keep_frames"]["default_value"] == "false"
    assert declared["mode"]["choices"] == ["sync", "realtime"]


def test_every_node_of_the_table_is_started_with_its_parameters(entities):
    (group,) = named(entities, "GroupAction")
    started = [*named(entities, "Node"), *named(group.args[0], "LifecycleNode")]
    assert {node.kwargs["name"] for node in started} == {spec.name for spec in NODES}
    for node in started:
        spec = next(spec for spec in NODES if spec.name == node.kwargs["name"])
        assert node.kwargs["package"] == "efficientgen" and node.kwargs["executable"] == spec.executable
        shipped, filled = node.kwargs["parameters"]
        assert shipped.endswith("drive.yaml")
        assert set(filled) == {argument.name for argument in ARGUMENTS if spec.name in argument.nodes}
        for name, value in filled.items():
            assert value.args[0].args == (name,) and value.kwargs["value_type"] in (str, int, float, bool)


def test_the_planner_is_led_to_active_and_absent_for_the_expert(entities):
    (group,) = named(entities, "GroupAction")
    transitions = [e.kwargs["event"].kwargs["transition_id"] for e in named(group.args[0], "EmitEvent")]
    (handler,) = named(group.args[0], "RegisterEventHandler")
    assert transitions == [1]  # configure at once ...
    assert handler.args[0].kwargs["goal_state"] == "inactive"  # ... and activate once that has succeeded
    (activate,) = handler.args[0].kwargs["entities"]
    assert activate.kwargs["event"].kwargs["transition_id"] == 3
    condition = group.kwargs["condition"]
    assert condition.name == "UnlessCondition" and condition.args[0].args[1] == "expert"


def test_dds_stays_on_this_host_and_the_drive_ends_with_a_required_node(entities):
    variables = {entity.args[0]: entity.args[1] for entity in named(entities, "SetEnvironmentVariable")}
    assert variables["ROS_AUTOMATIC_DISCOVERY_RANGE"] == "LOCALHOST"
    assert any(value.endswith(PROFILE) for value in variables.values())
    handlers = named(entities, "RegisterEventHandler")
    watched = {handler.args[0].kwargs["target_action"].kwargs["name"] for handler in handlers}
    assert watched == {spec.name for spec in NODES if spec.required}


def test_the_planner_alone_takes_a_rig_and_is_led_to_active(stand_in):
    entities = load_launch_file("planner").generate_launch_description().args[0]
    declared = {entity.args[0]: entity.kwargs for entity in named(entities, "DeclareLaunchArgument")}
    assert set(declared) == {argument.name for argument in foreign.ARGUMENTS}
    assert "default_value" not in declared["rig"] and all(kwargs["description"] for kwargs in declared.values())
    (node,) = named(entities, "LifecycleNode")
    shipped, filled = node.kwargs["parameters"]
    assert node.kwargs["executable"] == "foreign_planner_node" and shipped.endswith("planner.yaml")
    assert set(filled) == set(declared)
    assert [e.kwargs["event"].kwargs["transition_id"] for e in named(entities, "EmitEvent")] == [1]
    handlers = [handler.args[0] for handler in named(entities, "RegisterEventHandler")]
    goals = {handler.kwargs.get("goal_state") for handler in handlers}
    assert goals == {None, "inactive", "unconfigured"}, "activated when configured, ended when refused or gone"
    held = yaml.safe_load(share(foreign.CONFIG).read_text())
    check_all("foreign_planner", held["planner"]["ros__parameters"])


@pytest.mark.parametrize(("name", "arguments"), [("drive", ARGUMENTS), ("planner", foreign.ARGUMENTS)])
def test_real_launch_accepts_the_file(name, arguments):
    pytest.importorskip("launch_ros")
    from launch.actions import DeclareLaunchArgument

    entities = load_launch_file(name).generate_launch_description().entities
    declared = {entity.name for entity in entities if isinstance(entity, DeclareLaunchArgument)}
    assert declared == {argument.name for argument in arguments}
