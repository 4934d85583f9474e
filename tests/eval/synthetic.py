"""A small made-up town, oracle, world and planner for the tests of this room: no SUMO, no renderer, no model."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from efficientgen.perception.rig import NANO_RIG
from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import (
    NS,
    TICK_NS,
    Actor,
    ActorKind,
    CameraFrame,
    DecodeStats,
    EgoState,
    Observation,
    OracleFrame,
    Plan,
    Route,
    SensorFrames,
    StopLine,
)
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.town import Junction, Lane, SignalLink, TownMap

SIGNAL_S = 75.0
LIMIT = 9.0
Size = tuple[float, float, float]


def road(length: float = 260.0, bend: float = 0.012) -> Route:
    """Straight for 40 m, then a gentle left bend, then straight; one signalised junction at `SIGNAL_S`."""
    s = np.arange(0.0, length + 0.25, 0.5)
    curvature = np.where((s > 40.0) & (s < 140.0), bend, 0.0)
    headings = np.concatenate([[0.0], np.cumsum(curvature[:-1] * 0.5)])
    steps = 0.5 * np.stack([np.cos(headings), np.sin(headings)], 1)
    points = np.concatenate([[[0.0, 0.0]], np.cumsum(steps[:-1], axis=0)])
    n = len(points)
    stops = (StopLine(SIGNAL_S, "J", 0, "s", s_exit=SIGNAL_S + 14.0),)
    return Route(points, headings, np.full(n, LIMIT), np.full(n, 1.75), stops, ((60.0, 64.0),))


def town(route: Route) -> TownMap:
    """The road of `route`, a lane of opposite direction to its left, sidewalks, a junction box and its signal."""
    normal = np.stack([-np.sin(route.headings), np.cos(route.headings)], 1)
    side = route.points + 3.5 * normal
    lanes = (
        Lane("a_1", "a", "driving", route.points, 3.5, LIMIT),
        Lane("b_1", "b", "driving", side[::-1], 3.5, LIMIT),
        Lane("a_0", "a", "sidewalk", route.points - 3.0 * normal, 2.0, 1.0),
        Lane("b_0", "b", "sidewalk", (route.points + 6.5 * normal)[::-1], 2.0, 1.0),
        Lane(":c_0", ":c", "crossing", np.array([route.points[124] + k * normal[124] for k in (-2, 5.5)]), 4.0, 1.0),
    )
    x, y, heading = point_at(route, SIGNAL_S + 7.0)
    square = np.array([[8, 8], [-7, 8], [-7, -8], [8, -8]], float)
    turn = np.array([[math.cos(heading), math.sin(heading)], [-math.sin(heading), math.cos(heading)]])
    sx, sy, sh = point_at(route, SIGNAL_S)
    return TownMap(
        "testville",
        Path("testville.net.xml.gz"),
        lanes,
        (Junction("J", "traffic_light", square @ turn + (x, y), "J"),),
        (SignalLink("J", 0, "a_1", "s", sx, sy, sh),),
        None,
    )


def ego_at(route: Route, s: float, speed: float, stamp_ns: int = 0) -> EgoState:
    x, y, heading = point_at(route, s)
    return EgoState(stamp_ns, x, y, heading, speed, 0.0, 0.0, 0.0)


class FakeOracle:
    """A lead car on the route, one oncoming truck, a cyclist, a waiting pedestrian, and a signal that turns green."""

    def __init__(self, lead_gap: float = 30.0, lead_speed: float = 8.0, green_from_s: float = 0.0) -> None:
        self.route = road()
        self.town = town(self.route)
        self.lead_gap, self.lead_speed, self.green_from_s = lead_gap, lead_speed, green_from_s
        self.closed = False

    def reset(self) -> OracleFrame:
        return self._frame(ego_at(self.route, 2.0, 6.0))

    def step(self, states: tuple[EgoState, ...]) -> tuple[OracleFrame, ...]:
        return tuple(self._frame(state) for state in states)

    def close(self) -> None:
        self.closed = True

    def _frame(self, ego: EgoState) -> OracleFrame:
        t = ego.stamp_ns / NS
        lead = 2.0 + self.lead_gap + self.lead_speed * t

        def box(name: str, kind: ActorKind, s: float, left: float, speed: float, size: Size) -> Actor:
            x, y, heading = point_at(self.route, s)
            yaw = heading if speed >= 0 else heading + math.pi
            return Actor(name, kind, x - left * math.sin(heading), y + left * math.cos(heading), yaw, abs(speed), *size)

        actors = (
            box("lead", ActorKind.CAR, lead, 0.0, self.lead_speed, (4.6, 1.8, 1.5)),
            box("truck", ActorKind.TRUCK, 200.0 - 7.0 * t, 3.5, -7.0, (8.2, 2.4, 3.2)),
            box("bus", ActorKind.BUS, 250.0 - 7.0 * t, 3.5, -7.0, (11.5, 2.5, 3.1)),
            box("cyclist", ActorKind.BICYCLE, 20.0 + 4.0 * t, -3.0, 4.0, (1.8, 0.65, 1.7)),
            box("walker", ActorKind.PEDESTRIAN, 62.0, -3.2, 0.0, (0.5, 0.5, 1.75)),
        )
        light = "G" if t >= self.green_from_s else "r"
        return OracleFrame(ego.stamp_ns, "testville", ego, actors, {"J": light}, "day")


def plan_along(
    route: Route, ego: EgoState, speed: float, sections: dict | None = None, stats: DecodeStats | None = None
) -> Plan:
    """20 waypoints at 4 Hz along the route, reaching `speed` at 1.5 m/s^2."""
    s0, lateral = locate(route, ego.x, ego.y)
    times = np.arange(1, 21) * 0.25
    reach = np.clip((speed - ego.speed) / 1.5, -3.0, 3.0)
    ramp = np.minimum(times, abs(reach))
    s = s0 + ego.speed * times + np.sign(reach) * 1.5 * (ramp * times - 0.5 * ramp**2)
    points = np.array([point_at(route, v)[:2] for v in np.maximum(s, s0)]) - (ego.x, ego.y)
    c, d = math.cos(ego.yaw), math.sin(ego.yaw)
    local = points @ np.array([[c, -d], [d, c]])
    wiggle = np.linspace(-0.06, 0.06, 5)[:, None] * (times**1.5)[None, :]
    rollouts = np.stack([np.stack([local[:, 0], local[:, 1] + w], 1) for w in wiggle])
    return Plan(
        ego.stamp_ns, local, times, sections or {}, "", rollouts, rollouts.std(0).max(1), stats or DecodeStats()
    )


class FakePlanner:
    """Knows the route by heart; answers like a learned planner; `dies_at_s` makes it raise from then on."""

    name = "fake"
    frames_per_camera = 0

    def __init__(self, route: Route, speed: float = 7.0, dies_at_s: float = math.inf) -> None:
        self.route, self.speed, self.dies_at_s = route, speed, dies_at_s
        self.seen: list[Observation] = []

    def reset(self, seed: int) -> None:
        self.seen.clear()

    def plan(self, observation: Observation) -> Plan:
        self.seen.append(observation)
        t = observation.stamp_ns / NS
        if t >= self.dies_at_s:
            raise RuntimeError("the planner is dead")
        yes = {"nearby_vehicle"} | ({"pedestrian"} if t < 8 else set()) | ({"cyclist"} if t > 6 else set())
        names = (
            "nearby_vehicle pedestrian cyclist construction traffic_element weather_condition road_hazard "
            "emergency_vehicle animal special_vehicle conflicting_vehicle door_opening_vehicle"
        )
        sections = {
            "critical_objects": {name: "yes" if name in yes else "no" for name in names.split()},
            "explanation": "A car ahead moves at our pace; keep a safe distance and follow the bend to the left.",
            "future_meta_behavior": {"longitudinal": "keep speed", "lateral": "go straight"},
        }
        k = int(t / 0.4)
        seconds = {"vision": 0.08, "decode": 0.3}
        stats = DecodeStats("scaffold-spec", "torch-cpu", 14 + k % 5, 9, 60, 41 + k % 7, 48, seconds)
        return plan_along(self.route, observation.history.states[-1], self.speed, sections, stats)


class FakeWorld:
    """Draws a horizon, a road and the stamp as a colour; memoryless."""

    name, renderer, memoryless = "fake-world", "numpy", True

    def __init__(self) -> None:
        self.asked: list[int] = []

    def reset(self, town: str, weather: str, seed: int) -> None:
        self.asked.clear()

    def step(self, frames: tuple[OracleFrame, ...]) -> SensorFrames:
        self.asked.extend(frame.stamp_ns for frame in frames)
        cameras = {}
        for camera in NANO_RIG:
            images = []
            for frame in frames:
                image = np.zeros((camera.height, camera.width, 3), np.uint8)
                image[:56] = (150, 180, 210)
                image[56:] = (90, 92, 95)
                image[:8, :8] = frame.stamp_ns // TICK_NS % 256
                images.append(CameraFrame(camera.name, frame.stamp_ns, image, camera.intrinsics, camera.camera_to_ego))
            cameras[camera.name] = tuple(images)
        return SensorFrames(tuple(frame.stamp_ns for frame in frames), cameras)


def scenario(duration_s: float = 16.0) -> Scenario:
    words = "a bend behind a lead car"
    return Scenario("test_bend", "lead_vehicle", words, "testville", "train", ("a",), 0.0, duration_s)
