"""Scripted road users as data: a lead with a speed profile, and a vehicle that cuts into the ego's lane.

They make the situations that traffic alone would bring once an hour.  Each varies with the seed of a drive (keyed, not
streamed), so that five seeds are five situations; the oracle carries them out in SUMO, where they still mind lights and
the traffic ahead of them.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from efficientgen.perception.types import ActorKind

SIDES = ("left", "right")


@dataclass(frozen=True)
class SpeedChange:
    """From `at_s` after the drive's start on, drive at most at `speed` m/s."""

    at_s: float
    speed: float


@dataclass(frozen=True)
class Lead:
    """A slower vehicle `gap` m ahead of the ego's front when the drive starts; it takes the ego's route.

    Without a `profile` it keeps to `speed`; with one it changes its speed as the profile says, braking at up to
    `braking` m/s^2.
    """

    gap: float
    speed: float
    kind: ActorKind = ActorKind.CAR
    profile: tuple[SpeedChange, ...] = ()
    braking: float = 4.0

    def __post_init__(self) -> None:
        times = [change.at_s for change in self.profile]
        if times != sorted(times) or any(change.speed < 0 for change in self.profile):
            raise ValueError("a lead's profile needs increasing at_s and speeds of 0 or more")
        if not 0.5 <= self.braking <= 8:
            raise ValueError("a lead's braking must be within 0.5 and 8 m/s^2")

    @property
    def top_speed(self) -> float:
        """The fastest it ever goes, m/s."""
        return max([self.speed, *(change.speed for change in self.profile)])

    def wanted(self, time_s: float) -> float:
        """The speed it aims at `time_s` after the start, m/s."""
        return next((change.speed for change in reversed(self.profile) if change.at_s <= time_s), self.speed)

    def varied(self, rng: random.Random) -> Lead:
        """The same play, a little earlier or later, faster or slower; a lead without a profile stays as it is."""
        if not self.profile:
            return self
        late, pace = rng.uniform(-1.0, 1.0), rng.uniform(0.92, 1.08)
        profile = tuple(SpeedChange(c.at_s + late + rng.uniform(-0.4, 0.4), pace * c.speed) for c in self.profile)
        return replace(
            self,
            gap=self.gap * rng.uniform(0.85, 1.2),
            speed=self.speed * pace,
            profile=tuple(sorted(profile, key=lambda c: c.at_s)),
            braking=self.braking * rng.uniform(0.85, 1.1),
        )


@dataclass(frozen=True)
class CutIn:
    """A vehicle in the lane beside the ego's that moves over into it.

    It keeps `ahead` m before the ego (its rear to the ego's front) until the ego has driven `at_m` m of its route, then
    changes lane and goes on at `speed` m/s on the ego's route.
    """

    at_m: float
    ahead: float
    speed: float
    side: str = "left"  # the lane it comes from
    kind: ActorKind = ActorKind.CAR

    def __post_init__(self) -> None:
        if self.side not in SIDES:
            raise ValueError(f"cut_in side {self.side!r} is not one of {', '.join(SIDES)}")
        if not (self.ahead >= 2 and self.speed > 0 and self.at_m >= 0):
            raise ValueError("a cut_in needs ahead of at least 2 m, a speed above 0 and at_m of 0 or more")

    @property
    def sideways(self) -> float:
        """+1 from the left, -1 from the right."""
        return 1.0 if self.side == "left" else -1.0

    def keeping(self, gap: float, ego_speed: float) -> float:
        """The speed, m/s, that brings the gap to the ego to `ahead` and holds it there."""
        return max(0.0, ego_speed + 0.6 * (self.ahead - gap))

    def varied(self, rng: random.Random) -> CutIn:
        """The same play with another place, gap and speed."""
        return replace(
            self,
            at_m=self.at_m + rng.uniform(-6.0, 6.0),
            ahead=self.ahead * rng.uniform(0.8, 1.25),
            speed=self.speed * rng.uniform(0.88, 1.12),
        )


def lead_from(data: Mapping[str, Any]) -> Lead:
    """A `Lead` from plain data.

    Raises:
        TypeError, ValueError: unknown or missing keys, wrong values.
    """
    profile = tuple(SpeedChange(**{k: float(v) for k, v in change.items()}) for change in data.get("profile", ()))
    return Lead(**{**data, "kind": ActorKind(data.get("kind", "car")), "profile": profile})


def cut_in_from(data: Mapping[str, Any]) -> CutIn:
    """A `CutIn` from plain data.

    Raises:
        TypeError, ValueError: unknown or missing keys, wrong values.
    """
    return CutIn(**{**data, "kind": ActorKind(data.get("kind", "car"))})
