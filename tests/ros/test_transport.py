"""The Fast DDS profile: three cameras at 10 Hz between processes, in real time and in bursts; no frame is lost."""

import os
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree

import pytest

pytest.importorskip("rclpy")

from efficientgen import share
from efficientgen.perception.rig import NANO_RIG
from efficientgen_ros.bringup import NODES, PROFILE, dds_environment
from efficientgen_ros.interfaces import CAMERAS, TOPICS
from efficientgen_ros.supervisor import own_domain

TICKS, BURSTS = 20, 20  # 2 s of pictures at 10 Hz, then 20 chunks of 4 ticks as fast as they can be published

PUBLISHER = f"""
TICKS, BURSTS = {TICKS}, {BURSTS}
import time, numpy as np, rclpy
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CameraFrame, TICK_NS
from efficientgen_ros.messages import image_message
from efficientgen_ros.session import Wiring

with rclpy.init():
    node = rclpy.create_node("world")
    wiring = Wiring(node, "world", ("world", "planner"))
    out = {{c: wiring.publisher("image/" + c.name) for c in NANO_RIG}}
    while wiring.missing():
        rclpy.spin_once(node, timeout_sec=0.02)
    image = np.random.default_rng(0).integers(0, 256, (112, 224, 3), dtype=np.uint8)
    def publish(tick):
        for c, publisher in out.items():
            publisher.publish(image_message(CameraFrame(c.name, tick * TICK_NS, image, c.intrinsics, c.camera_to_ego)))
    began = time.monotonic()
    for tick in range(TICKS):
        time.sleep(max(0.0, began + tick / 10 - time.monotonic()))
        publish(tick)
    for chunk in range(BURSTS):
        for tick in range(4):
            publish(1000 + 4 * chunk + tick)
        time.sleep(0.05)  # somebody plans
    while any(not p.wait_for_all_acked() for p in out.values()):
        pass
"""


def segment_bytes() -> int:
    root = ElementTree.parse(share(PROFILE)).getroot()
    return int(next(element.text for element in root.iter() if element.tag.endswith("segment_size")))


def test_segments_hold_a_chunk_and_leave_room_in_a_containers_shared_memory():
    chunk = sum(camera.width * camera.height * 3 for camera in NANO_RIG) * 4
    assert segment_bytes() >= 4 * chunk
    assert (segment_bytes() + 2**20) * (len(NODES) + 1) <= 0.75 * 64 * 2**20  # nodes and the starter, other segments


def test_no_frame_is_lost(monkeypatch):
    import rclpy
    from rclpy.context import Context
    from rclpy.executors import SingleThreadedExecutor
    from rclpy.signals import SignalHandlerOptions

    from efficientgen_ros.messages import stamp_of
    from efficientgen_ros.session import Wiring

    with own_domain() as domain:
        for name, value in {**dds_environment(), "ROS_DOMAIN_ID": str(domain)}.items():
            monkeypatch.setenv(name, value)
        context = Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        node = rclpy.create_node("planner", context=context)
        heard: dict[str, list[int]] = {camera: [] for camera in CAMERAS}
        wiring = Wiring(node, "planner", ("world", "planner"))
        for camera in CAMERAS:
            wiring.subscribe(f"image/{camera}", lambda m, held=heard[camera]: held.append(stamp_of(m.header.stamp)))
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)
        publisher = subprocess.Popen([sys.executable, "-c", PUBLISHER], env=os.environ)
        try:
            wanted, deadline = TICKS + 4 * BURSTS, time.monotonic() + 40.0
            while any(len(held) < wanted for held in heard.values()) and time.monotonic() < deadline:
                executor.spin_once(timeout_sec=0.1)
            assert publisher.wait(timeout=10) == 0
        finally:
            publisher.kill()
            publisher.wait()
            executor.shutdown(timeout_sec=2.0)
            node.destroy_node()
            rclpy.try_shutdown(context=context)
    for held in heard.values():
        assert len(held) == wanted and held == sorted(held)


def test_pictures_are_reliable():
    assert all(not TOPICS[f"image/{camera}"].latched and TOPICS[f"image/{camera}"].depth >= 8 for camera in CAMERAS)
