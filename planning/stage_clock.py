"""How long the stages of a plan take, without making one wait for the other.

On a GPU the stages are queued and the device runs behind the host; events in the same queue say when it came by.
"""

from __future__ import annotations

import time
from typing import Any

import torch


class StageClock:
    """`mark(name)` ends the stage called so; `seconds()` waits for the device and gives all of them."""

    def __init__(self, device: torch.device):
        self.cuda = device.type == "cuda"
        self._names: list[str] = []
        self._marks: list[Any] = [self._now()]

    def mark(self, name: str) -> None:
        self._names.append(name)
        self._marks.append(self._now())

    def seconds(self) -> dict[str, float]:
        """Seconds of each stage; on a GPU, of the device's own time."""
        if self.cuda:
            torch.cuda.synchronize()
        out = {}
        for name, a, b in zip(self._names, self._marks, self._marks[1:], strict=False):
            out[name] = b - a if isinstance(a, float) else a.elapsed_time(b) / 1e3
        return out

    def _now(self) -> float | torch.cuda.Event:
        if not self.cuda:
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event
