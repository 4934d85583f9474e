"""The closed loop in process: observe, plan, judge, follow, advance the traffic, draw; once per 0.4 s.

`drive` composes exactly the functions that the ROS 2 nodes call (docs/architecture.md, "One closed-loop step"), so one
scenario and seed give bit-identical ego poses both ways.  Time belongs to this loop.  In sync mode a slow planner costs
wall time, never driving time; in latency mode (`latency.py`) every plan takes effect a given time after its stamp, as
deterministically.  A planner that raises counts as one that said nothing; the safety ladder does the rest.
"""

from __future__ import annotations

import os
import platform
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, Protocol

from efficientgen.eval.latency import MEASURED_PLANS, Desk, Latency, LatencyError, median_latency
from efficientgen.eval.referee import Referee
from efficientgen.eval.step_log import Step, StepLog, scored_steps
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
    Trajectory,
    VehicleParams,
    Verdict,
)
from efficientgen.planning.expert import expert_plan
from efficientgen.planning.safety import SafetyParams, SafetyState, judge
from efficientgen.planning.tracker import TrackerParams, track
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.vehicle import SUBSTEP_NS, advance

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
    return _roll(verdict.trajectory, ego, chunk_ns, params or VehicleParams())[1]


def _roll(
    trajectory: Trajectory, ego: EgoState, span_ns: int, params: VehicleParams
) -> tuple[EgoState, tuple[EgoState, ...]]:
    """Track `trajectory` for `span_ns`, a multiple of the sub-step: the last state, and those at ticks."""
    gains = TrackerParams(vehicle=params)
    states = []
    for _ in range(span_ns // SUBSTEP_NS):
        acceleration, steering = track(trajectory, ego, gains)
        ego = advance(ego, acceleration, steering, SUBSTEP_NS, params)
        if ego.stamp_ns % TICK_NS == 0:
            states.append(ego)
    return ego, tuple(states)


@dataclass(frozen=True)
class _Period:
    """How the car got through one plan period."""

    verdict: Verdict
    states: tuple[EgoState, ...]  # at the ticks
    effective_ns: int
    bridge: Trajectory | None


def _live(
    state: SafetyState,
    arrival: tuple[int, Plan | None] | None,
    ego: EgoState,
    safety: SafetyParams,
    vehicle: VehicleParams,
    expert: bool,
) -> tuple[SafetyState, _Period]:
    """One plan period from `ego` on: judge what arrives in it, when it arrives, and follow.

    Args:
        arrival: (when, plan) within the period; None: nothing is due, the ladder holds the last plan.
    """
    now_ns = ego.stamp_ns
    when_ns, plan = arrival or (now_ns, None)
    bridge: Trajectory | None = None
    before: tuple[EgoState, ...] = ()
    if when_ns > now_ns:  # the ladder's answer to "no plan yet"
        state, meanwhile = judge(state, None, ego, now_ns, safety)
        bridge = meanwhile.trajectory
        ego, before = _roll(bridge, ego, when_ns - now_ns, vehicle)
    state, verdict = judge(state, plan, ego, when_ns, safety, expert=expert)
    verdict = replace(verdict, stamp_ns=now_ns, reason=verdict.reason if arrival else "the planner is busy")
    _, after = _roll(verdict.trajectory, ego, now_ns + CHUNK_NS - when_ns, vehicle)
    return state, _Period(verdict, (*before, *after), when_ns - now_ns, bridge)


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
    mode: Literal["sync", "latency"] = "sync",
    latency: Latency | float = 0.0,
    recorded: Sequence[Step] = (),
) -> StepLog:
    """Drive one scenario and return everything that happened.

    Args:
        planner: "expert" drives the whole way on the oracle and needs no world.
        world: draws the cameras; None for planners that look at no pixels.
        keep_frames: draw every tick and keep the pictures in the log (for the report).
        oracle: an `Oracle` for this scenario and seed to use instead of a new one; the caller closes it.
        on_step: called after each step (progress bars).
        transform_observation: what the planner sees instead of its observation (honesty checks such as swapped images).
        mode: "latency": every plan after the hand-over takes effect `latency` (s) after its stamp, the expert's too.
        disturb: what broken sensors make of the observation (fault injection), before it is found fit to plan on.
        recorded: the first steps of an earlier drive of this scenario and seed, to go on from (`rerun.py`): in them
            nobody is asked, their plans are judged again, and the car moves as it did.

    Raises:
        WorldNeededError: the planner needs frames and `world` is None.
        LatencyError: a latency that is negative or absurd, or one above 0 in sync mode.
    """
    latency = latency if isinstance(latency, Latency) else Latency(latency)
    if mode == "sync" and latency.delay_ns:
        raise LatencyError(f"in sync mode a plan takes no time, {latency.seconds} s were given: use mode='latency'")
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
        first_ask_ns = max(handover_ns, len(recorded) * CHUNK_NS)
        first_look_ns = first_ask_ns - max(look - 1, 0) * FRAME_GAP_NS
        artist = _Artist(world if look or keep_frames else None, first_look_ns, keep_frames)
        frame, state, s = start, SafetyState(), locate(route, start.ego.x, start.ego.y)[0]
        desk = Desk(latency.delay_ns)
        steps: list[Step] = []
        events: list[dict[str, Any]] = []
        end_reason = ""
        while not end_reason:
            now_ns, ego = frame.stamp_ns, frame.ego
            s = locate(route, ego.x, ego.y, s)[0]
            command = command_at(route, s)
            handed_over = now_ns >= handover_ns
            asked = not handed_over or desk.free(now_ns)
            began_plan = time.perf_counter()
            known = recorded[len(steps)] if len(steps) < len(recorded) else None
            plan: Plan | None
            if known is not None:
                plan = known.plan
            elif not asked:
                plan = None
            elif isinstance(planner, str) or not handed_over:
                plan = expert_plan(route, frame)
            else:
                plan = _ask(planner, builder, now_ns, command, transform_observation, events, disturb, safety.enabled)
            wall = time.perf_counter() - began_plan if asked else 0.0
            wall = wall if known is None else known.plan_wall_s
            arrival: tuple[int, Plan | None] | None = (now_ns, plan)
            if handed_over:
                if asked:
                    desk.put(now_ns, plan)
                arrival = desk.take(now_ns + CHUNK_NS)
            state, period = _live(state, arrival, ego, safety, vehicle, expert=not handed_over)
            states, verdict = period.states, period.verdict
            if known is not None:
                states, verdict = tuple(tick.ego for tick in known.ticks), known.verdict
            ticks = oracle.step(states)
            for ego in states:
                builder.add_state(ego)
            sensor_frames = artist.draw(ticks)
            if sensor_frames is not None:
                builder.add_frames(sensor_frames)
            step = Step(
                stamp_ns=now_ns,
                command=command,
                ego=frame.ego,
                plan=plan,
                verdict=verdict,
                ticks=ticks,
                plan_wall_s=wall,
                frames=sensor_frames if keep_frames else None,
                asked=asked,
                due=arrival is not None,
                effective_ns=period.effective_ns,
                bridge=period.bridge,
            )
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
        mode=mode,
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
            **({"latency": asdict(latency) | {"delay_s": latency.delay_ns / NS}} if mode == "latency" else {}),
        },
    )


def measure_latency(
    planner: Planner, scenario: Scenario, seed: int = 0, world: World | None = None, *, oracle: Any = None
) -> Latency:
    """How long `planner` takes on this machine: the median over its first plans of a drive, the very first left out.

    To be measured once and then kept for all drives, so that they stay comparable and can be repeated.

    Raises:
        LatencyError: it made no plan.
    """
    seconds = handover_stamp(scenario) / NS + (MEASURED_PLANS + 1) * CHUNK_NS / NS
    log = drive(replace(scenario, duration_s=min(seconds, scenario.duration_s)), seed, planner, world, oracle=oracle)
    return median_latency([step.plan_wall_s for step in scored_steps(log)[1:] if step.plan is not None])


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

    def __init__(self, world: World | None, first_ns: int, keep: bool) -> None:
        self._world, self._first_ns, self._keep = world, first_ns, keep
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
