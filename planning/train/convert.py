"""One training step of any of the four conversions: batch and noise in, the paper's loss out.

`Conversion` is a module around the model, so that FSDP2 sees one forward that holds embedding, layers and head.
Without noise it is AR training, the state that every conversion starts from.  Attention is FlexAttention on GPUs, which
skips the empty tiles of the mask, and dense masked attention elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import flex_attention

from efficientgen.planning.config import CleanContext
from efficientgen.planning.masks import PADDING, Layout, block_mask, dense_mask
from efficientgen.planning.model import Attend, VisionLanguageModel
from efficientgen.planning.train import objectives
from efficientgen.planning.train.loss import LossParts
from efficientgen.planning.train.objectives import MeanOverRanks
from efficientgen.planning.train.recipe import Noise, Recipe
from efficientgen.planning.train.rows import Batch, Rows, build_rows

TILE = 128  # tokens


def alone(count: Tensor) -> Tensor:
    """`mean_over_ranks` of a single process."""
    return count


class Conversion(nn.Module):
    """The model with a recipe's loss; `mean_over_ranks` averages a count over the processes of a distributed run."""

    def __init__(self, model: VisionLanguageModel, recipe: Recipe, mean_over_ranks: MeanOverRanks = alone):
        super().__init__()
        self.model, self.recipe, self.mean_over_ranks = model, recipe, mean_over_ranks

    def forward(self, batch: Batch, noise: Noise | None = None) -> LossParts:
        """The loss and its halves, scalars; `noise` None: the AR loss."""
        recipe, length = self.recipe, batch.ids.shape[1]
        block = torch.zeros_like(batch.ids) if noise is None else noise.block
        rows = build_rows(batch, block, None if noise is None else noise.hidden, recipe.keep)
        context: CleanContext = "token" if noise is None else recipe.clean_context
        states = self.model(self._embeds(batch, rows), rows.positions, attend_in(rows.layout, context))
        zero = torch.zeros((), device=states.device)
        if noise is None:
            clean = self._clean(states, batch)
            loss = clean.sum() / self._count(batch.answer)
            return LossParts(loss, loss.detach(), zero)
        noisy, hidden = self._noisy(states[:, length:], batch, rows, noise)
        weight = batch.weight.gather(1, rows.index)[:, None]
        per_token = noisy.detach().sum() / self._count(hidden)
        if recipe.objective == "v2":
            return LossParts(objectives.v2(noisy * weight, hidden, self._mean), zero, per_token)
        if recipe.objective == "efficient-dlm":
            level, of, able = (x.gather(1, rows.index) for x in (noise.level, noise.block, batch.maskable))
            total = objectives.efficient_dlm(noisy * weight, level, of, able & rows.present, self._mean)
            return LossParts(total, zero, per_token)
        clean = self._clean(states[:, :length], batch)
        clean_per_token = clean.detach().sum() / self._count(batch.answer)
        if recipe.objective == "sasd":
            section = batch.section.gather(1, rows.index).clamp(min=0)[:, None]
            weight = weight * torch.tensor(recipe.section_weights, device=weight.device)[section]
            total = objectives.sasd(noisy * weight, clean, batch.answer, self._mean)
        else:
            total = objectives.dvlm(noisy * weight, hidden, clean, batch.answer, self._mean)
        return LossParts(total, clean_per_token, per_token)

    def _embeds(self, batch: Batch, rows: Rows) -> Tensor:
        """(B, S, hidden): noisy tokens take their clean embedding from their place, or the mask token's."""
        clean = self.model.embed(batch.ids, see(self.model, batch) if batch.pictures else None)
        place = rows.layout.place[..., None].expand(-1, -1, clean.shape[-1])
        mask = self.model.embed(torch.full((1, 1), self.model.config.mask_token_id, device=clean.device))
        return torch.where(rows.masked[..., None], mask, clean.gather(1, place))

    def _clean(self, states: Tensor, batch: Batch) -> Tensor:
        """AR cross-entropies (B, L) of the answer, weighted; the state at p - 1 predicts p, whatever the recipe."""
        where = batch.answer.clone()
        where[:, 0] = False  # nothing is before it
        return self._entropies(states.roll(1, 1), batch.ids, where) * batch.clean_weight

    def _noisy(self, states: Tensor, batch: Batch, rows: Rows, noise: Noise) -> tuple[Tensor, Tensor]:
        """Cross-entropies (B, C, N) of what the noisy copies hide, and where that is."""
        copies = noise.hidden.shape[1]
        states = states.unflatten(1, (copies, -1))  # (B, C, N, hidden)
        known = rows.present
        if self.recipe.token_shift:
            states = states.roll(1, 2)
            behind = torch.zeros_like(rows.present)
            behind[:, 1:] = rows.index[:, 1:] == rows.index[:, :-1] + 1
            known = known & behind  # the place before is in this half, too
        index = rows.index[:, None].expand(-1, copies, -1)
        hidden = noise.hidden.gather(2, index) & known[:, None]
        labels = batch.ids.gather(1, rows.index)[:, None].expand(-1, copies, -1)
        return self._entropies(states, labels, hidden), hidden

    def _entropies(self, states: Tensor, labels: Tensor, where: Tensor) -> Tensor:
        """Cross-entropy in float32 or wider where `where` is True, else 0; logits are made for those tokens alone."""
        logits = self.model.logits(states[where])
        wide = logits if logits.dtype == torch.float64 else logits.float()
        found = F.cross_entropy(wide, labels[where], reduction="none")
        return torch.zeros(where.shape, device=found.device, dtype=found.dtype).masked_scatter(where, found)

    def _mean(self, count: Tensor) -> Tensor:
        return self.mean_over_ranks(count.float())

    def _count(self, where: Tensor) -> Tensor:
        return self._mean(where.sum()).clamp(min=1)


