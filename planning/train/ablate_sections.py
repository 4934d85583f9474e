"""Fast-dDrive's training choices against their absence (2605.23163, section 3.2), at nano size: section weights and
the noise schedule per section.

A seed is one autoregressive parent, trained with no diffusion loss at all, and from it four conversions of equal steps:
with both choices, without either, without each.  Seeds run side by side, each in a process of its own, on as many GPUs
as there are.  A figure counts as one direction only where every seed says so (`verdicts`).
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

UNIFORM = ((1.0, 1.0),) * 4
EVEN = (1.0,) * 4
BOTH, NO_WEIGHTS, NO_SCHEDULE, NEITHER = "both", "no section weights", "uniform noise", "neither"
VARIANTS: Mapping[str, dict[str, Any]] = {
    BOTH: {},
    NO_WEIGHTS: {"section_weights": EVEN},
    NO_SCHEDULE: {"section_beta": UNIFORM},
    NEITHER: {"section_weights": EVEN, "section_beta": UNIFORM},
}
# (claim, what it recommends, what it argues against)
CLAIMS = (
    ("section weights help", BOTH, NO_WEIGHTS),
    ("a noise schedule per section helps", BOTH, NO_SCHEDULE),
    ("both together help", BOTH, NEITHER),
)
# metric -> better when +1: more, -1: less
METRICS: Mapping[str, int] = {
    "ade": -1, "ade_without_history": -1, "object_accuracy": 1, "loss trajectory": -1, "loss explanation": -1,
    "draft right": 1, "draft right trajectory": 1, "draft right explanation": 1,
}  # fmt: skip


@dataclass(frozen=True)
class SectionBudget:
    """What a seed may spend; steps of `batch` samples."""

    parent_steps: int = 1200
    steps: int = 600
    batch: int = 128
    drives: int = 150  # of the set that are loaded
    parent_lr: float = 1.5e-3
    lr: float = 8e-4


def ablate_sections(
    data: Path,
    out: Path,
    scratch: Path,
    seeds: int,
    budget: SectionBudget,
    seconds: float,
    devices: Sequence[str],
    log: Callable[[str], None],
    head: dict[str, Any] | None = None,
    compile_model: bool = True,
) -> dict[str, Any]:
    """Run every seed and write `out`, `head` first, whenever a run ends; runs that `out` already holds are kept.

    No run is begun after `seconds`; seed k runs on `devices[k % len(devices)]`.
    """
    result: dict[str, Any] = {**(head or {}), "budget": asdict(budget), "runs": [], "failed": []}
    if out.exists() and (old := json.loads(out.read_text())).get("budget") == asdict(budget):
        result["runs"] = old["runs"]
    done = {(run["variant"], run["seed"]) for run in result["runs"]}
    ends = time.time() + seconds
    context = multiprocessing.get_context("spawn")
    told: Any = context.Queue()
    workers = []
    for seed in range(seeds):
        todo = [name for name in VARIANTS if (name, seed) not in done]
        if todo:
            device = devices[seed % len(devices)]
            job = (data, scratch / f"seed-{seed}", seed, todo, budget, ends, device, compile_model, told)
            workers.append(context.Process(target=_seed, args=job))
            workers[-1].start()
    running = len(workers)
    while running:
        row = told.get()
        if row is None:
            running -= 1
            continue
        result["failed" if "error" in row else "runs"].append(row)
        log(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}))
        _write(out, result)
    for worker in workers:
        worker.join()
    result |= {"variants": summary(result["runs"]), "claims": verdicts(result["runs"])}
    _write(out, result)
    return result


def summary(runs: Sequence[dict[str, Any]]) -> dict[str, dict[str, list[float]]]:
    """Per variant and metric: mean and standard deviation over the seeds."""
    out: dict[str, dict[str, list[float]]] = {}
    for name in VARIANTS:
        mine = [run for run in runs if run["variant"] == name]
        if mine:
            out[name] = {m: [float(np.mean(v)), float(np.std(v, ddof=1)) if len(v) > 1 else 0.0]
                         for m in METRICS for v in [[run[m] for run in mine]]}  # fmt: skip
    return out


def verdicts(runs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Per claim and metric the paired differences over seeds, counted so that more is better for the claim.

    "reproduces": every seed says so; "reversed": every seed says the opposite; else "undecided".
    """
    found = {(run["variant"], run["seed"]): run for run in runs}
    out = []
    for claim, good, bad in CLAIMS:
        seeds = sorted(seed for variant, seed in found if variant == good and (bad, seed) in found)
        row: dict[str, Any] = {"claim": claim, "for": good, "against": bad, "seeds": len(seeds)}
        for metric, sign in METRICS.items():
            gaps = [sign * (found[good, s][metric] - found[bad, s][metric]) for s in seeds]
            if gaps:
                word = "reproduces" if min(gaps) > 0 else "reversed" if max(gaps) < 0 else "undecided"
                row[metric] = {"mean": float(np.mean(gaps)), "differences": gaps, "verdict": word}
        out.append(row)
    return out


