"""A static K/V cache and the two ways a block may look at it.

One buffer per model, a length integer instead of tensors that grow: a rejected draft is dropped by moving the length.
`causal` rows see the cache and the rows before them; `block` rows see the cache and each other (block diffusion).
Everything committed must come from causal rows, because training's noisy blocks attend to a causal clean stream
(Fast-dVLM, 2604.06832, causal context).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.planning.model import Attend, LayerAttend, TextConfig, VisionLanguageModel

Mode = Literal["causal", "block"]


class CacheFullError(RuntimeError):
    """More tokens than the cache was made for."""


def sent(values: Sequence[Any], device: torch.device, dtype: torch.dtype = torch.long) -> Tensor:
    """Numbers of the host as a tensor on `device`; nothing waits for the device to be done with what it has."""
    if device.type == "cuda":
        return torch.tensor(values, dtype=dtype, pin_memory=True).to(device, non_blocking=True)
    return torch.tensor(values, dtype=dtype, device=device)


class TextCache(Protocol):
    """What decoders need of a cache: `KVCache` here, `EngineCache` of the engine.  `store` tells device and dtype."""

    length: int
    capacity: int
    widest: int | None  # tokens that one forward takes; None: any number

    @property
    def store(self) -> Tensor: ...

    def drop(self, count: int) -> None: ...

    def reserve(self, capacity: int) -> None: ...

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode | Tensor, behind: int = 0
    ) -> Tensor: ...

    def fork(self, rows: int, capacity: int) -> TextForks: ...


class TextForks(Protocol):
    """N continuations of one cache."""

    widest: int  # tokens of a row that one forward may hold

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode, counts: Sequence[int]
    ) -> Tensor: ...

    def drop(self, counts: Sequence[int]) -> None: ...


class KVCache:
    """K and V of up to `capacity` tokens for `batch` rows."""

    def __init__(self, config: TextConfig, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1):
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        self.store: Tensor = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity, self.length = capacity, 0
        self.widest: int | None = None
        self.groups = config.num_attention_heads // config.num_key_value_heads

    def drop(self, count: int) -> None:
        """Forget the last `count` tokens."""
        self.length -= count

    def reserve(self, capacity: int) -> None:
        """Make room for `capacity` tokens, keeping those held.  The buffer moves; nothing else does that."""
        if capacity > self.capacity:
            store = self.store.new_zeros(*self.store.shape[:4], capacity, self.store.shape[5])
            store[..., : self.length, :] = self.store[..., : self.length, :]
            self.store, self.capacity = store, capacity

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode | Tensor, behind: int = 0
    ) -> Tensor:
        """Hidden states (n, hidden) of tokens `ids` (n,) at text positions `places` (n,); see `append`."""
        attend = self.append(mode, len(ids), behind)
        return model(model.embed(ids[None]), places.expand(3, -1), attend)[0]

    def fork(self, rows: int, capacity: int) -> ForkedCache:
        """`rows` continuations of up to `capacity` tokens."""
        return ForkedCache(self, rows, capacity)

    def append(self, mode: Mode | Tensor, rows: int, behind: int = 0) -> Attend:
        """Attention for one forward of `rows` new tokens; they are part of the cache as soon as it returns.

        Args:
            mode: how they see each other, by name or as a bool mask (rows, rows); all of them see the whole cache.
            behind: tokens that an earlier, dropped forward left behind these rows, and which `block` rows see too.

        Raises:
            CacheFullError: they do not fit.
        """
        start, end = self.length, self.length + rows
        if end + behind > self.capacity:
            raise CacheFullError(f"{end + behind} tokens in a cache of {self.capacity}; make it with a larger capacity")
        self.length = end
        mask: Tensor | None = None
        if isinstance(mode, Tensor):
            mask = F.pad(mode, (start, 0), value=True)
        elif mode == "causal" and rows > 1:
            mask = torch.ones(rows, end, dtype=torch.bool, device=self.store.device).tril_(start)
        if mask is not None:  # what attention would make of it in every layer, once
            mask = torch.zeros(mask.shape, dtype=self.store.dtype, device=mask.device).masked_fill_(~mask, -torch.inf)

        def attend(layer: int) -> LayerAttend:
            keys, values = self.store[layer, 0, :, :, : end + behind], self.store[layer, 1, :, :, : end + behind]

            def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys[:, :, start:end] = k
                values[:, :, start:end] = v
                return grouped_attention(q, keys, values, mask)

            return one

        return attend


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention with fewer K/V heads than query heads; q (B, H, L, D), k and v (B, Hkv, S, D)."""
    if mask is not None and q.is_cuda:  # a mask with grouped heads was slow there; not measured since
        k, v = (x.repeat_interleave(q.shape[1] // x.shape[1], 1) for x in (k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])


class ForkedCache:
    """N continuations of one `KVCache`: the prefix is stored once and read once, each row has its own tail and length.

    Rows may be at different places, so a forward of W tokens holds `counts[r] <= W` real ones in row r; what pads the
    rest is written behind them and overwritten by the next forward.
    """

    def __init__(self, prefix: KVCache, rows: int, capacity: int):
        layers, _, _, heads, _, width = prefix.store.shape
        self.prefix, self.capacity = prefix, capacity
        self.tail = prefix.store.new_zeros(layers, 2, rows, heads, capacity, width)
        self.lengths, self.widest = [0] * rows, capacity

    def read(
        self, model: VisionLanguageModel, ids: Tensor, places: Tensor, mode: Mode, counts: Sequence[int]
    ) -> Tensor:
        """Hidden states (N, W, hidden) of tokens `ids` (N, W) at text positions `places` (N, W); see `append`."""
        attend = self.append(mode, counts, ids.shape[1])
        return model(model.embed(ids), places.expand(3, -1, -1), attend)

    def append(self, mode: Mode, counts: Sequence[int], width: int) -> Attend:
        """Attention for one forward of (N, `width`) tokens; row r keeps its first `counts[r]`, until `drop`.

        Raises:
            CacheFullError: they do not fit.
        """
        if max(self.lengths) + width > self.capacity:
            raise CacheFullError(f"{max(self.lengths) + width} tokens in tails of {self.capacity}; make them longer")
        device = self.tail.device
        start = torch.tensor(self.lengths, device=device)[:, None]  # (N, 1)
        slots = start + torch.arange(width, device=device)  # (N, W)
        place = torch.arange(self.capacity, device=device)
        last = (
            slots
            if mode == "causal"
            else (start + torch.tensor(counts, device=device)[:, None] - 1).expand(slots.shape)
        )
        seen = place <= last[..., None]  # (N, W, T)
        self.lengths = [length + count for length, count in zip(self.lengths, counts, strict=True)]
        end = self.prefix.length

        def attend(layer: int) -> LayerAttend:
            keys, values = self.prefix.store[layer, :, 0, :, :end]  # (Hkv, P, D) each
            tail_keys, tail_values = self.tail[layer]  # (N, Hkv, T, D) each

            def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                rows, heads, n, d = q.shape
                shared = len(keys)
                where = slots[:, None, :, None].expand(-1, shared, -1, d)
                tail_keys.scatter_(2, where, k)
                tail_values.scatter_(2, where, v)
                grouped = q.view(rows, shared, heads // shared, n, d) * d**-0.5
                flat = grouped.transpose(0, 1).reshape(shared, -1, d)  # all rows' queries meet the prefix at once
                near = grouped.flatten(2, 3) @ tail_keys.transpose(-1, -2)  # (N, Hkv, G W, T)
                near = near.unflatten(2, (-1, n)).masked_fill(~seen[:, None, None], -torch.inf)
                far = (flat @ keys.transpose(-1, -2)).view(shared, rows, -1, n, end).transpose(0, 1)
                weights = torch.cat([far, near], -1).softmax(-1)  # (N, Hkv, G, W, P + T)
                far, near = weights.split([end, self.capacity], -1)
                out = (
                    (far.transpose(0, 1).reshape(shared, -1, end) @ values).view(shared, rows, -1, n, d).transpose(0, 1)
                )
                return (out + (near.flatten(2, 3) @ tail_values).unflatten(2, (-1, n))).reshape(rows, heads, n, d)

            return one

        return attend

    def drop(self, counts: Sequence[int]) -> None:
        """Forget the last `counts[r]` tokens of each row r."""
        self.lengths = [length - count for length, count in zip(self.lengths, counts, strict=True)]
