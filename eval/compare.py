"""Many drives side by side: groups of scenarios, and two planners on the same scenarios and seeds.

Intervals are 95 % bootstraps over scenarios (`metrics.aggregate`): seeds of one scenario are not independent.  Planners
are compared in pairs, scenario by scenario, so that hard scenarios weigh on both alike.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from efficientgen.eval.answers import Confusion, pooled
from efficientgen.eval.metrics import Estimate, Metrics, aggregate, estimate, resampling
from efficientgen.planning.schema import CRITICAL_OBJECTS


class NothingInCommonError(ValueError):
    """Two sets of drives share no (scenario, seed) with the metric to compare."""


@dataclass(frozen=True)
class Comparison:
    """Planner `a` against `b` in one metric, over the drives that both made."""

    metric: str
    a: Estimate
    b: Estimate
    difference: Estimate  # a - b
    ratio: Estimate | None  # a / b; None where b's mean, or that of a resample, is 0

    @property
    def apart(self) -> bool:
        """Whether the two planners' own intervals do not overlap."""
        return self.a.low > self.b.high or self.b.low > self.a.high


def compare(
    a: Iterable[Metrics], b: Iterable[Metrics], metric: str = "driving_score", resamples: int = 1000, seed: int = 0
) -> Comparison:
    """Ratio and difference of two planners' means over the (scenario, seed) pairs that both drove.

    Means weigh scenarios equally; each bootstrap resample draws the same scenarios for both.

    Raises:
        NothingInCommonError: there is no such pair.
    """
    one, two = _values(a, metric), _values(b, metric)
    common = sorted(one.keys() & two.keys())
    if not common:
        raise NothingInCommonError(f"no scenario and seed has {metric!r} in both: drive both planners on the same ones")
    names = sorted({scenario for scenario, _ in common})
    means = np.array(
        [
            [np.mean([held[key] for key in common if key[0] == name]) for name in names]  # (S,)
            for held in (one, two)
        ]
    )
    picks = resampling(len(names), metric, resamples, seed)
    mean_a, mean_b = means.mean(1).tolist()
    drawn_a, drawn_b = means[0][picks].mean(1), means[1][picks].mean(1)
    n = len(common)
    positive = mean_b > 0 and bool((drawn_b > 0).all())
    return Comparison(
        metric=metric,
        a=estimate(mean_a, drawn_a, n),
        b=estimate(mean_b, drawn_b, n),
        difference=estimate(mean_a - mean_b, drawn_a - drawn_b, n),
        ratio=estimate(mean_a / mean_b, drawn_a / drawn_b, n) if positive else None,
    )


def aggregate_by(drives: Iterable[Metrics], key: Callable[[Metrics], str]) -> dict[str, dict[str, Estimate]]:
    """`aggregate` of each group of drives, groups in the order of their names (family, town, split, ...)."""
    groups: dict[str, list[Metrics]] = {}
    for drive in drives:
        groups.setdefault(key(drive), []).append(drive)
    return {name: aggregate(groups[name]) for name in sorted(groups)}


def with_expert(drives: Sequence[Metrics], experts: Iterable[Metrics]) -> list[Metrics]:
    """`drives` with `progress_rel`, the progress as a share of the expert's with the same scenario and seed (AlpaSim
    progress_rel, with the expert as the reference driver); unchanged where there is none or it did not move.
    """
    reference = {(m.scenario, m.seed): m.progress_m for m in experts if m.progress_m > 1.0}
    return [
        replace(m, progress_rel=m.progress_m / reference[m.scenario, m.seed])
        if (m.scenario, m.seed) in reference
        else m
        for m in drives
    ]


def moves_off_rate(drives: Iterable[Metrics]) -> tuple[int, int]:
    """(prompt, all): how often planners moved off within 4 s of green, pooled over drives (they are few per drive)."""
    held = [m for m in drives if m.moves_off]
    return round(sum((m.moves_off_prompt or 0.0) * m.moves_off for m in held)), sum(m.moves_off for m in held)


def balanced_accuracy(drives: Iterable[Metrics], resamples: int = 1000, seed: int = 0) -> dict[str, Estimate]:
    """Balanced accuracy of the answers on each critical object, over the pooled plan stamps of all drives.

    Intervals resample whole scenarios.  Classes that the truth hardly ever, or nearly always, shows are left out.
    """
    by: dict[str, dict[str, Confusion]] = {}
    for drive in drives:
        held = by.setdefault(drive.scenario, {})
        for name, counts in drive.answers.items():
            held[name] = held.get(name, Confusion()) + Confusion(*counts)
    scenarios = sorted(by)
    out: dict[str, Estimate] = {}
    for name in CRITICAL_OBJECTS:
        each = [by[scenario].get(name, Confusion()) for scenario in scenarios]
        total = pooled(each)
        if not total.scored:
            continue
        picks = resampling(len(scenarios), name, resamples, seed)
        drawn = np.array([pooled(each[i] for i in pick).balanced_accuracy for pick in picks])
        out[name] = estimate(total.balanced_accuracy, drawn[~np.isnan(drawn)], total.asked)
    return out


def _values(drives: Iterable[Metrics], metric: str) -> dict[tuple[str, int], float]:
    out = {}
    for drive in drives:
        value = getattr(drive, metric)
        if value is not None:
            out[drive.scenario, drive.seed] = float(value)
    return out
