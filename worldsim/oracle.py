"""The oracle: SUMO in process, the only owner of traffic, lanes and lights.

The ego is a SUMO vehicle that is moved to the pose of our own bicycle at every tick (`moveToXY`, free placement), so
that traffic reacts to it; everything else is SUMO's.  A drive is a pure function of (scenario, seed, ego poses): the
same inputs give the same frames, in any process.  libsumo holds one simulation per process, and is imported only here.
"""

from __future__ import annotations

import math
import random
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libsumo

from efficientgen.perception.route import locate, point_at
from efficientgen.perception.types import (
    NS,
    TICK_NS,
    Actor,
    ActorKind,
    EgoState,
    OracleFrame,
    Route,
    VehicleParams,
)
from efficientgen.worldsim.lane_routes import plan_route
from efficientgen.worldsim.scenario import EARLIEST_CLOCK_S, Scenario
from efficientgen.worldsim.script import CutIn, Lead
from efficientgen.worldsim.town import TownMap, load_town
from efficientgen.worldsim.traffic import HEIGHTS, demand
from efficientgen.worldsim.vehicle import wrapped

WARMUP_S = 16.0
ACTOR_RANGE_M = 120.0
SIGNAL_RANGE_M = 150.0
CLEAR_BEHIND_M = 32.0  # at the start nobody is this close behind the ego
_EGO = "ego"
_LANE_M = 3.5
_OWN_LANE = 513  # SUMO's lane change mode for scripted vehicles: only as the route needs, minding others
_LATERAL_SPEED = 1.6  # m/s, of a vehicle that cuts in
_OPTIONS = (
    "--step-length 0.1 --lateral-resolution 0.4 --time-to-teleport -1 --collision.action none "
    "--no-step-log true --no-warnings true --duration-log.disable true"
).split()


class OracleError(RuntimeError):
    """The simulation cannot start or go on; the message carries the remedy."""


