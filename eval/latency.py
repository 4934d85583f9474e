"""Latency as a variable: how long a planner takes for a plan, as a number that a drive is told, not as wall time.

In latency mode the plan to the observation at t takes effect at t + L, L rounded up to the vehicle's 0.01 s.  The
planner is busy until then and takes no second observation: the next one is that of the first plan stamp at which it is
free, the newest there is; nothing is queued.  So L = 0.3 s plans every 0.4 s, and L = 1.0 s every 1.2 s.  A drive at
L = 0 is the sync drive, bit for bit.  `Desk` is that rule; `resolve` says where L comes from.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from efficientgen import share
from efficientgen.perception.types import NS, Plan
from efficientgen.worldsim.vehicle import SUBSTEP_NS

MEASURED = "measured"
MEASURED_PLANS = 8  # plans whose median is the measured latency, after one that warms up
PROFILES = "launch/config/latency.yaml"


class LatencyError(ValueError):
    """A latency that is no number, no "measured" and no profile's name, or a profile file that cannot be read."""


@dataclass(frozen=True)
class Latency:
    """How long every plan of a drive takes, and who says so."""

    seconds: float
    name: str = "constant"  # "constant" | "measured" | a profile's name
    source: str = ""  # of a profile: where the figure was published; measured: on how many plans

    def __post_init__(self) -> None:
        if not (math.isfinite(self.seconds) and 0.0 <= self.seconds <= 60.0):
            raise LatencyError(f"a plan latency of {self.seconds} s; give seconds within 0 and 60")

    @property
    def delay_ns(self) -> int:
        """L in ns, rounded up to the sub-step."""
        steps = math.ceil(round(self.seconds * NS) / SUBSTEP_NS)
        return steps * SUBSTEP_NS


def latency_profiles(path: Path | None = None) -> dict[str, Latency]:
    """Named plan latencies from `launch/config/latency.yaml` (or `path`): name -> {plan_latency_s, source}.

    Raises:
        LatencyError: the file does not hold that.
    """
    path = path or share(PROFILES)
    try:
        held: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        return {
            str(name): Latency(float(entry["plan_latency_s"]), str(name), str(entry["source"]))
            for name, entry in held.items()
        }
    except (OSError, yaml.YAMLError, AttributeError, KeyError, TypeError, ValueError) as error:
        raise LatencyError(
            f"{path} is no latency profile ({type(error).__name__}: {error}); "
            "each entry is NAME: {plan_latency_s: 0.3, source: where the figure comes from}"
        ) from error


def resolve(text: str, measure: Callable[[], Latency] | None = None) -> Latency:
    """The latency that a user named: seconds ("0.3"), "measured" (calls `measure`), or a profile.

    Raises:
        LatencyError: none of these, or "measured" where there is nothing to measure.
    """
    try:
        return Latency(float(text))
    except LatencyError:
        raise
    except ValueError:
        pass
    if text == MEASURED:
        if measure is None:
            raise LatencyError("there is no planner to measure here; give seconds or a profile")
        return measure()
    profiles = latency_profiles()
    if text not in profiles:
        raise LatencyError(f"no latency {text!r}; give seconds, '{MEASURED}', or one of {', '.join(profiles)}")
    return profiles[text]


def median_latency(walls: Sequence[float]) -> Latency:
    """The measured latency: the median of the wall seconds of some plans.

    Raises:
        LatencyError: no plans.
    """
    if not walls:
        raise LatencyError("the planner made no plan that could be timed; give seconds or a profile instead")
    ordered = sorted(walls)
    n = len(ordered)
    median = 0.5 * (ordered[(n - 1) // 2] + ordered[n // 2])
    return Latency(round(median, 4), MEASURED, f"median of the wall time of {n} plans on this machine")


class Desk:
    """What lies on a slow planner's desk: at most the one observation that it works on."""

    def __init__(self, delay_ns: int) -> None:
        self._delay_ns = delay_ns
        self._coming: deque[tuple[int, Plan | None]] = deque()  # (when it takes effect, plan), oldest first

    def free(self, now_ns: int) -> bool:
        """Whether the planner may be given the observation at `now_ns`."""
        return all(due <= now_ns for due, _ in self._coming)

    def put(self, stamp_ns: int, plan: Plan | None) -> None:
        """The answer to the observation at `stamp_ns` (None: it raised) will be out after the delay."""
        self._coming.append((stamp_ns + self._delay_ns, plan))

    def take(self, before_ns: int) -> tuple[int, Plan | None] | None:
        """The oldest answer that is out before `before_ns`, as (when, plan); None when none is."""
        return self._coming.popleft() if self._coming and self._coming[0][0] < before_ns else None
