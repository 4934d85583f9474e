"""The topic table and the node table agree with each other and with ROS."""

import importlib

import pytest

pytest.importorskip("rclpy")

from efficientgen_ros.bringup import NODES, nodes_for
from efficientgen_ros.interfaces import TOPICS, message_class, quality
from efficientgen_ros.parameters import PARAMETERS
from efficientgen_ros.session import participants

NODE_NAMES = {spec.name for spec in NODES}


@pytest.mark.parametrize("key", sorted(TOPICS))
def test_each_topic_has_a_standard_type_known_nodes_and_usable_quality(key):
    topic = TOPICS[key]
    assert topic.package in {
        *("std_msgs", "geometry_msgs", "nav_msgs", "sensor_msgs", "trajectory_msgs", "visualization_msgs"),
        *("diagnostic_msgs", "rosgraph_msgs"),
    }
    assert hasattr(message_class(topic.type), "get_fields_and_field_types")
    assert {topic.publisher, *topic.readers, *topic.optional} <= NODE_NAMES
    assert topic.publisher not in topic.readers
    profile = quality(topic.depth, topic.latched, topic.lease_s)
    assert profile.depth >= 1 and topic.name.startswith("/")


def test_topic_names_are_unique():
    names = [topic.name for topic in TOPICS.values()]
    assert len(set(names)) == len(names)


def test_a_chunk_fits_the_queues_of_the_lockstep():
    """Sync mode hands over one chunk at a time; no reader may lose a tick while it is busy with the last one."""
    for key in ("odometry", "acceleration", "steering", "oracle", "clock", "image/FRONT"):
        assert TOPICS[key].depth >= 2 * 4


def test_node_table_is_complete():
    in_a_drive = set(PARAMETERS) - {"answerer", "foreign_planner"}  # those start alone
    assert {spec.name for spec in NODES} == in_a_drive == set(participants("nano-ddrive"))
    assert {spec.name for spec in nodes_for("expert")} == set(participants("expert"))
    for spec in NODES:
        assert callable(importlib.import_module(spec.module).main)
        assert spec.module == f"efficientgen_ros.{spec.executable}"
