"""The world benchmark: what a chunk of SANA-WM costs on this machine, part by part, beside diffusers' own class.

One run, one process, random weights.  Every part stands on its own: one that fails is recorded as not measured, with
its traceback, and the result is written after each.  On a CPU there are no graphs and no kernels, so those parts say
that they were not measured and why.
"""

from __future__ import annotations

import gc
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import torch

from efficientgen.eval.bench_clock import copy_bandwidth, graphed_ms, machine, timed
from efficientgen.eval.bench_sana import (
    TOKENS,
    Shape,
    chunk,
    random_autoencoder,
    random_model,
    random_refiner,
    random_text,
    stock_pass,
)
from efficientgen.kernels.frame_gdn import frame_gdn_reference, frame_gdn_triton
from efficientgen.worldsim.sana.model import SanaTransformer
from efficientgen.worldsim.sana.sampler import LEVELS
from efficientgen.worldsim.sana.stream import Stream, cuda_graphs

PASSES = (*LEVELS, 0)  # four steps and the clean pass
PICTURES_PER_S = 16.0  # of the release
FILLING = 4  # chunks until a stream has its size, is captured and warm
GOALS = {"chunk_s": 0.30, "times_diffusers": 3.0, "times_torch_scan": 3.0}


class NotMeasuredError(RuntimeError):
    """A part has nothing to measure here."""


