"""A static K/V cache and the two ways a block may look at it.

One buffer per model, a length integer instead of tensors that grow: a rejected draft is dropped by moving the length.
`causal` rows see the cache and the rows before them; `block` rows see the cache and each other (block diffusion).
Everything committed must come from causal rows, because training's noisy blocks attend to a causal clean stream
(Fast-dVLM, 2604.06832, causal context).
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from efficientgen.planning.model import Attend, LayerAttend, TextConfig

Mode = Literal["causal", "block"]


class CacheFullError(RuntimeError):
    """More tokens than the cache was made for."""


class KVCache:
    """K and V of up to `capacity` tokens for `batch` rows."""

    def __init__(self, config: TextConfig, capacity: int, dtype: torch.dtype, device: torch.device, batch: int = 1):
        shape = (config.num_hidden_layers, 2, batch, config.num_key_value_heads, capacity, config.head_dim)
        self.store = torch.zeros(shape, dtype=dtype, device=device)
        self.capacity, self.length = capacity, 0
        self.groups = config.num_attention_heads // config.num_key_value_heads

    def drop(self, count: int) -> None:
        """Forget the last `count` tokens."""
        self.length -= count

    def append(self, mode: Mode, rows: int) -> Attend:
        """Attention for one forward of `rows` new tokens; they are part of the cache as soon as it returns.

        Raises:
            CacheFullError: they do not fit.
        """
        start, end = self.length, self.length + rows
        if end > self.capacity:
            raise CacheFullError(f"{end} tokens in a cache of {self.capacity}; make it with a larger capacity")
        self.length = end
        mask: Tensor | None = None
        if mode == "causal" and rows > 1:
            mask = torch.ones(rows, end, dtype=torch.bool, device=self.store.device).tril_(start)

        def attend(layer: int) -> LayerAttend:
            keys, values = self.store[layer, 0, :, :, :end], self.store[layer, 1, :, :, :end]

            def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
                keys[:, :, start:] = k
                values[:, :, start:] = v
                return grouped_attention(q, keys, values, mask)

            return one

        return attend


def grouped_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None) -> Tensor:
    """Scaled dot-product attention with fewer K/V heads than query heads; q (B, H, L, D), k and v (B, Hkv, S, D)."""
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, enable_gqa=q.shape[1] != k.shape[1])