class Oracle:
    """The truth about one drive.  `reset` once, then `step`; `close` frees the process for the next oracle.

    Args:
        scenario: what to drive.
        seed: of traffic and signals; with the ego's poses it determines every frame.
        vehicle: size of the ego.
    """

    _open: Oracle | None = None

    def __init__(self, scenario: Scenario, seed: int, vehicle: VehicleParams | None = None) -> None:
        self.scenario = scenario
        self.seed = seed
        self.vehicle = vehicle or VehicleParams()
        self.town: TownMap = load_town(scenario.town)
        self.route: Route = plan_route(
            self.town, scenario.edges, scenario.start_lane, scenario.start_pos, scenario.end_pos
        )
        rng = random.Random(f"{seed}/{scenario.name}/script")
        self.lead: Lead | None = scenario.lead.varied(rng) if scenario.lead else None
        self.cut_in: CutIn | None = scenario.cut_in.varied(rng) if scenario.cut_in else None
        self._act = ""  # of the vehicle that cuts in: beside | changing | ahead
        self._progress = 0.0
        self._stamp_ns = -1
        self._sizes: dict[str, tuple[ActorKind, float, float]] = {}
        self._signals = {s.signal: _node_of(self.town, s.signal) for s in self.town.signals}

    def reset(self) -> OracleFrame:
        """Start the simulation, let traffic flow for a while, place the ego; the frame at stamp 0.

        Raises:
            OracleError: another oracle is open in this process, or SUMO refuses to start.
        """
        if Oracle._open is not None and Oracle._open is not self:
            raise OracleError(
                "another Oracle is open in this process and SUMO can hold only one: close() it first, "
                "or use one process per oracle (multiprocessing, 'spawn' context)"
            )
        self.close()
        rng = random.Random(f"{self.seed}/{self.scenario.name}/clock")
        clock = self.scenario.clock_s
        clock = rng.uniform(EARLIEST_CLOCK_S, 150.0) if clock is None else clock + rng.uniform(-1.5, 1.5)
        begin = round(clock - WARMUP_S, 1)
        trips = demand(
            self.town,
            self.seed,
            self.scenario.vehicles,
            self.scenario.pedestrians,
            begin,
            WARMUP_S + self.scenario.duration_s + 30.0,
            self.scenario.walkers,
            self.vehicle,
            self.scenario.streams,
        )
        with tempfile.TemporaryDirectory() as scratch:
            routes = Path(scratch) / "demand.rou.xml"
            routes.write_text(trips, encoding="utf-8")
            files = ["-n", str(self.town.path), "-r", str(routes)]
            when = ["--begin", f"{begin:.1f}", "--seed", str(self.seed % 2**31)]
            try:
                libsumo.start(["sumo", *files, *when, *_OPTIONS])
            except (libsumo.TraCIException, libsumo.FatalTraCIError) as error:
                raise OracleError(f"SUMO did not start: {error}; is another libsumo simulation open?") from error
            Oracle._open = self
            steps = round(WARMUP_S * 10)
            for _ in range(steps - 1):
                libsumo.simulationStep()
        x, y, yaw = point_at(self.route, 0.0)
        state = EgoState(0, round(x, 9), round(y, 9), wrapped(yaw), self.scenario.start_speed, 0.0, 0.0, 0.0)
        self._place(state)
        libsumo.simulationStep()
        self._stamp_ns = 0
        return self._frame(state)

    def step(self, states: Sequence[EgoState]) -> tuple[OracleFrame, ...]:
        """One tick of traffic per ego state; `states` follow each other at `TICK_NS`.

        Raises:
            OracleError: `reset` has not been called, a state's stamp is not the next tick, or SUMO fails.
        """
        if Oracle._open is not self:
            raise OracleError("the oracle is not running: call reset() first")
        frames = []
        for state in states:
            if state.stamp_ns != self._stamp_ns + TICK_NS:
                raise OracleError(f"expected the ego state at {self._stamp_ns + TICK_NS} ns, got {state.stamp_ns} ns")
            try:
                self._mirror(state)
                self._direct(state)
                libsumo.simulationStep()
                frames.append(self._frame(state))
            except (libsumo.TraCIException, libsumo.FatalTraCIError) as error:
                raise OracleError(f"SUMO failed at {state.stamp_ns} ns: {error}; reset() starts anew") from error
            self._stamp_ns = state.stamp_ns
        return tuple(frames)

    def close(self) -> None:
        """End the simulation; safe to call more than once."""
        if Oracle._open is self:
            libsumo.close()
            Oracle._open = None
            self._sizes.clear()

    def __enter__(self) -> Oracle:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _place(self, state: EgoState) -> None:
        """Insert the ego (and its lead) into the running traffic, on ground cleared of whoever stands there."""
        lead, cut_in = self.lead, self.cut_in
        ahead = max(self.scenario.clear_ahead, 10.0 + 2.0 * state.speed)
        if lead:
            ahead = max(ahead, lead.gap + 25.0)
        beside = cut_in.sideways * _LANE_M if cut_in else 0.0  # the lane to clear besides the ego's
        cos, sin = math.cos(state.yaw), math.sin(state.yaw)
        for api, half in ((libsumo.vehicle, 2.2), (libsumo.person, 1.6)):
            for name in sorted(api.getIDList()):
                x, y = api.getPosition(name)
                forward = cos * (x - state.x) + sin * (y - state.y)
                left = -sin * (x - state.x) + cos * (y - state.y)
                across = min(abs(left), abs(left - beside))
                if -CLEAR_BEHIND_M < forward < ahead and across < half:
                    api.remove(name)
        libsumo.route.add("ego_route", list(self.scenario.edges))
        libsumo.vehicle.add(_EGO, "ego_route", typeID="ego", departLane="best", departPos="0", departSpeed="0")
        libsumo.vehicle.setSpeedMode(_EGO, 0)
        libsumo.vehicle.setLaneChangeMode(_EGO, 0)
        self._mirror(state)
        if lead:
            self._place_lead(lead)
        if cut_in:
            self._place_cut_in(cut_in)

    def _place_lead(self, lead: Lead) -> None:
        name = self._put("lead", lead.kind, lead.gap, 0.0, lead.top_speed)
        libsumo.vehicle.setPreviousSpeed(name, min(lead.speed, max(self.scenario.start_speed, 0.5 * lead.speed)))
        if lead.profile:
            libsumo.vehicle.setLaneChangeMode(name, _OWN_LANE)
            libsumo.vehicle.setDecel(name, lead.braking)

    def _place_cut_in(self, cut_in: CutIn) -> None:
        fast = 1.4 * float(self.route.speed_limits.max())  # it must be able to stay ahead of the ego
        name = self._put("cutin", cut_in.kind, cut_in.ahead, cut_in.sideways * _LANE_M, fast)
        libsumo.vehicle.setLaneChangeMode(name, 0)
        libsumo.vehicle.setMaxSpeedLat(name, _LATERAL_SPEED)
        libsumo.vehicle.setAccel(name, 4.0)
        self._act, self._progress = "beside", 0.0

    def _put(self, role: str, kind: ActorKind, gap: float, left: float, top_speed: float) -> str:
        """A scripted vehicle `gap` m ahead of the ego's front, `left` m beside the route; returns its id."""
        name = f"{kind.value}_{role}"
        libsumo.vehicle.add(name, "ego_route", typeID=kind.value, departLane="best", departPos="0", departSpeed="0")
        libsumo.vehicle.setMaxSpeed(name, top_speed)
        x, y, yaw = point_at(self.route, self._reach + gap + libsumo.vehicle.getLength(name))
        x, y = x - left * math.sin(yaw), y + left * math.cos(yaw)
        libsumo.vehicle.moveToXY(name, "", -1, x, y, angle=math.degrees(math.pi / 2 - yaw) % 360, keepRoute=2)
        return name

    def _direct(self, ego: EgoState) -> None:
        """Tell the scripted vehicles how to go on, before a step."""
        there = libsumo.vehicle.getIDList()
        lead, cut_in = self.lead, self.cut_in
        if lead and lead.profile and (name := f"{lead.kind.value}_lead") in there:
            libsumo.vehicle.setSpeed(name, lead.wanted(ego.stamp_ns / NS))
        if cut_in and self._act != "ahead" and (name := f"{cut_in.kind.value}_cutin") in there:
            self._direct_cut_in(cut_in, name, ego)

    def _direct_cut_in(self, cut_in: CutIn, name: str, ego: EgoState) -> None:
        if ego.stamp_ns == TICK_NS:  # it has been put there by a jump, which says nothing about its speed
            libsumo.vehicle.setPreviousSpeed(name, self.scenario.start_speed)
        self._progress = locate(self.route, ego.x, ego.y, self._progress)[0]
        x, y = libsumo.vehicle.getPosition(name)
        front, left = locate(self.route, x, y, self._progress)
        gap = front - libsumo.vehicle.getLength(name) - self._progress - self._reach
        libsumo.vehicle.setSpeed(name, cut_in.keeping(gap, ego.speed))
        if self._act == "beside" and self._progress >= cut_in.at_m and gap > 0.6 * cut_in.ahead:
            self._act = "changing"
        if self._act == "changing":
            libsumo.vehicle.changeSublane(name, -left)
            if abs(left) < 0.8:
                self._act = "ahead"
                libsumo.vehicle.setSpeed(name, -1)  # SUMO's driver again
                libsumo.vehicle.setMaxSpeed(name, cut_in.speed)
                libsumo.vehicle.setLaneChangeMode(name, _OWN_LANE)

    @property
    def _reach(self) -> float:
        """From the rear axle to the front bumper, m."""
        return self.vehicle.rear_to_centre + self.vehicle.length / 2

    def _mirror(self, state: EgoState) -> None:
        libsumo.vehicle.moveToXY(
            _EGO,
            "",
            -1,
            state.x + self._reach * math.cos(state.yaw),  # SUMO wants the front bumper
            state.y + self._reach * math.sin(state.yaw),
            angle=math.degrees(math.pi / 2 - state.yaw) % 360,
            keepRoute=2,
        )

    def _frame(self, ego: EgoState) -> OracleFrame:
        actors = []
        for api in (libsumo.vehicle, libsumo.person):
            for name in api.getIDList():
                x, y = api.getPosition(name)
                if name == _EGO or (x - ego.x) ** 2 + (y - ego.y) ** 2 > ACTOR_RANGE_M**2:
                    continue
                kind, length, width = self._size(api, name)
                yaw = math.remainder(math.radians(90.0 - api.getAngle(name)), math.tau)
                if kind is not ActorKind.PEDESTRIAN:  # from the front bumper to the middle
                    x, y = x - length / 2 * math.cos(yaw), y - length / 2 * math.sin(yaw)
                speed = max(0.0, api.getSpeed(name))
                actors.append(
                    Actor(
                        name,
                        kind,
                        round(x, 6),
                        round(y, 6),
                        round(yaw, 6),
                        round(speed, 6),
                        length,
                        width,
                        HEIGHTS[kind],
                    )
                )
        actors.sort(key=lambda actor: actor.id)
        lights = {
            name: libsumo.trafficlight.getRedYellowGreenState(name)
            for name, (x, y) in sorted(self._signals.items())
            if (x - ego.x) ** 2 + (y - ego.y) ** 2 < SIGNAL_RANGE_M**2
        }
        return OracleFrame(ego.stamp_ns, self.scenario.town, ego, tuple(actors), lights, self.scenario.weather)

    def _size(self, api: Any, name: str) -> tuple[ActorKind, float, float]:
        if name not in self._sizes:
            self._sizes[name] = (ActorKind(api.getTypeID(name).split("@")[0]), api.getLength(name), api.getWidth(name))
        return self._sizes[name]


def _node_of(town: TownMap, signal: str) -> tuple[float, float]:
    here = [(s.x, s.y) for s in town.signals if s.signal == signal]
    return sum(x for x, _ in here) / len(here), sum(y for _, y in here) / len(here)
