"""Can an imagined world's scores be trusted?  Rank correlation of driving scores between it and the reference world.

The same planners drive the same scenarios in both worlds.  If the imagined one is of use, it ranks planners as the
reference does, and scenarios by how hard they are.  Planners that do not look at pictures score alike in both by
construction; they are shown apart and never counted.  Intervals are bootstraps over scenarios.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np

from efficientgen.eval.degrade import DEGRADED
from efficientgen.eval.metrics import Metrics, resampling
from efficientgen.eval.sweep import Job
from efficientgen.planning.load import BASELINES
from efficientgen.worldsim.worlds import NANO, REFERENCE

RESAMPLES = 2000
CONTROLS = ("grey",)  # images that hold nothing to look at


@dataclass(frozen=True)
class Entrant:
    """A planner and what is done to its pictures; `sees` says whether they reach it."""

    planner: str
    checkpoint: str = ""
    images: str = "own"
    use_history: bool = True

    @property
    def name(self) -> str:
        parts = [self.planner, *([self.checkpoint] if self.checkpoint else [])]
        parts += [] if self.images == "own" else [self.images]
        return " ".join([*parts, *([] if self.use_history else ["no-history"])])

    @property
    def sees(self) -> bool:
        return self.planner not in BASELINES and self.images not in CONTROLS


def entrants_of(planners: Sequence[tuple[str, str]]) -> tuple[Entrant, ...]:
    """Of each (planner, checkpoint): as it is, without history, and with its pictures made worse; then the controls."""
    out = []
    for name, checkpoint in planners:
        plain = Entrant(name, checkpoint)
        out += [plain, replace(plain, use_history=False), *(replace(plain, images=images) for images in DEGRADED)]
        out.append(replace(plain, images="grey"))
    return tuple(out)


def jobs_for(entrants: Sequence[Entrant], scenarios: Sequence[str], seeds: Sequence[int]) -> list[Job]:
    """Every entrant on every scenario in both worlds, the scenarios outermost, so that an early end is a fair one."""
    return [
        Job(scenario=scenario, seed=seed, planner=e.planner, checkpoint=e.checkpoint, images=e.images,
            use_history=e.use_history, world=world)
        for scenario in scenarios for seed in seeds for e in entrants for world in (REFERENCE, NANO)
    ]  # fmt: skip


def trust(
    entrants: Sequence[Entrant], scenarios: Sequence[str], found: Sequence[tuple[Job, Metrics]]
) -> dict[str, Any]:
    """The study's result.

    Args:
        found: what was driven; scenarios that an entrant has not finished in both worlds are left out for all.
    """
    table: dict[tuple[str, str, str], list[float]] = {}
    for job, metrics in found:
        who = Entrant(job.planner, job.checkpoint, job.images, job.use_history).name
        table.setdefault((job.world, who, job.scenario), []).append(float(metrics.driving_score))
    whole = [s for s in scenarios if all((w, e.name, s) in table for w in (REFERENCE, NANO) for e in entrants)]
    scores = {world: np.array([[np.mean(table[world, e.name, s]) for s in whole] for e in entrants])
              for world in (REFERENCE, NANO)}  # fmt: skip
    looking = [k for k, e in enumerate(entrants) if e.sees]
    rows = [{"planner": e.name, "sees": e.sees,
             **{world: round(float(scores[world][k].mean()), 2) if whole else None for world in scores}}
            for k, e in enumerate(entrants)]  # fmt: skip
    out: dict[str, Any] = {
        "scenarios": whole,
        "entrants": [asdict(e) | {"name": e.name} for e in entrants],
        "rows": rows,
    }
    if len(whole) < 3 or len(looking) < 3:
        return out | {"left out": "a rank correlation needs three planners that look and three scenarios"}
    a, b = scores[REFERENCE][looking], scores[NANO][looking]
    means = a.mean(1)
    out["reference_spread"] = round(float(means.max() - means.min()), 1)
    out["over_planners"] = _interval(lambda pick: _spearman(a[:, pick].mean(1), b[:, pick].mean(1)), len(whole))
    out["over_scenarios"] = _interval(lambda pick: _spearman(a[:, pick].mean(0), b[:, pick].mean(0)), len(whole))
    out["over_scenarios_by_planner"] = {
        entrants[k].name: round(_spearman(scores[REFERENCE][k], scores[NANO][k]), 3) for k in looking
    }
    out["over_drives"] = _interval(lambda pick: _spearman(a[:, pick].ravel(), b[:, pick].ravel()), len(whole))
    out["mean_difference"] = round(float((b - a).mean()), 2)
    out["scores"] = {world: scores[world].round(1).tolist() for world in scores}
    return out


def _interval(of: Any, scenarios: int) -> dict[str, float]:
    """Spearman's rank correlation with its 95 % bootstrap interval over scenarios."""
    value = of(np.arange(scenarios))
    drawn = [of(pick) for pick in resampling(scenarios, "world-trust", RESAMPLES, 0)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return {"spearman": round(value, 3), "low": round(float(low), 3), "high": round(float(high), 3)}


def _spearman(a: np.ndarray, b: np.ndarray) -> float:
    """With mean ranks for ties; NaN where either is constant."""
    x, y = _ranks(a), _ranks(b)
    x, y = x - x.mean(), y - y.mean()
    norm = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / norm if norm else float("nan")


def _ranks(values: np.ndarray) -> np.ndarray:
    _, where, counts = np.unique(values, return_inverse=True, return_counts=True)
    ends = np.cumsum(counts)
    return ((ends - counts + ends - 1) / 2.0)[where]
