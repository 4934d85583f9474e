"""Does the CUDA engine compute what it should, and how long does each piece take?  One run, JSON lines and a log."""

from __future__ import annotations

import argparse
import json
import time
import traceback
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from efficientgen.eval.bench_clock import copy_bandwidth
from efficientgen.eval.random_models import random_model
from efficientgen.kernels.prefix_attention import Partials, attend, attend_reference
from efficientgen.kernels.skinny import Tile
from efficientgen.planning import engine_tune
from efficientgen.planning.cache import KVCache
from efficientgen.planning.config import fast_ddrive
from efficientgen.planning.engine import Engine
from efficientgen.planning.engine_layers import PRODUCTS, Step
from efficientgen.planning.model import VisionLanguageModel

BEGAN = time.perf_counter()
OUT = Path(".")


def say(**told: Any) -> None:
    line = json.dumps({"t": round(time.perf_counter() - BEGAN, 1)} | told, default=str)
    print(line, flush=True)
    with (OUT / "check.jsonl").open("a") as file:
        file.write(line + "\n")


def part(name: str, work: Callable[[], Any], limit: float = 1e9) -> Any:
    if time.perf_counter() - BEGAN > limit:
        say(part=name, skipped="late")
        return None
    began = time.perf_counter()
    try:
        out = work()
        torch.cuda.synchronize()
        say(part=name, seconds=round(time.perf_counter() - began, 2))
        return out
    except Exception:
        say(part=name, failed=traceback.format_exc())
        return None


def graphed_us(work: Callable[[], Any], repeat: int = 1, replays: int = 10) -> float:
    work()
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(repeat):
            work()
    graph.replay()
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    begin.record()
    for _ in range(replays):
        graph.replay()
    end.record()
    torch.cuda.synchronize()
    return begin.elapsed_time(end) * 1e3 / replays / repeat


def correctness() -> None:
    from tests.kernels.decoding import Made, Sizes, attention_error, product_errors, row_errors

    sizes = Sizes(2048, 1408, 128, 16, 2, 2400, 32)
    for overlap in (False, True):
        for rows, tile in ((32, Tile(64, 64, 4, 4, 3, 2)), (1, Tile(64, 64, 4, 4, 3, 2))):
            mine = replace(sizes, rows=rows)
            made = Made("cuda", torch.bfloat16, torch.seed() % 2**31)
            say(check="products", rows=rows, overlap=overlap, errors=dict(product_errors(mine, tile, made, overlap)))
            say(check="rows", rows=rows, overlap=overlap, errors=dict(row_errors(mine, made, overlap)))
        for rows, start, tail in ((1, 2047, 1), (32, 2048, 32), (32, 0, 32), (272, 1452, 272), (256, 1500, 800)):
            made = Made("cuda", torch.bfloat16, torch.seed() % 2**31)
            error = attention_error(replace(sizes, rows=rows), start, tail, made, overlap)
            say(check="attention", rows=rows, start=start, tail=tail, overlap=overlap, error=error)


