"""A drive's own states as the messages of the nuScenes CAN bus expansion (its README names keys, units and signs).

Messages are written at the drive's 10 Hz, vehicle_monitor at 2 Hz; what the simulated car does not have (battery,
pedals, wheels) is 0.  Steering is that of the steering wheel, positive to the right.
"""

from __future__ import annotations

import math
from typing import Any

from efficientgen.eval.export_nuscenes_map import Placed
from efficientgen.eval.export_scene import microseconds
from efficientgen.eval.step_log import StepLog, all_ticks
from efficientgen.perception.types import EgoState

STEERING_RATIO = 15.0  # turn of the steering wheel per turn of the road wheels
GRAVITY = 9.81
MONITOR_NS = 500_000_000


def can_messages(log: StepLog, placed: Placed, scene: int) -> dict[str, Any]:
    """Message name -> content of its file, for the drive that is the export's scene number `scene`."""
    states = [tick.ego for tick in all_ticks(log)]
    when = [microseconds(scene, state.stamp_ns) for state in states]
    pose = [_pose(state, at, placed) for state, at in zip(states, when, strict=True)]
    steering = [{"utime": at, "value": -STEERING_RATIO * s.steering} for s, at in zip(states, when, strict=True)]
    monitor = [_monitor(state, at) for state, at in zip(states, when, strict=True) if state.stamp_ns % MONITOR_NS == 0]
    counts = {"pose": pose, "steeranglefeedback": steering, "vehicle_monitor": monitor}
    span = (when[-1] - when[0]) / 1e6
    meta = {
        name: {"message_count": len(held), "message_freq": (len(held) - 1) / span if span else 0.0, "timespan": span}
        for name, held in counts.items()
    }
    return {**counts, "route": placed.put(log.route.points).tolist(), "meta": meta}


def _pose(state: EgoState, when: int, placed: Placed) -> dict[str, Any]:
    return {
        "utime": when,
        "pos": [state.x + placed.dx, state.y + placed.dy, 0.0],
        "orientation": [math.cos(0.5 * state.yaw), 0.0, 0.0, math.sin(0.5 * state.yaw)],
        "vel": [state.speed, 0.0, 0.0],
        "accel": [state.acceleration, state.speed * state.yaw_rate, GRAVITY],
        "rotation_rate": [0.0, 0.0, state.yaw_rate],
    }


def _monitor(state: EgoState, when: int) -> dict[str, Any]:
    return {
        "utime": when,
        "available_distance": 0.0,
        "battery_level": 0,
        "brake": 0,
        "brake_switch": 2 if state.acceleration < -0.5 else 1,
        "gear_position": 7,
        "left_signal": 0,
        "rear_left_rpm": 0.0,
        "rear_right_rpm": 0.0,
        "right_signal": 0,
        "steering": round(-STEERING_RATIO * math.degrees(state.steering), 1),
        "steering_speed": 0.0,
        "throttle": 0,
        "vehicle_speed": round(3.6 * state.speed, 2),
        "yaw_rate": round(math.degrees(state.yaw_rate), 1),
    }
