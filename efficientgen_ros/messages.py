"""The drive's dataclasses as standard messages and back, bit for bit.

Ego states are rounded to 1e-9 by the vehicle, so the yaw that a quaternion brings back, rounded likewise, is the very
number that went in (for |yaw| < 2 pi).  Times of trajectories are whole nanoseconds in messages; a `Verdict` brings its
exact times along in JSON, because a braking ramp need not end on one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from builtin_interfaces.msg import Duration, Time
from geometry_msgs.msg import AccelWithCovarianceStamped, Quaternion, Transform, TransformStamped, Twist, Vector3
from nav_msgs.msg import Odometry
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import String
from trajectory_msgs.msg import MultiDOFJointTrajectory, MultiDOFJointTrajectoryPoint

from efficientgen.perception.rig import Camera
from efficientgen.perception.types import (
    F64,
    NS,
    U8,
    CameraFrame,
    DecodeStats,
    EgoState,
    Plan,
    SensorFrames,
    Source,
    Trajectory,
    Verdict,
)
from efficientgen_ros import codec
from efficientgen_ros.interfaces import BASE_LINK, MAP

DIGITS = 9  # decimals of every ego state (`vehicle.advance`)
STEERING_JOINT = "front_wheel_steering"


def time_of(stamp_ns: int) -> Time:
    """Nanoseconds since the start of the drive as a message time."""
    return Time(sec=stamp_ns // NS, nanosec=stamp_ns % NS)


def stamp_of(time: Any) -> int:
    """Nanoseconds of a message time or duration."""
    return int(time.sec) * NS + int(time.nanosec)


def text(payload: str) -> String:
    return String(data=payload)


# --- ego states: Odometry + AccelWithCovarianceStamped + JointState ---


def ego_messages(ego: EgoState) -> tuple[Odometry, AccelWithCovarianceStamped, JointState]:
    """One ego state as pose and twist, acceleration, and steering; all three carry its stamp."""
    odometry = Odometry(child_frame_id=BASE_LINK)
    odometry.header.stamp, odometry.header.frame_id = time_of(ego.stamp_ns), MAP
    odometry.pose.pose.position.x, odometry.pose.pose.position.y = ego.x, ego.y
    odometry.pose.pose.orientation = quaternion(ego.yaw)
    odometry.twist.twist.linear.x, odometry.twist.twist.angular.z = ego.speed, ego.yaw_rate
    acceleration = AccelWithCovarianceStamped()
    acceleration.header.stamp, acceleration.header.frame_id = time_of(ego.stamp_ns), BASE_LINK
    acceleration.accel.accel.linear.x = ego.acceleration
    steering = JointState(name=[STEERING_JOINT], position=[ego.steering])
    steering.header.stamp, steering.header.frame_id = time_of(ego.stamp_ns), BASE_LINK
    return odometry, acceleration, steering


@dataclass
class EgoJoin:
    """Joins the three messages of one stamp into the `EgoState` they came from; states come out in stamp order.

    Per-publisher order is kept by DDS, so the k-th message of each topic belongs to the same stamp.
    """

    _odometry: dict[int, Odometry] = field(default_factory=dict)
    _acceleration: dict[int, float] = field(default_factory=dict)
    _steering: dict[int, float] = field(default_factory=dict)

    def add(self, message: Odometry | AccelWithCovarianceStamped | JointState) -> EgoState | None:
        """Take one message; the complete state if it was the last of its three."""
        stamp = stamp_of(message.header.stamp)
        if isinstance(message, Odometry):
            self._odometry[stamp] = message
        elif isinstance(message, AccelWithCovarianceStamped):
            self._acceleration[stamp] = message.accel.accel.linear.x
        else:
            self._steering[stamp] = message.position[0]
        if stamp not in self._odometry or stamp not in self._acceleration or stamp not in self._steering:
            return None
        odometry = self._odometry.pop(stamp)
        pose, twist = odometry.pose.pose, odometry.twist.twist
        return EgoState(
            stamp_ns=stamp,
            x=pose.position.x,
            y=pose.position.y,
            yaw=round(2.0 * math.atan2(pose.orientation.z, pose.orientation.w), DIGITS),
            speed=twist.linear.x,
            acceleration=self._acceleration.pop(stamp),
            yaw_rate=twist.angular.z,
            steering=self._steering.pop(stamp),
        )


# --- plans and verdicts: MultiDOFJointTrajectory + JSON ---


def snap_times(plan: Plan) -> Plan:
    """`plan` with its times on whole nanoseconds, as a message carries them."""
    return replace(plan, times_s=np.array([nanoseconds(t) / NS for t in plan.times_s.tolist()], np.float64))


def plan_message(plan: Plan) -> MultiDOFJointTrajectory:
    """The waypoints in the ego frame at the plan's stamp; each point tells heading and speed for other consumers."""
    return _trajectory_message(plan.stamp_ns, BASE_LINK, plan.waypoints, plan.times_s, (0.0, 0.0))


