"""The answerer on a real, small graph in one process: a question in, pieces and a whole answer out, mistakes told."""

import json
import time

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from std_msgs.msg import String

from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import CHUNK_NS, CameraFrame, Command
from efficientgen_ros import codec
from efficientgen_ros.answerer_node import AnswererNode
from efficientgen_ros.interfaces import QUESTIONS, TOPICS, message_class, quality
from efficientgen_ros.messages import image_message, text
from efficientgen_ros.session import CommandAt
from efficientgen_ros.supervisor import own_domain


class Passenger(Node):
    """Shows pictures, asks, and keeps what it hears."""

    def __init__(self):
        super().__init__("passenger")
        self.heard = {"answer": [], "answer_text": []}
        for key, held in self.heard.items():
            topic = QUESTIONS[key]
            self.create_subscription(String, topic.name, lambda m, held=held: held.append(m.data), quality(topic.depth))
        topics = {"question": QUESTIONS["question"], "command": TOPICS["command"]}
        topics |= {f"image/{camera.name}": TOPICS[f"image/{camera.name}"] for camera in NANO_RIG}
        self.out = {
            key: self.create_publisher(message_class(t.type), t.name, quality(t.depth, t.latched))
            for key, t in topics.items()
        }

    def show(self, seed):
        rng = np.random.default_rng(seed)
        for stamp in (10 * CHUNK_NS, 11 * CHUNK_NS):
            for camera in NANO_RIG:
                image = rng.integers(0, 255, (camera.height, camera.width, 3), dtype=np.uint8)
                frame = CameraFrame(camera.name, stamp, image, camera.intrinsics, camera.camera_to_ego)
                self.out[f"image/{camera.name}"].publish(image_message(frame))


@pytest.fixture
def graph():
    with own_domain() as domain:
        rclpy.init(domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        answerer, passenger = AnswererNode(), Passenger()
        executor = SingleThreadedExecutor()
        for node in (answerer, passenger):
            executor.add_node(node)

        def until(done, patience=20.0):
            end = time.monotonic() + patience
            while not done():
                assert time.monotonic() < end, passenger.heard
                executor.spin_once(timeout_sec=0.1)

        yield answerer, passenger, until
        answerer.close()
        executor.shutdown(timeout_sec=2.0)
        answerer.destroy_node()
        passenger.destroy_node()
        rclpy.try_shutdown()


def test_questions_are_answered_in_pieces_and_mistakes_are_told(graph):
    answerer, passenger, until = graph
    until(lambda: all(p.get_subscription_count() for p in passenger.out.values()))
    ask = passenger.out["question"].publish
    answers, pieces = passenger.heard["answer"], passenger.heard["answer_text"]
    ask(text("what is ahead?"))
    until(lambda: len(answers) == 1)
    assert "no pictures yet" in json.loads(answers[0])["error"] and not pieces
    passenger.out["command"].publish(text(codec.dump(CommandAt(11 * CHUNK_NS, Command.GO_LEFT))))
    passenger.show(0)
    until(lambda: all(len(held) == 2 for held in answerer._pictures.values()))
    ask(text("What is ahead?"))
    ask(text("is there a unicorn ahead?"))
    ask(text("which way does the route go"))
    until(lambda: len(answers) == 4)
    first, second, third = (json.loads(a) for a in answers[1:])
    assert first["question"] == "What is ahead?" and first["stamp_ns"] == 11 * CHUNK_NS and first["forwards"] > 0
    assert "never met 'unicorn'" in second["error"]
    until(lambda: len("".join(pieces)) >= len(first["answer"] + third["answer"]))
    assert "".join(pieces) == first["answer"] + third["answer"]


def test_a_node_without_its_model_stays_unconfigured(monkeypatch):
    with own_domain() as domain:
        arguments = ["--ros-args", "-p", "checkpoint:=no/such/model"]
        rclpy.init(args=arguments, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        try:
            told = []
            monkeypatch.setattr(AnswererNode, "get_logger", lambda self: type("L", (), {"error": told.append}))
            node = AnswererNode()
            assert not hasattr(node, "_out") and "does not exist" in told[0]
            node.destroy_node()
        finally:
            rclpy.try_shutdown()
