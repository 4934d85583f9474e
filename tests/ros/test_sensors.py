"""The optional sensors of the world node: topics, encodings, refusals."""

import pytest

pytest.importorskip("rclpy")

from efficientgen.perception.rig import NANO_RIG
from efficientgen.worldsim.reference.world import ReferenceWorld
from efficientgen_ros.interfaces import TOPICS, message_class
from efficientgen_ros.parameters import ParameterError
from efficientgen_ros.sensors import SENSORS, sensor_messages, sensor_topics, sensors_named
from tests.worldsim.test_reference_world import TOWN, traffic_frame


def test_sensors_are_named_in_words_and_off_by_default():
    assert sensors_named("") == () and sensors_named(" lidar, depth ,lidar") == ("lidar", "depth")
    with pytest.raises(ParameterError, match="depth, labels, instances, lidar, got 'radar'"):
        sensors_named("depth,radar")
    with pytest.raises(ParameterError, match="needs world 'reference', got 'none'"):
        sensors_named("depth", "none")
    assert sensors_named("", "none") == () and sensor_topics((), NANO_RIG) == {}


def test_each_message_has_a_topic_of_its_type_that_no_node_waits_for():
    topics = sensor_topics(SENSORS, NANO_RIG)
    assert not {topic.name for topic in topics.values()} & {topic.name for topic in TOPICS.values()}
    assert all(not topic.readers for topic in topics.values())
    world = ReferenceWorld()
    world.reset(TOWN, "day", 0)
    said = dict(sensor_messages(SENSORS, world, traffic_frame(), NANO_RIG))
    world.close()
    assert set(said) == set(topics) - {"lidar/mount"}
    for key, message in said.items():
        assert isinstance(message, message_class(topics[key].type))
        rows = 1 if key == "lidar/points" else message.height
        assert len(message.data) == rows * (message.row_step if key == "lidar/points" else message.step) > 0
