"""A rendered driving set as batches for the general trainer: Fast-dDrive's sections, scaffold and pictures.

`trainer.Trainer` trained nano-ddrive and stays as it is (its own augmentation, wall-time budget, averaged weights).
This is the same data for `run.Run`, so that a planner of any size can be converted on several GPUs.
"""

from __future__ import annotations

import torch
from torch import Tensor

from efficientgen.perception.patches import grid_of, patchify
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.model import position_ids
from efficientgen.planning.schema import Template
from efficientgen.planning.train.data import DrivingSet
from efficientgen.planning.train.loss import token_weights
from efficientgen.planning.train.rows import Batch


class DrivingData:
    """`batch` training samples drawn by their weight; prompt, three cameras of two frames each, structured answer."""

    def __init__(self, data: DrivingSet, template: Template, config: ModelConfig, batch: int):
        self.data, self.template, self.config, self.batch = data, template, config, batch
        self.rows = torch.nonzero(~data.heldout)[:, 0]
        self.grids = (grid_of(*data.images.shape[2:4]),) * data.images.shape[1]
        prompt = position_ids(data.prompt[0].tolist(), self.grids, config)  # alike in all samples
        answer = torch.arange(len(template)).expand(3, -1) + prompt.max() + 1
        self.positions = torch.cat([prompt, answer], 1)

    def __call__(self, generator: torch.Generator) -> Batch:
        chances = self.data.weight[self.rows]
        pick = self.rows[torch.multinomial(chances, self.batch, replacement=True, generator=generator)]
        prompt, answer = self.data.prompt[pick].long(), self.data.answer[pick].long()
        ids = torch.cat([prompt, answer], 1)
        patches = patchify(self.data.pairs(pick).flatten(0, 1)).unflatten(0, (len(pick), -1)).flatten(1, 2)

        def wide(x: Tensor, fill: float | bool) -> Tensor:
            """Answer columns (L,) or (B, L) with prompt columns before them."""
            head = torch.full((len(pick), prompt.shape[1]), fill, dtype=x.dtype)
            return torch.cat([head, x.expand(len(pick), -1)], 1)

        weight = wide(token_weights(self.template, answer, None), 1.0)
        value = wide(torch.from_numpy(self.template.is_value), False)
        return Batch(
            ids=ids,
            positions=self.positions[:, None].expand(-1, len(pick), -1),
            real=torch.ones_like(ids, dtype=torch.bool),
            answer=wide(torch.ones(len(self.template), dtype=torch.bool), False),
            maskable=value,
            always=torch.zeros_like(value),
            section=wide(torch.from_numpy(self.template.section), -1),
            weight=weight,
            clean_weight=weight,
            image=ids == self.config.image_token_id,
            pictures=tuple((own, self.grids) for own in patches),
        )