def _seed(
    data: Path, scratch: Path, seed: int, todo: Sequence[str], budget: SectionBudget, ends: float, device: str,
    compile_model: bool, told: Any, model: Any = None,
) -> None:  # fmt: skip
    """One seed's parent and conversions, told row by row and ended with None; a process of its own.

    `model` is its shape; None is the nano size.
    """
    import traceback

    import torch

    from efficientgen.planning.train.data import DatasetError, load_set
    from efficientgen.planning.train.trainer import TrainConfig, Trainer

    try:
        if device.startswith("cuda"):
            torch.cuda.set_device(device)
        common: dict[str, Any] = {"seconds": 1e9, "batch": budget.batch, "seed": seed, "compile": compile_model,
                                  "save_every_s": 1e9, "validate_every_s": 1e9}  # fmt: skip
        begin = time.monotonic()
        samples = load_set(data, device, budget.drives)
        say = partial(_say, seed)
        say(f"{len(samples)} samples loaded in {time.monotonic() - begin:.0f} s")
        if not samples.heldout.any():
            raise DatasetError(f"no held-out samples in {budget.drives} drives of {data}: load more of them")
        parent = TrainConfig(
            **common, max_steps=budget.parent_steps, peak_lr=budget.parent_lr, ar_fraction=1.0, warmup=0.05
        )
        begin = time.monotonic()
        trainer = Trainer(samples, scratch / "parent", parent, device, say, model)
        cut_short = len(todo) < len(VARIANTS)  # `out` holds some of this seed's runs, so the parent is theirs
        if not (cut_short and trainer.resume() and trainer.step >= budget.parent_steps):
            trainer.run()
        spent = time.monotonic() - begin
        for name in todo:
            if time.time() > ends:
                break
            begin = time.monotonic()
            config = TrainConfig(
                **common, max_steps=budget.steps, peak_lr=budget.lr, ar_fraction=0.0, warmup=0.05, **VARIANTS[name]
            )
            directory = scratch / name.replace(" ", "-")
            found = Trainer(samples, directory, config, device, say, start=scratch / "parent").run()
            told.put({"variant": name, "seed": seed, **_metrics(asdict(found)), "samples": len(samples),
                      "parent_seconds": round(spent, 1), "seconds": round(time.monotonic() - begin, 1)})  # fmt: skip
    except Exception as error:
        traceback.print_exc()
        told.put({"variant": "", "seed": seed, "error": f"{type(error).__name__}: {error}"})
    finally:
        told.put(None)


def _say(seed: int, line: str) -> None:
    print(f"seed {seed}: {line}", file=sys.stderr, flush=True)


def _metrics(found: dict[str, Any]) -> dict[str, Any]:
    """A validation as flat figures."""
    drafts = found["draft_right"]
    return (
        {name: found[name] for name in ("ade", "fde", "ade_without_history", "value_loss", "object_accuracy")}
        | {f"loss {name}": value for name, value in found["section_loss"].items()}
        | {f"draft loss {name}": value for name, value in found["draft_loss"].items()}
        | {f"draft right {name}": value for name, value in drafts.items()}
        | {"draft right": sum(drafts.values()) / len(drafts)}
    )


def _write(out: Path, result: dict[str, Any]) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = out.with_name(f".{out.name}")
    temporary.write_text(json.dumps(result, indent=1) + "\n")
    os.replace(temporary, out)
