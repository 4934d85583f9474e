"""Plays the made-up car's recording on ROS topics at its own pace, best effort: the publisher of the live test."""

import sys
import time
from pathlib import Path

import rclpy
from rclpy.qos import qos_profile_sensor_data
from rosbags.highlevel import AnyReader

from efficientgen_ros.interfaces import message_class

SKIPPED = ("/tf_static",)  # tf2_msgs is in no wheel


def main(path: str) -> None:
    rclpy.init()
    node = rclpy.create_node("foreign_car")
    with AnyReader([Path(path)]) as reader:
        connections = [c for c in reader.connections if c.topic not in SKIPPED]
        publishers = {
            c.topic: node.create_publisher(message_class(c.msgtype), c.topic, qos_profile_sensor_data)
            for c in connections
        }
        while any(publisher.get_subscription_count() == 0 for publisher in publishers.values()):
            time.sleep(0.1)
        began, first = time.monotonic(), None
        for connection, stamp, data in reader.messages(connections=connections):
            first = stamp if first is None else first
            time.sleep(max(0.0, began + (stamp - first) / 1e9 - time.monotonic()))
            publishers[connection.topic].publish(bytes(data))
    time.sleep(0.5)
    node.destroy_node()
    rclpy.try_shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