def attention_sweep() -> None:
    for rows, context in ((32, 2048), (1, 2048), (272, 2048), (32, 4096)):
        q = torch.randn(rows, 16, 128, device="cuda", dtype=torch.bfloat16)
        stores = torch.randn(16, 2, 2, context + rows, 128, device="cuda", dtype=torch.bfloat16)
        mask = torch.ones(rows, rows, device="cuda", dtype=torch.uint8).tril_()
        start = torch.full((1,), context - rows, device="cuda", dtype=torch.int32)
        exact = attend_reference(q, stores[0, 0], stores[0, 1], start, mask).float()
        for chunk in (64, 128, 192, 256, 512):
            for held in (16, 32, 64, 128):
                folded = rows * 8
                if held > max(16, folded) or -(-folded // held) * 2 * (context // chunk) > 1400:
                    continue
                room = Partials(-(-context // chunk), rows, 16, 128, q.device)
                out = torch.empty(rows, 2048, device="cuda", dtype=torch.bfloat16)

                def work(room: Any = room, chunk: int = chunk, held: int = held, out: Any = out) -> None:
                    for store in stores:
                        attend(q, store[0], store[1], start, mask, room, out, chunk, held, overlap=True)

                us = graphed_us(work) / len(stores)
                attend(q, stores[0, 0], stores[0, 1], start, mask, room, out, chunk, held, overlap=True)
                error = float((out.float() - exact).norm() / exact.norm())
                say(attention=rows, context=context, chunk=chunk, held=held, us=round(us, 2), error=error)


def tune(engine: Engine) -> Any:
    rows = (32, 1, 16, 64, 272)
    choices, measured = engine_tune.choose(engine, rows)
    for m in measured:
        say(product=m.name, rows=m.rows, tile=str(m.tile), us=round(m.us, 2), chosen=choices[m.name, m.rows] == m.tile)
    return choices


def agreement(engine: Engine) -> None:
    """Every candidate against the library's product on the same buffers."""
    for rows in (32, 272):
        for name in PRODUCTS:
            for tile in engine_tune.candidates(name, rows):
                got = []
                for each in (None, tile):
                    step = Step(engine.weights, rows, rows, 1024)
                    generator = torch.Generator("cuda").manual_seed(1)
                    for x in (step.x, step.attended, step.gated):
                        x.normal_(generator=generator)
                    step.one.copy_(step.x.float().pow(2).sum(-1)[None])
                    step.slot.copy_(engine.spare(rows))
                    step.place.copy_(torch.arange(rows))
                    engine.layers.trial({(name, rows): each}).product(step, name, 3)
                    result = {"qkv": step.q, "gate_up": step.gated}.get(name, step.x)
                    got.append((result.float().clone(), engine.store[3, :, :, engine.capacity :].float().clone()))
                (a, b), (c, d) = got
                error = float((a - c).norm() / a.norm()), float((b - d).norm() / b.norm().clamp(min=1e-9))
                say(agreement=name, rows=rows, tile=str(tile), error=error)


def forwards(engine: Engine, label: str, rows: tuple[int, ...] = (1, 8, 16, 32, 64, 272)) -> None:
    gb = copy_bandwidth(torch.device("cuda"))["median_gb_s"]
    weights = sum(t.numel() for layer in engine.weights.layers for t in (layer.qkv, layer.out, layer.gate_up, layer.down))
    for count in rows:
        for context in (2048, 4096):
            for mode in ("causal",):
                ids = torch.randint(0, 1000, (count,), device="cuda")
                places = torch.arange(count, device="cuda") + context - count
                engine.forward(ids, places, places, context - count, mode)
                times = []
                for _ in range(12):
                    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
                    begin.record()
                    engine.forward(ids, places, places, context - count, mode)
                    end.record()
                    torch.cuda.synchronize()
                    times.append(begin.elapsed_time(end))
                ms = sorted(times)[len(times) // 2]
                say(forward=label, rows=count, context=context, ms=round(ms, 3), without_head=True,
                    share=round(weights * 2 / ms / 1e6 / gb, 3))  # fmt: skip


def head(engine: Engine) -> None:
    for rows in (1, 16, 32, 64):
        hidden = torch.randn(rows, 2048, device="cuda", dtype=torch.bfloat16)
        say(head=rows, us=round(graphed_us(lambda h=hidden: engine.logits(h)), 1))
        logits = engine.logits(hidden)
        penalty = torch.zeros(12, logits.shape[1], device="cuda")
        index = torch.zeros(rows, dtype=torch.long, device="cuda")
        say(pick=rows, us=round(graphed_us(lambda: (logits + penalty[index]).argmax(-1)), 1))  # noqa: B023


def errors(model: VisionLanguageModel, engine: Engine) -> None:
    """Logits to fp32's, ours and the eager model's own."""
    text = model.config.text
    exact = VisionLanguageModel(model.config).to("cuda")
    exact.load_state_dict({k: v.float() for k, v in model.state_dict().items()})
    ids = torch.randint(0, 150000, (600,), device="cuda")
    out = {}
    with torch.inference_mode():
        for name, each, dtype in (("fp32", exact, torch.float32), ("eager", model, torch.bfloat16)):
            cache = KVCache(text, 600, dtype, torch.device("cuda"))
            places = torch.arange(600, device="cuda").expand(3, -1)
            each(each.embed(ids[None, :568]), places[:, :568], cache.append("causal", 568))
            hidden = each(each.embed(ids[None, 568:]), places[:, 568:], cache.append("causal", 32))[0]
            out[name] = each.logits(hidden).float()
        cache = engine.cache()
        for begin in range(0, 568, 64):
            part_ids = ids[begin : min(begin + 64, 568)]
            engine.read(part_ids, torch.arange(begin, begin + len(part_ids), device="cuda"), cache, "causal")
        out["engine"] = engine.logits(engine.read(ids[568:], torch.arange(568, 600, device="cuda"), cache, "causal")).float()
    wide = out["fp32"]
    say(errors={k: float((v - wide).norm() / wide.norm()) for k, v in out.items()},
        same_argmax={k: float((v.argmax(-1) == wide.argmax(-1)).float().mean()) for k, v in out.items()})  # fmt: skip
    del exact


def profile(engine: Engine) -> None:
    ids = torch.randint(0, 1000, (32,), device="cuda")
    places = torch.arange(32, device="cuda") + 2016
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as told:
        for _ in range(5):
            engine.forward(ids, places, places, 2016, "causal")
        torch.cuda.synchronize()
    (OUT / "profile.txt").write_text(told.key_averages().table(sort_by="cuda_time_total", row_limit=40, max_name_column_width=60))
    told.export_chrome_trace(str(OUT / "trace.json"))
    if (OUT / "trace.json").stat().st_size > 15 * 2**20:
        (OUT / "trace.json").unlink()


def main() -> None:
    global OUT
    parser = argparse.ArgumentParser()
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--limit", type=float, default=85.0)
    given = parser.parse_args()
    OUT, limit = given.out, given.limit
    OUT.mkdir(parents=True, exist_ok=True)
    say(gpu=torch.cuda.get_device_name(), torch=torch.__version__)
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = True
    with torch.inference_mode():
        config = replace(fast_ddrive(), vision=None)
        model = part("model", lambda: random_model(config, 0, torch.bfloat16, "cuda"))
        engine = part("engine", lambda: Engine(model, 4608))
        part("library forward", lambda: forwards(engine, "library", (32,)))
        choices = part("tune", lambda: tune(engine))
        if choices:
            for name in PRODUCTS:
                for rows, like in ((8, 16), (128, 272)):
                    choices[name, rows] = choices[name, like]
            for overlap in (True, False):
                tuned = part("tuned engine", lambda o=overlap: Engine(model, 4608, choices, overlap=o))
                part("tuned forwards", lambda e=tuned, o=overlap: forwards(
                    e, f"tuned overlap={o}", (32, 1, 8, 16, 64, 272) if o else (32,)))  # fmt: skip
                if overlap:
                    keep = tuned
            part("profile", lambda: profile(keep), limit - 15)
            part("errors", lambda: errors(model, keep), limit - 12)
        part("agreement", lambda: agreement(engine), limit - 10)
        part("attention", attention_sweep, limit - 10)
        part("head", lambda: head(engine), limit - 4)
        part("correctness", correctness, limit)
    say(done=True)


if __name__ == "__main__":
    main()
