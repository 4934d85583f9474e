"""The world: owns the oracle, the pictures and time.

It steps when the vehicle hands it the ego states of a whole chunk, publishes what the cameras saw and what is true, and
ends each chunk with the route command for the next plan stamp.  In sync mode that is as fast as everyone answers; in
real time each tick is released when the wall clock reaches it, and a world that cannot keep up stretches time and
counts it.  While the expert drives, its privileged plan is published here too.
"""

from __future__ import annotations

import json
from time import monotonic
from typing import Any

from rclpy.node import Node
from rosgraph_msgs.msg import Clock
from std_msgs.msg import String
from std_srvs.srv import Trigger

from efficientgen.eval.faults import Fault
from efficientgen.eval.runner import host_facts
from efficientgen.perception.types import CHUNK_NS, NS, TICK_NS, EgoState, OracleFrame, SensorFrames, Source
from efficientgen.worldsim.scenario import load_scenario
from efficientgen_ros import codec, messages, viewers
from efficientgen_ros.interfaces import CAMERAS, PROCEED, message_class, quality
from efficientgen_ros.messages import EgoJoin, Ruling, text
from efficientgen_ros.parameters import ParameterError, declare
from efficientgen_ros.sabotage import TamperedImages, load_faults
from efficientgen_ros.sensors import lidar_mount_message, sensor_messages, sensor_topics, sensors_named
from efficientgen_ros.session import HEADSTART_NS, CommandAt, Session, Status, Wiring, participants, run
from efficientgen_ros.stage import Pace, Stage


