"""Train a planner from scratch or go on with one: AR warm-up, then SASD with block-size annealing.

The loop is the recipe of Fast-dDrive at nano size: the first `ar_fraction` of the time trains the clean stream alone,
the rest adds the complementary noisy pair with blocks that grow 4, 8, 16, 32 (Fast-dVLM 2604.06832, annealing with
explicit progress).  Half of the rows see no ego history, so that pictures and not inertia move the car.  Progress is
wall time, so that a run fits a lease whatever the machine; state is saved for `resume` and the averaged weights as a
checkpoint every minute, so that a run that is killed has lost no more than that; metrics go to JSONL.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.patches import grid_of, patchify
from efficientgen.planning.checkpoint import load_model, save_model
from efficientgen.planning.masks import random_turns
from efficientgen.planning.model import ModelConfig, VisionLanguageModel, position_ids
from efficientgen.planning.nano import nano_config, nano_tokenizer
from efficientgen.planning.schema import NANO, Template, compile_template
from efficientgen.planning.tokenizer import NULL, Tokenizer
from efficientgen.planning.train.augment import augment_patches, augment_pixels
from efficientgen.planning.train.data import DrivingSet
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.look import LookHead, look_loss
from efficientgen.planning.train.loss import (
    SECTION_BETA,
    SECTION_WEIGHTS,
    LossParts,
    ar_loss,
    object_balance,
    sasd_loss,
    token_weights,
)
from efficientgen.planning.train.validate import Validation, validate


@dataclass(frozen=True)
class TrainConfig:
    """One training run; `seconds` is its whole budget of wall time, `max_steps` an optional harder limit."""

    seconds: float = 600.0
    max_steps: int = 1_000_000
    batch: int = 256
    peak_lr: float = 1.5e-3
    final_lr: float = 1e-5
    warmup: float = 0.03  # share of progress
    weight_decay: float = 0.05
    ar_fraction: float = 0.45
    anneal_fraction: float = 0.6  # of the SASD time, in which blocks grow to full size; 0: full size from the start
    history_dropout: float = 0.5
    full_mask_probability: float = 0.3
    ema: float = 0.999
    move_pixels: bool = False  # augment pictures by shift and noise beside gain and offset
    balance: bool = False  # both answers to a yes/no question count alike
    look: float = 0.0  # weight of the auxiliary loss on the vision tokens; 0: none
    seed: int = 0
    compile: bool = True
    save_every_s: float = 60.0  # state and checkpoint
    validate_every_s: float = 120.0
    section_weights: tuple[float, ...] = SECTION_WEIGHTS
    section_beta: tuple[tuple[float, float], ...] = SECTION_BETA


def block_size_at(progress: float, bd_size: int) -> int:
    """Annealed block size: {4, 8, ..., bd_size}, equal shares of progress in [0, 1)."""
    sizes = [2**k for k in range(2, int(math.log2(bd_size)) + 1)]
    return sizes[min(int(progress * len(sizes)), len(sizes) - 1)]


class Trainer:
    """Model, optimiser and their averages, on one device.

    `model` is the shape to train, on the nano schema and vocabulary; None is the nano size that this repo ships.
    `start` is a model directory to go on from in place of random weights (fine-tuning; its shape counts).
    """

    def __init__(
        self,
        data: DrivingSet,
        directory: Path,
        config: TrainConfig,
        device: str,
        log: Callable[[str], None],
        model: ModelConfig | None = None,
        start: Path | None = None,
    ):
        self.config, self.device, self.directory, self.log = config, device, directory, log
        self.tokenizer: Tokenizer = nano_tokenizer()
        self.template: Template = compile_template(NANO, self.tokenizer, bd_size=32)
        torch.manual_seed(config.seed)
        if start is None:
            self.model = VisionLanguageModel(model or nano_config(self.tokenizer)).to(device)
            initialise(self.model)
        else:
            self.model = load_model(start, torch.float32, device).requires_grad_(True).train()
        self.head = LookHead(self.model.config.text.hidden_size).to(device)
        self.average = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        parameters = [*self.model.parameters(), *(self.head.parameters() if config.look else ())]
        decay = [p for p in parameters if p.dim() > 1]
        plain = [p for p in parameters if p.dim() <= 1]
        groups = [{"params": decay, "weight_decay": config.weight_decay}, {"params": plain, "weight_decay": 0.0}]
        fused = device.startswith("cuda")
        self.optimiser = torch.optim.AdamW(groups, lr=config.peak_lr, betas=(0.9, 0.95), fused=fused)
        self.step, self.elapsed = 0, 0.0
        self.data = data.to(device)
        self.rows = torch.nonzero(~data.heldout)[:, 0].to(device)
        self.balance = None
        if config.balance:
            self.balance = object_balance(self.template, self.tokenizer, self.data.answer[self.rows])
        height, width = data.images.shape[2:4]
        self.grids = (grid_of(height, width),) * 3
        self.positions = position_ids(data.prompt[0].tolist(), self.grids, self.model.config).to(device)
        self.spoken = torch.zeros(self.tokenizer.vocab_size, dtype=torch.bool, device=device)
        self.spoken[[*self.tokenizer.alphabets["digit"], *self.tokenizer.alphabets["sign"]]] = True
        self.generator = torch.Generator(device).manual_seed(config.seed)
        self.numpy_rng = np.random.default_rng(config.seed)
        if config.compile:
            for block in (*self.model.model.language_model.layers, *self.model.model.visual.blocks):
                block.compile()  # block by block: one short compilation serves all blocks of a kind

    def run(self) -> Validation:
        """Train until the budget is spent; returns the last validation and writes the averaged model."""
        begin = time.monotonic() - self.elapsed
        saved = validated = time.monotonic()
        self.directory.mkdir(parents=True, exist_ok=True)
        window: list[tuple[float, float]] = []
        while self.step < self.config.max_steps:
            self.elapsed = time.monotonic() - begin
            progress = max(self.elapsed / self.config.seconds, self.step / self.config.max_steps)
            if progress >= 1:
                break
            parts = self._train_step(progress)
            self.step += 1
            window.append((float(parts.clean), float(parts.noisy))) if self.step % 20 == 0 else None
            if self.step % 200 == 0:
                clean, noisy = np.mean(window, 0)
                window.clear()
                rate = self.step * self.config.batch / (time.monotonic() - begin)
                self._record(
                    kind="train", clean=float(clean), noisy=float(noisy), progress=progress, samples_per_s=rate
                )
            if time.monotonic() - saved > self.config.save_every_s:
                self.elapsed = time.monotonic() - begin
                self.save()
                saved = time.monotonic()
            if time.monotonic() - validated > self.config.validate_every_s:
                self._record(kind="validation", **asdict(self.validation()))
                validated = time.monotonic()
        self.elapsed = time.monotonic() - begin
        self.save()
        result = self.validation()
        self._record(kind="validation", **asdict(result))
        return result

    def _train_step(self, progress: float) -> LossParts:
        config = self.config
        for group in self.optimiser.param_groups:
            group["lr"] = _learning_rate(progress, config)
        chances = self.data.weight[self.rows]
        pick = self.rows[torch.multinomial(chances, config.batch, replacement=True, generator=self.generator)]
        with torch.autocast(self.device.split(":")[0], torch.bfloat16, enabled=self.device.startswith("cuda")):
            embeds, vision = self._embed_prompt(pick)
            answer = self.data.answer[pick].long()
            weights = token_weights(self.template, answer, self.balance)
            if progress < config.ar_fraction:
                parts = ar_loss(self.model, embeds, self.positions, answer, self.template, weights)
            else:
                share = (progress - config.ar_fraction) / (1 - config.ar_fraction)
                grown = share / config.anneal_fraction if config.anneal_fraction else 1.0
                size = block_size_at(grown, self.model.config.bd_size)
                turn = random_turns(self.template, size, self.numpy_rng)
                probability = config.full_mask_probability
                parts = sasd_loss(
                    self.model, embeds, self.positions, answer, self.template, weights, turn, probability,
                    self.generator, config.section_weights, config.section_beta,
                )  # fmt: skip
            loss = parts.total
            if config.look:
                loss = loss + config.look * look_loss(self.head(vision), self.data.kinds[pick], self.data.metres[pick])
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimiser.step()
        keep = min(config.ema, (self.step + 1) / (self.step + 10))
        with torch.no_grad():
            state = self.model.state_dict()
            torch._foreach_lerp_(list(self.average.values()), [state[k] for k in self.average], 1 - keep)
        return parts

    def _embed_prompt(self, pick: Tensor) -> tuple[Tensor, Tensor]:
        """Prompt embeddings (B, P, hidden), with augmented pictures and for some rows no history; vision tokens."""
        prompt = self.data.prompt[pick].long()
        silent = torch.rand(len(pick), 1, device=self.device, generator=self.generator) < self.config.history_dropout
        prompt = torch.where(silent & self.spoken[prompt], self.tokenizer.id_of(NULL), prompt)
        images = self.data.pairs(pick)
        if self.config.move_pixels:
            images = augment_pixels(images, self.generator)
        patches = patchify(images.flatten(0, 1)).unflatten(0, (len(pick), -1)).flatten(1, 2)
        vision = self.model.see(augment_patches(patches, self.generator), self.grids)
        return self.model.embed(prompt, vision), vision

    def validation(self) -> Validation:
        """Validate the averaged weights on held-out samples."""
        current = {k: v.detach().clone() for k, v in self.model.state_dict().items()}
        self.model.load_state_dict(self.average)
        self.model.eval()
        with torch.compiler.set_stance("force_eager"):  # growing caches would compile anew at every length
            result = validate(self.model, self.data, self.template, self.positions, self.grids)
        self.model.load_state_dict(current)
        self.model.train()
        return result

    def save(self) -> None:
        """What `resume` goes on from, and the averaged model as it is now."""
        self.save_state()
        self.export()

    def export(self) -> None:
        """The averaged model as a checkpoint directory."""
        model = VisionLanguageModel(self.model.config)
        model.load_state_dict(self.average)
        save_model(model, self.directory)
        self.tokenizer.save(self.directory)

    def save_state(self) -> None:
        state = {"model": self.model.state_dict(), "head": self.head.state_dict(), "average": self.average,
                 "optimiser": self.optimiser.state_dict(), "step": self.step, "elapsed": self.elapsed}  # fmt: skip
        torch.save(state, self.directory / ".state.pt.new")
        os.replace(self.directory / ".state.pt.new", self.directory / "state.pt")

    def resume(self) -> bool:
        """Go on from `state.pt` if there is one."""
        path = self.directory / "state.pt"
        if not path.exists():
            return False
        state = torch.load(path, map_location=self.device, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.head.load_state_dict(state["head"])
        self.average = state["average"]
        self.optimiser.load_state_dict(state["optimiser"])
        self.step, self.elapsed = state["step"], state["elapsed"]
        return True

    def _record(self, **row: object) -> None:
        row = {"step": self.step, "seconds": round(self.elapsed, 1), **row}
        with (self.directory / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        self.log(json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}))


def _learning_rate(progress: float, config: TrainConfig) -> float:
    if progress < config.warmup:
        return config.peak_lr * max(progress, 1e-4) / config.warmup
    share = (progress - config.warmup) / (1 - config.warmup)
    return config.final_lr + (config.peak_lr - config.final_lr) * 0.5 * (1 + math.cos(math.pi * share))
