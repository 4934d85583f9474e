"""The planner alone on another car's topics: a process plays best-effort, unsynchronised pictures, plans come out."""

import sys
from pathlib import Path
from time import monotonic

import pytest
import yaml

pytest.importorskip("rclpy")

import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions

from efficientgen.perception.rig_file import parse_rig
from efficientgen.perception.types import NS
from efficientgen_ros.bringup import _environment
from efficientgen_ros.foreign import Car, wanted_topics
from efficientgen_ros.interfaces import TOPICS, message_class, quality
from efficientgen_ros.messages import plan_from
from efficientgen_ros.supervisor import Supervisor, own_domain
from tests.eval.foreign import EPOCH_NS, ODOMETRY, REAR_AXLE, SKEW_NS, TURN, record, rig

ROOT = Path(__file__).resolve().parents[2]


def live_rig(**more) -> dict:
    """The made-up car with its mounts in the file, for there is no tf2_msgs."""
    held = rig("jpeg", **more)
    for name, camera in held["cameras"].items():
        yaw = {"FRONT_LEFT": 49.5, "FRONT": 0.0, "FRONT_RIGHT": -49.5}[name]
        position = [1.5 + REAR_AXLE, 0.0, 1.5]
        camera["mount"] = {"position": position, "yaw_deg": yaw, "pitch_deg": -1.0, "roll_deg": 0.5}
    return held


def test_the_topics_are_those_of_the_rig():
    topics = wanted_topics(parse_rig(rig("jpeg")), ("FRONT", "FRONT_LEFT"))
    assert topics["/cam/front/image/compressed"][:2] == ("image", "FRONT") and "/tf_static" in topics
    assert topics[ODOMETRY][0] == "odometry" and topics[TURN][0] == "command"
    assert not any("front_right" in topic for topic in topics), "nobody looks at it"
    assert "/tf_static" not in wanted_topics(parse_rig(live_rig()), ("FRONT",))


def test_what_cannot_be_used_is_told_once():
    class Said:
        data = "sideways"

    told: list[str] = []
    car = Car(parse_rig(live_rig()), told.append)
    for _ in range(3):
        car.add("command", "", Said())
        assert car.pose(Said(), 0) is None
    assert len(told) == 2 and "sideways" in told[0] and "no pose" in told[1]
    assert car.rectifier("FRONT") is None and car.command_at(0) is None


def test_plans_come_out_for_a_foreign_car(tmp_path):
    bag = record(tmp_path / "car", 8.4, kind="jpeg")
    file = tmp_path / "rig.yaml"
    file.write_text(yaml.safe_dump(live_rig()))
    node = [sys.executable, "-m", "efficientgen_ros.foreign_planner_node", "--ros-args", "-r", "__node:=planner"]
    for value in (f"rig:={file}", "planner:=nano-ddrive", "autostart:=true"):
        node += ["-p", value]
    player = [sys.executable, str(ROOT / "tests" / "ros" / "play_foreign.py"), str(bag)]
    plans, words = [], []
    with own_domain() as domain, _environment(domain) as environment:
        supervisor = Supervisor(environment, tmp_path / "logs")
        context = Context()
        rclpy.init(context=context, domain_id=domain, signal_handler_options=SignalHandlerOptions.NO)
        executor = SingleThreadedExecutor(context=context)
        listener = rclpy.create_node("listener", context=context)
        executor.add_node(listener)
        for key, heard in (("plan", plans), ("diagnostics", words)):
            topic = TOPICS[key]
            listener.create_subscription(message_class(topic.type), topic.name, heard.append, quality(topic.depth))
        try:
            supervisor.start("planner", node)
            supervisor.start("player", player)
            deadline = monotonic() + 90.0
            while supervisor.running("player") and supervisor.running("planner") and monotonic() < deadline:
                executor.spin_once(timeout_sec=0.2)
            for _ in range(10):
                executor.spin_once(timeout_sec=0.1)
        finally:
            supervisor.stop()
            executor.shutdown(timeout_sec=2.0)
            listener.destroy_node()
            rclpy.try_shutdown(context=context)
    said = supervisor.last_words("planner")
    assert "best effort" in said, said
    made = [plan_from(message) for message in plans]
    real = [plan for plan in made if len(plan.waypoints)]
    assert len(real) >= 2, (said, [m.status[0].message for m in words][-5:])
    for plan in real:
        assert 4.0 < (plan.stamp_ns - EPOCH_NS) / NS < 9.0, "stamps are the car's own"
        assert plan.waypoints[0, 0] > 0.0
    stamps = [plan.stamp_ns for plan in real]
    assert stamps == sorted(set(stamps)) and all((b - a) % 400_000_000 == 0 for a, b in zip(stamps, stamps[1:]))  # noqa: B905
    assert max(map(abs, SKEW_NS.values())) == 30_000_000
