"""The text tower at the memory's pace: fused weights, static K/V, one captured CUDA graph for every kind of forward.

A decoder asks its cache for tokens at positions that see the cache and each other in some way (`read`).  Here ids,
positions, cache slots, the prefix's length and the mask are data in static buffers, so that a causal verification, a
bidirectional draft, a fused forward of both and N rollouts over one prefix are replays of the same graph; there is one
for each bucket of rows and of context.  On a CPU the same code runs uncaptured over the torch references.

Decoders see nothing of it: `EngineCache` is to them what `KVCache` is.  Numbers differ from the model's own forward by
rounding only: fused sums are kept in fp32 where that rounds to the weights' dtype between two operations.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from efficientgen.kernels.skinny import Workspace, ceil_div
from efficientgen.planning.cache import CacheFullError, Mode, sent
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.engine_file import Tuning
from efficientgen.planning.engine_layers import Choices, Layers, Step
from efficientgen.planning.engine_prefill import Prefills, shared_prefix
from efficientgen.planning.engine_tune import split_attention
from efficientgen.planning.engine_weights import fuse
from efficientgen.planning.model import VisionLanguageModel, mrope

ROWS = (1, 8, 16, 32, 48, 64, 96, 128, 192, 272)  # 272 = 16 x 17: fused draft and verify at block 16
CONTEXT = 512  # graphs are captured for multiples of so many keys
TAIL = 256  # and where the tail is longer than a forward (rollouts), of so many slots in it
PARTS = 16 * 2**20  # fp32 numbers of split products


class Engine:
    """The text tower of `model` on its device, for one sequence of up to `capacity` tokens and what is drafted of it.

    Args:
        capacity: of the cache; some more slots take rows that hold no token.
        choices: which products are ours at which size (`engine_tune.choose`); none: all are the library's.
        graphs: capture forwards; only on a GPU.
    """

    def __init__(
        self, model: VisionLanguageModel, capacity: int, choices: Choices | None = None, *, graphs: bool | None = None,
        overlap: bool | None = None, rows: Sequence[int] = ROWS,
    ):  # fmt: skip
        self.config: ModelConfig = model.config
        self.weights = fuse(model)
        text, embed = self.config.text, self.weights.embed
        self.device, self.dtype = embed.device, embed.dtype
        cuda = self.device.type == "cuda"
        self.rows = tuple(rows)
        self.capacity = capacity
        spare = max(self.rows)
        shape = (text.num_hidden_layers, 2, text.num_key_value_heads, capacity + spare, text.head_dim)
        self.store = torch.zeros(shape, dtype=self.dtype, device=self.device)
        wide = torch.promote_types(self.dtype, torch.float32)
        places = torch.arange(capacity + spare, device=self.device).expand(3, -1)
        cos, sin = (x[0, 0, :, : text.head_dim // 2].contiguous() for x in mrope(places, text, wide))
        room = Workspace(self.device, PARTS) if cuda else None
        if overlap is None:
            overlap = cuda and torch.cuda.get_device_capability(self.device) >= (9, 0)
        self.layers = Layers(self.weights, self.store, cos, sin, choices or {}, room, overlap)
        self.graphs = cuda if graphs is None else graphs
        self.tuning: Tuning | None = None  # until products are chosen by measurement; then attention is, too
        self._prefills = Prefills(self.graphs)
        self._prompt: list[int] = []
        self.kept = 0  # tokens of the last prompt that were there from the one before
        self._steps: dict[tuple[int, int, int], tuple[Step, torch.cuda.CUDAGraph | None]] = {}
        self._masks: dict[tuple[object, ...], Tensor] = {}

    def adopt(self, tuning: Tuning) -> None:
        """Do each product as `tuning` says from now on; graphs captured before are forgotten."""
        self.layers = self.layers.trial(tuning.choices)
        self.tuning = tuning if self.graphs else None
        self._steps.clear()

    def cache(self) -> EngineCache:
        """An empty cache.  There is one store: a new cache ends the one before."""
        self._prompt = []
        return EngineCache(self)

    @torch.inference_mode()
    def forward(self, ids: Tensor, places: Tensor, slots: Tensor, start: int, seen: Tensor | str) -> Tensor:
        """Hidden states (n, H) of n tokens behind the final norm; valid until the next forward.

        Args:
            ids, places, slots: (n,) token, text position and cache slot of each.
            start: slots [0, start) are seen by all.
            seen: "causal" or "block" among n tokens in n slots from `start`, or bool (n, T) over slots from `start`.
        """
        count = len(ids)
        rows = next((r for r in self.rows if r >= count), 0)
        if not rows:
            raise CacheFullError(f"{count} tokens in one forward; the engine was made for {max(self.rows)}")
        wide = 0 if isinstance(seen, str) else seen.shape[1]
        tail = rows if wide <= rows else ceil_div(wide, TAIL) * TAIL
        step, graph = self._step(rows, tail, self._context(start + tail))
        step.ids[:count].copy_(ids)
        step.place[:count].copy_(places)
        step.slot[:count].copy_(slots)
        if count < rows:
            step.ids[count:].zero_()
            step.place[count:].zero_()
            step.slot[count:].copy_(self.spare(rows - count))
        step.start.fill_(start)
        step.mask.copy_(self._mask(seen, count, rows, tail))
        if graph is not None:
            graph.replay()
        else:
            self.layers.run(step)
        return step.hidden[:count]

    @torch.inference_mode()
    def prepare(self, first: int, last: int, tail: int = 0) -> None:
        """Capture what forwards behind `first` to `last` tokens will replay, so that none of them waits for it.

        Args:
            tail: slots of several rows' private tails together; 0: there is one row.
        """
        for rows in self.rows:
            wide = ceil_div(tail, TAIL) * TAIL or rows
            for context in range(self._context(first + wide), self._context(last + wide) + 1, CONTEXT):
                self._step(rows, wide, min(context, self.store.shape[3]))

    @torch.inference_mode()
    def prefill(self, ids: list[int], embeds: Tensor, positions: Tensor) -> tuple[EngineCache, Tensor]:
        """A cache that holds the prompt, and the hidden state (H,) of its last token, valid until the next prefill.

        Args:
            ids: the P tokens, by which it is known how much of the last prompt still holds.
            embeds: (P, H), pictures included.
            positions: (3, P).

        Raises:
            CacheFullError: the prompt is longer than the cache.
        """
        cache = EngineCache(self)
        cache.reserve(len(ids))
        start = shared_prefix(self._prompt, ids, self.config.image_token_id)
        self._prompt = []  # not valid while it is being overwritten
        hidden = self._prefills.run(self.layers, embeds[start:], positions[:, start:], start)
        cache.length, self._prompt, self.kept = len(ids), list(ids), start
        return cache, hidden

    def _context(self, need: int) -> int:
        """
        Raises:
            CacheFullError: there are not so many slots.
        """
        slots = self.store.shape[3]
        if need > slots:
            raise CacheFullError(f"{need} slots in an engine of {slots}; make it with a larger capacity")
        return min(ceil_div(need, CONTEXT) * CONTEXT, slots)

    def _step(self, rows: int, tail: int, context: int) -> tuple[Step, torch.cuda.CUDAGraph | None]:
        key = rows, tail, context
        if key not in self._steps:
            step = Step(self.weights, rows, tail, context)
            if self.tuning is not None and key in self.tuning.ways:
                step.split(*self.tuning.ways[key])
            elif self.tuning is not None:
                self.tuning.ways[key] = split_attention(self, step)
                self.tuning.keep()
            graph = self._capture(step) if self.graphs else None
            self._steps[key] = step, graph
        return self._steps[key]

    def _capture(self, step: Step) -> torch.cuda.CUDAGraph:
        """Run once so that everything is compiled, then record.  The slots it writes are spare ones."""
        step.slot.copy_(self.spare(step.rows))
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):
            self.layers.run(step)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self.layers.run(step)
        return graph

    def spare(self, count: int) -> Tensor:
        """Slots behind the capacity, for rows that hold no token."""
        return torch.arange(self.capacity, self.capacity + count, dtype=torch.int32, device=self.device)

    def _mask(self, seen: Tensor | str, count: int, rows: int, tail: int) -> Tensor:
        """Bytes (rows, tail).  What holds no token sees slot 0 of the tail, so that no softmax is empty."""
        key = (seen, count, rows, tail)
        if isinstance(seen, str) and key in self._masks:
            return self._masks[key]
        mask = torch.zeros(rows, tail, dtype=torch.uint8, device=self.device)
        mask[count:, 0] = 1
        if isinstance(seen, Tensor):
            mask[:count, : seen.shape[1]] = seen
            return mask
        mask[:count, :count] = 1
        if seen == "causal":
            mask[:count] = mask[:count].tril()
        self._masks[key] = mask
        return mask


class EngineCache:
    """How many tokens of the engine's store are held; a rejected draft is dropped by moving the length."""

    def __init__(self, engine: Engine):
        self.engine, self.length, self.capacity = engine, 0, engine.capacity
        self.widest: int | None = max(engine.rows)

    @property
    def store(self) -> Tensor:
        """K and V (layers, 2, Hkv, S, D)."""
        return self.engine.store

    def drop(self, count: int) -> None:
        """Forget the last `count` tokens."""
        self.length -= count

    def reserve(self, capacity: int) -> None:
        """
        Raises:
            CacheFullError: the engine has not so many slots; their addresses are fixed in its graphs.
        """
        if capacity > self.capacity:
            raise CacheFullError(f"{capacity} tokens in an engine of {self.capacity}; make it with a larger capacity")

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode | Tensor, behind: int = 0
    ) -> Tensor:
        """Hidden states (n, H) as `KVCache.read` gives them, by the engine; valid until the next read.

        Raises:
            CacheFullError: the tokens do not fit.
        """
        start, count = self.length, len(ids)
        self.reserve(start + count + behind)
        self.length = start + count
        seen: Tensor | str = mode
        if behind:
            seen = torch.ones(count, count + behind, dtype=torch.bool, device=ids.device)
        slots = torch.arange(start, start + count, dtype=torch.int32, device=ids.device)
        return self.engine.forward(ids, places, slots, start, seen)

    def fork(self, rows: int, capacity: int) -> EngineForks:
        """`rows` continuations of up to `capacity` tokens, in slots behind what is held.

        Raises:
            CacheFullError: they do not fit.
        """
        return EngineForks(self, rows, capacity)


