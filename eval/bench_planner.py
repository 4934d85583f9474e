"""How fast a planner is, term by term: stages, forwards, every decoder, rollouts, and baselines, all in one run.

Contestants take turns on each observation, in an order that rotates, so that a busy minute falls on all of them; no
observation comes twice to the same one.  Ratios are paired: total time over the same observations.  On a CPU they are
ratios of CPU time, because other processes' work would otherwise be counted; wall time stands beside it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from efficientgen.eval.bench_clock import Took, clock_of, copy_bandwidth, machine, spread, timed
from efficientgen.eval.bench_forward import ROWS, bench_forwards, bench_stages
from efficientgen.perception.types import DecodeStats, Observation
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.decode import DECODERS, NOT_AUTOREGRESSIVE, TemplateOnDevice
from efficientgen.planning.schema import decode_answer

AR, JUMP, SPEC = "ar", "ar-jump", "scaffold-spec"
STOCK_CACHED, STOCK_UNCACHED = "stock-ar", "stock-ar-uncached"
TARGETS = {"over_ar": 2.5, "over_ar_jump": 1.8, "plan_s": 0.4}  # of scaffold-spec on a CPU, at nano size
DRAFTING = ("self-spec", "scaffold-spec", "fused-scaffold-spec")  # whose drafts are looked at, position by position
BLOCKS = (4, 8, 16, 32)


class NothingToMeasureError(ValueError):
    """Too few plans, or a decoder that does not exist."""


@dataclass
class Contestant:
    """Someone who makes plans: what it took for each observation (by number), the answers, and the planner's counts."""

    name: str
    plan: Callable[[Observation], tuple[str, DecodeStats | None]]
    plans: int  # how many of the observations it is given
    greedy: bool = True  # its answers can be compared with AR's
    took: dict[int, Took] = field(default_factory=dict)
    texts: dict[int, str] = field(default_factory=dict)
    stats: list[DecodeStats] = field(default_factory=list)