class Bench:
    """The parts, over one model.

    Args:
        chunks: of the stream whose memory is watched.
        repeats: of every single pass.
    """

    def __init__(self, shape: Shape, device: str, dtype: torch.dtype, chunks: int, repeats: int) -> None:
        self.shape, self.device, self.dtype, self.chunks, self.repeats = shape, device, dtype, chunks, repeats
        self.gpu = torch.device(device).type == "cuda"
        self.model: SanaTransformer | None = None
        self.stream: Stream | None = None

    @property
    def parts(self) -> dict[str, Callable[[], dict[str, Any]]]:
        """In the order in which they are worth their time."""
        return {
            "machine": self._machine,
            "stream": self._stream,
            "profile": self._profile,
            "scan": self._scan,
            "diffusers": self._diffusers,
            "autoencoder": self._autoencoder,
            "kernels": self._kernels,
            "one_frame": self._one_frame,
            "refiner": self._refiner,
        }

    def _machine(self) -> dict[str, Any]:
        return {**machine(torch.device(self.device)), "copy": copy_bandwidth(torch.device(self.device))}

    def _loaded(self) -> SanaTransformer:
        if self.model is None:
            self.model = random_model(self.shape.config, self.device, self.dtype)
        return self.model

    def _text(self) -> Any:
        return random_text(self.shape.config, self.device, self.dtype)

    def _ms(self, work: Callable[[], object], runs: int = 0) -> float:
        """Median of one piece of work, warm."""
        work()
        took = [timed(torch.device(self.device), work)[1].wall_s for _ in range(runs or self.repeats)]
        return round(1e3 * float(np.median(took)), 3)

    @torch.inference_mode()
    def _stream(self) -> dict[str, Any]:
        """Chunks of a stream: seconds, memory; on a GPU captured, and a single pass and its like beside it."""
        model = self._loaded()
        began = time.perf_counter()
        self.stream = stream = Stream(model.fuse(), capture=cuda_graphs(model))
        stream.begin(self._text())
        for index in range(FILLING):
            stream.sample(*chunk(self.shape, index, self.device))
        self._wait()
        ready = time.perf_counter() - began
        seconds, held, bytes_ = [], [], []
        for index in range(FILLING, FILLING + self.chunks):
            noise, rays = chunk(self.shape, index, self.device)
            seconds.append(timed(torch.device(self.device), partial(stream.sample, noise, rays))[1].wall_s)
            bytes_.append(stream.bytes)
            held.append(torch.cuda.memory_allocated() if self.gpu else 0)
        p50, p99 = np.percentile(seconds, (50, 99))
        video = self.shape.pictures / PICTURES_PER_S
        out: dict[str, Any] = {
            "passes": len(PASSES), "latent_frames": self.shape.latents, "pictures": self.shape.pictures,
            "grid": list(self.shape.grid), "parameters": sum(p.numel() for p in model.parameters()),
            "chunk_p50_s": round(float(p50), 4), "chunk_p99_s": round(float(p99), 4),
            "slowest_s": round(max(seconds), 4),
            "real_time_factor": round(video / float(p50), 2), "ready_s": round(ready, 2), "captured": stream.captured,
            "watched": {"chunks": self.chunks, "video_s": self.chunks * video, "state_bytes": _ends(bytes_)},
            "flops_per_chunk": flops(self.shape),
        }  # fmt: skip
        if self.gpu:
            flat = max(held) - min(held)
            out["watched"] |= {"allocated_bytes": _ends(held), "spread_bytes": flat}
            out["peak_bytes"] = torch.cuda.max_memory_allocated()
            out["tflop_s"] = round(out["flops_per_chunk"] / float(p50) / 1e12, 1)
            graphs = stream.graphs
            assert graphs is not None
            passes: dict[str, Callable[[], object]] = {
                "denoise": partial(graphs.denoise, 960.0),
                "prepare": graphs.prepare,
                "commit": graphs.commit,
            }
            out["graph_ms"] = {name: self._ms(work) for name, work in passes.items()}
        state = stream.state
        noise, rays = chunk(self.shape, 1, self.device)
        level = torch.full((1, self.shape.latents), 960.0, device=self.device)
        prepared = model.prepare(model.read(self._text()), rays, 0 if state is None else state.frames, self.shape.grid)
        out["eager_pass_ms"] = self._ms(lambda: model.advance(noise, level, prepared, state, save=False))
        return out

    @torch.inference_mode()
    def _one_frame(self) -> dict[str, Any]:
        """Chunks of one latent frame, as the loop's 0.4 s ask for."""
        shape, model = replace(self.shape, latents=1), self._loaded()
        stream = Stream(model.fuse(), capture=cuda_graphs(model))
        stream.begin(self._text())
        fill = shape.latents + model.config.window + FILLING
        seconds = []
        for index in range(fill + min(self.chunks, 20)):
            noise, rays = chunk(shape, index, self.device)
            seconds.append(timed(torch.device(self.device), partial(stream.sample, noise, rays))[1].wall_s)
        p50, p99 = np.percentile(seconds[fill:], (50, 99))
        return {"chunk_p50_s": round(float(p50), 4), "chunk_p99_s": round(float(p99), 4), "captured": stream.captured}

    def _profile(self) -> dict[str, Any]:
        """Where the time of a denoising pass goes."""
        self._need_gpu("kernel times")
        graphs = None if self.stream is None else self.stream.graphs
        if graphs is None:
            raise NotMeasuredError("the stream was not captured")
        return {"kernels": top_kernels(partial(graphs.denoise, 960.0))}

    @torch.inference_mode()
    def _diffusers(self) -> dict[str, Any]:
        """diffusers' class on three latent frames that nothing came before: eager and as a graph."""
        x, rays = chunk(self.shape, 0, self.device)
        t = torch.full((1, self.shape.latents), 960.0, device=self.device)
        text, model, self.stream = self._text(), self._loaded(), None
        began = time.perf_counter()
        theirs = stock_pass(model, x, t, text, rays)
        ours = model.forward_chunk(x, t, text, rays, None, save=False)[0].float()
        wanted = theirs().float()
        out: dict[str, Any] = {"difference": float((ours - wanted).norm() / wanted.norm())}
        out["ready_s"] = round(time.perf_counter() - began, 2)
        runs = 3  # it is slow, and steady

        def five() -> None:
            for level, following in zip(PASSES, (*PASSES[1:], 0), strict=True):
                t.fill_(float(level))
                x.add_((following - level) / 1000.0 * theirs())

        out["eager_pass_ms"] = self._ms(theirs, runs)
        if self.gpu:
            out["graph_chunk_ms"] = round(float(np.median(graphed_ms(five, runs, warm=1))), 2)
            out["graph_pass_ms"] = round(float(np.median(graphed_ms(theirs, runs, warm=1))), 2)
        return out

    @torch.inference_mode()
    def _scan(self) -> dict[str, Any]:
        """The frame-GDN kernel and the same rule in torch, both as graphs."""
        self._need_gpu("kernels and graphs")
        config, (rows, columns) = self.shape.config, self.shape.grid
        out: dict[str, Any] = {}
        for frames in (self.shape.latents,):
            size = (1, frames, rows * columns, config.heads, config.linear_head_dim)
            q0, k0 = (torch.randn(size, device=self.device).relu().to(self.dtype) for _ in range(2))
            k0 = k0 * (size[2] * size[4]) ** -0.5
            q, k, v = q0.roll(1, -1) * -1.0, k0.roll(1, -1), torch.randn(size, device=self.device).to(self.dtype)
            beta, decay = torch.rand(size[:4], device=self.device).to(self.dtype), torch.rand(1, frames, config.heads)
            args = (q, k, v, beta, decay.to(self.device))
            _, state = frame_gdn_triton(*args, mass=(q0, k0))
            for name, mass in (("main", (q0, k0)), ("camera", None)):
                ours, theirs = (
                    float(np.median(graphed_ms(partial(rule, *args, mass=mass, state=state), self.repeats)))
                    for rule in (frame_gdn_triton, frame_gdn_reference)
                )
                out[f"{name}_t{frames}"] = {
                    "kernel_ms": round(ours, 4), "torch_ms": round(theirs, 4), "times": round(theirs / ours, 2)
                }  # fmt: skip
        return out

    @torch.inference_mode()
    def _autoencoder(self) -> dict[str, Any]:
        """Decoding the chunks of a stream, as they come."""
        from efficientgen.worldsim.sana.pictures import Decoder

        vae = random_autoencoder(self.shape, self.device, self.dtype)
        shape = (1, vae.config.latent_channels, self.shape.latents, *self.shape.grid)
        latents = [torch.randn(shape, device=self.device) for _ in range(6)]
        decoder = Decoder(vae)
        out: dict[str, Any] = {"parameters": sum(p.numel() for p in vae.decoder.parameters())}

        def run() -> dict[str, Any]:
            decoder.reset()
            took = [timed(torch.device(self.device), partial(decoder.decode, z)) for z in latents]
            seconds = [t.wall_s for _, t in took[2:]]
            return {"pictures": len(took[-1][0]), "chunk_s": round(float(np.median(seconds)), 4),
                    "first_s": round(took[0][1].wall_s, 4), "slowest_s": round(max(seconds), 4)}  # fmt: skip

        out |= run()
        out["carried_bytes"] = decoder.bytes
        if self.gpu:  # what the convolution library makes of other layouts, and of a search
            with torch.backends.cudnn.flags(enabled=True, benchmark=True):
                out["searched"] = run()
                vae.decoder.to(memory_format=torch.channels_last_3d)
                out["searched_channels_last"] = run()
        return out

    @torch.inference_mode()
    def _refiner(self) -> dict[str, Any]:
        """Refining the chunks of a stream, once its window is full: three steps and the pass that remembers."""
        self.model = self.stream = None
        refiner = random_refiner(self.shape, self.device, self.dtype)
        refiner.begin("day")
        took = []
        for _ in range(8):
            size = (1, self.shape.config.in_channels, self.shape.latents, *self.shape.grid)
            z, noise = (torch.randn(size, device=self.device) for _ in range(2))
            took.append(timed(torch.device(self.device), partial(refiner.refine, z, noise))[1].wall_s)
        return {
            "parameters": refiner.parameters, "chunk_s": round(float(np.median(took[4:])), 4),
            "slowest_s": round(max(took[4:]), 4), "carried_bytes": refiner.bytes,
        }  # fmt: skip

    @torch.inference_mode()
    def _kernels(self) -> dict[str, Any]:
        """Each token kernel at this shape, as a graph, beside the time that its bytes take at the copy rate."""
        from efficientgen.eval.bench_tokens import bench_products, bench_tokens

        self._need_gpu("kernels")
        asked = (self.shape, self.device, self.dtype, self.repeats)
        return {"tokens": bench_tokens(*asked), "products": bench_products(*asked)}

    def _need_gpu(self, what: str) -> None:
        if not self.gpu:
            raise NotMeasuredError(f"{what} need a GPU")

    def _wait(self) -> None:
        if self.gpu:
            torch.cuda.synchronize()