def plan_from(message: MultiDOFJointTrajectory) -> Plan:
    """The drivable part of a plan: stamp, waypoints (T, 2) m, times (T,) s."""
    stamp, points, times = _trajectory_from(message)
    return Plan(stamp, points, times)


def scaffold_json(plan: Plan) -> str:
    """The rest of a plan: sections, text, rollouts, spread and what it cost."""
    rest = {name: getattr(plan, name) for name in ("stamp_ns", "sections", "text", "rollouts", "spread_m", "stats")}
    return codec.dump(rest, "scaffold")


@dataclass(frozen=True)
class _Scaffold:
    stamp_ns: int
    sections: dict[str, Any]
    text: str
    rollouts: F64
    spread_m: F64
    stats: DecodeStats


def with_scaffold(plan: Plan, payload: str) -> Plan:
    """`plan` completed by its `scaffold_json`."""
    rest = codec.load(payload, _Scaffold, "scaffold")
    return replace(
        plan, sections=rest.sections, text=rest.text, rollouts=rest.rollouts, spread_m=rest.spread_m, stats=rest.stats
    )


def trajectory_message(trajectory: Trajectory) -> MultiDOFJointTrajectory:
    """A trajectory in `map`; times to the nanosecond."""
    return _trajectory_message(trajectory.stamp_ns, MAP, trajectory.points, trajectory.times_s, None)


@dataclass(frozen=True)
class Ruling:
    """What a verdict says beside its trajectory, and what led to it."""

    stamp_ns: int
    source: Source
    reason: str
    plan_age_s: float
    trajectory_ns: int
    times_s: tuple[float, ...]  # exact; the message's times are whole nanoseconds
    plan_ns: int = -1  # stamp of the plan that was judged, -1: none
    plan_wall_s: float = 0.0  # observation complete -> that plan received
    deadline_missed: bool = False  # real time: the previous stamp's plan had not come
    timed_out: bool = False  # sync: ruled without the plan of this stamp
    refused: str = ""  # why a plan that came since the last verdict was not even judged


def ruling(verdict: Verdict, **facts: Any) -> Ruling:
    """The part of `verdict` that its trajectory message does not carry, with `facts` about how it came about."""
    return Ruling(
        stamp_ns=verdict.stamp_ns,
        source=verdict.source,
        reason=verdict.reason,
        plan_age_s=verdict.plan_age_s,
        trajectory_ns=verdict.trajectory.stamp_ns,
        times_s=tuple(verdict.trajectory.times_s.tolist()),
        **facts,
    )


def verdict_from(message: MultiDOFJointTrajectory, ruled: Ruling) -> Verdict:
    """The verdict that `trajectory_message` and `ruling` were made of."""
    _, points, _ = _trajectory_from(message)
    trajectory = Trajectory(ruled.trajectory_ns, points, np.array(ruled.times_s, np.float64))
    return Verdict(ruled.stamp_ns, trajectory, ruled.source, ruled.reason, ruled.plan_age_s)