class EngineForks:
    """`ForkedCache` by the engine: one prefix, a stretch of slots for each of N rows; the mask keeps them apart."""

    def __init__(self, prefix: EngineCache, rows: int, capacity: int):
        prefix.reserve(prefix.length + rows * capacity)
        self.prefix, self.capacity, self.lengths = prefix, capacity, [0] * rows
        self.widest = max(prefix.engine.rows) // rows
        prefix.engine.prepare(prefix.length, prefix.length, rows * capacity)

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode, counts: Sequence[int]
    ) -> Tensor:
        """Hidden states (N, W, H) of tokens (N, W); row r keeps its first `counts[r]`, until `drop`.

        Raises:
            CacheFullError: they do not fit.
        """
        (rows, width), start = ids.shape, self.prefix.length
        if max(self.lengths) + width > self.capacity:
            raise CacheFullError(f"{max(self.lengths) + width} tokens in tails of {self.capacity}; make them longer")
        held = sent([self.lengths, list(counts)], ids.device, torch.int32)[:, :, None]  # (2, N, 1)
        inner = torch.arange(width, dtype=torch.int32, device=ids.device)
        slots = held[0] + inner  # (N, W), in the row's stretch
        last = slots if mode == "causal" else (held[0] + held[1] - 1).expand(slots.shape)
        own = torch.arange(self.capacity, device=ids.device) <= last[..., None]  # (N, W, T)
        row = torch.arange(rows, device=ids.device)
        seen = torch.zeros(rows, width, rows, self.capacity, dtype=torch.bool, device=ids.device)
        seen[row, :, row] = own
        at = slots + (row[:, None] * self.capacity + start).to(torch.int32)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        engine = self.prefix.engine
        hidden = engine.forward(ids.flatten(), places.flatten(), at.flatten(), start, seen.view(rows * width, -1))
        return hidden.view(rows, width, -1)

    def drop(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[r]` tokens of each row r."""
        self.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]
