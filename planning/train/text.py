"""Text models: a corpus of short texts, an AR parent trained on it, and its conversion to block diffusion.

The nano Efficient-DLM is made by `train_parent` and `convert` alone; a larger parent is any text-only model directory.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch

from efficientgen.planning.checkpoint import load_model
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.tokenizer import IM_END, PAD, Tokenizer
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.ranks import Ranks
from efficientgen.planning.train.recipe import EFFICIENT_DLM, Recipe
from efficientgen.planning.train.rows import Batch, text_batch
from efficientgen.planning.train.run import GlobalBatch, Run, RunConfig

# Efficient-DLM at nano size.  Ours beside the paper: the grid is shifted at random, so that a block may begin at a gap;
# every fifth row is hidden as a whole, the state that decoding starts from; and a third of the rows hide one stretch of
# each block.  Masking late tokens first hardly ever shows a gap with text behind it: such a model fills gaps badly.
NANO_EFFICIENT_DLM = dataclasses.replace(EFFICIENT_DLM, bd_size=32, shifted_grid=True, full=0.2, gaps=0.4)


class CorpusError(ValueError):
    """A corpus file that is missing or empty."""


def read_corpus(path: Path, tokenizer: Tokenizer) -> list[list[int]]:
    """Token ids of every line, each with the end token behind it.

    Raises:
        CorpusError: there is no such file, or no line in it.
        UnknownTextError: a word is not in the vocabulary.
    """
    if not path.exists():
        raise CorpusError(f"{path} does not exist; write it with `efficientgen data text`")
    end = tokenizer.id_of(IM_END)
    lines = [[*tokenizer.encode(line), end] for line in path.read_text().splitlines() if line]
    if not lines:
        raise CorpusError(f"{path} is empty; write it anew with `efficientgen data text`")
    return lines


class TextData:
    """`batch` texts drawn with replacement; the whole text is learned, there is no prompt."""

    def __init__(self, lines: Sequence[list[int]], batch: int, tokenizer: Tokenizer):
        self.lines, self.batch = lines, batch
        self.pad, self.end = tokenizer.id_of(PAD), tokenizer.id_of(IM_END)

    def __call__(self, generator: torch.Generator) -> Batch:
        picks = torch.randint(len(self.lines), (self.batch,), generator=generator).tolist()
        return text_batch([self.lines[i] for i in picks], [0] * self.batch, self.pad, self.end)


def train_parent(
    config: ModelConfig,
    tokenizer: Tokenizer,
    lines: Sequence[list[int]],
    directory: Path,
    run_config: RunConfig,
    ranks: Ranks,
    log: Callable[[str], None],
) -> Run:
    """AR training from random weights, or on from the state in `directory`; ends with a model directory there."""
    torch.manual_seed(run_config.seed)
    model = VisionLanguageModel(dataclasses.replace(config, token_shift=1, clean_context="token"))
    initialise(model)
    data = TextData(lines, run_config.batch, tokenizer)
    return _train(model, None, tokenizer, data, directory, run_config, ranks, log)


def convert(
    parent: Path,
    recipe: Recipe,
    data: Callable[[ModelConfig, Tokenizer], GlobalBatch],
    directory: Path,
    run_config: RunConfig,
    ranks: Ranks,
    log: Callable[[str], None],
) -> Run:
    """Convert the AR model of the directory `parent` to block diffusion by `recipe`; `data` is made for that model.

    Raises:
        CheckpointError: `parent` is no model directory.
    """
    model, tokenizer = load_model(parent), Tokenizer.load(parent)
    model.config = converted_config(model.config, recipe)
    return _train(model, recipe, tokenizer, data(model.config, tokenizer), directory, run_config, ranks, log)


def converted_config(parent: ModelConfig, recipe: Recipe) -> ModelConfig:
    """The parent's config with what the recipe changes, so that decoders know how the model was trained."""
    return dataclasses.replace(
        parent,
        token_shift=recipe.token_shift,
        clean_context=recipe.clean_context,
        noise=recipe.noise,
        bd_size=recipe.bd_size,
        decode_block_size=recipe.bd_size,
        sub_block_size=recipe.bd_size,
    )


def _train(
    model: VisionLanguageModel, recipe: Recipe | None, tokenizer: Tokenizer, data: GlobalBatch,
    directory: Path, run_config: RunConfig, ranks: Ranks, log: Callable[[str], None],
) -> Run:  # fmt: skip
    run = Run(model, recipe, data, directory, run_config, ranks, log)
    if run.resume():
        log(f"going on at step {run.step}")
    run.run()
    run.export()
    if ranks.rank == 0:
        tokenizer.save(directory)
    return run
