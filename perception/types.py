"""The dataclasses that every room shares; the leaf of the import graph.

Frames follow REP-103 (x forward, y left, z up).  `map` is the town's plane; the ego frame sits on the ground below
the middle of the rear axle (Autoware's `base_link`, WOD's vehicle frame); a camera frame also looks along its x axis.
SI units; angles in radians; times are integer nanoseconds since the start of the drive (`stamp_ns`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

F64 = NDArray[np.float64]
U8 = NDArray[np.uint8]

NS = 1_000_000_000  # nanoseconds in a second
TICK_NS = 100_000_000  # oracle step and camera period, 0.1 s
CHUNK_NS = 400_000_000  # plan period and world chunk, 0.4 s
HISTORY_STATES = 16  # 4 s of ego history ...
HISTORY_PERIOD_NS = 250_000_000  # ... at 4 Hz (WOD-E2E)


class Command(str, Enum):
    """Route command for the next junction (WOD-E2E `EgoIntent`)."""

    GO_STRAIGHT = "GO_STRAIGHT"
    GO_LEFT = "GO_LEFT"
    GO_RIGHT = "GO_RIGHT"


class ActorKind(str, Enum):
    CAR = "car"
    TRUCK = "truck"
    BUS = "bus"
    BICYCLE = "bicycle"
    PEDESTRIAN = "pedestrian"


@dataclass(frozen=True)
class CameraFrame:
    """One camera picture: `image` uint8 (H, W, 3) RGB, `intrinsics` (3, 3) px, `camera_to_ego` (4, 4)."""

    name: str
    stamp_ns: int
    image: U8
    intrinsics: F64
    camera_to_ego: F64


@dataclass(frozen=True)
class EgoState:
    """Rear-axle pose in `map` and its motion at one instant."""

    stamp_ns: int
    x: float
    y: float
    yaw: float
    speed: float  # m/s along x of the ego frame
    acceleration: float  # m/s^2, same axis
    yaw_rate: float  # rad/s
    steering: float  # rad, road-wheel angle


@dataclass(frozen=True)
class EgoHistory:
    """The last `HISTORY_STATES` states at 4 Hz, oldest first, ending at the observation's stamp; never invented."""

    states: tuple[EgoState, ...]


@dataclass(frozen=True)
class Observation:
    """All a planner may know: camera frames (oldest first per camera), ego history and the route command."""

    stamp_ns: int
    cameras: Mapping[str, tuple[CameraFrame, ...]]
    history: EgoHistory
    command: Command


@dataclass(frozen=True)
class DecodeStats:
    """What one plan cost.  Acceptance is `accepted / drafted`; `cycles` are draft+verify rounds."""

    decoder: str = "rule"
    engine: str = "numpy"
    forwards: int = 0
    cycles: int = 0
    drafted: int = 0
    accepted: int = 0
    value_tokens: int = 0
    seconds: Mapping[str, float] = field(default_factory=dict)  # stage -> wall seconds
    rejected: int = 0  # rollouts that held no trajectory
    note: str = ""  # how the inputs differ from what the model was trained on, in words


@dataclass(frozen=True)
class Plan:
    """A trajectory in the ego frame at `stamp_ns`, and how the model arrived at it."""

    stamp_ns: int
    waypoints: F64  # (T, 2) m
    times_s: F64  # (T,) s after stamp_ns, increasing, first > 0
    sections: Mapping[str, Any] = field(default_factory=dict)  # decoded answer: critical_objects, explanation, ...
    text: str = ""  # the answer as the model wrote it
    rollouts: F64 = field(default_factory=lambda: np.zeros((0, 0, 2)))  # (N, T, 2) m
    spread_m: F64 = field(default_factory=lambda: np.zeros(0))  # (T,) std over rollouts
    stats: DecodeStats = field(default_factory=DecodeStats)


class Planner(Protocol):
    """Anything that turns observations into plans."""

    def reset(self, seed: int) -> None: ...

    def plan(self, observation: Observation) -> Plan: ...


