"""Faults on a real graph: what leaves the planner and the cameras, changed on its way out.

The `faults` parameter of the planner and the world node is a JSON list of faults (`eval.faults.Fault`); empty, as
shipped, nothing here is in the way.  A tampered publisher has the `publish` of the one it wraps, and changes, drops or
delays whole messages by their header stamps, so the nodes on the other side meet exactly what a broken sensor, driver,
clock or wire would send them.  Process faults (kill, stop, restart) are the starter's business: `bringup.Disturbance`.
"""

from __future__ import annotations

import json
from collections import deque
from dataclasses import asdict
from typing import Any

from efficientgen.eval.faults import KINDS, Fault, Saboteur, Truncator, blank, camera_of, delay_ns, tamper_plan
from efficientgen.eval.faults import clock_leap_ns as leap_of
from efficientgen.perception.types import Planner
from efficientgen_ros.interfaces import CAMERAS, MAP
from efficientgen_ros.messages import plan_from, plan_message, stamp_of, time_of
from efficientgen_ros.parameters import ParameterError


def dump_faults(faults: tuple[Fault, ...]) -> str:
    """The value of the `faults` parameter."""
    return json.dumps([asdict(fault) for fault in faults])


def load_faults(value: str) -> tuple[Fault, ...]:
    """Faults from a parameter's value.

    Raises:
        ParameterError: it is not a list of faults.
    """
    if not value:
        return ()
    try:
        faults = tuple(Fault(**held) for held in json.loads(value))
    except (json.JSONDecodeError, TypeError) as error:
        raise ParameterError(f"parameter 'faults' is a JSON list of faults, or empty; {error}") from error
    for fault in faults:
        if fault.kind not in KINDS:
            raise ParameterError(f"parameter 'faults': no kind '{fault.kind}'; there are {', '.join(KINDS)}")
    return faults


def tampered_planner(planner: Planner, faults: tuple[Fault, ...]) -> Planner:
    """`planner`, whose answers break off where a "truncated" fault says so."""
    mine = tuple(fault for fault in faults if fault.kind == "truncated")
    return Saboteur(planner, mine, Truncator.shipped()) if mine else planner


class TamperedPlans:
    """The planner's plan publisher with faults on the way out."""

    def __init__(self, publisher: Any, faults: tuple[Fault, ...]) -> None:
        self._publisher = publisher
        self._faults = tuple(f for f in faults if KINDS[f.kind].where in ("plan", "clock") or f.kind == "dds_loss")

    def publish(self, message: Any) -> None:
        stamp = stamp_of(message.header.stamp)
        for fault in self._faults:
            if fault.active(stamp):
                message = self._changed(fault, message, stamp)
                break
        if message is not None:
            self._publisher.publish(message)

    def _changed(self, fault: Fault, message: Any, stamp: int) -> Any:
        if fault.kind == "dds_loss":
            return None
        if fault.kind == "clock_jump":
            message.header.stamp = time_of(stamp + leap_of(fault))
            return message
        if not message.points:  # the planner said that it has no plan
            return message
        changed = plan_message(tamper_plan(fault, plan_from(message), message.points[0].velocities[0].linear.x))
        if fault.kind == "wrong_frame":
            changed.header.frame_id = MAP
        return changed


class TamperedImages:
    """One camera's image publisher with faults on the way out."""

    def __init__(self, publisher: Any, camera: str, faults: tuple[Fault, ...]) -> None:
        self._publisher = publisher
        self._faults = tuple(f for f in faults if KINDS[f.kind].where == "camera" and camera_of(f, CAMERAS) == camera)
        self._last: Any = None  # the last picture before a freeze
        self._late: deque[tuple[int, Any]] = deque()  # (stamp of the picture it comes with, picture)

    def publish(self, message: Any) -> None:
        stamp = stamp_of(message.header.stamp)
        fault = next((f for f in self._faults if f.active(stamp)), None)
        if fault is not None and fault.kind == "late":
            self._late.append((stamp + delay_ns(fault), message))
        while self._late and (self._late[0][0] <= stamp or fault is None):  # in order, as a queue would send them
            self._publisher.publish(self._late.popleft()[1])
        if fault is None:
            self._last = message
            self._publisher.publish(message)
        elif fault.kind == "black":
            self._publisher.publish(_blank(fault, message))
        elif fault.kind == "frozen" and self._last is not None:
            message.data = self._last.data
            self._publisher.publish(message)


def _blank(fault: Fault, message: Any) -> Any:
    from efficientgen.perception.rig import NANO_RIG
    from efficientgen_ros.messages import frame_from, image_message

    camera = next(c for c in NANO_RIG if f"{c.name.lower()}_optical_frame" == message.header.frame_id)
    return image_message(blank(fault, frame_from(message, camera)))
