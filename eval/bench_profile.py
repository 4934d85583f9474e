"""How many drafted tokens a verifier keeps, as a profile: what random weights are timed with.

A 3B-shaped model with random weights takes as long per forward as a trained one and accepts nothing.  So that a plan's
time can be measured end to end all the same, every draft and every verification is really run, and only the number of
tokens that the cycle keeps is drawn from a profile: the chance that the n-th drafted value is kept, given those before.

    published  the one rate for all n at which scaffold speculation takes as many cycles over this answer as Fast-dDrive
               reports (82 forwards, 41 cycles, blocks of 32; 2605.23163); only for blocks of 32
    measured   per-position rates of a trained model's own drafts (`bench_planner.acceptance`), at any block size;
               behind the last measured position its rate stands
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from efficientgen.planning.decode import Form

PUBLISHED_CYCLES = 41
TRIALS = 40


@dataclass(frozen=True)
class Profile:
    """`rates[n - 1]`: chance that the n-th drafted value of a block is kept, given that those before it were."""

    name: str
    rates: tuple[float, ...]

    def rate(self, n: int) -> float:
        """Of the n-th drafted value, from 1."""
        return self.rates[min(n, len(self.rates)) - 1] if self.rates else 0.0


class Draws:
    """Stands in for `agreed`: keeps of each block what the profile draws, in the order of the verifications.

    Keyed by (seed, plan); scaffold is always kept, as in the decoders.
    """

    def __init__(self, form: Form, profile: Profile, seed: int = 0):
        self.form, self.profile, self.seed, self.plans = form, profile, seed, 0
        self.begin()

    def begin(self) -> None:
        """A new plan."""
        self.rng = np.random.default_rng([self.seed, self.plans])
        self.plans += 1

    def __call__(self, block: list[int], verified: list[int], position: int) -> int:
        return self.kept(position, len(block))

    def kept(self, position: int, length: int) -> int:
        """Tokens kept of the block of `length` from `position`: all up to the first value that is not."""
        n = 0
        for j in range(1, length):
            if self.form.scaffold[position + j] < 0:
                n += 1
                if self.rng.random() >= self.profile.rate(n):
                    return j
        return length


def cycles(form: Form, profile: Profile, trials: int = TRIALS) -> float:
    """Mean draft-and-verify cycles of scaffold speculation over the whole form."""
    draws, total = Draws(form, profile), 0
    for _ in range(trials):
        draws.begin()
        i = 0
        while i < len(form):
            i += draws.kept(i, form.reach(i) - i)
            total += 1
    return total / trials


def published(form: Form) -> Profile:
    """The published number of cycles as one rate, by bisection."""
    low, high = 0.0, 1.0
    for _ in range(14):
        middle = (low + high) / 2
        low, high = (middle, high) if cycles(form, Profile("", (middle,))) > PUBLISHED_CYCLES else (low, middle)
    return Profile(f"published ({PUBLISHED_CYCLES} cycles at block 32)", (round((low + high) / 2, 4),))


def measured(name: str, rates: Sequence[float], reached: Sequence[int], least: int = 20) -> Profile:
    """Rates of positions that were looked at `least` times; what is rarer says little."""
    return Profile(name, tuple(rate for rate, n in zip(rates, reached, strict=True) if n >= least))
