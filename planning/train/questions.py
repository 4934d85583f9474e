"""Teach a driving model to answer questions: an adapter trained on what the oracle knows (nano-dvlm).

The base's vision tower up to its last blocks is frozen, so what it says of every picture is computed once and kept as
float16; only the low-rank branches and the new words are trained.  Each row asks several questions about one scene.
Answers are balanced within their question type by how often each is asked.  With `blind`, the same training sees zeros
in place of the pictures: the control that tells what questions and route command give away.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from efficientgen.planning.adapter import AdapterConfig, grow_vocabulary, read_adapter, save_adapter, sha256_of
from efficientgen.planning.checkpoint import CheckpointError, load_model, read_config
from efficientgen.planning.load import ADAPTER, WEIGHTS, model_directory
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.question_prompt import question_vocabulary
from efficientgen.planning.tokenizer import IM_END, Tokenizer
from efficientgen.planning.train.low_rank import attach, collect, restore
from efficientgen.planning.train.question_data import Phrasebook, QuestionSetError, Scenes, Types
from efficientgen.planning.train.question_rows import assemble, losses, right


@dataclass(frozen=True)
class QuestionTraining:
    """One run.  A step is `batch` scenes with `questions` questions each."""

    steps: int = 1200
    seconds: float | None = None  # wall time that the run has; progress is whichever of the two is further
    batch: int = 16
    questions: int = 8
    peak_lr: float = 2.5e-3
    warmup: float = 0.04
    weight_decay: float = 0.01
    rank: int = 16
    scale: float = 1.0
    vision_blocks: int = 1  # how many of the last ones learn, too
    draft: int = 8  # tokens of a draft block
    draft_weight: float = 0.4
    ar_fraction: float = 0.35  # share of the steps, at the start, without drafts
    front_only: float = 0.15  # share of the steps that show the front camera alone
    ema: float = 0.995
    emphasis: tuple[tuple[str, float], ...] = ()  # question types that are asked so many times as often
    blind: bool = False
    seed: int = 0


class Teacher:
    """Base model with branches, vocabulary and phrases; `train` teaches it, `save` writes the adapter.

    Args:
        start: directory of an adapter to go on from, of the same base, rank and questions.
        base_checkpoint: directory of the base where it is not the shipped one; the adapter still names `base`.

    Raises:
        CheckpointError: `start` has another base, rank, vocabulary or set of layers.
        QuestionSetError: `config.emphasis` names a type that the set does not have.
    """

    def __init__(
        self,
        types: Types,
        config: QuestionTraining,
        base: str = "nano-ddrive",
        start: Path | None = None,
        device: str = "cpu",
        base_checkpoint: str | Path = "",
    ):
        self.types, self.config, self.base, self.device = types, config, base, torch.device(device)
        if odd := [name for name, _ in config.emphasis if name not in types.names]:
            raise QuestionSetError(f"no question type '{odd[0]}' in the set; it has {', '.join(types.names)}")
        directory = model_directory(base, base_checkpoint)
        self.sha256 = sha256_of(directory / WEIGHTS)
        known = Tokenizer.load(directory)
        flat = [w for wordings in types.wordings for w in wordings]
        said = [a for answers in types.answers for a in answers]
        self.tokenizer = question_vocabulary(known, flat, said)
        self.model = load_model(directory)
        self.stem = len(self.model.model.visual.blocks) - config.vision_blocks
        grow_vocabulary(self.model, self.tokenizer.vocab_size)
        self.rows = [self.tokenizer.id_of(IM_END), *range(known.vocab_size, self.tokenizer.vocab_size)]
        self.generator = torch.Generator().manual_seed(config.seed)
        trained = attach(self.model, config.rank, config.scale, config.vision_blocks, self.rows, self.generator)
        self.parameters = trained
        self.model.to(self.device)
        if start is not None:
            restore(self.model, self._held(start))
        self.book = Phrasebook(types, self.tokenizer, self.stem, config.blind)

    def train(self, scenes: Scenes, log: Callable[[dict[str, Any]], None]) -> None:
        """Run all steps; the averaged weights stay in the model."""
        config = self.config
        optimiser = torch.optim.AdamW(self.parameters, config.peak_lr, (0.9, 0.98), weight_decay=config.weight_decay)
        average = [p.detach().clone() for p in self.parameters]
        weight = self._balance(scenes)  # (N, T)
        window: list[Tensor] = []
        began = time.perf_counter()
        for step in range(config.steps):
            spent = (time.perf_counter() - began) / config.seconds if config.seconds else 0.0
            progress = max(step / config.steps, spent)
            if progress >= 1:
                break
            rate = config.peak_lr * _schedule(progress, config.warmup)
            for group in optimiser.param_groups:
                group["lr"] = rate
            front_only = bool(torch.rand((), generator=self.generator) < config.front_only)
            few = len(scenes) < config.batch  # a set smaller than a batch shows its scenes more than once
            rows = torch.multinomial(weight.sum(1), config.batch, few, generator=self.generator)
            types, asked = self._ask(weight[rows], scenes.answers[rows], front_only)
            wording = (torch.rand(types.shape, generator=self.generator) * self.book.taught[types]).long()
            questions, answers = self.book.questions(types, wording), self.book.answers(types, asked)
            drafting = config.draft if progress >= config.ar_fraction else 0
            with torch.autocast(self.device.type, torch.bfloat16):
                ids, positions, vision = self.book.scene(self.model, scenes, rows, front_only)
                laid = assemble(
                    ids, positions, self.book.phrases, questions, answers, drafting, self.book.mask_id, self.generator
                )
                clean, draft = losses(self.model, laid.to(self.device), vision)
            optimiser.zero_grad(set_to_none=True)
            (clean + config.draft_weight * draft).backward()
            torch.nn.utils.clip_grad_norm_(self.parameters, 1.0)
            optimiser.step()
            keep = min(config.ema, (step + 1) / (step + 10))
            with torch.no_grad():
                torch._foreach_lerp_(average, list[Tensor](self.parameters), 1 - keep)
            window.append(torch.stack([clean.detach().float(), draft.detach().float()]))
            if (step + 1) % 25 == 0 or step + 1 == config.steps:
                clean_loss, draft_loss = torch.stack(window).mean(0).tolist()
                log({"step": step + 1, "clean": round(clean_loss, 4), "draft": round(draft_loss, 4),
                     "seconds": round(time.perf_counter() - began, 1)})  # fmt: skip
                window.clear()
        with torch.no_grad():
            for parameter, mean in zip(self.parameters, average, strict=True):
                parameter.copy_(mean)

    def save(self, directory: Path, extra: dict[str, Any]) -> None:
        """The adapter, its vocabulary and its config as a model directory."""
        c = self.config
        adapter = AdapterConfig(self.base, self.sha256, c.rank, c.scale, self.tokenizer.vocab_size, tuple(self.rows),
                                c.draft)  # fmt: skip
        examples = [wordings[0] for wordings in self.types.wordings]
        save_adapter(directory, adapter, self.model, collect(self.model),
                     {"questions": examples, "training": asdict(c)} | extra)  # fmt: skip
        self.tokenizer.save(directory)

    def _held(self, start: Path) -> dict[str, Tensor]:
        """The tensors of the adapter in `start`, which must be one like this."""
        held, path = read_config(start).get("adapter") or {}, start / ADAPTER
        mine = {"base_sha256": self.sha256, "rank": self.config.rank, "vocab_size": self.tokenizer.vocab_size}
        if odd := [key for key, value in mine.items() if held.get(key) != value]:
            raise CheckpointError(f"{start} was trained with another {odd[0]}: go on with the same base and questions")
        state = read_adapter(path)
        if odd := sorted(collect(self.model).keys() ^ state.keys()):
            raise CheckpointError(f"{path} lacks or does not know the tensor {odd[0]}: it changes other layers")
        return state

    def _balance(self, scenes: Scenes) -> Tensor:
        """(N, T) weights by which a moment's questions are asked: every answer of a type comes about as often."""
        weight = torch.zeros(scenes.answers.shape)
        for t, answers in enumerate(self.types.answers):
            counts = (scenes.answers[:, t, None] == torch.arange(len(answers))).sum(0).clamp(min=20)
            held = scenes.answers[:, t] >= 0
            often = dict(self.config.emphasis).get(self.types.names[t], 1.0)
            weight[held, t] = often * (1.0 / counts)[scenes.answers[held, t]] / len(answers)
        return weight

    def _ask(self, weight: Tensor, truth: Tensor, front_only: bool) -> tuple[Tensor, Tensor]:
        """(B, K) question types, drawn without replacement by weight, and their true answers (-1: asks nothing)."""
        chances = weight.clone()
        if front_only:
            chances[:, torch.tensor(self.types.sides)] = 0.0
        keys = torch.rand(chances.shape, generator=self.generator).log() / chances.clamp(min=1e-12)
        types = keys.argsort(1, descending=True)[:, : self.config.questions]
        return types, torch.where(chances.gather(1, types) > 0, truth.gather(1, types), -1)


