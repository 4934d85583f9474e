"""A training step that costs what the GPU computes: one CUDA graph of forward, backward, clipping, optimiser, average.

A step of the nano world is thousands of small kernels, which Python launches more slowly than an H100 runs them.  A
step that reads its inputs from buffers, draws its noise by the device's generator and asks the host for nothing can be
captured once and replayed.  The first calls run as they are (kernels are tuned and the optimiser's state is made in
them) and are steps like any other.  Where capture fails, one line says so and training goes on without.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

WARM_UP = 3  # calls before the capture
AHEAD = 8  # calls after which the host waits for the device, or wall time would say little of what has been computed


class Step:
    """`work` again and again; `work` returns a tensor that says how it went, valid until the next call.

    Args:
        tell: told once, in keywords, whether the step was captured, and if not, why.
        capture: whether to, where there is a GPU.
    """

    def __init__(
        self, work: Callable[[], Tensor], device: torch.device, tell: Callable[..., None], name: str,
        capture: bool = True,
    ) -> None:  # fmt: skip
        self._work, self._tell, self._name = work, tell, name
        self._side = torch.cuda.Stream(device) if capture and device.type == "cuda" else None  # None: no capture
        self._device, self._calls = device, 0
        self._graph: torch.cuda.CUDAGraph | None = None
        self._out: Tensor | None = None

    @property
    def captured(self) -> bool:
        """Is the next call a replay?"""
        return self._graph is not None

    def __call__(self) -> Tensor:
        if self._side is None:
            return self._work()
        self._calls += 1
        if self._graph is None and self._calls == WARM_UP + 1:
            self._capture()
        if self._graph is not None and self._out is not None:
            self._graph.replay()
            out = self._out
        else:
            out = self._beside()
        if self._calls % AHEAD == 0:
            torch.cuda.synchronize(self._device)
        return out

    def _beside(self) -> Tensor:
        """The work on the stream that is captured from, as PyTorch asks of runs before a capture."""
        assert self._side is not None
        here = torch.cuda.current_stream(self._device)
        self._side.wait_stream(here)
        with torch.cuda.stream(self._side):
            out = self._work()
        here.wait_stream(self._side)
        return out

    def _capture(self) -> None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=self._side):
                out = self._work()
        except Exception as error:  # whatever it is, the run is worth more than its speed
            why = f"{type(error).__name__}: {str(error).strip()}".partition("\n")[0]
            self._tell(part="capture", name=self._name, captured=False, why=why)
            _release_generator(self._device)
            return
        self._graph, self._out = graph, out
        self._tell(part="capture", name=self._name, captured=True)


def _release_generator(device: torch.device) -> None:
    """A capture that failed leaves the device's generator in its hands: give the device a fresh one."""
    index = torch.cuda.current_device() if device.index is None else device.index
    fresh = torch.Generator(device)
    fresh.manual_seed(torch.initial_seed() + 1)  # of the CPU's, which no capture touches
    torch.cuda.default_generators[index].graphsafe_set_state(fresh.graphsafe_get_state())
