"""Reading a prompt into the engine's cache: hundreds of rows at once, so the products are the library's.

The kernels between them are the engine's; the last layer computes its K and V for all tokens and the rest for the last
token alone, because nobody reads more.  What lies in the cache from the plan before is kept as far as the two prompts
begin alike (`shared_prefix`): a driving prompt begins with its instructions, and only the pictures behind them change.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from efficientgen.kernels import rows as of_rows
from efficientgen.kernels.skinny import Heads
from efficientgen.planning.engine_layers import Layers
from efficientgen.planning.model import mrope


def shared_prefix(before: Sequence[int], ids: Sequence[int], image_token: int) -> int:
    """How many tokens two prompts begin with alike, up to the first of a picture; the last of `ids` is always read."""
    count = 0
    for old, new in zip(before, ids[:-1], strict=False):
        if old != new or new == image_token:
            break
        count += 1
    return count


def prefill(layers: Layers, embeds: Tensor, positions: Tensor, start: int) -> Tensor:
    """Hidden state (H,) of the last of the tokens `embeds` (n, H) behind the final norm; K and V go to `start` and on.

    Args:
        positions: (3, n) M-RoPE positions.
    """
    weights, text, plain = layers.weights, layers.weights.config, layers.reference
    eps, count, end = text.rms_norm_eps, len(embeds), start + len(embeds)
    cos, sin = (
        x[0, 0, :, : text.head_dim // 2].contiguous() for x in mrope(positions, text, layers.cos.dtype)
    )  # (n, D / 2)
    place = torch.arange(count, dtype=torch.int32, device=embeds.device)
    slot = place + start
    x = embeds.contiguous().clone()

    def normed(x: Tensor, weight: Tensor | None = None) -> Tensor:
        if plain:
            return of_rows.normed_reference(x, weight, eps)
        out = torch.empty_like(x)
        of_rows.normed(x, weight, eps, out)
        return out

    for i, layer in enumerate(weights.layers):
        y = F.linear(normed(x), layer.qkv, layer.qkv_bias)
        heads = Heads(
            text.num_attention_heads,
            cos,
            sin,
            place,
            layers.store[i, 0],
            layers.store[i, 1],
            slot,
            layer.head_norm,
            eps,
        )
        if plain:
            q = of_rows.place_heads_reference(y, heads)
        else:
            q = y.new_empty(count, text.num_attention_heads, text.head_dim)
            of_rows.place_heads(y, heads, q)
        if i == len(weights.layers) - 1:
            q, x = q[-1:], x[-1:].contiguous()
        attended = _attend(q, layers.store[i, 0, :, :end], layers.store[i, 1, :, :end])
        x = torch.addmm(x, attended, layer.out.t())
        both = F.linear(normed(x), layer.gate_up)
        if plain:
            gated = of_rows.swiglu_reference(both)
        else:
            gated = both.new_empty(len(both), both.shape[1] // 2)
            of_rows.swiglu(both, gated)
        x = torch.addmm(x, gated, layer.down.t())
    return normed(x, weights.norm)[-1]


def _attend(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """q (n, H, D), the last n of keys and values (Hkv, S, D), causal -> (n, H D)."""
    rows, heads, _ = q.shape
    k, v = (x.repeat_interleave(heads // len(x), 0)[None] for x in (keys, values))
    q = q.transpose(0, 1)[None]  # (1, H, n, D)
    if rows == k.shape[2]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    elif rows == 1:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(rows, k.shape[2]))
    return out[0].transpose(0, 1).flatten(1)
