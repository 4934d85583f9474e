"""Low-rank training (LoRA, 2106.09685): frozen linear layers with a narrow trainable branch beside them.

The branch is kept apart while training, so that no gradient of a whole weight is ever computed; `planning/adapter.py`
merges what comes out.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientgen.planning.adapter import DOWN, ROWS, UP
from efficientgen.planning.model import VisionLanguageModel


class LowRankLinear(nn.Module):
    """x W^T + b + scale (x A^T) B^T with W and b frozen; B begins at 0, so training begins at the base model."""

    def __init__(self, layer: nn.Linear, rank: int, scale: float, generator: torch.Generator):
        super().__init__()
        self.layer, self.scale = layer.requires_grad_(False), scale
        bound = layer.in_features**-0.5
        self.down = nn.Parameter((torch.rand(rank, layer.in_features, generator=generator) * 2 - 1) * bound)
        self.up = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Tensor) -> Tensor:
        return self.layer(x) + self.scale * F.linear(F.linear(x, self.down), self.up)


class TrainedRows(nn.Module):
    """An embedding of which only `rows` are trained."""

    rows: Tensor

    def __init__(self, table: nn.Embedding, rows: list[int], generator: torch.Generator):
        super().__init__()
        self.register_buffer("rows", torch.tensor(rows), persistent=False)
        self.fixed = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
        old = table.weight.detach()[rows]
        new = torch.randn(old.shape, generator=generator) * 0.02
        self.trained = nn.Parameter(torch.where(old.abs().sum(1, keepdim=True) > 0, old, new))

    @property
    def weight(self) -> Tensor:
        """(V, hidden), for the tied head."""
        return self.fixed.index_copy(0, self.rows, self.trained)

    def forward(self, ids: Tensor) -> Tensor:
        return F.embedding(ids, self.weight)


def attach(
    model: VisionLanguageModel, rank: int, scale: float, vision_blocks: int, rows: list[int], generator: torch.Generator
) -> list[nn.Parameter]:
    """Freeze `model`, give branches to the text layers, the last `vision_blocks` vision blocks and the merger.

    Returns the trainable parameters: the branches and the embedding rows `rows`.
    """
    model.requires_grad_(False)
    depth = len(model.model.visual.blocks)
    roots = ["model.language_model.layers"]
    if vision_blocks:
        roots += ["model.visual.merger", *(f"model.visual.blocks.{i}" for i in range(depth - vision_blocks, depth))]
    for root in roots:
        inside = [name for name, m in model.get_submodule(root).named_modules() if isinstance(m, nn.Linear)]
        for name in inside:
            path = f"{root}.{name}"
            parent, _, child = path.rpartition(".")
            branch = LowRankLinear(model.get_submodule(path), rank, scale, generator)  # type: ignore[arg-type]
            setattr(model.get_submodule(parent), child, branch)
    table = model.model.language_model.embed_tokens
    model.model.language_model.embed_tokens = TrainedRows(table, rows, generator)  # type: ignore[assignment]
    return [p for p in model.parameters() if p.requires_grad]


def collect(model: VisionLanguageModel) -> dict[str, Tensor]:
    """What `attach` made trainable, under the names that an adapter's file has."""
    state: dict[str, Tensor] = {}
    for name, module in model.named_modules():
        if isinstance(module, LowRankLinear):
            state |= {name + DOWN: module.down.detach(), name + UP: module.up.detach()}
        elif isinstance(module, TrainedRows):
            state[ROWS] = module.trained.detach()
    return state


def restore(model: VisionLanguageModel, state: dict[str, Tensor]) -> None:
    """Put what `collect` gave, or an adapter's file holds, back into the branches of `attach`.

    Raises:
        KeyError: a branch has nothing to be filled with.
    """
    with torch.no_grad():
        for name, module in model.named_modules():
            if isinstance(module, LowRankLinear):
                module.down.copy_(state[name + DOWN])
                module.up.copy_(state[name + UP])
            elif isinstance(module, TrainedRows):
                module.trained.copy_(state[ROWS])
