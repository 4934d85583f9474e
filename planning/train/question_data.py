"""The question set in memory: what the frozen part of a vision tower says of every picture, and all phrases as tokens.

A set is written by `efficientgen data questions`; it names its own question types, wordings and answers.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from efficientgen.perception.patches import grid_of, patchify
from efficientgen.perception.types import Command
from efficientgen.perception.vision import Grid
from efficientgen.planning.model import VisionLanguageModel, position_ids
from efficientgen.planning.question_prompt import nano_question, nano_scene
from efficientgen.planning.tokenizer import IM_END, MASK, Tokenizer
from efficientgen.planning.train.question_rows import Phrases

FRONT = slice(1, 2)  # of the cameras FRONT_LEFT, FRONT, FRONT_RIGHT


class QuestionSetError(ValueError):
    """A question set that is empty or inconsistent."""


@dataclass(frozen=True)
class Types:
    """The question types of a set: per type its wordings, the last one never taught, its answers, and what it needs."""

    names: tuple[str, ...]
    wordings: tuple[tuple[str, ...], ...]
    answers: tuple[tuple[str, ...], ...]
    sides: tuple[bool, ...]


@dataclass(frozen=True)
class Scenes:
    """N moments of one half: stem states (N, C, patches, hidden) float16, command (N,), true answers (N, T), drives.

    The states are where the model is, everything else on the CPU, where rows are laid out.
    """

    states: Tensor
    command: Tensor
    answers: Tensor
    drives: tuple[str, ...]
    size: tuple[int, int]  # picture height and width, px

    def __len__(self) -> int:
        return len(self.command)


def load_types(directory: Path) -> Types:
    """The types that `data questions` wrote down.

    Raises:
        QuestionSetError: there is no set in `directory`.
    """
    path = directory / "questions.json"
    if not path.exists():
        raise QuestionSetError(f"{directory} holds no question set; make one with `efficientgen data questions`")
    rows = json.loads(path.read_text())["questions"]
    wordings, answers = (tuple(tuple(r[key]) for r in rows) for key in ("wordings", "answers"))
    return Types(tuple(r["name"] for r in rows), wordings, answers, tuple(bool(r["sides"]) for r in rows))


@torch.no_grad()
def load_scenes(
    directory: Path, split: str, model: VisionLanguageModel, stem: int, see: bool = True, batch: int = 16
) -> Scenes:
    """One half of a set, with what `model`'s first `stem` vision blocks say of its pictures; nothing without `see`.

    That is kept beside the pictures, under a name that tells the stem and its weights.

    Raises:
        QuestionSetError: the half is empty.
    """
    shards = sorted(p.name.removesuffix(".answers.npy") for p in (directory / split).glob("*.answers.npy"))
    if not shards:
        raise QuestionSetError(f"{directory / split} is empty; make it with `efficientgen data questions`")
    device = next(model.parameters()).device
    columns: dict[str, list[Any]] = {"states": [], "command": [], "answers": [], "drive": []}
    size = (0, 0)
    for shard in shards:
        pictures = np.load(directory / split / f"{shard}.pictures.npy", mmap_mode="r")  # (N, 2, 3, H, W, 3)
        size = pictures.shape[3:5]
        grids = (grid_of(*size),) * pictures.shape[2]
        kept = directory / split / f"{shard}.{_fingerprint(model, stem)}.npy"
        if not see:
            columns["states"].append(np.zeros((len(pictures), len(grids), 0, 0), np.float16))
        elif kept.exists():
            columns["states"].append(np.load(kept))
        else:
            states = []
            for i in range(0, len(pictures), batch):
                pairs = torch.from_numpy(np.array(pictures[i : i + batch])).to(device).transpose(1, 2)
                patches = patchify(pairs.flatten(0, 1)).unflatten(0, (len(pairs), -1)).flatten(1, 2)
                said = model.model.visual.begin(patches, grids, stem).unflatten(1, (len(grids), -1))
                states.append(said.half().cpu().numpy())
            columns["states"].append(np.concatenate(states))
            np.save(kept.with_suffix(".new.npy"), columns["states"][-1])
            kept.with_suffix(".new.npy").rename(kept)
        for name in ("command", "answers", "drive"):
            columns[name].append(np.load(directory / split / f"{shard}.{name}.npy"))
    command, answers = (torch.from_numpy(np.concatenate(columns[k])).long() for k in ("command", "answers"))
    drives = tuple(str(d) for d in np.concatenate(columns["drive"]))
    return Scenes(torch.from_numpy(np.concatenate(columns["states"])).to(device), command, answers, drives, size)


def _fingerprint(model: VisionLanguageModel, stem: int) -> str:
    """Of the weights that the stem's states are a function of."""
    visual, digest = model.model.visual, hashlib.sha256()
    for part in (visual.patch_embed, *visual.blocks[:stem]):
        for value in part.state_dict().values():
            digest.update(value.float().cpu().numpy().tobytes())
    return f"stem{stem}-{digest.hexdigest()[:12]}"


class Phrasebook:
    """All wordings and answers of `types` as tokens, and which rows of `phrases` belong to a type.

    Args:
        stem: how many vision blocks the scenes' states have behind them.
        blind: zeros in place of what the pictures say.
    """

    def __init__(self, types: Types, tokenizer: Tokenizer, stem: int, blind: bool = False):
        self.types, self.tokenizer, self.stem, self.blind = types, tokenizer, stem, blind
        asked = [nano_question(tokenizer, w) for wordings in types.wordings for w in wordings]
        said = [tokenizer.encode(a + IM_END) for answers in types.answers for a in answers]
        self.phrases = Phrases.of(asked, said)
        self.mask_id = tokenizer.id_of(MASK)
        self.taught = torch.tensor([len(w) - 1 for w in types.wordings])  # the last one of each is not
        self._wording = torch.tensor([0, *(len(w) for w in types.wordings)]).cumsum(0)
        self._answer = torch.tensor([0, *(len(a) for a in types.answers)]).cumsum(0)

    def questions(self, types: Tensor, wording: Tensor) -> Tensor:
        """Rows of `phrases.question` of each type's wording."""
        return self._wording[types] + wording

    def answers(self, types: Tensor, answer: Tensor) -> Tensor:
        """Rows of `phrases.answer` of each type's answer; -1 stays."""
        return torch.where(answer >= 0, self._answer[types] + answer, -1)

    def scene(
        self, model: VisionLanguageModel, scenes: Scenes, rows: Tensor, front_only: bool = False
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Scene ids (B, P) and positions (3, P) on the CPU, vision tokens (B, V, hidden) where the model is."""
        grid = grid_of(*scenes.size)
        states = scenes.states[rows][:, FRONT if front_only else slice(None)]
        grids: tuple[Grid, ...] = (grid,) * states.shape[1]
        per_image = grid[1] * grid[2] // 4
        ids = torch.tensor([nano_scene(self.tokenizer, [per_image] * len(grids), c) for c in Command])
        positions = position_ids(ids[0].tolist(), grids, model.config)
        if self.blind:
            width, device = model.config.text.hidden_size, next(model.parameters()).device
            vision = torch.zeros(len(rows), len(grids) * per_image, width, device=device)
        else:
            vision = model.model.visual.finish(states.flatten(1, 2).float(), grids, self.stem)
        return ids[scenes.command[rows]], positions, vision
