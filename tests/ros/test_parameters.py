"""Parameters that do not fit are refused, precisely, at start and later."""

import pytest

pytest.importorskip("rclpy")

import rclpy
import yaml
from rclpy.context import Context
from rclpy.parameter import Parameter as RosParameter
from rclpy.signals import SignalHandlerOptions

from efficientgen import share
from efficientgen_ros.bringup import CONFIG, NODES, node_parameters
from efficientgen_ros.parameters import PARAMETERS, ParameterError, check_all, declare, find
from efficientgen_ros.supervisor import own_domain

VALUES = {
    "scenario": "x",
    "seed": 0,
    "planner": "expert",
    "checkpoint": "",
    "world": "none",
    "world_dir": "",
    "world_device": "",
    "world_refine": False,
    "mode": "sync",
    "record_dir": "r",
    "keep_frames": False,
}


@pytest.fixture(scope="module")
def context():
    with own_domain() as domain:
        context = Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        yield context
        rclpy.try_shutdown(context=context)


@pytest.mark.parametrize(
    ("node", "name", "value", "words"),
    [
        ("world", "mode", "fast", "'mode' is one of sync, realtime, got 'fast'"),
        ("world", "seed", -1, r"'seed' lies in \[0, 2147483647\], got -1"),
        ("world", "seed", 1.0, r"'seed' is a int, got 1.0 \(float\)"),
        ("world", "seed", True, r"'seed' is a int, got True \(bool\)"),
        ("safety", "sync_timeout_s", "10", r"'sync_timeout_s' is a float, got '10' \(str\)"),
        ("recorder", "colour", 1, "node 'recorder' has no parameter 'colour'; it has planner, record_dir"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_in_words(node, name, value, words):
    with pytest.raises(ParameterError, match=words):
        check_all(node, {name: value})


def test_an_integer_is_taken_for_a_float():
    value = find("safety", "sync_timeout_s").check(3)
    assert value == 3.0 and isinstance(value, float)


def test_arguments_reach_the_nodes_that_take_them():
    shares = node_parameters(VALUES)
    assert shares["world"]["scenario"] == "x" and "scenario" not in shares["vehicle"]
    assert all(share["planner"] == "expert" for share in shares.values())
    assert shares["planner"]["device"] == "cpu" and shares["planner"]["rollouts"] == 1, "not given: the default"
    given = node_parameters({**VALUES, "schema": "nuscenes", "device": "cuda:1"})["planner"]
    assert (given["schema"], given["device"]) == ("nuscenes", "cuda:1")
    with pytest.raises(ParameterError, match="'world' is one of"):
        node_parameters({**VALUES, "world": "moon"})


def test_shipped_parameter_file_fits_the_table():
    held = yaml.safe_load(share(CONFIG).read_text())
    assert set(held) <= {spec.name for spec in NODES}
    for node, content in held.items():
        check_all(node, content["ros__parameters"])


@pytest.mark.parametrize("table", sorted(PARAMETERS))
def test_nodes_declare_type_description_and_range(context, table):
    node = rclpy.create_node(f"probe_{table}", context=context)
    values = declare(node, table)
    for parameter in PARAMETERS[table]:
        held = node.describe_parameter(parameter.name)
        assert held.description and held.read_only == parameter.read_only
        assert values[parameter.name] == parameter.default
        assert bool(held.integer_range or held.floating_point_range) == (parameter.high is not None)
        assert all(choice in held.additional_constraints for choice in parameter.choices)
    node.destroy_node()


def test_a_running_node_refuses_what_does_not_fit(context):
    node = rclpy.create_node("probe", context=context, parameter_overrides=[RosParameter("sync_timeout_s", value=2)])
    assert declare(node, "safety")["sync_timeout_s"] == 2.0
    changes = [("sync_timeout_s", 5.0), ("sync_timeout_s", 1e9), ("sync_timeout_s", "soon"), ("planner", "expert")]
    answers = node.set_parameters([RosParameter(name, value=value) for name, value in changes])
    assert [answer.successful for answer in answers] == [True, False, False, False]
    assert "range" in answers[1].reason and "read-only" in answers[3].reason
    assert node.get_parameter("sync_timeout_s").value == 5.0
    node.destroy_node()


def test_a_wrong_value_at_start_stops_the_node(context):
    node = rclpy.create_node("late", context=context, parameter_overrides=[RosParameter("seed", value=-4)])
    with pytest.raises(ParameterError, match="'seed' lies in"):
        declare(node, "world")
    node.destroy_node()
