"""The planner benchmark on a GPU: the engine term by term and whole plans, beside eager and stock transformers.

One run, within a deadline: every part is measured by itself, a part that fails or comes too late says so in the result,
and the result so far is handed out after each.  Baselines run in the same process on the same card: AR through our own
graphs (with and without jump-forward), our eager model, stock transformers' `generate`, its eager AR, and its forward
captured as a graph.  Nobody plans on the same observation twice.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from efficientgen.eval.bench_clock import copy_bandwidth, machine, spread, timed
from efficientgen.eval.bench_device_errors import errors_to_fp32
from efficientgen.eval.bench_forward import ROWS, bench_forwards, bench_stages, forward_kernels, long_prefill
from efficientgen.eval.bench_planner import (
    AR,
    DRAFTING,
    JUMP,
    SPEC,
    Contestant,
    NothingToMeasureError,
    acceptance,
    compete,
    told,
)
from efficientgen.eval.bench_profile import Draws, Profile, cycles, measured, published
from efficientgen.eval.bench_stock import StockGraph, generate_ms, stock_answer
from efficientgen.eval.provenance import provenance
from efficientgen.eval.stock import Stock
from efficientgen.perception.types import DecodeStats, Observation
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.schema import decode_answer

WIDTHS = (8, 12, 16)  # of fused drafts: B (B + 1) rows
PROMPT = 1452  # tokens of the prompt that prefill is compared at
PARTS = (
    "forwards",
    "kernels",
    "stages",
    "prefill_alone",
    "decoders",
    "eager_ar",
    "stock",
)  # that may be asked for alone
SHOWN = (32,)  # rows whose kernels are listed, beside the fewest
PUBLISHED_MS = 665.0  # the best published plan (Fast-dDrive with SGLang, FP8)


@dataclass
class Run:
    """The result as it grows, and the time that is left."""

    limit_s: float
    keep: Callable[[dict[str, Any]], None]
    on_step: Callable[[str], None]
    result: dict[str, Any] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    only: Sequence[str] = ()  # of `PARTS`; none: all

    def __post_init__(self) -> None:
        self.began = time.perf_counter()

    def wants(self, part: str) -> bool:
        return not self.only or part in self.only

    def part(self, name: str, work: Callable[[], Any], before: float = 1.0, told: bool = True) -> Any:
        """Do `work` if less than `before` of the time has gone; if `told`, what came out is the result's `name`."""
        self.on_step(name)
        self.skipped.pop(name, None)  # of an earlier run
        began = time.perf_counter()
        if began - self.began > before * self.limit_s:
            self.skipped[name] = "no time left"
            return None
        try:
            out = work()
        except Exception:  # a part may fail for reasons of its own (memory, a library); the others are still measured
            self.skipped[name] = traceback.format_exc()
            out = None
        if told:
            self.result[name] = out
        self.result.setdefault("part_seconds", {})[name] = round(time.perf_counter() - began, 2)
        self.keep(self.result | {"skipped": self.skipped})
        return out


