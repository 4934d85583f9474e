"""One drive's latents, chunk after chunk (SANA-WM, arXiv 2605.15178, streaming inference), captured where that pays.

A pass at the 720p shape launches some 900 kernels that take about 30 ms; from Python that is as long again.  Once the
stream's window is full every chunk has the same shapes, so on a GPU three CUDA graphs are captured then: what the
passes of a chunk share, one denoising pass, and the clean pass, which overwrites the state in place.  The module is the
same one: its inputs are buffers, and a chunk copies its noise and rays into them.

Floor of a pass at that shape (2,640 tokens, window and sink of 3 + 4 frames): 23 C^2 products per token and block are
12.2 TFLOP, softmax attention 2.1, everything else 0.4: 18 ms at the 798 TFLOP/s that an H100 has been seen to reach,
five passes 92 ms.  The weights are read once per pass, 4.9 GB, 1.5 ms.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from efficientgen.worldsim.sana.camera import Rays
from efficientgen.worldsim.sana.model import Prepared, Read, SanaTransformer, Text
from efficientgen.worldsim.sana.sampler import LEVELS, require_finite, sample_chunk
from efficientgen.worldsim.sana.state import StreamState, WindowState, copied, leaves

WARM_UP = 2  # runs before a capture: kernels are tuned in them


Capture = Callable[[Callable[[], Any]], tuple[Any, Callable[[], None]]]


def cuda_graphs(model: SanaTransformer) -> Capture | None:
    """How to capture work on the model's device: what it returned, and what runs it again into the same; CPU: None."""
    if not next(model.parameters()).is_cuda:
        return None
    pool: Any = torch.cuda.graph_pool_handle()

    def capture(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
        graph = torch.cuda.CUDAGraph()
        torch.cuda.synchronize()
        with torch.cuda.graph(graph, pool=pool):
            out = work()
        return out, graph.replay

    return capture


class Stream:
    """A stream of latents that `begin` starts and `sample` continues.

    Args:
        capture: how work is captured once the window is full, as `cuda_graphs` says; None: not at all.
    """

    def __init__(
        self, model: SanaTransformer, levels: tuple[int, ...] = LEVELS, capture: Capture | None = None
    ) -> None:
        self._model, self._levels, self._capture = model, levels, capture
        self._graphs: Graphs | None = None
        self._read: Read | None = None
        self._state: StreamState | None = None
        self._inside = False  # the state lies in the graphs' buffers

    @property
    def state(self) -> StreamState | None:
        """After the last chunk; in a captured stream it changes with the next one."""
        return self._state

    @property
    def captured(self) -> bool:
        """Whether the last chunk was replayed."""
        return self._inside

    @property
    def graphs(self) -> Graphs | None:
        """What was captured last."""
        return self._graphs

    @property
    def bytes(self) -> int:
        """Memory that is carried from chunk to chunk."""
        return 0 if self._state is None else self._state.bytes

    @torch.inference_mode()
    def begin(self, text: Text) -> None:
        """A new stream; what was captured stays."""
        self._read, self._state, self._inside = self._model.read(text), None, False

    @torch.inference_mode()
    def sample(self, noise: Tensor, rays: Rays, clean: Tensor | None = None) -> Tensor:
        """The next chunk's latents; arguments and errors as `sample_chunk`.  After an error, `begin` anew."""
        if self._read is None:
            raise RuntimeError("begin a stream first")
        if self._capture is not None and clean is None and self._steady():
            return self._replay(noise, rays)
        state = copied(self._state) if self._inside else self._state
        self._inside = False
        out, self._state = sample_chunk(self._model, noise, self._read, rays, state, clean, self._levels)
        return out

    def forget_graphs(self) -> None:
        """Give the graphs' memory back; the stream has to begin anew."""
        self._graphs, self._state, self._inside = None, None, False

    def _steady(self) -> bool:
        """Has the state reached the size that it keeps?"""
        if self._state is None:
            return False
        held = self._state.sink + self._model.config.window
        windows = [b.attention for b in self._state.blocks if isinstance(b.attention, WindowState)]
        return all(window.keys.shape[1] == held for window in windows)

    def _replay(self, noise: Tensor, rays: Rays) -> Tensor:
        assert self._read is not None and self._state is not None and self._capture is not None
        state = self._state
        if self._graphs is None or not self._graphs.fits(noise, rays, self._read, state):
            state = copied(state) if self._inside else state
            self._graphs, self._inside = None, False  # its memory is free before the next is captured
            self._graphs = Graphs(self._model, noise, rays, self._read, state, self._capture)
        elif not self._inside:
            self._graphs.load(self._read, state)
        self._inside = True
        out = self._graphs.run(noise, rays, state.frames, self._levels)
        self._state = replace(self._graphs.state, frames=state.frames + noise.shape[2], sink=state.sink)
        require_finite(out)
        return out


class Graphs:
    """The passes of one chunk over buffers of fixed shape: what they share, denoising, and the clean pass."""

    def __init__(
        self, model: SanaTransformer, noise: Tensor, rays: Rays, read: Read, state: StreamState, capture: Capture
    ) -> None:
        self._model, self._grid = model, (noise.shape[3], noise.shape[4])
        self._x, self._rays, self._read = noise.clone(), copied(rays), copied(read)
        self._t = torch.zeros(noise.shape[0], noise.shape[2], device=noise.device)
        self._first = torch.zeros((), dtype=torch.long, device=noise.device)
        self.state: StreamState = copied(state)
        for _ in range(WARM_UP):
            self._prepared = self._prepare()
            self._velocity = self._denoise()
            self._commit()
        self._prepared, self.prepare = capture(self._prepare)
        self._velocity, self._denoise_again = capture(self._denoise)
        _, self.commit = capture(self._commit)
        _copy(self.state, state)  # what the warm-up did to it

    def fits(self, noise: Tensor, rays: Rays, read: Read, state: StreamState) -> bool:
        """Whether these have the shapes that were captured."""
        ours = [x.shape for part in (self._x, self._rays, self._read, self.state) for x in leaves(part)]
        theirs = [x.shape for part in (noise, rays, read, state) for x in leaves(part)]
        return ours == theirs and self.state.sink == state.sink

    def load(self, read: Read, state: StreamState) -> None:
        """Take over a stream that has come this far by other means."""
        _copy(self._read, read)
        _copy(self.state, state)

    @torch.inference_mode()
    def run(self, noise: Tensor, rays: Rays, first_frame: int, levels: tuple[int, ...]) -> Tensor:
        """The chunk's latents; the state moves on."""
        _copy(self._rays, rays)
        self._x.copy_(noise)
        self._first.fill_(first_frame)
        self.prepare()
        for level, following in zip(levels, (*levels[1:], 0), strict=True):
            self.denoise(float(level))
            self._x.add_((following - level) / 1000.0 * self._velocity.to(self._x))
        self.commit()
        return self._x.clone()

    @torch.inference_mode()
    def denoise(self, level: float) -> None:
        """One pass over the latents as they are, all frames at `level`."""
        self._t.fill_(level)
        self._denoise_again()

    def _prepare(self) -> Prepared:
        return self._model.prepare(self._read, self._rays, self._first, self._grid)

    def _denoise(self) -> Tensor:
        return self._model.advance(self._x, self._t, self._prepared, self.state, save=False)[0]

    def _commit(self) -> None:
        _, after = self._model.advance(self._x, torch.zeros_like(self._t), self._prepared, self.state, save=True)
        _copy(self.state, after)


def _copy(into: Any, source: Any) -> None:
    for a, b in zip(leaves(into), leaves(source), strict=True):
        a.copy_(b)
