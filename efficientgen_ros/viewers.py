"""Messages for those who watch: paths, road users and rollouts as markers, diagnostics.  No node drives by them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from builtin_interfaces.msg import Duration
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import Point, PoseStamped
from nav_msgs.msg import Path
from std_msgs.msg import ColorRGBA
from visualization_msgs.msg import Marker, MarkerArray

from efficientgen.perception.types import F64, Actor, ActorKind, Plan, Route
from efficientgen_ros.interfaces import BASE_LINK, MAP
from efficientgen_ros.messages import nanoseconds, quaternion, time_of

_COLOURS = {
    ActorKind.CAR: (0.35, 0.55, 0.95),
    ActorKind.TRUCK: (0.85, 0.6, 0.3),
    ActorKind.BUS: (0.9, 0.75, 0.2),
    ActorKind.BICYCLE: (0.3, 0.8, 0.5),
    ActorKind.PEDESTRIAN: (0.9, 0.3, 0.4),
}


def path_message(stamp_ns: int, frame: str, points: F64, times_s: F64 | None = None) -> Path:
    """Points (N, 2) m as a path; poses carry their own time where there is one."""
    path = Path()
    path.header.stamp, path.header.frame_id = time_of(stamp_ns), frame
    for index, (x, y) in enumerate(points.tolist()):
        pose = PoseStamped()
        at = 0 if times_s is None else nanoseconds(float(times_s[index]))
        pose.header.stamp, pose.header.frame_id = time_of(stamp_ns + at), frame
        pose.pose.position.x, pose.pose.position.y = x, y
        path.poses.append(pose)
    return path


def route_message(route: Route) -> Path:
    """The route's centreline in `map`."""
    return path_message(0, MAP, route.points)


def actor_markers(stamp_ns: int, actors: Sequence[Actor]) -> MarkerArray:
    """One box per road user, preceded by a marker that clears the previous ones."""
    clear = Marker(action=Marker.DELETEALL, ns="actors")
    clear.header.stamp, clear.header.frame_id = time_of(stamp_ns), MAP
    markers = [clear]
    for index, actor in enumerate(actors):
        box = Marker(ns="actors", id=index, type=Marker.CUBE, action=Marker.ADD)
        box.header.stamp, box.header.frame_id = time_of(stamp_ns), MAP
        box.pose.position.x, box.pose.position.y, box.pose.position.z = actor.x, actor.y, 0.5 * actor.height
        box.pose.orientation = quaternion(actor.yaw)
        box.scale.x, box.scale.y, box.scale.z = actor.length, actor.width, actor.height
        red, green, blue = _COLOURS[actor.kind]
        box.color = ColorRGBA(r=red, g=green, b=blue, a=0.9)
        markers.append(box)
    return MarkerArray(markers=markers)


def rollout_markers(plan: Plan) -> MarkerArray:
    """The rollouts of a plan as line strips in the ego frame."""
    markers = []
    for index, rollout in enumerate(plan.rollouts):
        line = Marker(ns="rollouts", id=index, type=Marker.LINE_STRIP, action=Marker.ADD)
        line.header.stamp, line.header.frame_id = time_of(plan.stamp_ns), BASE_LINK
        line.scale.x, line.color = 0.08, ColorRGBA(r=0.2, g=0.7, b=1.0, a=0.6)
        line.lifetime = Duration(sec=1)
        line.pose.orientation.w = 1.0
        line.points = [Point(x=x, y=y) for x, y in rollout.tolist()]
        markers.append(line)
    return MarkerArray(markers=markers)


def diagnostics(node: str, stamp_ns: int, level: int, summary: str, figures: dict[str, Any]) -> DiagnosticArray:
    """One status with a KeyValue per figure.  `level`: 0 OK, 1 WARN, 2 ERROR, 3 STALE."""
    values = [
        KeyValue(key=key, value=f"{value:.6g}" if isinstance(value, float) else str(value))
        for key, value in figures.items()
    ]
    status = DiagnosticStatus(
        level=bytes([level]), name=node, message=summary, hardware_id="efficientgen", values=values
    )
    message = DiagnosticArray(status=[status])
    message.header.stamp = time_of(stamp_ns)
    return message


def plan_diagnostics(plan: Plan) -> DiagnosticArray:
    """What a plan cost: stage seconds, forwards, acceptance; ERROR when the planner raised (an empty plan)."""
    stats = plan.stats
    figures: dict[str, Any] = {f"{stage}_s": seconds for stage, seconds in stats.seconds.items()}
    figures.setdefault("total_s", float(sum(stats.seconds.values())))
    for name in ("decoder", "engine", "forwards", "cycles", "drafted", "accepted", "value_tokens"):
        figures[name] = getattr(stats, name)
    if stats.note:
        figures["note"] = stats.note
    figures["acceptance"] = stats.accepted / stats.drafted if stats.drafted else 0.0
    failed = not len(plan.waypoints)
    return diagnostics("planner", plan.stamp_ns, 2 if failed else 0, plan.text if failed else "ok", figures)