def bench_planner(
    planner: DDrive,
    observations: Sequence[Observation],
    *,
    decoders: Sequence[str] = tuple(DECODERS),
    rollouts: Sequence[int] = (4, 8),
    contexts: Sequence[int] = (),
    rows: Sequence[int] = ROWS,
    repeats: int = 20,
    stock_plans: tuple[int, int] = (4, 2),
    note: str = "",
    on_step: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything that `efficientgen bench planner` reports, but for its origin.

    Args:
        observations: one per plan; the last one warms up and is not counted.
        decoders: measured beside AR, AR with jump-forward and scaffold speculation, which ratios need.
        contexts: of the single forwards; default: the prompt's own length and twice that.
        stock_plans: how many plans stock transformers makes, with and without its cache.

    Raises:
        NothingToMeasureError: fewer than two observations, or an unknown decoder.
    """
    if unknown := [name for name in decoders if name not in DECODERS]:
        raise NothingToMeasureError(f"no decoder '{unknown[0]}'; choose of {', '.join(DECODERS)}")
    if len(observations) < 2:
        raise NothingToMeasureError("at least 2 observations: one warms up; give a larger --plans")
    device = planner.device
    before = machine(device)
    on_step("copy")
    copy = copy_bandwidth(device)
    on_step("vision and prefill")
    stages = bench_stages(planner, observations)
    contexts = contexts or (stages.prompt, 2 * stages.prompt)
    forwards = []
    for row in bench_forwards(planner, contexts, rows, repeats, copy["median_gb_s"]):
        on_step(f"forward of {row['rows']} rows at {row['context']}")
        forwards.append(row)
    names = [name for name in DECODERS if name in decoders or name in (AR, JUMP, SPEC)]
    contestants = [_decoder(planner, name, len(observations)) for name in names]
    contestants += [_rollouts(planner, n, len(observations)) for n in rollouts]
    stock, reason = _stock(planner, stock_plans)
    contestants += stock
    compete(contestants, observations, planner, on_step)
    on_step("acceptance")
    drafting = [name for name in names if name in DRAFTING]
    rows_told = [told(c, contestants, clock_of(device)) for c in contestants]
    return {
        "planner": planner.name,
        "dtype": str(planner.dtype).removeprefix("torch."),
        "device": str(device),
        "note": note,
        "machine": before | {"load_average_after": machine(device)["load_average"]},
        "clock_of_ratios": clock_of(device),
        "plans": len(observations) - 1,
        "answer_tokens": len(planner.template),
        "value_tokens": int(planner.template.is_value.sum()),
        "copy": copy,
        "stages": stages.told(),
        "forwards": forwards,
        "decoders": rows_told,
        "stock_skipped": reason,
        "acceptance": {name: acceptance(planner, name, observations[:-1]) for name in drafting},
        "targets": _targets(rows_told, planner),
    }


def compete(
    contestants: Sequence[Contestant],
    observations: Sequence[Observation],
    planner: DDrive,
    on_step: Callable[[str], None] = lambda _: None,
    deadline: float = math.inf,
    by_host: bool = False,
) -> None:
    """Let everyone warm up on the last observation, then plan on the others in turns, until all have or it is late.

    Args:
        deadline: of `time.perf_counter`; nobody begins a turn behind it.
        by_host: see `timed`.
    """
    for contestant in contestants:
        contestant.plan(observations[-1])
    for i, observation in enumerate(observations[:-1]):
        on_step(f"plan {i + 1} of {len(observations) - 1}")
        turn = i % len(contestants)
        for contestant in (*contestants[turn:], *contestants[:turn]):
            if i < contestant.plans and time.perf_counter() < deadline:
                (text, stats), took = timed(planner.device, partial(contestant.plan, observation), by_host)
                contestant.took[i], contestant.texts[i] = took, text
                contestant.stats += [stats] if stats is not None else []


def acceptance(planner: DDrive, decoder: str, observations: Sequence[Observation]) -> dict[str, Any]:
    """How often the verifier keeps the n-th value of a draft, given that it kept those before.

    `expected` says how many drafted values a block of B would keep by these rates: sum over n < B of their products.
    It takes the rates of one position to be the same at every block size, which only a measurement at that size proves.
    """
    planner.decoder, planner.rollouts = decoder, 1
    is_value = planner.template.is_value.tolist()
    runs = [planner.answer(o)[0].counts.verified for o in observations]
    drafted, reached, kept = positions_kept([block for run in runs for block in run], is_value)
    rates = [k / r if r else 0.0 for k, r in zip(kept, reached, strict=True)]
    expected, product, total = {}, 1.0, 0.0
    for n in range(1, max(BLOCKS)):
        product *= rates[n - 1] if n <= len(rates) else 0.0
        total += product
        if n + 1 in BLOCKS:
            expected[str(n + 1)] = total
    return {"drafted": drafted, "reached": reached, "kept": kept, "rate": rates, "expected": expected}


def positions_kept(
    verified: Sequence[tuple[int, int, int]], is_value: Sequence[bool]
) -> tuple[list[int], list[int], list[int]]:
    """Of the n-th drafted value (n from 1) of all verified blocks: how often drafted, looked at, and kept.

    Args:
        verified: (start, length, kept) per block; its first token was not drafted.
        is_value: per answer position; scaffold is never drafted.
    """
    width = max((sum(is_value[i + 1 : i + length]) for i, length, _ in verified), default=0)
    drafted, reached, kept = [0] * width, [0] * width, [0] * width
    for start, length, keep in verified:
        values = [j for j in range(1, length) if is_value[start + j]]
        for n, j in enumerate(values):
            drafted[n] += 1
            reached[n] += j <= keep
            kept[n] += j < keep
    return drafted, reached, kept


def _decoder(planner: DDrive, name: str, plans: int) -> Contestant:
    def plan(observation: Observation) -> tuple[str, DecodeStats]:
        planner.decoder, planner.rollouts = name, 1
        made = planner.plan(observation)
        return made.text, made.stats

    return Contestant(name, plan, plans)


def _rollouts(planner: DDrive, count: int, plans: int) -> Contestant:
    def plan(observation: Observation) -> tuple[str, DecodeStats]:
        planner.decoder, planner.rollouts = SPEC, count
        made = planner.plan(observation)
        planner.rollouts = 1
        return made.text, made.stats

    return Contestant(f"{SPEC}, N = {count}", plan, plans, greedy=False)


def _stock(planner: DDrive, plans: tuple[int, int]) -> tuple[list[Contestant], str]:
    """Stock transformers with the same weights; or nobody, and why."""
    if not any(plans):
        return [], "not asked for"
    try:
        import transformers
    except ImportError:
        return [], "transformers is not installed: pip install transformers"
    from efficientgen.eval.bench_stock import stock_answer
    from efficientgen.eval.stock import Stock

    stock = Stock(planner.model, planner.dtype, str(planner.device))
    form = TemplateOnDevice(planner.template, planner.device)

    def contestant(name: str, cached: bool, count: int) -> Contestant:
        def plan(observation: Observation) -> tuple[str, None]:
            patches, grids, ids = planner.inputs(observation)
            answer = stock_answer(stock, form, ids, patches, grids, cached)
            return decode_answer(planner.template, planner.tokenizer, answer)[0], None

        return Contestant(f"{name} {transformers.__version__}", plan, count)

    both = ((STOCK_CACHED, True, plans[0]), (STOCK_UNCACHED, False, plans[1]))
    return [contestant(*each) for each in both if each[2]], ""


def told(mine: Contestant, everyone: Sequence[Contestant], clock: str) -> dict[str, Any]:
    by_name = {c.name: c for c in everyone}
    out: dict[str, Any] = {"name": mine.name} | spread(list(mine.took.values()))
    others = {c.name: c for c in everyone if c.name in (AR, JUMP) or c.name.startswith("stock")}
    others = {name: c for name, c in others.items() if c.took.keys() & mine.took.keys()}
    out["times_faster_than"] = {name: faster(other, mine, clock) for name, other in others.items() if other is not mine}
    if mine.greedy:
        reference = by_name[AR].texts
        out["same_as_ar"] = sum(reference[i] == text for i, text in mine.texts.items() if i in reference)
        out["plans_of_ar"] = sum(i in reference for i in mine.texts)
        out["lossless"] = mine.name not in NOT_AUTOREGRESSIVE
    if mine.stats:
        total = {k: sum(getattr(s, k) for s in mine.stats) for k in ("forwards", "drafted", "accepted", "value_tokens")}
        count = len(mine.stats)
        out["per_plan"] = {k: v / count for k, v in total.items()}
        out["value_tokens_per_forward"] = total["value_tokens"] / total["forwards"]
        out["accepted_share"] = total["accepted"] / total["drafted"] if total["drafted"] else None
    return out


def faster(other: Contestant, mine: Contestant, clock: str) -> dict[str, float]:
    """How many times longer `other` took than `mine` over the observations that both planned on, by CPU and wall."""
    both = other.took.keys() & mine.took.keys()

    def ratio(kind: str) -> float:
        theirs, ours = (sum(getattr(c.took[i], f"{kind}_s") for i in both) for c in (other, mine))
        return theirs / ours

    rates = {"plans": float(len(both)), "wall": ratio("wall")}
    return rates | {"cpu": ratio("cpu")} if clock == "cpu" else rates


def _targets(told: Sequence[Mapping[str, Any]], planner: DDrive) -> dict[str, Any] | None:
    if planner.device.type != "cpu" or planner.name != "nano-ddrive":
        return None
    spec = next(row for row in told if row["name"] == SPEC)
    got = {
        "over_ar": spec["times_faster_than"][AR]["cpu"],
        "over_ar_jump": spec["times_faster_than"][JUMP]["cpu"],
        "plan_s": spec["wall_ms"]["p50"] / 1e3,
        "plan_cpu_s": spec["cpu_ms"]["p50"] / 1e3,
    }
    met = got["over_ar"] >= TARGETS["over_ar"] and got["over_ar_jump"] >= TARGETS["over_ar_jump"]
    return {"aims": TARGETS, "measured": got, "met": met and got["plan_s"] <= TARGETS["plan_s"]}


def table(result: Mapping[str, Any]) -> Iterator[list[str]]:
    """The decoders as lines for a table: header first."""
    clock = result["clock_of_ratios"]
    yield ["decoder", "p50 ms", "p99 ms", "CPU p50 ms", "forwards", "values/forward", "kept, %", "x ar", "x ar-jump"]
    for row in result.get("decoders") or ():
        plan, over = row.get("per_plan", {}), row["times_faster_than"]
        yield [
            row["name"],
            f"{row['wall_ms']['p50']:.0f}",
            f"{row['wall_ms']['p99']:.0f}",
            f"{row['cpu_ms']['p50']:.0f}",
            f"{plan['forwards']:.1f}" if plan else "",
            f"{row['value_tokens_per_forward']:.2f}" if plan else "",
            f"{100 * row['accepted_share']:.0f}" if row.get("accepted_share") is not None else "",
            *(f"{over[name][clock]:.2f}" if name in over else "" for name in (AR, JUMP)),
        ]