def see(model: VisionLanguageModel, batch: Batch) -> Tensor:
    """Vision tokens (V, hidden) of all rows in order; rows with equal grids go through the tower together."""
    tokens: dict[int, Tensor] = {}
    for grids in {grids for _, grids in batch.pictures if grids}:
        alike = [i for i, (_, own) in enumerate(batch.pictures) if own == grids]
        seen = model.see(torch.stack([batch.pictures[i][0] for i in alike]), grids)  # (rows, V, hidden)
        tokens |= dict(zip(alike, seen, strict=True))
    return torch.cat([tokens[i] for i in sorted(tokens)])


def attend_in(layout: Layout, context: CleanContext, flex: bool | None = None) -> Attend:
    """Attention under a layout's mask; `flex` None: FlexAttention on a GPU, dense attention elsewhere.

    FlexAttention is compiled for each length that it meets, so rows are padded to whole tiles of `TILE` tokens.
    """
    flex = layout.stream.is_cuda if flex is None else flex
    if flex:
        size = layout.stream.shape[1]
        more = -size % TILE
        padded = Layout(*(F.pad(x, (0, more), value=PADDING) for x in (layout.stream, layout.place, layout.block)))
        mask, kernel = block_mask(padded, context), _flex(layout.stream.is_cuda)

        def fused(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            # the kernel wants one dtype; under autocast the rotated q and k come wider than v
            q, k, v = (F.pad(x.to(v.dtype), (0, 0, 0, more)) for x in (q, k, v))
            return kernel(q, k, v, block_mask=mask, enable_gqa=q.shape[1] != k.shape[1])[:, :, :size]

        return lambda layer: fused
    dense = dense_mask(layout, context)

    def one(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        groups = q.shape[1] // k.shape[1]  # repeating K/V keeps the fused kernels for masks
        return F.scaled_dot_product_attention(
            q, k.repeat_interleave(groups, 1), v.repeat_interleave(groups, 1), attn_mask=dense
        )

    return lambda layer: one


@cache
def _flex(compiled: bool) -> Callable[..., Any]:
    """Compiled, it is one fused kernel; eager, it is a slow reference."""
    kernel: Callable[..., Any] = flex_attention
    return torch.compile(kernel, dynamic=False) if compiled else kernel