class WorldNode(Node):
    """Reads ego states and verdicts; publishes time, pictures, truth, route and commands."""

    def __init__(self) -> None:
        super().__init__("world")
        values = declare(self, "world")
        scenario, seed = load_scenario(str(values["scenario"])), int(values["seed"])
        realtime = values["mode"] == "realtime"
        self.finished, self.exit_code = False, 0
        every_tick = realtime or bool(values["keep_frames"])
        where = (str(values["world_dir"]), str(values["world_device"]), bool(values["world_refine"]))
        self._stage = stage = Stage(scenario, seed, str(values["world"]), every_tick, *where)
        self._cameras = stage.rig
        self._session = Session(
            scenario=scenario.name,
            town=scenario.town,
            seed=seed,
            planner=str(values["planner"]),
            world=str(values["world"]),
            mode=str(values["mode"]),
            handover_ns=stage.handover_ns + (HEADSTART_NS if realtime else 0),
            chunk_ns=CHUNK_NS,
            route=stage.route,
            notes={"renderer": stage.renderer, "host": host_facts()},
            cameras=tuple(camera.name for camera in self._cameras) or CAMERAS,
        )
        self._join, self._states, self._sources = EgoJoin(), dict[int, EgoState](), dict[int, Source]()
        self._started, self._over, self._held = 0.0, False, False
        self._holds = [] if realtime else _stamps(str(values["hold_at_s"]))
        self._pace: Pace | None = None
        faults = load_faults(str(values["faults"]))
        self._sensors = sensors_named(str(values["sensors"]), str(values["world"]))
        self._wire(bool(values["keep_frames"]), float(values["start_timeout_s"]), faults)

    def _wire(self, recorder_looks: bool, patience_s: float, faults: tuple[Fault, ...]) -> None:
        self._wiring = Wiring(self, "world", participants(self._session.planner), recorder_looks)
        keys = ["clock", "session", "status", "oracle", "actors", "route", "command", "expert", "expert_scaffold"]
        keys += ["diagnostics"] if self._stage.diagnostics() else []
        keys += [f"{kind}/{camera.name}" for kind in ("image", "camera_info", "mount") for camera in self._cameras]
        self._out: dict[str, Any] = {key: self._wiring.publisher(key) for key in keys}
        for camera in self._cameras if faults else ():
            key = f"image/{camera.name}"
            self._out[key] = TamperedImages(self._out[key], camera.name, faults)
        self._out["session"].publish(text(codec.dump(self._session)))
        self._out["route"].publish(viewers.route_message(self._stage.route))
        for camera in self._cameras:
            self._out[f"mount/{camera.name}"].publish(messages.mount_message(camera))
            self._out[f"camera_info/{camera.name}"].publish(messages.info_message(camera, 0))
        for key in ("odometry", "acceleration", "steering"):
            self._wiring.subscribe(key, self._on_ego)
        self._wiring.subscribe("verdict", self._on_verdict)
        self._open_sensors()
        self.create_service(Trigger, PROCEED, self._on_proceed)
        self._wiring.announce_when_matched()
        self._wiring.when_all_ready(self._start, patience_s, self._give_up)

    def _open_sensors(self) -> None:
        """Publishers that no node waits for; where the renderer cannot measure, say so before the drive begins."""
        for key, topic in sensor_topics(self._sensors, self._cameras).items():
            self._out[key] = self.create_publisher(
                message_class(topic.type), topic.name, quality(topic.depth, topic.latched)
            )
        tuple(sensor_messages(self._sensors, self._stage.world, self._stage.frame, self._cameras))
        if "lidar" in self._sensors:
            self._out["lidar/mount"].publish(lidar_mount_message())

    def _start(self) -> None:
        self._started = monotonic()
        self._pace = Pace() if self._session.realtime else None
        self._publish_tick(self._stage.frame, None)
        self._ask()

    def _give_up(self, absent: str) -> None:
        self.get_logger().error(f"gave up waiting for {absent}; unmatched: {self._wiring.missing()}")
        self.finished, self.exit_code = True, 3

    def _on_ego(self, message: Any) -> None:
        ego = self._join.add(message)
        if ego is not None:
            self._states[ego.stamp_ns] = ego
            self._step()

    def _on_verdict(self, message: String) -> None:
        ruled = codec.load(message.data, Ruling)
        self._sources[ruled.stamp_ns] = ruled.source
        self._step()

    def _step(self) -> None:
        """Advance the truth by one chunk once its ego states and its verdict are here."""
        now = self._stage.frame.stamp_ns
        stamps = range(now + TICK_NS, now + CHUNK_NS + 1, TICK_NS)
        if self._over or now not in self._sources or any(stamp not in self._states for stamp in stamps):
            return
        ticks = self._stage.advance([self._states.pop(stamp) for stamp in stamps])
        try:
            self._release(ticks)
        except (ValueError, RuntimeError) as error:
            self._fail(error, now)
            return
        self._diagnose(0, "ok")
        end_reason = self._stage.verdict(ticks, self._sources.pop(now))
        if end_reason:
            self._finish(end_reason, self._stage.frame.stamp_ns)
        else:
            self._ask()

    def _release(self, ticks: tuple[OracleFrame, ...]) -> None:
        """Draw and publish the ticks; in real time each at its own moment."""
        for group in [(tick,) for tick in ticks] if self._pace and self._stage.memoryless else [ticks]:
            drawn = self._stage.draw(group)
            for tick in group:
                if self._pace:
                    self._pace.wait_for(tick.stamp_ns)
                self._publish_tick(tick, drawn)
        if self._pace:
            self._pace.settle(ticks[-1].stamp_ns)

    def _publish_tick(self, frame: OracleFrame, drawn: SensorFrames | None) -> None:
        self._out["clock"].publish(Clock(clock=messages.time_of(frame.stamp_ns)))
        self._out["oracle"].publish(text(codec.dump(frame)))
        self._out["actors"].publish(viewers.actor_markers(frame.stamp_ns, frame.actors))
        for camera in self._cameras:
            for picture in messages.pictures_at(drawn, camera.name, frame.stamp_ns):
                self._out[f"camera_info/{camera.name}"].publish(messages.info_message(camera, frame.stamp_ns))
                self._out[f"image/{camera.name}"].publish(messages.image_message(picture))
        for key, message in sensor_messages(self._sensors, self._stage.world, frame, self._cameras):
            self._out[key].publish(message)

    def _ask(self) -> None:
        """End the chunk: the expert's plan while it drives, and the command that asks for the next verdict."""
        stamp = self._stage.frame.stamp_ns
        while self._holds and stamp >= self._holds[0]:
            self._held = True
            self._holds.pop(0)
        if self._held:  # until `_on_proceed`
            return
        if self._session.expert_at(stamp):
            plan = messages.snap_times(self._stage.expert_plan())
            self._out["expert"].publish(messages.plan_message(plan))
            self._out["expert_scaffold"].publish(text(messages.scaffold_json(plan)))
        self._out["command"].publish(text(codec.dump(CommandAt(stamp, self._stage.command()))))

    def _on_proceed(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.success, self._held = self._held, False
        if response.success:
            self._ask()
        else:
            response.message = "the drive is not held"
        return response

    def _diagnose(self, level: int, words: str) -> None:
        """Of an imagined world: what chunks cost and carry so far."""
        figures = self._stage.diagnostics()
        if figures:
            stamp = self._stage.frame.stamp_ns
            self._out["diagnostics"].publish(viewers.diagnostics("world", stamp, level, words, figures))

    def _fail(self, error: Exception, stamp_ns: int) -> None:
        """The world cannot go on from `stamp_ns`: the drive ends there, the next one resets the world."""
        if not type(error).__module__.startswith("efficientgen"):  # ours are named for what is wrong
            raise error
        words = f"{type(error).__name__}: {error}"
        self.get_logger().error(words)
        self._diagnose(2, words)
        self._finish("interrupted", stamp_ns, {"world_error": words})

    def _finish(self, end_reason: str, stamp_ns: int, more: dict[str, Any] | None = None) -> None:
        self._over = True
        overruns = self._pace.overruns if self._pace else 0
        facts = {"wall_s": monotonic() - self._started, "draw_s": self._stage.draw_s, "overruns": overruns}
        facts |= {"world": figures} if (figures := self._stage.diagnostics()) else {}
        facts |= more or {}
        status = Status(end_reason, stamp_ns, not self._session.realtime, facts)
        self._out["status"].publish(text(codec.dump(status)))

    def close(self) -> None:
        self._stage.close()


def _stamps(listed: str) -> list[int]:
    """Times (s) of a JSON list as sorted stamps (ns).

    Raises:
        ParameterError: it is no list of numbers.
    """
    try:
        return sorted(round(float(at) * NS) for at in json.loads(listed or "[]"))
    except (TypeError, ValueError) as error:
        raise ParameterError(f"parameter 'hold_at_s' is a JSON list of seconds like [5.6], got {listed!r}") from error


def main(args: list[str] | None = None) -> None:
    """Console script and `python -m efficientgen_ros.world_node`."""
    run(WorldNode, args)


if __name__ == "__main__":
    main()
