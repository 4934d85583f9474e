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


class Stream:
    """A stream of latents that `begin` starts and `sample` continues.

    Args:
        capture: None: on a GPU.
    """

    def __init__(
        self, model: SanaTransformer, levels: tuple[int, ...] = LEVELS, *, capture: bool | None = None
    ) -> None:
        self._model, self._levels = model, levels
        on_gpu = next(model.parameters()).is_cuda
        self._captures = on_gpu if capture is None else capture and on_gpu
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
        if self._captures and clean is None and self._steady():
            assert self._state is not None
            return self._replay(noise, rays, self._state)
        state = copied(self._state) if self._inside else self._state
        self._inside = False
        out, self._state = sample_chunk(self._model, noise, self._read, rays, state, clean, self._levels)
        return out

    def forget_graphs(self) -> None:
        """Give the graphs' memory back."""
        if self._inside:
            self._state, self._inside = copied(self._state), False
        self._graphs = None

    def _steady(self) -> bool:
        """Has the state reached the size that it keeps?"""
        if self._state is None:
            return False
        held = self._state.sink + self._model.config.window
        windows = [b.attention for b in self._state.blocks if isinstance(b.attention, WindowState)]
        return all(window.keys.shape[1] == held for window in windows)

    def _replay(self, noise: Tensor, rays: Rays, state: StreamState) -> Tensor:
        assert self._read is not None
        if self._graphs is None or not self._graphs.fits(noise, rays, self._read, state):
            self._graphs, self._inside = None, False  # its memory is free before the next is captured
            self._graphs = Graphs(self._model, noise, rays, self._read, state)
        elif not self._inside:
            self._graphs.load(self._read, state)
        self._inside = True
        out = self._graphs.run(noise, rays, state.frames, self._levels)
        self._state = replace(self._graphs.state, frames=state.frames + noise.shape[2])
        require_finite(out)
        return out


class Graphs:
    """The passes of one chunk over buffers of fixed shape: `prepare`, `denoise` and `commit`."""

    def __init__(self, model: SanaTransformer, noise: Tensor, rays: Rays, read: Read, state: StreamState) -> None:
        self._model, self._grid = model, (noise.shape[3], noise.shape[4])
        self._x, self._rays, self._read = noise.clone(), copied(rays), copied(read)
        self._t = torch.zeros(noise.shape[0], noise.shape[2], device=noise.device)
        self._first = torch.zeros((), dtype=torch.long, device=noise.device)
        self.state: StreamState = copied(state)
        self._prepared = self._prepare()
        self._velocity = self._denoise()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._prepared = self._prepare()
                self._velocity = self._denoise()
                self._commit()
        torch.cuda.current_stream().wait_stream(stream)
        self.load(read, state)
        self._pool: Any = None
        self._preparing = self._captured(self._prepare, "_prepared")
        self._denoising = self._captured(self._denoise, "_velocity")
        self._committing = self._captured(self._commit, "")

    def fits(self, noise: Tensor, rays: Rays, read: Read, state: StreamState) -> bool:
        """Whether these have the shapes that were captured."""
        ours = [x.shape for part in (self._x, self._rays, self._read, self.state) for x in leaves(part)]
        theirs = [x.shape for part in (noise, rays, read, state) for x in leaves(part)]
        return ours == theirs

    def load(self, read: Read, state: StreamState) -> None:
        """Take over a stream that has come this far by other means."""
        _copy(self._read, read)
        _copy(self.state, state)
        self.state = replace(self.state, sink=state.sink)

    def run(self, noise: Tensor, rays: Rays, first_frame: int, levels: tuple[int, ...]) -> Tensor:
        """The chunk's latents; the state moves on."""
        _copy(self._rays, rays)
        self._x.copy_(noise)
        self._first.fill_(first_frame)
        self._preparing.replay()
        for level, following in zip(levels, (*levels[1:], 0), strict=True):
            self.denoise(float(level))
            self._x.add_((following - level) / 1000.0 * self._velocity.to(self._x))
        self._committing.replay()
        return self._x.clone()

    def denoise(self, level: float) -> None:
        """One pass over the latents as they are, all frames at `level`."""
        self._t.fill_(level)
        self._denoising.replay()

    def _prepare(self) -> Prepared:
        return self._model.prepare(self._read, self._rays, self._first, self._grid)

    def _denoise(self) -> Tensor:
        return self._model.advance(self._x, self._t, self._prepared, self.state, save=False)[0]

    def _commit(self) -> None:
        _, after = self._model.advance(self._x, torch.zeros_like(self._t), self._prepared, self.state, save=True)
        _copy(self.state, after)

    def _captured(self, work: Callable[[], Any], name: str) -> torch.cuda.CUDAGraph:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            out = work()
        self._pool = graph.pool()
        if name:
            setattr(self, name, out)
        return graph


def _copy(into: Any, source: Any) -> None:
    for a, b in zip(leaves(into), leaves(source), strict=True):
        a.copy_(b)
