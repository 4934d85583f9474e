"""A batch of sequences as training rows: the clean half, and behind it the noisy copies without what they do not need.

The papers' row is [noisy | clean] with equal positions in both halves.  Fast-dVLM (2604.06832) leaves image tokens out
of the noisy half (vision-efficient concatenation): text does not attend to noisy pictures, since they are in the clean
context already.  Which places a row keeps is its own affair here: rows of a batch may hold different numbers of images,
and each noisy half gathers its own positions (the released code takes those of row 0 for all).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from efficientgen.perception.vision import Grid
from efficientgen.planning.masks import CLEAN, PADDING, Layout

Keep = Literal["all", "text", "answer"]
Pictures = tuple[Tensor, tuple[Grid, ...]]  # a row's patch vectors (N, 1176) and the grid of each of its images


@dataclass(frozen=True)
class Batch:
    """B right-padded sequences of L tokens; everything but `positions` and the floats is int64 or bool (B, L)."""

    ids: Tensor
    positions: Tensor  # (3, B, L) M-RoPE
    real: Tensor  # not padding
    answer: Tensor  # has a label: the responses, or everything when a text is learned as a whole
    maskable: Tensor  # may be hidden: the answer without its scaffold
    always: Tensor  # hidden in both copies (always_mask_im_end)
    section: Tensor  # of a structured answer; -1 in the prompt
    weight: Tensor  # float (B, L), of the diffusion loss
    clean_weight: Tensor  # float (B, L), of the AR term
    image: Tensor  # an image token: its embedding comes from the vision tower
    pictures: tuple[Pictures, ...] = ()  # one entry per row, or none at all

    def slice(self, rows: slice) -> Batch:
        """Some of the rows."""
        fields = {k: v[rows] for k, v in vars(self).items() if k != "positions"}
        return Batch(positions=self.positions[:, rows], **fields)

    def to(self, device: torch.device | str) -> Batch:
        fields = {k: v.to(device) for k, v in vars(self).items() if k != "pictures"}
        return Batch(pictures=tuple((patches.to(device), grids) for patches, grids in self.pictures), **fields)


@dataclass(frozen=True)
class Rows:
    """What the model runs on, S = L + C N tokens.

    `layout.place` is also where a token's embedding comes from, `masked` (B, S) where the mask token's replaces it.
    `index` (B, N) is the place of each token of a noisy half, `present` (B, N) False where that is padding.
    """

    layout: Layout
    positions: Tensor  # (3, B, S)
    masked: Tensor
    index: Tensor
    present: Tensor


def text_batch(sequences: list[list[int]], prompts: list[int], pad: int, end: int) -> Batch:
    """Pure text: sequence i has `prompts[i]` tokens of prompt, the rest is answer; plain positions, `end` always hidden
    when it is the last token."""
    length = max(map(len, sequences))
    ids = torch.tensor([s + [pad] * (length - len(s)) for s in sequences])
    place = torch.arange(length).expand(len(sequences), -1)
    real = place < torch.tensor([len(s) for s in sequences])[:, None]
    answer = real & (place >= torch.tensor(prompts)[:, None])
    zero = torch.zeros_like(ids)
    ones = torch.ones(ids.shape)
    return Batch(
        ids, place.expand(3, -1, -1), real, answer, answer, answer & (ids == end), zero, ones, ones, zero.bool()
    )


def build_rows(batch: Batch, block: Tensor, hidden: Tensor | None, keep: Keep) -> Rows:
    """Lay out [clean | noisy 1 | ... | noisy C].

    Args:
        block: int (B, L).
        hidden: bool (B, C, L), what each noisy copy hides; None: the clean half alone (AR training).
        keep: places of the noisy copies: "all", "text" (no image tokens: vision-efficient), "answer" (labels alone;
            nothing that a label needs is lost as long as no first token of an answer is hidden, whose predictor is the
            prompt's last token).
    """
    rows, length = batch.ids.shape
    place = torch.arange(length, device=batch.ids.device).expand(rows, -1)
    stream = torch.where(batch.real, CLEAN, PADDING)
    if hidden is None:
        nothing = place[:, :0]
        clean = torch.zeros_like(batch.real)
        return Rows(Layout(stream, place, block), batch.positions, clean, nothing, nothing.bool())
    index, present = _kept(batch, keep)
    copies = hidden.shape[1]
    numbers = torch.arange(1, copies + 1, device=stream.device)[:, None]
    streams = torch.where(present[:, None], numbers, PADDING).flatten(1)  # (B, C N)
    layout = Layout(
        torch.cat([stream, streams], 1),
        torch.cat([place, index.repeat(1, copies)], 1),
        torch.cat([block, block.gather(1, index).repeat(1, copies)], 1),
    )
    masked = hidden.gather(2, index[:, None].expand(-1, copies, -1)).flatten(1)
    positions = batch.positions.gather(2, index.expand(3, -1, -1)).repeat(1, 1, copies)
    return Rows(
        layout,
        torch.cat([batch.positions, positions], 2),
        torch.cat([torch.zeros_like(batch.real), masked], 1),
        index,
        present,
    )


def _kept(batch: Batch, keep: Keep) -> tuple[Tensor, Tensor]:
    """Places (B, N) that each row's noisy half holds, in order, and which of them are not padding."""
    wanted = {"all": batch.real, "text": batch.real & ~batch.image, "answer": batch.answer}[keep]
    count = wanted.sum(1, keepdim=True)
    index = (~wanted).long().argsort(dim=1, stable=True)[:, : int(count.max())]  # wanted places first, in order
    return index, torch.arange(index.shape[1], device=index.device) < count
