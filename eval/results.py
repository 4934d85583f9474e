"""From a sweep's metrics to a result that can be committed, read and compared: means, groups, ratios, and its origin.

Pure data in, JSON-like data out; the command line prints it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from efficientgen.eval.compare import (
    Comparison,
    NothingInCommonError,
    aggregate_by,
    balanced_accuracy,
    compare,
    moves_off_rate,
    with_expert,
)
from efficientgen.eval.metrics import Estimate, Metrics, aggregate
from efficientgen.planning.load import BASELINES, EXPERT
from efficientgen.worldsim.scenario import Scenario

HEADLINES = (
    "driving_score",
    "hd_score",
    "success",
    "route_completion",
    "collision",
    "collision_at_fault",
    "off_road",
    "wrong_lane",
    "red_lights",
    "comfort",
    "progress_m",
    "progress_rel",
    "plan_deviation",
    "min_distance",
    "fallback_share",
    "held_share",
    "moves_off_prompt",
    "carla_driving_score",
    "carla_success",
    "pdms",
    "epdms",
    "nuplan_score",
    "event_incident_at_fault",
)
GROUPED = ("driving_score", "hd_score", "success", "route_completion", "collision_at_fault", "progress_rel")
COMPARED = ("driving_score", "hd_score")


def summarise(drives: Mapping[str, Sequence[Metrics]], scenarios: Mapping[str, Scenario]) -> dict[str, Any]:
    """What a result says about its drives.

    Args:
        drives: per planner, in the order to print; those of the expert fill in everyone's `progress_rel`.
        scenarios: by name, those that were driven.

    Returns:
        "planners": planner -> metric -> estimate; "families", "splits", "towns": planner -> group -> metric ->
        estimate; "comparisons": planner (baselines only where there is nobody else) -> baseline -> metric ->
        comparison, over the scenarios and seeds that both drove; "moves_off": planner -> {"prompt", "all"}; "answers":
        planner -> critical object -> balanced accuracy; "drives": every drive's metrics.
    """
    held = {who: with_expert(mine, drives.get(EXPERT, ())) for who, mine in drives.items()}
    return {
        "planners": {who: _plain(aggregate(mine)) for who, mine in held.items()},
        "families": _grouped(held, lambda m: scenarios[m.scenario].family),
        "splits": _grouped(held, lambda m: scenarios[m.scenario].split),
        "towns": _grouped(held, lambda m: m.town),
        "comparisons": {
            who: {b: _compared(held[who], held[b]) for b in BASELINES if b in held and b != who}
            for who in ([who for who in held if who not in BASELINES] or held)
        },
        "moves_off": {
            who: dict(zip(("prompt", "all"), moves_off_rate(mine), strict=True)) for who, mine in held.items()
        },
        "answers": {who: _plain(balanced_accuracy(mine)) for who, mine in held.items()},
        "chunk_s": sorted({m.chunk_s for mine in held.values() for m in mine}),
        "drives": [asdict(m) for mine in held.values() for m in mine],
    }


def write_json(result: Mapping[str, Any], path: Path) -> None:
    """Write a result, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(f".{path.name}.new")
    draft.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    draft.rename(path)


def _plain(estimates: Mapping[str, Estimate]) -> dict[str, Any]:
    return {metric: asdict(estimate) for metric, estimate in estimates.items()}


def _grouped(held: Mapping[str, Sequence[Metrics]], key: Callable[[Metrics], str]) -> dict[str, Any]:
    return {
        who: {
            group: _plain({metric: e for metric, e in estimates.items() if metric in GROUPED})
            for group, estimates in aggregate_by(mine, key).items()
        }
        for who, mine in held.items()
    }


def _compared(a: Sequence[Metrics], b: Sequence[Metrics]) -> dict[str, Any]:
    out = {}
    for metric in COMPARED:
        try:
            got: Comparison = compare(a, b, metric)
        except NothingInCommonError:  # say, no plan was asked for in either's drives
            continue
        out[metric] = asdict(got) | {"apart": got.apart}
    return out