def bench_world(
    bench: Bench, result: dict[str, Any], only: Sequence[str] = (), budget_s: float = 1e9,
    keep: Callable[[dict[str, Any]], None] = lambda result: None, on_step: Callable[[str], None] = lambda words: None,
) -> dict[str, Any]:  # fmt: skip
    """Run the parts, each into `result` under its name, and `keep` the result after each.

    Args:
        only: these parts; (): all.
        budget_s: seconds after which no further part begins.
    """
    began = time.perf_counter()
    for name, part in bench.parts.items():
        if only and name not in only:
            continue
        on_step(name)
        spent = time.perf_counter() - began
        try:
            if spent > budget_s:
                raise NotMeasuredError(f"{spent:.0f} s of {budget_s:.0f} s were spent before")
            result[name] = {"measured": True, **part()}
        except NotMeasuredError as error:
            result[name] = {"measured": False, "why": str(error)}
        except Exception as error:  # any: the other parts are worth having
            result[name] = {"measured": False, "why": f"{type(error).__name__}: {error}"[:500],
                            "traceback": traceback.format_exc()[-6000:]}  # fmt: skip
        result[name]["took_s"] = round(time.perf_counter() - began - spent, 1)
        gc.collect()
        if bench.gpu:
            torch.cuda.empty_cache()
        result["goals"] = goals(result)
        keep(result)
    return result


