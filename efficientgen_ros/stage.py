"""What the world node plays on: the oracle, the renderer, the referee and the place on the route.  No ROS in here."""

from __future__ import annotations

from time import monotonic, perf_counter, sleep
from typing import Any

from efficientgen.eval.referee import Referee
from efficientgen.eval.runner import FRAME_GAP_NS, handover_stamp
from efficientgen.perception.rig import Camera
from efficientgen.perception.route import command_at, locate
from efficientgen.perception.types import (
    CHUNK_NS,
    NS,
    TICK_NS,
    Command,
    EgoState,
    OracleFrame,
    Plan,
    SensorFrames,
    Source,
)
from efficientgen.planning.expert import expert_plan
from efficientgen.worldsim.oracle import Oracle
from efficientgen.worldsim.scenario import Scenario
from efficientgen.worldsim.worlds import load_world

LOOK_BACK_NS = 2 * FRAME_GAP_NS  # drawn before the hand-over: no planner looks at more than three frames


class Stage:
    """One drive's truth and pictures.

    Args:
        renderer: a world's name, or "none" for a drive without pictures.
        directory, device, refine: of an imagined world, as `load_world` takes them.
        every_tick: draw all ticks; otherwise only those that a planner looks at, where the world allows it.
    """

    def __init__(
        self, scenario: Scenario, seed: int, renderer: str, every_tick: bool, directory: str = "", device: str = "",
        refine: bool = False,
    ) -> None:  # fmt: skip
        self.oracle = Oracle(scenario, seed)
        self.frame = self.oracle.reset()
        self.route = self.oracle.route
        self.world: Any = None if renderer == "none" else load_world(renderer, directory or None, device, refine=refine)
        if self.world is not None:
            self.world.reset(self.frame.town, self.frame.weather, seed)
        self.handover_ns = handover_stamp(scenario)
        self.draw_s: list[float] = []
        self._selective = not every_tick and self.memoryless
        self._referee = Referee(self.route, self.oracle.town, round(scenario.duration_s * NS))
        self._s = locate(self.route, self.frame.ego.x, self.frame.ego.y)[0]

    @property
    def memoryless(self) -> bool:
        """Whether ticks may be drawn one by one, or not at all."""
        return bool(getattr(self.world, "memoryless", False))

    @property
    def rig(self) -> tuple[Camera, ...]:
        """The cameras that are drawn."""
        return () if self.world is None else self.world.rig  # type: ignore[no-any-return]

    def diagnostics(self) -> dict[str, Any]:
        """What an imagined world has cost so far; {} of others."""
        told = getattr(self.world, "diagnostics", None)
        return {} if told is None else told()

    @property
    def renderer(self) -> str:
        return str(getattr(self.world, "renderer", ""))

    def advance(self, states: list[EgoState]) -> tuple[OracleFrame, ...]:
        """Traffic for one chunk of ego states."""
        ticks = self.oracle.step(states)
        self.frame = ticks[-1]
        return ticks

    def draw(self, ticks: tuple[OracleFrame, ...]) -> SensorFrames | None:
        """What the cameras saw; None when nobody looks."""
        if self._selective:
            first = self.handover_ns - LOOK_BACK_NS
            ticks = tuple(t for t in ticks if t.stamp_ns >= first and t.stamp_ns % CHUNK_NS == 0)
        if self.world is None or not ticks:
            return None
        began = perf_counter()
        frames: SensorFrames = self.world.step(ticks)
        self.draw_s.append(round(perf_counter() - began, 4))
        return frames

    def verdict(self, ticks: tuple[OracleFrame, ...], source: Source) -> str:
        """Why the drive is over after these ticks, "" to go on."""
        return self._referee.observe(ticks, source)

    def command(self) -> Command:
        """The route command where the car is now."""
        ego = self.frame.ego
        self._s = locate(self.route, ego.x, ego.y, self._s)[0]
        return command_at(self.route, self._s)

    def expert_plan(self) -> Plan:
        """The privileged plan for now."""
        return expert_plan(self.route, self.frame)

    def close(self) -> None:
        """Free SUMO."""
        self.oracle.close()


class Pace:
    """The wall clock's hold on a real-time drive that starts now; a world that falls behind stretches time, counted."""

    def __init__(self) -> None:
        self.overruns = 0
        self._zero = monotonic()

    def wait_for(self, stamp_ns: int) -> None:
        """Sleep until the wall clock reaches `stamp_ns`."""
        sleep(max(0.0, self._zero + stamp_ns / NS - monotonic()))

    def settle(self, stamp_ns: int) -> None:
        """Note that `stamp_ns` has been reached only now, and go on from here if that was late."""
        late = monotonic() - (self._zero + stamp_ns / NS)
        if late > 0.5 * TICK_NS / NS:
            self.overruns += 1
            self._zero += late
