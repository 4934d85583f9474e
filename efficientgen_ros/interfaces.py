"""Every topic of the drive as data: name, type, quality of service, who publishes it and who must hear it.

Nodes never spell a topic: they ask `TOPICS`.  Names are Autoware's where it has them; types are standard messages only,
and what those cannot carry travels as JSON with a schema and a version in `std_msgs/String` (see `messages`).

Everything is reliable.  A topic that describes the drive as a whole is latched (transient local), so that a late viewer
sees it too.  `readers` lists the nodes that the drive cannot do without: the drive starts only when each publisher is
matched with each of them (see `session.Wiring`), so nothing is lost at the start; viewers may come and go.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from efficientgen.perception.rig import NANO_RIG

if TYPE_CHECKING:
    from rclpy.qos import QoSProfile

MAP, BASE_LINK = "map", "base_link"
CAMERAS: tuple[str, ...] = tuple(camera.name for camera in NANO_RIG)
PLANNER_LEASE_S = 2.0  # a planner silent on the wire (dead or stopped process) for so long counts as dead


@dataclass(frozen=True)
class Topic:
    """One topic.  `type` is `package/msg/Name`; `depth` messages are kept for a reader that is busy."""

    name: str
    type: str
    publisher: str
    readers: tuple[str, ...] = ()
    depth: int = 10
    latched: bool = False
    lease_s: float | None = None  # liveliness: readers are told when the publisher falls silent for so long
    optional: tuple[str, ...] = ()  # nodes that read it in some modes only

    @property
    def package(self) -> str:
        return self.type.split("/")[0]


_DRIVE: dict[str, Topic] = {
    # the world: time, truth, route
    "clock": Topic("/clock", "rosgraph_msgs/msg/Clock", "world", ("recorder",), 50),
    "session": Topic(
        "/simulation/session", "std_msgs/msg/String", "world", ("planner", "safety", "vehicle", "recorder"), 1, True
    ),
    "status": Topic("/simulation/status", "std_msgs/msg/String", "world", ("recorder",), 1, True),
    "oracle": Topic("/simulation/oracle", "std_msgs/msg/String", "world", ("vehicle", "recorder"), 50),
    "actors": Topic("/simulation/actors", "visualization_msgs/msg/MarkerArray", "world", ("recorder",), 50),
    "route": Topic("/planning/mission_planning/route", "nav_msgs/msg/Path", "world", ("recorder",), 1, True),
    "command": Topic(
        "/planning/mission_planning/command", "std_msgs/msg/String", "world", ("planner", "safety", "recorder"), 20
    ),
    "expert": Topic(
        "/planning/expert/trajectory",
        "trajectory_msgs/msg/MultiDOFJointTrajectory",
        "world",
        ("safety", "recorder"),
        20,
    ),
    "expert_scaffold": Topic("/planning/expert/debug/scaffold", "std_msgs/msg/String", "world", ("recorder",), 20),
    # the planner
    "plan": Topic(
        "/planning/planner/trajectory",
        "trajectory_msgs/msg/MultiDOFJointTrajectory",
        "planner",
        ("safety", "recorder"),
        20,
        lease_s=PLANNER_LEASE_S,
    ),
    "plan_path": Topic("/planning/planner/path", "nav_msgs/msg/Path", "planner", ("recorder",), 20),
    "scaffold": Topic("/planning/planner/debug/scaffold", "std_msgs/msg/String", "planner", ("recorder",), 20),
    "rollouts": Topic(
        "/planning/planner/debug/rollouts", "visualization_msgs/msg/MarkerArray", "planner", ("recorder",), 20
    ),
    "diagnostics": Topic("/diagnostics", "diagnostic_msgs/msg/DiagnosticArray", "planner", ("recorder",), 20),
    # safety
    "trajectory": Topic(
        "/planning/trajectory",
        "trajectory_msgs/msg/MultiDOFJointTrajectory",
        "safety",
        ("vehicle", "recorder"),
        20,
    ),
    "verdict": Topic("/planning/safety/verdict", "std_msgs/msg/String", "safety", ("vehicle", "world", "recorder"), 20),
    # the vehicle
    "odometry": Topic(
        "/localization/kinematic_state",
        "nav_msgs/msg/Odometry",
        "vehicle",
        ("world", "planner", "safety", "recorder"),
        50,
    ),
    "acceleration": Topic(
        "/localization/acceleration",
        "geometry_msgs/msg/AccelWithCovarianceStamped",
        "vehicle",
        ("world", "planner", "safety", "recorder"),
        50,
    ),
    "steering": Topic(
        "/vehicle/status/joint_states",
        "sensor_msgs/msg/JointState",
        "vehicle",
        ("world", "planner", "safety", "recorder"),
        50,
    ),
    # the recorder
    "progress": Topic("/simulation/progress", "std_msgs/msg/String", "recorder", (), 200, True),
}


def camera_topics(camera: str) -> dict[str, Topic]:
    """The topics of one camera, `image/<CAMERA>`, `camera_info/<CAMERA>` and `mount/<CAMERA>`."""
    base = f"/sensing/camera/{camera.lower()}"
    return {
        f"image/{camera}": Topic(
            f"{base}/image_raw", "sensor_msgs/msg/Image", "world", ("planner",), 16, optional=("recorder",)
        ),
        f"camera_info/{camera}": Topic(
            f"{base}/camera_info", "sensor_msgs/msg/CameraInfo", "world", ("planner", "recorder"), 16, True
        ),
        f"mount/{camera}": Topic(
            f"{base}/mount", "geometry_msgs/msg/TransformStamped", "world", ("planner", "recorder"), 1, True
        ),
    }


TOPICS: dict[str, Topic] = _DRIVE | {key: topic for name in CAMERAS for key, topic in camera_topics(name).items()}
"""Key -> topic.  Keys of camera topics are `image/<CAMERA>`, `camera_info/<CAMERA>`, `mount/<CAMERA>`."""

QUESTIONS: dict[str, Topic] = {
    "question": Topic("/planning/answerer/question", "std_msgs/msg/String", "anyone", ("answerer",), 10),
    "answer_text": Topic("/planning/answerer/answer_text", "std_msgs/msg/String", "answerer", (), 200),
    "answer": Topic("/planning/answerer/answer", "std_msgs/msg/String", "answerer", (), 10),
}
"""Of the answerer, which is no part of a drive: plain questions in, pieces of answers and whole answers (JSON) out."""

READY = "/simulation/ready"
"""Latched `std_msgs/String` on which each node says its name once its publishers are matched."""

PROCEED = "/simulation/proceed"
"""Service `std_srvs/Trigger` of the world: go on after a hold (its parameter `hold_at_s`)."""


def message_class(type_name: str) -> Any:
    """The message class of `package/msg/Name`."""
    import importlib

    package, _, name = type_name.split("/")
    return getattr(importlib.import_module(f"{package}.msg"), name)


def quality(depth: int = 10, latched: bool = False, lease_s: float | None = None) -> QoSProfile:
    """Reliable, keep last `depth`; transient local if `latched`; liveliness with `lease_s`."""
    from rclpy.duration import Duration
    from rclpy.qos import DurabilityPolicy, HistoryPolicy, LivelinessPolicy, QoSProfile, ReliabilityPolicy

    profile = QoSProfile(
        history=HistoryPolicy.KEEP_LAST,
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if latched else DurabilityPolicy.VOLATILE,
    )
    if lease_s is not None:
        profile.liveliness = LivelinessPolicy.AUTOMATIC
        profile.liveliness_lease_duration = Duration(seconds=lease_s)
    return profile