def goals(result: dict[str, Any]) -> dict[str, Any]:
    """What was aimed at and what came out; None where a part is missing."""
    stream, stock, scan = (result.get(name, {}) for name in ("stream", "diffusers", "scan"))
    chunk_s, graphed = stream.get("chunk_p50_s"), stock.get("graph_chunk_ms")
    main = [value["times"] for name, value in scan.items() if name.startswith("main_t") and name != "main_t1"]
    got = {
        "chunk_s": chunk_s,
        "times_diffusers": round(graphed / chunk_s / 1e3, 2) if chunk_s and graphed else None,
        "times_torch_scan": main[0] if main else None,
    }
    return {name: {"goal": goal, "got": got[name]} for name, goal in GOALS.items()}


def flops(shape: Shape) -> float:
    """Multiply-adds, twice, of a steady stream's chunk: products of matrices; no convolution, no rotation."""
    config, frame = shape.config, shape.grid[0] * shape.grid[1]
    tokens, width, dim = shape.latents * frame, config.hidden_size, config.linear_head_dim
    softmax = sum(not config.recurs(i) for i in range(config.num_layers))
    weights = (11 + 3 * config.mlp_ratio + 3) * width**2 * config.num_layers + 2 * config.in_channels * width
    seen = tokens + (config.window + (shape.latents if config.sink_token else 0)) * frame
    attention = 2 * softmax * 2 * seen * width + config.num_layers * 2 * TOKENS * width  # two branches; the text
    state = (config.num_layers - softmax) * (4 + 3) * width * dim  # write, erase, read; the denominator's erase
    levels = shape.latents * (256 + 7 * width) * width
    scan = (config.num_layers - softmax) * 2 * (2 * shape.latents - 1) * width * dim**2  # there and back, two branches
    once = tokens * (config.num_layers * width + config.chunk_plucker_channels) * width  # the rays, for all passes
    return 2.0 * (len(PASSES) * (tokens * (weights + attention + state) + levels + scan) + once)


def top_kernels(work: Callable[[], object], most: int = 25) -> list[dict[str, Any]]:
    """Where the device's time goes, by kernel name, longest first."""
    from torch.profiler import ProfilerActivity, profile

    work()
    torch.cuda.synchronize()
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as seen:
        work()
        torch.cuda.synchronize()
    events = [e for e in seen.key_averages() if getattr(e, "self_device_time_total", 0) > 0]
    events.sort(key=lambda e: -e.self_device_time_total)
    return [
        {"kernel": str(e.key)[:120], "calls": e.count, "ms": round(e.self_device_time_total / 1e3, 3)}
        for e in events[:most]
    ]


def _ends(values: list[int]) -> list[int]:
    return [values[0], values[-1]]
