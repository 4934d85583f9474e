"""The planner node in this process: it hosts a released layout, warm, and answers bad input in words."""

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("rclpy")

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import Image

from efficientgen.eval.runner import FRAME_GAP_NS
from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.types import Observation
from efficientgen_ros.intake import Intake
from efficientgen_ros.messages import info_message, mount_message, time_of
from efficientgen_ros.planner_node import PlannerNode
from efficientgen_ros.supervisor import own_domain
from efficientgen_ros.warm_up import empty_observation
from tests.planning.tiny_release import write_release


class Heard:
    """A publisher that keeps what it is given."""

    def __init__(self) -> None:
        self.messages: list = []

    def publish(self, message) -> None:
        self.messages.append(message)


def configured(*parameters: str):
    """A planner node of these parameters and what its configure transition returned."""
    with own_domain() as domain:
        words = ["--ros-args", *(word for parameter in parameters for word in ("-p", parameter))]
        rclpy.init(args=words, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
    node = PlannerNode()
    return node, node.on_configure(None)


@pytest.fixture
def ros():
    yield
    rclpy.try_shutdown()


def seen(look: int) -> Observation:
    """A standing car before a textured wall; fit to plan on."""
    grey = empty_observation(look)
    rng = np.random.default_rng(0)
    cameras = {
        name: tuple(replace(f, image=rng.integers(0, 255, f.image.shape, dtype=np.uint8)) for f in frames)
        for name, frames in grey.cameras.items()
    }
    return replace(grey, cameras=cameras)


def test_a_released_layout_is_warm_after_configure_and_bad_input_gets_words(ros, tmp_path):
    directory = write_release(tmp_path, "fast-ddrive")
    node, result = configured(
        "planner:=fast-ddrive", f"checkpoint:={directory}", "schema:=nuscenes", "decoder:=ar", "dtype:=float32"
    )
    assert result == TransitionCallbackReturn.SUCCESS
    planner = node._planner
    assert planner.name == tmp_path.name and planner._cache is not None  # it has planned once
    node._out = {name: Heard() for name in node._out}
    good = seen(3)
    node._say(node._answer(good))
    assert len(node._out["plan"].messages[-1].points) == 6

    front = good.cameras["FRONT"]
    empty = tuple(replace(frame, image=frame.image[:0]) for frame in front)
    lost = {name: frames for name, frames in good.cameras.items() if name != "FRONT"}
    far = tuple(replace(state, x=1e9) for state in good.history.states)
    flat = tuple(replace(frame, intrinsics=np.zeros((3, 3))) for frame in front)
    for bad, words in (
        (replace(good, cameras=lost), "camera missing: FRONT"),
        (replace(good, cameras={**good.cameras, "REAR": front}), "camera unknown: REAR"),
        (replace(good, cameras={**good.cameras, "FRONT": empty}), "malformed: FRONT gives an empty picture"),
        (replace(good, cameras={**good.cameras, "FRONT": flat}), "cannot be inverted"),
        (replace(good, history=replace(good.history, states=far)), "ego state of no car: x 1e+09"),
        (replace(good, history=replace(good.history, states=good.history.states[8:])), "too short: 8 of 16"),
    ):
        node._say(node._answer(bad))
        assert not node._out["plan"].messages[-1].points
        told: DiagnosticArray = node._out["diagnostics"].messages[-1]
        assert told.status[0].level == b"\x02" and words in told.status[0].message
    node.destroy_node()


@pytest.mark.parametrize(
    "parameters",
    [
        ("planner:=fast-ddrive",),
        ("planner:=fast-dvlm", "checkpoint:=no/such/directory"),
        ("planner:=nano-ddrive", "decoder:=beam"),
        ("planner:=nano-ddrive", "device:=cuda:99"),
        ("planner:=nano-ddrive", "schema:=wod-e2e"),
    ],
)
def test_a_planner_that_cannot_be_hosted_stays_unconfigured(ros, parameters):
    node, result = configured(*parameters)
    assert result == TransitionCallbackReturn.FAILURE and node._planner is None
    node.destroy_node()


def test_pictures_that_are_not_what_was_announced_are_refused_and_told():
    said: list[str] = []
    intake = Intake(2, 1.0, said.append)
    camera = NANO_RIG[1]
    intake.add_camera(camera.name, info_message(camera, 0))
    intake.add_camera(camera.name, mount_message(camera))
    for encoding, height, width, size in (("mono8", 112, 224, 112 * 224), ("rgb8", 0, 0, 0), ("rgb8", 112, 224, 5)):
        message = Image(height=height, width=width, encoding=encoding, data=bytes(size))
        message.header.stamp = time_of(FRAME_GAP_NS)
        intake.add_image(camera.name, message)
    assert len(said) == 3 and all(words.startswith("picture refused") for words in said)
