"""Four papers' conversions of an autoregressive model to block diffusion, as data for one trainer.

A recipe says how a sequence is cut into blocks, how blocks are masked, what a clean token sees, whether predictions are
shifted, and which loss is taken.  The presets are the papers'; `dataclasses.replace` makes the ablations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efficientgen.planning.config import SECTION_NOISE, CleanContext, NoiseSchedule
from efficientgen.planning.masks import first_of_block, grid_blocks, response_blocks, section_turns
from efficientgen.planning.train.noise import complement, draw
from efficientgen.planning.train.rows import Batch, Keep


class RecipeError(ValueError):
    """Choices that contradict each other."""


@dataclass(frozen=True)
class Recipe:
    """One way of converting; defaults are Fast-dVLM's."""

    objective: Literal["v2", "dvlm", "sasd", "efficient-dlm"] = "dvlm"
    token_shift: int = 1
    clean_context: CleanContext = "token"
    blocks: Literal["grid", "response", "section"] = "response"
    noise: NoiseSchedule = NoiseSchedule()
    bd_size: int = 32
    complementary: bool = True
    keep: Keep = "text"
    # What follows a text whose last block is not full: nothing (auto-truncation), mask tokens without labels, or end
    # tokens with labels.
    fill: Literal["truncate", "mask", "end"] = "truncate"
    anneal: float = 1.0  # share of the run in which blocks grow to bd_size; 0: full size from the start
    # Blocks begin anywhere: every row moves its grid at random (blocks "grid"), or every other row (blocks "section").
    shifted_grid: bool = False
    full: float = 0.0  # share of the rows whose first copy hides everything, the state that drafting starts from
    gaps: float = 0.0  # share of the rows whose first copy hides one stretch of every block, with text on both sides
    section_weights: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        if self.objective in ("dvlm", "sasd") and (self.clean_context, self.token_shift) != ("token", 1):
            raise RecipeError(
                f"the AR term of '{self.objective}' needs clean_context 'token' and token_shift 1: under"
                " 'block' a clean token sees what it should predict; take objective 'v2'"
            )
        if self.blocks == "grid" and self.keep == "answer":
            raise RecipeError("blocks on the grid hold prompt and answer: keep 'text' or 'all'")


FAST_DLLM_V2 = Recipe(objective="v2", clean_context="block", blocks="grid", keep="all", fill="mask", anneal=0.0)
FAST_DVLM = Recipe()
FAST_DDRIVE = Recipe(objective="sasd", blocks="section", noise=SECTION_NOISE, keep="answer", anneal=0.6,
                     section_weights=(1.5, 1.0, 2.0, 3.0))  # fmt: skip
EFFICIENT_DLM = Recipe(objective="efficient-dlm", token_shift=0, clean_context="block", blocks="grid",
                       noise=NoiseSchedule("position-dependent", half_life=0.1), bd_size=64, complementary=False,
                       keep="all", fill="end", anneal=0.0)  # fmt: skip
RECIPES = {"fast-dllm-v2": FAST_DLLM_V2, "fast-dvlm": FAST_DVLM, "fast-ddrive": FAST_DDRIVE,
           "efficient-dlm": EFFICIENT_DLM}  # fmt: skip


@dataclass(frozen=True)
class Noise:
    """What one step hides."""

    block: Tensor  # int (B, L)
    hidden: Tensor  # bool (B, C, L)
    level: Tensor  # float (B, L), t

    def slice(self, rows: slice) -> Noise:
        return Noise(self.block[rows], self.hidden[rows], self.level[rows])

    def to(self, device: torch.device | str) -> Noise:
        return Noise(self.block.to(device), self.hidden.to(device), self.level.to(device))