def _trajectory_message(
    stamp_ns: int, frame: str, points: F64, times_s: F64, origin: tuple[float, float] | None
) -> MultiDOFJointTrajectory:
    message = MultiDOFJointTrajectory(joint_names=[BASE_LINK])
    message.header.stamp, message.header.frame_id = time_of(stamp_ns), frame
    last, last_time, heading = origin, 0.0, 0.0
    for (x, y), t in zip(points.tolist(), times_s.tolist(), strict=True):
        speed = 0.0
        if last is not None:
            dx, dy = x - last[0], y - last[1]
            length = math.hypot(dx, dy)
            heading = math.atan2(dy, dx) if length > 0.05 else heading
            speed = length / (t - last_time) if t > last_time else 0.0
        after = nanoseconds(t)
        point = MultiDOFJointTrajectoryPoint(
            transforms=[Transform(translation=Vector3(x=x, y=y), rotation=quaternion(heading))],
            velocities=[Twist(linear=Vector3(x=speed))],
            time_from_start=Duration(sec=after // NS, nanosec=after % NS),
        )
        message.points.append(point)
        last, last_time = (x, y), t
    return message


def _trajectory_from(message: MultiDOFJointTrajectory) -> tuple[int, F64, F64]:
    places = [point.transforms[0].translation for point in message.points]
    points = np.array([(place.x, place.y) for place in places], np.float64).reshape(-1, 2)
    times = np.array([stamp_of(point.time_from_start) / NS for point in message.points], np.float64)
    return stamp_of(message.header.stamp), points, times


def nanoseconds(seconds: float) -> int:
    return round(seconds * NS)


def quaternion(yaw: float) -> Quaternion:
    return Quaternion(z=math.sin(0.5 * yaw), w=math.cos(0.5 * yaw))


# --- cameras: Image + CameraInfo + TransformStamped ---


def image_message(frame: CameraFrame) -> Image:
    """One picture; rgb8, in the camera's optical frame."""
    height, width, _ = frame.image.shape
    message = Image(height=height, width=width, encoding="rgb8", step=3 * width)
    message.header.stamp, message.header.frame_id = time_of(frame.stamp_ns), optical_frame(frame.name)
    message.data = frame.image.tobytes()  # bytes: the only fast way into a message
    return message


def pictures_at(drawn: SensorFrames | None, camera: str, stamp_ns: int) -> tuple[CameraFrame, ...]:
    """The pictures of one camera at one tick: one or none."""
    frames = () if drawn is None else drawn.cameras[camera]
    return tuple(frame for frame in frames if frame.stamp_ns == stamp_ns)


def frame_from(message: Image, camera: Camera) -> CameraFrame:
    """The camera frame of an image message; `camera` comes from `camera_from`.

    Raises:
        ValueError: another encoding or size than the rig's.
    """
    if message.encoding != "rgb8" or (message.height, message.width) != (camera.height, camera.width):
        raise ValueError(
            f"{camera.name}: expected rgb8 {camera.width}x{camera.height}, got "
            f"{message.encoding} {message.width}x{message.height}; publish what camera_info announces"
        )
    stamp = stamp_of(message.header.stamp)
    return CameraFrame(camera.name, stamp, picture_from(message), camera.intrinsics, camera.camera_to_ego)


def picture_from(message: Image) -> U8:
    """RGB uint8 (H, W, 3) of an image message without row padding.

    Raises:
        ValueError: another encoding, or not as many bytes as the size says.
    """
    if message.encoding != "rgb8" or len(message.data) != 3 * message.height * message.width:
        raise ValueError(f"expected rgb8 pictures without padding, got {message.encoding}, {len(message.data)} bytes")
    return np.frombuffer(message.data, np.uint8).reshape(message.height, message.width, 3)


def info_message(camera: Camera, stamp_ns: int) -> CameraInfo:
    """Pinhole intrinsics, no distortion."""
    k = camera.intrinsics
    info = CameraInfo(height=camera.height, width=camera.width, distortion_model="plumb_bob", d=[0.0] * 5)
    info.header.stamp, info.header.frame_id = time_of(stamp_ns), optical_frame(camera.name)
    info.k = k.ravel().tolist()
    info.r = np.eye(3).ravel().tolist()
    info.p = np.hstack([k, np.zeros((3, 1))]).ravel().tolist()
    return info


def mount_message(camera: Camera) -> TransformStamped:
    """Where the camera sits: its x-forward frame in `base_link`."""
    message = TransformStamped(child_frame_id=f"{camera.name.lower()}_link")
    message.header.frame_id = BASE_LINK
    place = message.transform.translation
    place.x, place.y, place.z = camera.mount
    half_yaw, half_pitch = 0.5 * math.radians(camera.yaw_deg), -0.5 * math.radians(camera.pitch_deg)
    cy, sy, cp, sp = math.cos(half_yaw), math.sin(half_yaw), math.cos(half_pitch), math.sin(half_pitch)
    message.transform.rotation = Quaternion(x=-sp * sy, y=sp * cy, z=cp * sy, w=cp * cy)
    return message


def camera_from(name: str, info: CameraInfo, mount: TransformStamped) -> Camera:
    """The camera behind its info and mount; angles to 1e-6 degree, so a rig written in degrees comes back exactly."""
    place, q = mount.transform.translation, mount.transform.rotation
    yaw = math.atan2(2.0 * (q.w * q.z + q.x * q.y), 1.0 - 2.0 * (q.y * q.y + q.z * q.z))
    pitch = math.asin(max(-1.0, min(1.0, 2.0 * (q.w * q.y - q.z * q.x))))
    return Camera(
        name=name,
        width=info.width,
        height=info.height,
        focal=float(info.k[0]),
        mount=(place.x, place.y, place.z),
        yaw_deg=round(math.degrees(yaw), 6),
        pitch_deg=round(-math.degrees(pitch), 6) + 0.0,
    )


def optical_frame(camera: str) -> str:
    return f"{camera.lower()}_optical_frame"
