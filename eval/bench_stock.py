"""Stock transformers as the baseline of a planner's speed: greedy AR as its `generate` loop runs it, batch 1.

One token per forward over a growing cache, or, uncached, the whole sequence anew for every token.  Scaffold and
allow-lists are those of the planner, so that both write the same answer; `generate` itself knows neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from efficientgen.eval.bench_clock import Took, timed
from efficientgen.eval.stock import Stock
from efficientgen.perception.vision import Grid
from efficientgen.planning.decode import Form
from efficientgen.planning.model import position_ids


@torch.inference_mode()
def stock_answer(
    stock: Stock, form: Form, ids: list[int], patches: Tensor, grids: tuple[Grid, ...], cached: bool
) -> list[int]:
    """Answer tokens (L,) of the prompt `ids` with the images `patches` (1, N, 1176): vision, prefill and decode."""
    device = patches.device
    prompt = torch.tensor([ids], device=device)
    embeds = stock.text.embed_tokens(prompt)
    seen = stock.model.model.visual(patches[0].to(embeds.dtype), grid_thw=torch.tensor(grids, device=device))
    images = (prompt == stock.config.image_token_id)[..., None]
    embeds = embeds.masked_scatter(images, getattr(seen, "pooler_output", seen).to(embeds.dtype))
    positions = position_ids(ids, grids, stock.config).to(device)[:, None]  # (3, 1, P)
    following = int(positions.max()) + 1
    written: list[int] = []
    past = None
    while True:
        out = stock.text(inputs_embeds=embeds, position_ids=positions, past_key_values=past, use_cache=cached)
        written += form.pick(stock.model.lm_head(out.last_hidden_state[:, -1]), len(written))
        if form.complete(written):
            return written
        token = stock.text.embed_tokens(torch.tensor([written[-1:]], device=device))
        place = torch.full((3, 1, 1), following + len(written) - 1, device=device)
        if cached:
            embeds, positions, past = token, place, out.past_key_values
        else:
            embeds, positions = torch.cat([embeds, token], 1), torch.cat([positions, place], -1)


def generate_ms(stock: Stock, prompt: int, tokens: int) -> float:
    """Milliseconds per new token of `generate` itself, greedy, behind a text prompt of `prompt` random tokens."""
    device = next(stock.model.parameters()).device
    ids = torch.randint(1000, 100000, (1, prompt), device=device)

    def run(count: int) -> Took:
        options = {"do_sample": False, "min_new_tokens": count, "max_new_tokens": count}
        return timed(device, lambda: stock.model.generate(ids, attention_mask=torch.ones_like(ids), **options))[1]

    few, many = run(4), run(4 + tokens)
    return (many.wall_s - few.wall_s) * 1e3 / tokens


class StockGraph:
    """A forward of stock transformers over its own StaticCache, captured: `rows` tokens behind `context` of them."""

    def __init__(self, stock: Stock, rows: int, context: int):
        from transformers import StaticCache

        text, parameter = stock.config.text, next(stock.model.parameters())
        device, dtype = parameter.device, parameter.dtype
        self.stock, self.rows, self.context = stock, rows, context
        self.cache: Any = StaticCache(stock.text.config, max_cache_len=context + rows)
        self.embeds = torch.randn(1, rows, text.hidden_size, device=device, dtype=dtype)
        self.positions = (context + torch.arange(rows, device=device)).expand(3, 1, -1).contiguous()
        seen = torch.ones(rows, context + rows, dtype=torch.bool, device=device).tril_(context)
        self.mask = torch.zeros(seen.shape, device=device, dtype=dtype).masked_fill_(~seen, -torch.inf)[None, None]
        self._forward()
        layers: Any = self.cache.layers
        for layer in layers:
            layer.keys.normal_()
            layer.values.normal_()
        self._forward()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph):
            self.logits = self._forward()

    def _forward(self) -> Tensor:
        for layer in self.cache.layers:
            if layer.is_initialized:
                layer.cumulative_length.fill_(self.context)
        hidden = self.stock.text(
            inputs_embeds=self.embeds, position_ids=self.positions, attention_mask={"full_attention": self.mask},
            past_key_values=self.cache, use_cache=True,
        ).last_hidden_state  # fmt: skip
        return self.stock.model.lm_head(hidden)[0]

    def answer(self, tokens: int) -> Tensor:
        """`tokens` greedy tokens one after the other, each read behind the same context: what an answer costs."""
        out = []
        for _ in range(tokens):
            self.graph.replay()
            out.append(self.logits[-1].argmax())
            self.embeds.copy_(self.stock.text.embed_tokens(out[-1])[None, None])
        return torch.stack(out)