def draw_noise(recipe: Recipe, batch: Batch, block_size: int, generator: torch.Generator) -> Noise:
    """Cut the batch into blocks of `block_size` and hide tokens; both on the CPU, keyed by `generator`."""
    maskable = batch.maskable
    block = torch.stack([_blocks(recipe, batch, i, block_size, generator) for i in range(len(batch.ids))])
    if recipe.keep == "answer":
        first = torch.stack([torch.from_numpy(first_of_block(b.numpy())) for b in block])
        maskable = maskable & ~first
    hidden, level = draw(recipe.noise, block, block_size, maskable, batch.section, generator)
    full = torch.rand((len(block), 1), generator=generator) < recipe.full
    hidden, level = torch.where(full, maskable, hidden), torch.where(full, 1.0, level)
    gap, width = _gaps(block, maskable, generator)
    chosen = ~full & (torch.rand((len(block), 1), generator=generator) < recipe.gaps)
    hidden, level = torch.where(chosen, gap, hidden), torch.where(chosen, width, level)
    copies = complement(hidden, maskable, batch.always & maskable) if recipe.complementary else hidden[:, None]
    return Noise(block, copies, level)


def _gaps(block: Tensor, maskable: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Hidden (B, L) and level (B, L): of each block's n maskable tokens a stretch of 1 to n / 2, anywhere in it."""
    rows, blocks = len(block), int(block.max()) + 1
    size = torch.zeros(rows, blocks).scatter_add(1, block, maskable.float())
    width = (torch.rand(size.shape, generator=generator) * size / 2).ceil().clamp(min=1).minimum(size)
    begin = ((size - width + 1) * torch.rand(size.shape, generator=generator)).floor()
    before = maskable.cumsum(1) - 1 - (size.cumsum(1) - size).gather(1, block)  # rank among the block's maskable
    inside = (before >= begin.gather(1, block)) & (before < (begin + width).gather(1, block))
    return inside & maskable, (width / size.clamp(min=1)).gather(1, block)


def _blocks(recipe: Recipe, batch: Batch, row: int, size: int, generator: torch.Generator) -> Tensor:
    answer = batch.answer[row]
    if recipe.blocks == "response":
        return response_blocks(answer, size)
    shift = int(torch.randint(size, (), generator=generator)) if recipe.shifted_grid else 0
    if recipe.blocks == "grid":
        return grid_blocks(len(answer), size, shift)
    shift *= int(torch.randint(2, (), generator=generator))
    turn = section_turns(batch.section[row].numpy(), batch.maskable[row].numpy(), size, shift)
    return torch.from_numpy(turn)


def fill_last_block(recipe: Recipe, batch: Batch, mask_id: int, end_id: int) -> Batch:
    """Lengthen every row to the end of its last block of the (unshifted) grid, as `recipe.fill` says.

    With a shifted grid rows are filled as far as the longest can need, one block more.
    """
    if recipe.fill == "truncate":
        return batch
    size, (rows, length) = recipe.bd_size, batch.ids.shape
    lengths = batch.real.sum(1)
    ends = lengths + size - 1 if recipe.shifted_grid else -(-lengths // size) * size
    total = int(ends.max())

    def wider(x: Tensor, fill: float | bool) -> Tensor:
        return torch.cat([x, torch.full((*x.shape[:-1], total - length), fill, dtype=x.dtype)], -1)[..., :total]

    place = torch.arange(total).expand(rows, -1)
    tail = (place >= lengths[:, None]) & (place < ends[:, None])
    after = batch.positions.masked_fill(~batch.real, -1).amax((0, 2))  # (B,) last position
    ids = torch.where(tail, mask_id if recipe.fill == "mask" else end_id, wider(batch.ids, mask_id))
    grown = after[:, None] + (place - lengths[:, None] + 1)
    positions = torch.where(place < lengths[:, None], wider(batch.positions, 0), grown)
    labelled = tail & (recipe.fill == "end")
    return Batch(
        ids=ids,
        positions=positions,
        real=wider(batch.real, False) | tail,
        answer=wider(batch.answer, False) | labelled,
        maskable=wider(batch.maskable, False) | labelled,
        always=wider(batch.always, False),
        section=wider(batch.section, 0),
        weight=wider(batch.weight, 1.0),
        clean_weight=wider(batch.clean_weight, 1.0),
        image=wider(batch.image, False),
        pictures=batch.pictures,
    )