class Source(str, Enum):
    """Whose trajectory the car follows during one chunk; the safety ladder from top to bottom."""

    EXPERT = "expert"  # the hand-over phase at the start of a drive
    NOMINAL = "nominal"  # the planner's fresh plan
    SHIFTED = "shifted"  # its last valid plan, time-shifted
    BRAKE = "brake"  # comfortable braking along the last valid path
    STOP = "stop"  # standing still, or hard braking with no valid path at all

    @property
    def fallback(self) -> bool:
        return self in (Source.SHIFTED, Source.BRAKE, Source.STOP)


@dataclass(frozen=True)
class Trajectory:
    """A time-parameterised path anchored in `map`: rear-axle points (M, 2) m, `times_s` (M,) s after `stamp_ns`.

    The first point is the rear axle at `stamp_ns` (`times_s[0] == 0`).  After the last time the car holds the last
    point.
    """

    stamp_ns: int
    points: F64
    times_s: F64


@dataclass(frozen=True)
class Verdict:
    """Safety's one answer per plan stamp: follow `trajectory` until the next verdict."""

    stamp_ns: int
    trajectory: Trajectory
    source: Source
    reason: str = ""  # why not nominal, in words for the driver's log
    plan_age_s: float = 0.0  # age of the plan behind the trajectory


@dataclass(frozen=True)
class VehicleParams:
    """A mid-size car; lengths in m from the rear axle on the ground."""

    wheelbase: float = 2.8
    length: float = 4.6
    width: float = 1.85
    height: float = 1.5
    rear_to_centre: float = 1.35  # rear axle to the middle of the box
    max_steering: float = 0.6  # rad
    max_steering_rate: float = 0.8  # rad/s
    max_acceleration: float = 2.5  # m/s^2
    max_braking: float = 7.0  # m/s^2


@dataclass(frozen=True)
class Actor:
    """A road user: an upright box whose centre stands at (x, y) on the ground plane of `map`."""

    id: str
    kind: ActorKind
    x: float
    y: float
    yaw: float
    speed: float
    length: float
    width: float
    height: float


@dataclass(frozen=True)
class OracleFrame:
    """The truth at one tick: the ego, every actor, every signal (`lights`: signal id -> SUMO state string)."""

    stamp_ns: int
    town: str
    ego: EgoState
    actors: tuple[Actor, ...]
    lights: Mapping[str, str]
    weather: str = "day"


@dataclass(frozen=True)
class StopLine:
    """Where the route meets a junction: `s` m along the route; `signal` and `link` index OracleFrame.lights.

    `signal` is "" for a junction without lights.  `must_yield` says that crossing streams have priority there.  A
    roundabout is one junction, and its `direction` the sense of the whole manoeuvre.
    """

    s: float
    signal: str
    link: int
    direction: str  # SUMO: s straight, l/L left, r/R right, t U-turn
    must_yield: bool = False
    s_exit: float = 0.0  # where the route leaves the junction, m
    ring_x: float = 0.0  # of a roundabout, one stop from entry to exit: the circle of its lane, m
    ring_y: float = 0.0
    ring_radius: float = 0.0  # 0: not a roundabout


@dataclass(frozen=True)
class Route:
    """The lane-level path that the ego is asked to drive, resampled every `spacing` m."""

    points: F64  # (N, 2) m, map; centreline of the lanes to use
    headings: F64  # (N,) rad, unwrapped
    speed_limits: F64  # (N,) m/s
    half_widths: F64  # (N,) m to each side of the lane
    stops: tuple[StopLine, ...]
    crossings: tuple[tuple[float, float], ...]  # (s_begin, s_end) of each pedestrian crossing on the route
    spacing: float = 0.5

    @property
    def length(self) -> float:
        return self.spacing * (len(self.points) - 1)


@dataclass(frozen=True)
class SensorFrames:
    """What a world drew for one chunk: per tick the camera frames, oldest first."""

    stamps_ns: tuple[int, ...]
    cameras: Mapping[str, tuple[CameraFrame, ...]]