def bench_device(
    planner: DDrive,
    observations: Sequence[Observation],
    trained: DDrive | None,
    *,
    profile: str = "published",
    rollouts: Sequence[int] = (1, 4, 8),
    contexts: Sequence[int] = (2048, 4096),
    rows: Sequence[int] = ROWS,
    repeats: int = 20,
    stock: bool = True,
    seen_by_trained: Sequence[Observation] = (),
    limit_s: float = 240.0,
    parts: Sequence[str] = (),
    before: Mapping[str, Any] | None = None,
    keep: Callable[[dict[str, Any]], None] = lambda _: None,
    on_step: Callable[[str], None] = lambda _: None,
) -> dict[str, Any]:
    """Everything that `bench planner --device cuda` reports, but for its origin.

    Args:
        observations: one per plan; the last one warms up.
        trained: a planner whose drafts say how many are accepted, on `seen_by_trained`; None: `planner` itself is.
        profile: "published" times that profile as well.
        parts: only these of `PARTS`; bandwidth and tuning always.
        before: the result of an earlier run, whose other parts are kept; `runs` says what was measured when.

    Raises:
        NothingToMeasureError: no such part.
    """
    if unknown := [name for name in parts if name not in PARTS]:
        raise NothingToMeasureError(f"no part '{unknown[0]}'; choose of {', '.join(PARTS)}")
    device = planner.device
    held = dict(before or {})
    run = Run(limit_s, keep, on_step, held, dict(held.pop("skipped", {})), parts)
    run.result["runs"] = [
        *held.get("runs", []),
        {"parts": list(parts or PARTS), "plans": len(observations) - 1, "repeats": repeats,
         "machine": machine(device), "code_sha256": provenance()["code_sha256"]},
    ]  # fmt: skip
    run.result |= {"planner": planner.name, "dtype": str(planner.dtype).removeprefix("torch."), "device": str(device),
                   "machine": machine(device), "answer_tokens": len(planner.template),
                   "value_tokens": int(planner.template.is_value.sum()), "clock_of_ratios": "wall"}  # fmt: skip
    if run.wants("decoders"):
        run.result["plans"] = len(observations) - 1
    copy = run.part("copy", lambda: copy_bandwidth(device))
    run.part("tuning", lambda: _tune(planner, held.get("tuning")))
    engine = planner.engine
    rate = copy["median_gb_s"] if copy else 1.0
    if run.wants("forwards"):
        run.part("forwards", lambda: list(bench_forwards(planner, contexts, rows, repeats, rate)))
    if run.wants("stages"):
        run.part("stages", lambda: bench_stages(planner, observations).told())
    if run.wants("prefill_alone"):
        run.part("prefill_alone", lambda: long_prefill(planner, PROMPT, 10))
    mine = partial(_contestants, planner, profile, trained, seen_by_trained, rollouts, run)
    contestants: list[Contestant] = []
    if run.wants("decoders"):
        contestants = run.part("contestants", mine, told=False) or []

    def plans() -> list[dict[str, Any]]:
        deadline = run.began + (0.62 if run.wants("stock") or run.wants("eager_ar") else 0.95) * limit_s
        compete(contestants, observations, planner, on_step, deadline=deadline, by_host=True)
        return [told(c, contestants, "wall") for c in contestants if c.took]

    if contestants:
        run.part("decoders", plans)
    planner.options, planner.rollouts = {}, 1

    def eager() -> dict[str, Any]:
        planner.engine, planner.decoder = None, AR
        try:
            answer, took = timed(device, partial(planner.answer, observations[0]), by_host=True)
            return spread([took]) | {"forwards": answer[0].counts.forwards}
        finally:
            planner.engine = engine

    if stock and run.wants("stock"):
        theirs = run.part("stock_model", lambda: Stock(planner.model, planner.dtype, str(device)), 0.75, told=False)
        if theirs is not None:
            run.part("errors", lambda: errors_to_fp32(planner, theirs), 0.8)
            run.part("stock_graphed", lambda: _graphed(theirs, contexts, repeats), 0.85)
            run.part("stock_generate", lambda: {"ms_per_token": generate_ms(theirs, PROMPT, 32)}, 0.85)
            run.part("stock_ar", lambda: _stock_plan(planner, theirs, observations[0]), 0.9)
    if run.wants("kernels"):
        run.part("kernels", lambda: [forward_kernels(planner, count, contexts[0]) for count in (rows[0], *SHOWN)], 0.9)
    if run.wants("eager_ar"):
        run.part("eager_ar", eager, 0.75)
    run.part("summary", lambda: _summary(run.result))
    return run.result | {"skipped": run.skipped}


def _tune(planner: DDrive, before: Mapping[str, Any] | None) -> dict[str, Any]:
    """Load the engine twice: the second time finds what the first has measured.

    Where the first found it, too, what `before` tells of the measurement is kept.
    """
    seconds, found, measured = list[float](), list[bool](), list[dict[str, Any]]()
    for _ in range(2):
        began = time.perf_counter()
        planner.engine = None
        planner.accelerate()
        assert planner.engine is not None
        seconds.append(round(time.perf_counter() - began, 2))
        found.append(planner.engine.text.tuning is not None and planner.engine.text.tuning.found)
        measured += [asdict(m) | {"us": round(m.us, 2)} for m in planner.engine.measured]
    again = {"seconds_again": seconds[1], "found_in_file": found}
    if found[0] and before and before.get("measured"):
        return {**before, **again}
    return {"seconds": seconds[0], **again, "measured": measured}