@torch.no_grad()
def grade(
    model: VisionLanguageModel,
    book: Phrasebook,
    scenes: Scenes,
    unseen: bool = False,
    every: int = 1,
    batch: int = 8,
) -> Tensor:
    """(N, T) 1 right, 0 wrong, -1 not asked: is the greedy answer to the question exactly the true one?

    Each question is asked in a taught wording that the moment's place in the set picks, or in the one never taught, at
    moments 0, `every`, 2 `every`, ...
    """
    out = torch.full(scenes.answers.shape, -1)
    for rows in torch.arange(0, len(scenes), every).split(batch):
        ids, positions, vision = book.scene(model, scenes, rows)
        types = torch.arange(len(book.types.names)).expand(len(rows), -1)
        wording = book.taught[types] if unseen else (rows[:, None] + types) % book.taught[types]
        truth = scenes.answers[rows]
        questions, answers = book.questions(types, wording), book.answers(types, truth)
        laid = assemble(ids, positions, book.phrases, questions, answers, 0, book.mask_id, None)
        found = right(model, laid.to(vision.device), vision).long().cpu()
        out[rows] = torch.where(truth >= 0, found, -1)
    return out


def _schedule(progress: float, warmup: float) -> float:
    """Share of the peak rate: linear warm-up, then a cosine to 2 %."""
    if progress < warmup:
        return max(progress / warmup, 0.01)
    return 0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * (progress - warmup) / (1 - warmup)))
