"""Step logs whose every number is chosen by the test: ego and actors move by formulas."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.route import point_at
from efficientgen.perception.types import (
    CHUNK_NS,
    NS,
    TICK_NS,
    Actor,
    ActorKind,
    Command,
    EgoState,
    OracleFrame,
    Plan,
    Route,
    Source,
    StopLine,
    Trajectory,
    Verdict,
)

CAR = (4.6, 1.8, 1.5)


def straight(length: float = 300.0, signal_s: float | None = None) -> Route:
    """Along +x from the origin; one signalised junction of 14 m at `signal_s` if given."""
    s = np.arange(0.0, length + 0.25, 0.5)
    n = len(s)
    stops = () if signal_s is None else (StopLine(signal_s, "J", 0, "s", s_exit=signal_s + 14.0),)
    return Route(np.stack([s, np.zeros(n)], 1), np.zeros(n), np.full(n, 9.0), np.full(n, 1.75), stops, ())


def car(x: float, y: float = 0.0, speed: float = 0.0, yaw: float = 0.0, name: str = "car") -> Actor:
    return Actor(name, ActorKind.CAR, x, y, yaw, speed, *CAR)


def ahead(speed: float, n: int = 12) -> np.ndarray:
    """Waypoints straight ahead at a constant speed, every 0.25 s."""
    return np.stack([speed * 0.25 * np.arange(1, n + 1), np.zeros(n)], 1)


def made_log(
    route: Route,
    place: Callable[[float], tuple[float, float]],
    actors: Callable[[float], tuple[Actor, ...]] = lambda t: (),
    waypoints: Callable[[float], np.ndarray | None] = lambda t: ahead(8.0),
    lamp: Callable[[float], str] = lambda t: "G",
    seconds: float = 12.0,
) -> StepLog:
    """A drive under the planner from the start.

    Args:
        place: time s -> (s along the route m, speed m/s) of the ego.
        waypoints: time s -> (T, 2) m in the ego frame, every 0.25 s; None: no plan.
    """

    def frame(stamp_ns: int) -> OracleFrame:
        t = stamp_ns / NS
        s, speed = place(t)
        x, y, yaw = point_at(route, s)
        ego = EgoState(stamp_ns, x, y, yaw, speed, 0.0, 0.0, 0.0)
        return OracleFrame(stamp_ns, "testville", ego, actors(t), {"J": lamp(t)})

    steps = []
    for stamp in range(0, round(seconds * NS), CHUNK_NS):
        way = waypoints(stamp / NS)
        plan = None if way is None else Plan(stamp, way, 0.25 * np.arange(1, len(way) + 1))
        trajectory = Trajectory(stamp, np.zeros((2, 2)), np.array([0.0, 1.0]))
        ticks = tuple(frame(stamp + k * TICK_NS) for k in range(1, 5))
        verdict = Verdict(stamp, trajectory, Source.NOMINAL)
        steps.append(Step(stamp, Command.GO_STRAIGHT, frame(stamp).ego, plan, verdict, ticks))
    return StepLog(
        "made", "testville", 0, "made", "none", "sync", "in-process", 0, route, frame(0), tuple(steps), "timeout"
    )


class Field:
    """A town that is road within `half_width` m of the x axis."""

    def __init__(self, half_width: float = 3.0) -> None:
        self.half_width = half_width

    def drivable_depth(self, points: np.ndarray) -> np.ndarray:
        return self.half_width - np.abs(points[:, 1])

    def lane_at(self, x: float, y: float, yaw: float | None = None) -> None:
        return None