def _contestants(
    planner: DDrive,
    profile: str,
    trained: DDrive | None,
    seen: Sequence[Observation],
    rollouts: Sequence[int],
    run: Run,
) -> list[Contestant]:
    """Who plans, and with which acceptance; profiles go into the result."""
    form, count = planner._template, run.result["plans"]
    rates: dict[str, Any] = {}
    if trained is not None:
        rates = {name: acceptance(trained, name, seen) for name in DRAFTING}
        run.result["acceptance"] = {"of": trained.name, "plans": len(seen)} | rates
    few = max(2, count // 3)
    out = [_plain(planner, AR, few), _plain(planner, JUMP, few)]
    if trained is None:
        out += [_plain(planner, name, count) for name in (SPEC, "self-spec")]
        out += [_plain(planner, "fused-scaffold-spec", count, width) for width in WIDTHS]
        out += [_drawn(planner, SPEC, None, count, n) for n in rollouts if n > 1]
        return out
    out.append(_plain(planner, SPEC, min(2, count)))  # random weights: what they accept themselves
    drawn = {name: measured(f"{trained.name}'s own", rates[name]["rate"], rates[name]["reached"]) for name in DRAFTING}
    if profile == "published":
        theirs = published(form)
        run.result["published_profile"] = {"rate": theirs.rates[0], "cycles": cycles(form, theirs)}
        out += [_drawn(planner, SPEC, theirs, count, n) for n in rollouts]
    out += [_drawn(planner, SPEC, drawn[SPEC], count, n) for n in rollouts]
    out.append(_drawn(planner, "self-spec", drawn["self-spec"], count))
    out += [_drawn(planner, "fused-scaffold-spec", drawn["fused-scaffold-spec"], count, 1, width) for width in WIDTHS]
    return out


def _plain(planner: DDrive, decoder: str, plans: int, width: int = 0) -> Contestant:
    return _drawn(planner, decoder, None, plans, 1, width, greedy=True)


def _drawn(
    planner: DDrive, decoder: str, profile: Profile | None, plans: int, rollouts: int = 1, width: int = 0,
    greedy: bool = False,
) -> Contestant:  # fmt: skip
    """A contestant that keeps what `profile` draws; None: what its own verifier says."""
    draws = None if profile is None else Draws(planner._template, profile, rollouts)
    options: dict[str, Any] = {} if draws is None else {"agree": draws}
    if width:
        options["width"] = width

    def plan(observation: Observation) -> tuple[str, DecodeStats]:
        planner.decoder, planner.rollouts, planner.options = decoder, rollouts, options
        if draws is not None:
            draws.begin()
        made = planner.plan(observation)
        return made.text, made.stats

    name = decoder + (f", block {width}" if width else "") + (f", N = {rollouts}" if rollouts > 1 else "")
    return Contestant(name if profile is None else f"{name}; {profile.name}", plan, plans, greedy=greedy)


def _graphed(stock: Stock, contexts: Sequence[int], repeats: int) -> list[dict[str, Any]]:
    """Stock transformers' forward as a graph, and 404 tokens one after the other through the 1-row graph."""
    device = next(stock.model.parameters()).device
    out = []
    for rows in (1, 32):
        graph = StockGraph(stock, rows, contexts[0])
        took = [timed(device, graph.graph.replay)[1] for _ in range(repeats)]
        row = {"rows": rows, "context": contexts[0]} | spread(took)
        if rows == 1:
            row["answer_of_404_ms"] = timed(device, partial(graph.answer, 404), by_host=True)[1].wall_s * 1e3
        out.append(row)
        del graph
    return out


def _stock_plan(planner: DDrive, stock: Stock, observation: Observation) -> dict[str, Any]:
    def plan() -> str:
        patches, grids, ids = planner.inputs(observation)
        answer = stock_answer(stock, planner._template, ids, patches, grids, True)
        return decode_answer(planner.template, planner.tokenizer, answer)[0]

    return spread([timed(planner.device, plan, by_host=True)[1]])


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """What issue and README ask for, from the numbers above."""
    out: dict[str, Any] = {}
    forwards = {(r["rows"], r["context"]): r["wall_ms"]["p50"] for r in result.get("forwards") or []}
    out["forward_32_rows_ms"] = forwards.get((32, 2048))
    plans = {row["name"]: row["wall_ms"]["p50"] for row in result.get("decoders") or []}
    ones = {name: ms for name, ms in plans.items() if name not in (AR, JUMP) and ", N = " not in name}
    if ones:
        best = min(ones, key=lambda name: ones[name])
        out["best"] = {"name": best, "ms": ones[best]}
        out["times_faster_than"] = {name: plans[name] / ones[best] for name in (AR, JUMP) if name in plans}
        if result.get("eager_ar"):
            out["times_faster_than"]["eager ar"] = result["eager_ar"]["wall_ms"]["p50"] / ones[best]
        if result.get("stock_ar"):
            out["times_faster_than"]["stock ar"] = result["stock_ar"]["wall_ms"]["p50"] / ones[best]
    for name, ms in plans.items():
        if "published" in name and ", N = " not in name:
            out["published_profile"] = {"ms": ms, "times_faster_than_published": PUBLISHED_MS / ms}
    base = {name: ms for name, ms in plans.items() if name.startswith(f"{SPEC};")}
    out["rollouts_over_one"] = {
        name: ms / base[f"{SPEC};{name.split(';', 1)[1]}"] - 1
        for name, ms in plans.items() if ", N = " in name and f"{SPEC};{name.split(';', 1)[-1]}" in base
    }  # fmt: skip
    return out
