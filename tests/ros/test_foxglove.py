"""The shipped Foxglove layout fits the topics that a drive records, and a recording holds what its panels need."""

import json
import re

import numpy as np
import pytest

from efficientgen import share
from efficientgen_ros.interfaces import BASE_LINK, CAMERAS, MAP, TOPICS

LAYOUT = json.loads(share("launch/foxglove/drive.json").read_text(encoding="utf-8"))
PANELS = LAYOUT["configById"]
TYPES = {topic.name: topic.type for topic in TOPICS.values()}
IN_SPACE = {
    "nav_msgs/msg/Path",
    "nav_msgs/msg/Odometry",
    "visualization_msgs/msg/MarkerArray",
    "sensor_msgs/msg/CameraInfo",
}


def named(config: dict, kind: str) -> list[tuple[str, set[str]]]:
    """Every topic that a panel names, with the types that the panel can show it as."""
    if kind in ("3D", "Image"):
        found = [(name, IN_SPACE) for name in config["topics"]]
        mode = config.get("imageMode", {})
        found += [
            (mode[key], {f"sensor_msgs/msg/{t}"})
            for key, t in (("imageTopic", "Image"), ("calibrationTopic", "CameraInfo"))
            if mode
        ]
        return found
    if kind == "Plot":
        paths = [path["value"] for path in config["paths"] if not re.fullmatch(r"[\d.]+", path["value"])]
        allowed = {
            "nav_msgs/msg/Odometry",
            "geometry_msgs/msg/AccelWithCovarianceStamped",
            "diagnostic_msgs/msg/DiagnosticArray",
        }
        return [(path.split(".")[0], allowed) for path in paths]
    if kind == "DiagnosticSummary":
        return [(config["topicToRender"], {"diagnostic_msgs/msg/DiagnosticArray"})]
    return [(config["topicPath"].split(".")[0], {"std_msgs/msg/String"})]


@pytest.mark.parametrize("panel", sorted(PANELS))
def test_each_topic_of_a_panel_exists_with_a_type_it_can_show(panel):
    topics = named(PANELS[panel], panel.partition("!")[0])
    assert topics
    for name, allowed in topics:
        assert TYPES.get(name) in allowed, f"{panel} shows {name}, which is {TYPES.get(name)}"


def test_the_layout_places_every_panel_once():
    def leaves(node):
        return [node] if isinstance(node, str) else leaves(node["first"]) + leaves(node["second"])

    assert sorted(leaves(LAYOUT["layout"])) == sorted(PANELS)
    kinds = [name.partition("!")[0] for name in PANELS]
    assert kinds.count("Image") == len(CAMERAS) and {"3D", "Plot", "DiagnosticSummary", "RawMessages"} <= set(kinds)
    space = PANELS[next(name for name in PANELS if name.startswith("3D"))]["topics"]
    shown = {name for name, config in space.items() if config["visible"]}
    assert {TOPICS[key].name for key in ("odometry", "route", "plan_path", "rollouts", "actors")} <= shown


@pytest.mark.parametrize("panel", sorted(name for name in PANELS if name.startswith("Plot")))
def test_plotted_paths_lead_to_numbers_in_real_messages(panel):
    """Follows each message path through a message as the nodes make it."""
    pytest.importorskip("rclpy")
    from efficientgen.perception.types import DecodeStats, EgoState, Plan
    from efficientgen_ros.messages import ego_messages
    from efficientgen_ros.viewers import plan_diagnostics

    odometry, acceleration, _ = ego_messages(EgoState(0, 1.0, 2.0, 0.1, 5.0, 0.4, 0.0, 0.0))
    stats = DecodeStats(seconds={"vision": 0.1, "prefill": 0.2, "decode": 0.3})
    plan = Plan(0, np.ones((2, 2)), np.ones(2), stats=stats)
    held = {TOPICS["odometry"].name: odometry, TOPICS["acceleration"].name: acceleration,
            TOPICS["diagnostics"].name: plan_diagnostics(plan)}  # fmt: skip
    for path in PANELS[panel]["paths"]:
        if re.fullmatch(r"[\d.]+", path["value"]):
            continue
        topic, _, rest = path["value"].partition(".")
        at = held[topic]
        for part in rest.split("."):
            name, key, value = re.fullmatch(r'(\w+)(?:\[:\]\{(\w+)=="([^"]+)"\})?', part).groups()
            at = getattr(at, name)
            if key:
                (at,) = [item for item in at if getattr(item, key) == value]
        assert float(at) >= 0.0


