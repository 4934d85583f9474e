"""Reading a prompt into the engine's cache: hundreds of rows at once, so the products are the library's.

The kernels between them are the engine's; the last layer computes its K and V for all tokens and the rest for the last
token alone, because nobody reads more.  What lies in the cache from the plan before is kept as far as the two prompts
begin alike (`shared_prefix`): a driving prompt begins with its instructions, and only the pictures behind them change.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right

from efficientgen.kernels import rows as of_rows
from efficientgen.kernels.skinny import Heads
from efficientgen.planning.engine_layers import Layers
from efficientgen.planning.model import mrope

BUCKET = 64  # tokens; prompts are padded to multiples
HELD = 12  # captured lengths
JITTER = 24  # tokens by which the next prompt may be longer or shorter


def shared_prefix(before: Sequence[int], ids: Sequence[int], image_token: int) -> int:
    """How many tokens two prompts begin with alike, up to the first of a picture; the last of `ids` is always read."""
    count = 0
    for old, new in zip(before, ids[:-1], strict=False):
        if old != new or new == image_token:
            break
        count += 1
    return count


class Prompt:
    """Static inputs of a prefill of up to `rows` tokens behind `start` kept ones.

    Rows behind the last token are read like the others and change nothing: what they write into the cache lies behind
    the prompt, where the answer's first tokens overwrite it.
    """

    def __init__(self, layers: Layers, start: int, rows: int):
        text, device = layers.weights.config, layers.weights.embed.device
        self.start, self.rows = start, rows
        self.embeds = torch.zeros(rows, text.hidden_size, dtype=layers.weights.embed.dtype, device=device)
        self.cos, self.sin = (
            torch.zeros(rows, text.head_dim // 2, dtype=layers.cos.dtype, device=device) for _ in range(2)
        )
        self.place = torch.arange(rows, dtype=torch.int32, device=device)
        self.slot = self.place + start
        self.last = torch.zeros(1, dtype=torch.long, device=device)
        self.keys = torch.arange(start + rows, device=device)

    def fill(self, layers: Layers, embeds: Tensor, positions: Tensor) -> None:
        """Take the tokens `embeds` (n, H), n of at most `rows`, at the M-RoPE `positions` (3, n)."""
        text, count = layers.weights.config, len(embeds)
        self.embeds[:count].copy_(embeds)
        for to, x in zip((self.cos, self.sin), mrope(positions, text, layers.cos.dtype), strict=True):
            to[:count].copy_(x[0, 0, :, : text.head_dim // 2])
        self.last.fill_(count - 1)


def prefill(layers: Layers, prompt: Prompt) -> Tensor:
    """Hidden state (H,) of the prompt's last token behind the final norm; K and V go to its slots."""
    weights, text, plain = layers.weights, layers.weights.config, layers.reference
    eps, end = text.rms_norm_eps, prompt.start + prompt.rows
    x = prompt.embeds

    def normed(x: Tensor, weight: Tensor | None = None) -> Tensor:
        if plain:
            return of_rows.normed_reference(x, weight, eps)
        out = torch.empty_like(x)
        of_rows.normed(x, weight, eps, out)
        return out

    for i, layer in enumerate(weights.layers):
        keys, values = layers.store[i]
        y = F.linear(normed(x), layer.qkv, layer.qkv_bias)
        heads = Heads(text.num_attention_heads, prompt.cos, prompt.sin, prompt.place, keys, values, prompt.slot,
                      layer.head_norm, eps)  # fmt: skip
        if plain:
            q = of_rows.place_heads_reference(y, heads)
        else:
            q = y.new_empty(len(y), text.num_attention_heads, text.head_dim)
            of_rows.place_heads(y, heads, q)
        seen = None
        if i == len(weights.layers) - 1:
            q, x = q[prompt.last], x[prompt.last]
            seen = prompt.keys <= prompt.last + prompt.start
        attended = _attend(q, keys[:, :end], values[:, :end], seen)
        x = torch.addmm(x, attended, layer.out.t())
        both = F.linear(normed(x), layer.gate_up)
        if plain:
            gated = of_rows.swiglu_reference(both)
        else:
            gated = both.new_empty(len(both), both.shape[1] // 2)
            of_rows.swiglu(both, gated)
        x = torch.addmm(x, gated, layer.down.t())
    return normed(x, weights.norm)[-1]


def near(count: int) -> list[int]:
    """The padded length of `count` tokens, then those that some tokens more or less would have."""
    lengths = (-(-max(1, count + more) // BUCKET) * BUCKET for more in (0, -JITTER, JITTER))
    return list(dict.fromkeys(lengths))


class Prefills:
    """Captured prefills, one for each number of kept tokens and of `BUCKET`s of read ones; the oldest goes first.

    The first prompt of a length runs uncaptured, which also compiles and lets the library look for its kernels; the
    second is captured with its neighbours, so a length that comes once costs no capture.
    """

    def __init__(self, graphs: bool):
        self.graphs = graphs
        self.pool: Any = None  # all share their scratch: one runs at a time
        self._held: dict[tuple[int, int], tuple[Prompt, tuple[torch.cuda.CUDAGraph, Tensor] | None]] = {}

    def run(self, layers: Layers, embeds: Tensor, positions: Tensor, start: int) -> Tensor:
        """`prefill` of `embeds` (n, H) at `positions` (3, n) behind `start` tokens; valid until the next."""
        room = layers.store.shape[3] - start
        rows, *others = (min(rows, room) for rows in near(len(embeds)))
        known = (start, rows) in self._held
        prompt, captured = self._held.pop((start, rows)) if known else (Prompt(layers, start, rows), None)
        if known and captured is None and self.graphs:
            for other in others:
                if self._held.get((start, other), (None, None))[1] is None:
                    blank = Prompt(layers, start, other)
                    self._held[start, other] = blank, self._capture(layers, blank)
            captured = self._capture(layers, prompt)
        self._held[start, rows] = prompt, captured
        while len(self._held) > HELD:
            del self._held[next(iter(self._held))]
        prompt.fill(layers, embeds, positions)
        if captured is None:
            return prefill(layers, prompt)
        captured[0].replay()
        return captured[1]

    def _capture(self, layers: Layers, prompt: Prompt) -> tuple[torch.cuda.CUDAGraph, Tensor]:
        if self.pool is None:
            self.pool = torch.cuda.graph_pool_handle()
        device = prompt.embeds.device
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            prefill(layers, prompt)
        torch.cuda.current_stream(device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self.pool):
            hidden = prefill(layers, prompt)
        return graph, hidden


def _attend(q: Tensor, keys: Tensor, values: Tensor, seen: Tensor | None = None) -> Tensor:
    """q (n, H, D), the last n of keys and values (Hkv, S, D), causal, or one row that sees `seen` (S,) -> (n, H D)."""
    rows, heads, _ = q.shape
    k, v = (x.repeat_interleave(heads // len(x), 0)[None] for x in (keys, values))
    q = q.transpose(0, 1)[None]  # (1, H, n, D)
    if seen is not None:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=seen[None, None, None])
    elif rows == k.shape[2]:
        out = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    else:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=causal_lower_right(rows, k.shape[2]))
    return out[0].transpose(0, 1).flatten(1)
