"""The recordings behind `log-replay`: the expert's drive of the same scenario under another traffic seed."""

from __future__ import annotations

from typing import Any

from efficientgen.eval.runner import drive
from efficientgen.eval.step_log import all_ticks
from efficientgen.perception.types import EgoState
from efficientgen.planning.log_replay import LogReplay
from efficientgen.worldsim.scenario import Scenario

OTHER_SEED = 1000  # added to a drive's seed for the recording


def record_expert(scenario: Scenario, seed: int, oracle: Any = None) -> tuple[EgoState, ...]:
    """The ego's states, one a tick from stamp 0, while the expert drives `scenario` with `seed` (and with `oracle`, if
    given, in place of a new one).
    """
    return tuple(tick.ego for tick in all_ticks(drive(scenario, seed, "expert", oracle=oracle)))


def log_replay(scenario: Scenario, seed: int) -> LogReplay:
    """The log-replay planner for a drive of `scenario` with `seed`: it replays the expert's with `seed + 1000`."""
    return LogReplay(record_expert(scenario, seed + OTHER_SEED))
