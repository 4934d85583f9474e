"""Stock transformers as the baseline of a planner's speed: greedy AR as its `generate` loop runs it, batch 1.

One token per forward over a growing cache, or, uncached, the whole sequence anew for every token.  Scaffold and
allow-lists are those of the planner, so that both write the same answer; `generate` itself knows neither.
"""

from __future__ import annotations

import torch
from torch import Tensor

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
