"""The loop around `Conversion`: AR training, then a conversion, on one process or several, resumable.

Everything random is keyed by (seed, step): which rows a step takes and what it hides.  A run that is killed and resumed
therefore gives the same losses as one that is not, and N processes the same as one; no generator state is stored.
Metrics go to `metrics.jsonl`, the state to `state.pt`, the weights to a model directory.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
from torch.utils.checkpoint import checkpoint

from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.train.convert import Conversion
from efficientgen.planning.train.loss import LossParts
from efficientgen.planning.train.noise import block_size_at
from efficientgen.planning.train.ranks import Ranks, gather_state, scatter_state, shard
from efficientgen.planning.train.recipe import Noise, Recipe, draw_noise, fill_last_block
from efficientgen.planning.train.rows import Batch

GlobalBatch = Callable[[torch.Generator], Batch]  # the rows of one step, from its generator


class DivergedError(RuntimeError):
    """The loss is no longer a number."""


@dataclass(frozen=True)
class RunConfig:
    """One run; `batch` counts rows over all processes."""

    steps: int
    batch: int = 32
    peak_lr: float = 1e-3
    final_lr: float = 1e-5
    warmup: float = 0.03  # share of the steps
    weight_decay: float = 0.05
    clip: float = 1.0
    seed: int = 0
    recompute: bool = False  # layers' activations in the backward pass, for models that fill a GPU
    save_every: int = 500
    log_every: int = 50


class Run:
    """Train `model` in place; `recipe` None is plain AR training.

    Raises:
        RanksError: the batch does not divide by the number of processes.
    """

    def __init__(
        self,
        model: VisionLanguageModel,
        recipe: Recipe | None,
        data: GlobalBatch,
        directory: Path,
        config: RunConfig,
        ranks: Ranks | None = None,
        log: Callable[[str], None] = lambda line: None,
    ):
        self.config, self.recipe, self.data, self.directory = config, recipe, data, directory
        self.ranks, self.log = ranks or Ranks(), log
        self.rows = self.ranks.share(config.batch)
        self.model = model.to(self.ranks.device).requires_grad_(True).train()
        self.conversion = Conversion(model, recipe or Recipe(), self.ranks.mean)
        if config.recompute:
            for layer in model.model.language_model.layers:
                layer.forward = partial(checkpoint, layer.forward, use_reentrant=False)  # type: ignore[method-assign]
        shard(self.conversion, list(model.model.language_model.layers), self.ranks)
        decay = [p for p in model.parameters() if p.dim() > 1]
        plain = [p for p in model.parameters() if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        self.optimiser = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.95))
        self.step, self.seconds = 0, 0.0
        self.losses: list[float] = []

    def run(self, until: int | None = None, save: bool = True) -> None:
        """Train to the last step, or stop after step `until`; then save the state, unless not asked to."""
        end = min(self.config.steps, until or self.config.steps)
        begin = time.monotonic() - self.seconds
        while self.step < end:
            parts = self.train_step()
            self.step += 1
            self.seconds = time.monotonic() - begin
            if save and (self.step % self.config.log_every == 0 or self.step == end):
                self._record(parts)
            if save and (self.step % self.config.save_every == 0 or self.step == end):
                self.save_state()

    def train_step(self) -> LossParts:
        """One optimiser step on the batch keyed by (seed, step).

        Raises:
            DivergedError: the loss is not finite.
        """
        progress = self.step / self.config.steps
        for group in self.optimiser.param_groups:
            group["lr"] = learning_rate(progress, self.config)
        inputs = self.inputs(progress)
        # FSDP2 brings its own bf16 policy
        mixed = self.ranks.device.startswith("cuda") and self.ranks.world == 1
        with torch.autocast("cuda", torch.bfloat16, enabled=mixed):
            parts = self.conversion(*inputs)
        self.optimiser.zero_grad(set_to_none=True)
        parts.total.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.clip)
        loss = float(self.ranks.mean(parts.total.detach()))
        if not math.isfinite(loss):
            raise DivergedError(f"the loss is {loss} at step {self.step}: resume with a smaller --peak-lr")
        self.optimiser.step()
        self.losses.append(loss)
        return parts

    def inputs(self, progress: float) -> tuple[Batch, Noise | None]:
        """This process's rows of the present step and their noise."""
        generator = torch.Generator().manual_seed(self.config.seed * 1_000_003 + self.step)
        batch = self.data(generator)
        device, config = self.ranks.device, self.model.config
        if self.recipe is None:
            mine, noise = batch.slice(self.rows), None
        else:
            batch = fill_last_block(self.recipe, batch, config.mask_token_id, config.im_end_token_id)
            size = self.recipe.bd_size
            if self.recipe.anneal:
                size = block_size_at(progress / self.recipe.anneal, size)
            drawn = draw_noise(self.recipe, batch, size, generator)
            mine, noise = batch.slice(self.rows), drawn.slice(self.rows).to(device)
        return mine.to(device), noise

    def save_state(self) -> None:
        """Model, optimiser and step under a temporary name, then renamed; rank 0 writes."""
        state = gather_state(self.conversion, self.optimiser)
        if self.ranks.rank == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            torch.save({**state, "step": self.step, "seconds": self.seconds}, self.directory / ".state.pt.new")
            os.replace(self.directory / ".state.pt.new", self.directory / "state.pt")

    def resume(self) -> bool:
        """Go on from `state.pt` if there is one."""
        path = self.directory / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location="cpu", weights_only=True)
        self.step, self.seconds = state["step"], state["seconds"]
        scatter_state(self.conversion, self.optimiser, state if self.ranks.rank == 0 else {}, self.ranks)
        return True

    def export(self, extra: dict[str, object] | None = None) -> None:
        """Write the model directory (bf16); the tokenizer is the caller's."""
        weights = gather_state(self.conversion, None)["model"]
        if self.ranks.rank == 0:
            whole = VisionLanguageModel(self.model.config)
            whole.load_state_dict({k.removeprefix("model."): v for k, v in weights.items()})
            save_model(whole, self.directory, extra)

    def _record(self, parts: LossParts) -> None:
        window = self.losses[-self.config.log_every :]
        means = [float(self.ranks.mean(x)) for x in (parts.clean, parts.noisy)]
        row = {
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "loss": sum(window) / len(window),
            "clean": means[0],
            "noisy": means[1],
            "lr": self.optimiser.param_groups[0]["lr"],
        }
        if self.ranks.rank == 0:
            self.directory.mkdir(parents=True, exist_ok=True)
            with (self.directory / "metrics.jsonl").open("a") as file:
                file.write(json.dumps(row) + "\n")
            self.log(json.dumps({k: round(v, 5) for k, v in row.items()}))


def learning_rate(progress: float, config: RunConfig) -> float:
    """Linear warm-up, then half a cosine from `peak_lr` to `final_lr`."""
    if progress < config.warmup:
        return config.peak_lr * max(progress, 1e-3) / config.warmup
    share = (progress - config.warmup) / (1 - config.warmup)
    return config.final_lr + (config.peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
