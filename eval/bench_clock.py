"""Timing for planner benchmarks: wall and CPU time of one piece of work, device included, and the memory's own speed.

On a busy machine wall time is other people's, too; CPU time of this process is not.  So both are kept everywhere.  On a
GPU, work is bracketed by CUDA events on a device that had finished everything before, and the clock is read when the
device is done.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch

from efficientgen.eval.runner import host_facts

T = TypeVar("T")
COPY_MIB = {"cpu": 128, "cuda": 1024}  # far beyond any cache
COPIES = 12


@dataclass(frozen=True)
class Took:
    """Seconds of one piece of work: on the wall (on a GPU: between its events, or by the host), and of this process."""

    wall_s: float
    cpu_s: float


def timed(device: torch.device, work: Callable[[], T], by_host: bool = False) -> tuple[T, Took]:
    """What `work` returns and how long it took, until the device is done with it.

    Args:
        by_host: on a GPU, take the host's clock around work and waiting: a whole plan, as its caller sees it.
    """
    if device.type != "cuda" or by_host:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        wall, cpu = time.perf_counter(), time.process_time()
        out = work()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return out, Took(time.perf_counter() - wall, time.process_time() - cpu)
    begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    torch.cuda.synchronize(device)
    cpu = time.process_time()
    begin.record()
    out = work()
    end.record()
    torch.cuda.synchronize(device)
    return out, Took(begin.elapsed_time(end) / 1e3, time.process_time() - cpu)


def graphed_ms(work: Callable[[], object], runs: int = 30, warm: int = 3) -> list[float]:
    """Milliseconds of each replay of `work` as a CUDA graph, warm, each on a device that had finished all else.

    `work` reads and writes the same tensors whenever it is called, and was not captured before.
    """
    aside = torch.cuda.Stream()
    aside.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(aside):
        for _ in range(warm):
            work()
    torch.cuda.current_stream().wait_stream(aside)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        work()
    graph.replay()
    return [1e3 * timed(torch.device("cuda"), graph.replay)[1].wall_s for _ in range(runs)]


def spread(took: Sequence[Took]) -> dict[str, Any]:
    """Percentiles in ms.  p99 of fewer than 100 runs is between its two slowest."""
    return {"runs": len(took)} | {
        f"{kind}_ms": {
            "p50": round(float(np.percentile(values, 50)), 3),
            "p99": round(float(np.percentile(values, 99)), 3),
            "least": round(min(values), 3),
        }
        for kind, values in (("wall", [1e3 * t.wall_s for t in took]), ("cpu", [1e3 * t.cpu_s for t in took]))
    }


def clock_of(device: torch.device) -> str:
    """Which of the two times a rate or ratio is made of: CPU time where the CPU computes, else the device's."""
    return "cpu" if device.type == "cpu" else "wall"


def copy_bandwidth(device: torch.device) -> dict[str, Any]:
    """Bytes read and written per second by a copy from one large buffer to another, in GB/s.

    On a CPU by its CPU time; "best" is the fastest of `COPIES`.
    """
    size = COPY_MIB.get(device.type, COPY_MIB["cpu"]) * 2**20
    source, target = torch.ones(size // 4, device=device), torch.empty(size // 4, device=device)
    target.copy_(source)
    took = [timed(device, lambda: target.copy_(source))[1] for _ in range(COPIES)]
    rates = [2 * size / (t.cpu_s if clock_of(device) == "cpu" else t.wall_s) / 1e9 for t in took]
    return {"buffer_mib": size // 2**20, "median_gb_s": float(np.median(rates)), "best_gb_s": max(rates)}


def machine(device: torch.device) -> dict[str, Any]:
    """What the figures were measured on, and how busy it was."""
    facts = host_facts() | {"cpu": _cpu_name(), "torch": torch.__version__, "torch_threads": torch.get_num_threads()}
    facts["load_average"] = [round(x, 2) for x in os.getloadavg()]
    if device.type == "cuda":
        facts["gpu"] = torch.cuda.get_device_name(device)
    return facts


def _cpu_name() -> str:
    path = Path("/proc/cpuinfo")
    lines = path.read_text().splitlines() if path.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "unknown")