def test_transforms_in_a_bag_move_the_car_and_place_the_cameras(tmp_path):
    """Decoded by an independent reader, from the schema in the file alone."""
    pytest.importorskip("rclpy")
    decoder = pytest.importorskip("mcap_ros2.decoder")
    from mcap.reader import make_reader

    from efficientgen.perception.rig import NANO_RIG
    from efficientgen.perception.types import EgoState
    from efficientgen_ros.bag import Bag, channels
    from efficientgen_ros.messages import ego_messages, mount_message, optical_frame
    from efficientgen_ros.transforms import TF, TF_STATIC, from_mount, from_odometry, tf_bytes

    egos = [EgoState(k * 100_000_000, 3.0 + k, -2.0, 0.3 * k, 10.0, 0.0, 0.0, 0.0) for k in range(4)]
    bag = Bag(tmp_path / "a.mcap", channels([]))
    static = [t for camera in NANO_RIG for t in from_mount(mount_message(camera), optical_frame(camera.name))]
    bag.write(TF_STATIC, tf_bytes(static, 0), 0)
    for ego in egos:
        bag.write(TF, tf_bytes([from_odometry(ego_messages(ego)[0])], ego.stamp_ns), ego.stamp_ns)
    bag.close()

    with (tmp_path / "a.mcap").open("rb") as file:
        read = [(c.topic, m.log_time, d) for _, c, m, d in
                make_reader(file, decoder_factories=[decoder.DecoderFactory()]).iter_decoded_messages()]  # fmt: skip
    moved = [(t, message) for topic, t, message in read if topic == TF]
    assert [t for t, _ in moved] == [ego.stamp_ns for ego in egos]
    for (stamp, message), ego in zip(moved, egos, strict=True):
        (held,) = message.transforms
        assert (held.header.frame_id, held.child_frame_id) == (MAP, BASE_LINK)
        assert held.header.stamp.sec * 10**9 + held.header.stamp.nanosec == stamp
        assert (held.transform.translation.x, held.transform.translation.y) == (ego.x, ego.y)
        assert 2.0 * np.arctan2(held.transform.rotation.z, held.transform.rotation.w) == pytest.approx(ego.yaw)

    (cameras,) = [message for topic, _, message in read if topic == TF_STATIC]
    frames = {t.child_frame_id: (t.header.frame_id, matrix(t.transform)) for t in cameras.transforms}
    for camera in NANO_RIG:
        link, in_link = frames[optical_frame(camera.name)]
        base, in_base = frames[link]
        assert base == BASE_LINK
        optical = in_base @ in_link
        forward = camera.camera_to_ego  # x forward
        assert optical[:3, 2] == pytest.approx(forward[:3, 0]), "optical z looks where the camera looks"
        assert optical[:3, 0] == pytest.approx(-forward[:3, 1]), "optical x is right"
        assert optical[:3, 3] == pytest.approx(forward[:3, 3])


def matrix(transform) -> np.ndarray:
    """(4, 4) of a decoded transform message."""
    q, t = transform.rotation, transform.translation
    x, y, z, w = q.x, q.y, q.z, q.w
    out = np.eye(4)
    out[:3, :3] = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
        [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
        [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
    ]
    out[:3, 3] = t.x, t.y, t.z
    return out
