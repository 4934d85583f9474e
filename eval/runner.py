"""The closed loop in process: observe, plan, judge, follow, advance the traffic, draw; once per 0.4 s.

`drive` composes exactly the functions that the ROS 2 nodes call (docs/architecture.md, "One closed-loop step"), so one
scenario and seed give bit-identical ego poses both ways.  Time belongs to this loop (sync mode): a slow planner costs
wall time, never driving time.  A planner that raises counts as one that said nothing; the safety ladder does the rest.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable
from typing import Any, Literal, Protocol

from efficientgen.eval.referee import Referee
from efficientgen.eval.step_log import Step, StepLog
from efficientgen.perception.health import Expected, require_fit
from efficientgen.perception.observation import HISTORY_NS, ObservationBuilder
from efficientgen.perception.route import command_at, locate
from efficientgen.perception.types import (
    CHUNK_NS,
    NS,
    TICK_NS,
    Command,
    EgoState,
    Observation,
    OracleFrame,
    Plan,
    Planner,
    SensorFrames,
    VehicleParams,
    Verdict,
)
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.safety import SafetyParams, SafetyState, judge
from efficientgen.planning.tracker import TrackerParams, track
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.vehicle import advance

SUBSTEP_NS = 10_000_000  # bicycle and tracker, 0.01 s
FRAME_GAP_NS = CHUNK_NS


class World(Protocol):
    """What draws: a pure function of the oracle frames so far.

    A world with `memoryless = True` draws each tick from that tick's oracle frame alone; the runner then asks it only
    for the ticks that somebody will look at.
    """

    def reset(self, town: str, weather: str, seed: int) -> None: ...

    def step(self, frames: tuple[OracleFrame, ...]) -> SensorFrames: ...


class WorldNeededError(ValueError):
    """The planner looks at pixels and no world was given to draw them."""


def follow(
    verdict: Verdict, ego: EgoState, chunk_ns: int = CHUNK_NS, params: VehicleParams | None = None
) -> tuple[EgoState, ...]:
    """Drive the verdict's trajectory for one chunk from `ego`: tracker and bicycle at 0.01 s, a state per tick."""
    params = params or VehicleParams()
    gains = TrackerParams(vehicle=params)
    states = []
    for _ in range(chunk_ns // TICK_NS):
        for _ in range(TICK_NS // SUBSTEP_NS):
            acceleration, steering = track(verdict.trajectory, ego, gains)
            ego = advance(ego, acceleration, steering, SUBSTEP_NS, params)
        states.append(ego)
    return tuple(states)


def handover_stamp(scenario: Scenario) -> int:
    """The first plan stamp at or after the scenario's hand-over that has a whole ego history behind it."""
    earliest = max(round(scenario.handover_s * NS), HISTORY_NS)
    return -(-earliest // CHUNK_NS) * CHUNK_NS


def name_of(thing: object) -> str:
    """How logs call a planner or world: its `name` if it has one, else its class in words (`constant-velocity`)."""
    if isinstance(thing, str):
        return thing
    words = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", type(thing).__name__).lower()
    return str(getattr(thing, "name", words.removesuffix("-world")))


def frames_needed(planner: Planner | Literal["expert"], default: int) -> int:
    """How many frames per camera the planner looks at: its `frames_per_camera` if it says so (0: none)."""
    return 0 if isinstance(planner, str) else int(getattr(planner, "frames_per_camera", default))


def drive(
    scenario: Scenario,
    seed: int,
    planner: Planner | Literal["expert"],
    world: World | None = None,
    *,
    keep_frames: bool = False,
    oracle: Any = None,
    on_step: Callable[[Step], None] | None = None,
    transform_observation: Callable[[Observation], Observation] | None = None,
    disturb: Callable[[Observation], Observation] | None = None,
    safety: SafetyParams | None = None,
    vehicle: VehicleParams | None = None,
) -> StepLog:
    """Drive one scenario and return everything that happened.

    Args:
        planner: "expert" drives the whole way on the oracle and needs no world.
        world: draws the cameras; None for planners that look at no pixels.
        keep_frames: draw every tick and keep the pictures in the log (for the report).
        oracle: an `Oracle` for this scenario and seed to use instead of a new one; the caller closes it.
        on_step: called after each step (progress bars).
        transform_observation: what the planner sees instead of its observation (honesty checks such as swapped images).
        disturb: what broken sensors make of the observation (fault injection), before it is found fit to plan on.

    Raises:
        WorldNeededError: the planner needs frames and `world` is None.
    """
    safety, vehicle = safety or SafetyParams(), vehicle or VehicleParams()
    look = frames_needed(planner, 2 if world is not None else 0)
    if look and world is None:
        raise WorldNeededError(f"planner {name_of(planner)!r} looks at {look} frames per camera: give drive a world")
    handover_ns, duration_ns = handover_stamp(scenario), round(scenario.duration_s * NS)
    began = time.perf_counter()
    own_oracle = oracle is None
    if own_oracle:
        from efficientgen.worldsim.oracle import Oracle  # loads SUMO

        oracle = Oracle(scenario, seed)
    try:
        start = oracle.reset()
        route, town = oracle.route, oracle.town
        referee = Referee(route, town, duration_ns, vehicle)
        builder = ObservationBuilder(look, FRAME_GAP_NS)
        builder.add_state(start.ego)
        if not isinstance(planner, str):
            planner.reset(seed)
        if world is not None:
            world.reset(start.town, start.weather, seed)
        artist = _Artist(world if look or keep_frames else None, handover_ns, keep_frames)
        frame, state, s = start, SafetyState(), locate(route, start.ego.x, start.ego.y)[0]
        steps: list[Step] = []
        events: list[dict[str, Any]] = []
        end_reason = ""
        while not end_reason:
            now_ns, ego = frame.stamp_ns, frame.ego
            s = locate(route, ego.x, ego.y, s)[0]
            command = command_at(route, s)
            by_expert = isinstance(planner, str) or now_ns < handover_ns
            asked = time.perf_counter()
            plan: Plan | None
            if isinstance(planner, str) or now_ns < handover_ns:
                plan = expert_plan(route, frame)
            else:
                plan = _ask(planner, builder, now_ns, command, transform_observation, events, disturb, safety.enabled)
            wall = time.perf_counter() - asked
            state, verdict = judge(state, plan, ego, now_ns, safety, expert=by_expert and now_ns < handover_ns)
            states = follow(verdict, ego, CHUNK_NS, vehicle)
            ticks = oracle.step(states)
            for ego in states:
                builder.add_state(ego)
            sensor_frames = artist.draw(ticks)
            if sensor_frames is not None:
                builder.add_frames(sensor_frames)
            step = Step(now_ns, command, frame.ego, plan, verdict, ticks, wall, sensor_frames if keep_frames else None)
            steps.append(step)
            if on_step is not None:
                on_step(step)
            frame = ticks[-1]
            end_reason = referee.observe(ticks, verdict.source)
    finally:
        if own_oracle:
            oracle.close()
    return StepLog(
        scenario=scenario.name,
        town=start.town,
        seed=seed,
        planner=name_of(planner),
        world="none" if world is None else name_of(world),
        mode="sync",
        transport="in-process",
        handover_ns=handover_ns,
        route=route,
        start=start,
        steps=tuple(steps),
        end_reason=end_reason,
        deterministic=True,
        notes={
            "renderer": str(getattr(world, "renderer", "")),
            "wall_s": time.perf_counter() - began,
            "draw_s": artist.seconds,
            "pids": {"drive": os.getpid()},
            "host": host_facts(),
            "events": events,
        },
    )


def host_facts() -> dict[str, Any]:
    """What the drive ran on, for the report: architecture, cores, Python; no names."""
    return {
        "machine": platform.machine(),
        "system": platform.system(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "python": platform.python_version(),
    }


def _ask(
    planner: Planner,
    builder: ObservationBuilder,
    now_ns: int,
    command: Command,
    transform: Callable[[Observation], Observation] | None,
    events: list[dict[str, Any]],
    disturb: Callable[[Observation], Observation] | None,
    checked: bool,
) -> Plan | None:
    """The planner's plan, or None with an event when it raises or its observation is unfit."""
    observation = builder.build(now_ns, command)
    expected = Expected(tuple(observation.cameras), builder.frames_per_camera)
    if disturb is not None:
        observation = disturb(observation)
    try:
        if checked:
            require_fit(observation, expected)
        if transform is not None:
            observation = transform(observation)
        return planner.plan(observation)
    except Exception as error:  # whatever a planner dies of, the drive goes on under the ladder, and the log says so
        events.append({"stamp_ns": now_ns, "kind": "planner_error", "text": f"{type(error).__name__}: {error}"})
        return None


class _Artist:
    """Draws the ticks that are looked at, and times it."""

    def __init__(self, world: World | None, handover_ns: int, keep: bool) -> None:
        self._world, self._first_ns, self._keep = world, handover_ns - FRAME_GAP_NS, keep
        self._all = keep or not getattr(world, "memoryless", False)
        self.seconds: list[float] = []  # per chunk drawn

    def draw(self, ticks: tuple[OracleFrame, ...]) -> SensorFrames | None:
        if self._world is None:
            return None
        wanted = ticks
        if not self._all:
            wanted = tuple(t for t in ticks if t.stamp_ns >= self._first_ns and t.stamp_ns % CHUNK_NS == 0)
        if not wanted:
            return None
        began = time.perf_counter()
        frames = self._world.step(wanted)
        self.seconds.append(round(time.perf_counter() - began, 4))
        return frames
