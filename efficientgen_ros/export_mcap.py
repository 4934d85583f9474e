"""A drive recorded in this process as a rosbag2 recording, as if it had been driven over ROS 2.

The step log holds all that the graph would have said; here it is said again on the same topics, in the same standard
messages, each at its own stamp, into a rosbag2 directory (`metadata.yaml` and MCAP) that `rosbags`, `ros2 bag` and
Foxglove read.  Pictures are drawn again, through any rig, with depth, labels, instances and lidar if asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rosbags.interfaces import Qos, QosDurability, QosHistory, QosLiveliness, QosReliability, QosTime
from rosbags.rosbag2 import StoragePlugin, Writer
from rosbags.typesys import Stores, get_typestore
from rosgraph_msgs.msg import Clock

from efficientgen.eval.export_scene import Drive, looking_world, written_whole
from efficientgen.eval.step_log import Step, StepLog, all_ticks, chunk_seconds
from efficientgen.perception.rig import NANO_RIG, Camera
from efficientgen.perception.types import NS, CameraFrame, OracleFrame
from efficientgen_ros import codec, messages, viewers
from efficientgen_ros.cdr import cdr_bytes
from efficientgen_ros.interfaces import BASE_LINK, TOPICS, Topic, camera_topics
from efficientgen_ros.messages import text
from efficientgen_ros.sensors import lidar_mount_message, sensor_messages, sensor_topics
from efficientgen_ros.session import CommandAt, Session, Status
from efficientgen_ros.transforms import TF, TF_STATIC, TF_TYPE, from_mount, from_odometry, tf_bytes

_UNSAID = ("progress", "diagnostics", "image/", "camera_info/", "mount/")  # of the graph only, or made per rig
_FOREVER = QosTime(2147483647, 4294967295)

Said = tuple[str, Any, int]  # topic key, message, log time in ns


def export_mcap(
    drives: Sequence[Drive],
    target: Path,
    rig: tuple[Camera, ...] = NANO_RIG,
    sensors: Sequence[str] = (),
    pictures: bool = True,
    on_tick: Callable[[str, int, int], None] | None = None,
) -> Path:
    """Write one bag directory per drive below `target`, which appears when all are whole.

    Args:
        rig: the cameras to look through.
        sensors: of `sensors.SENSORS`, drawn through the same rig.
        pictures: draw the cameras at all.

    Raises:
        ExportError: `target` exists.
        DepthUnsupportedError: sensors were asked of a renderer that cannot measure.
    """
    looking = looking_world(rig if pictures or sensors else ())
    with written_whole(target) as draft, looking as world:
        for k, drive in enumerate(drives):
            log = drive.log
            if world is not None:
                world.reset(log.town, log.start.weather, log.seed)
            name = f"{k:03d}-{log.scenario}-{log.planner}-{log.seed}"
            _write_bag(draft / name, drive, world, rig if pictures else (), rig, sensors, on_tick)
    return target


def _write_bag(
    path: Path, drive: Drive, world: Any, shown: tuple[Camera, ...], rig: tuple[Camera, ...], sensors: Sequence[str],
    on_tick: Callable[[str, int, int], None] | None,
) -> None:  # fmt: skip
    topics = {key: topic for key, topic in TOPICS.items() if not key.startswith(_UNSAID)}
    for camera in shown:
        topics |= camera_topics(camera.name)
    topics |= sensor_topics(sensors, rig)
    store, ticks = get_typestore(Stores.ROS2_KILTED), all_ticks(drive.log)
    with Writer(path, version=9, storage_plugin=StoragePlugin.MCAP) as bag:
        lines = {}
        for key, topic in {
            **topics, TF: Topic(TF, TF_TYPE, "recorder"), TF_STATIC: Topic(TF_STATIC, TF_TYPE, "recorder", latched=True)
        }.items():  # fmt: skip
            profile = (_quality(topic),)
            lines[key] = bag.add_connection(topic.name, topic.type, typestore=store, offered_qos_profiles=profile)

        def write(key: str, message: Any, stamp_ns: int) -> None:
            bag.write(lines[key], stamp_ns, message if isinstance(message, bytes) else cdr_bytes(message))

        for said in _opening(drive.log, shown, rig, sensors):
            write(*said)
        steps = {step.stamp_ns: step for step in drive.log.steps}
        for k, tick in enumerate(ticks):
            for said in _at_tick(tick, steps.get(tick.stamp_ns), drive.log, world, shown, rig, sensors):
                write(*said)
            if on_tick is not None:
                on_tick(drive.title, k + 1, len(ticks))
        status = Status(drive.log.end_reason, ticks[-1].stamp_ns, drive.log.deterministic, {})
        write("status", text(codec.dump(status)), ticks[-1].stamp_ns)


def _opening(
    log: StepLog, shown: tuple[Camera, ...], rig: tuple[Camera, ...], sensors: Sequence[str]
) -> Iterator[Said]:  # fmt: skip
    """What is latched: the session, the route, where sensors sit."""
    chunk = round(chunk_seconds(log) * NS)
    session = Session(log.scenario, log.town, log.seed, log.planner, log.world, log.mode, log.handover_ns, chunk,
                      log.route, dict(log.notes))  # fmt: skip
    yield "session", text(codec.dump(session)), 0
    yield "route", viewers.route_message(log.route), 0
    static = []
    for camera in rig:
        mount = messages.mount_message(camera)
        static += list(from_mount(mount, messages.optical_frame(camera.name)))
        if camera in shown:
            yield f"mount/{camera.name}", mount, 0
    if "lidar" in sensors:
        mount = lidar_mount_message()
        static.append(from_mount(mount, "")[0])
        yield "lidar/mount", mount, 0
    yield TF_STATIC, tf_bytes(static, 0), 0


def _at_tick(
    tick: OracleFrame, step: Step | None, log: StepLog, world: Any, shown: tuple[Camera, ...],
    rig: tuple[Camera, ...], sensors: Sequence[str],
) -> Iterator[Said]:  # fmt: skip
    """What the graph says at one tick, in its order: truth, pictures, and the decision if one falls."""
    stamp = tick.stamp_ns
    odometry, acceleration, steering = messages.ego_messages(tick.ego)
    yield "clock", Clock(clock=messages.time_of(stamp)), stamp
    yield "oracle", text(codec.dump(tick)), stamp
    yield "actors", viewers.actor_markers(stamp, tick.actors), stamp
    yield "odometry", odometry, stamp
    yield "acceleration", acceleration, stamp
    yield "steering", steering, stamp
    yield TF, tf_bytes([from_odometry(odometry)], stamp), stamp
    for camera, picture in zip(shown, world.render(tick) if shown else (), strict=True):
        frame = CameraFrame(camera.name, stamp, picture, camera.intrinsics, camera.camera_to_ego)
        yield f"camera_info/{camera.name}", messages.info_message(camera, stamp), stamp
        yield f"image/{camera.name}", messages.image_message(frame), stamp
    for key, message in sensor_messages(sensors, world, tick, rig) if sensors else ():
        yield key, message, stamp
    if step is not None:
        yield from _decision(step, log)


def _decision(step: Step, log: StepLog) -> Iterator[Said]:
    stamp = step.stamp_ns
    yield "command", text(codec.dump(CommandAt(stamp, step.command))), stamp
    expert = stamp < log.handover_ns or log.planner == "expert"
    if step.plan is not None:
        plan = messages.snap_times(step.plan)
        yield "expert" if expert else "plan", messages.plan_message(plan), stamp
        yield "expert_scaffold" if expert else "scaffold", text(messages.scaffold_json(plan)), stamp
        if not expert:
            yield "plan_path", viewers.path_message(stamp, BASE_LINK, plan.waypoints, plan.times_s), stamp
            yield "rollouts", viewers.rollout_markers(plan), stamp
    plan_ns = -1 if step.plan is None else step.plan.stamp_ns
    ruled = messages.ruling(step.verdict, plan_ns=plan_ns, plan_wall_s=step.plan_wall_s)
    yield "trajectory", messages.trajectory_message(step.verdict.trajectory), stamp
    yield "verdict", text(codec.dump(ruled)), stamp


def _quality(topic: Topic) -> Qos:
    """What `interfaces.quality` says, in rosbag2's terms."""
    durability = QosDurability.TRANSIENT_LOCAL if topic.latched else QosDurability.VOLATILE
    return Qos(QosHistory.KEEP_LAST, topic.depth, QosReliability.RELIABLE, durability, _FOREVER, _FOREVER,
               QosLiveliness.AUTOMATIC, _FOREVER, False)  # fmt: skip
