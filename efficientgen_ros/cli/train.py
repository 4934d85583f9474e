"""`efficientgen train`: train a planner on a rendered set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from efficientgen_ros.cli.train_world import decoder_command, world_command

app = typer.Typer(help="Train models.", no_args_is_help=True)
app.command("world")(world_command)
app.command("world-decoder")(decoder_command)


@app.callback()
def _group() -> None:
    """Train models."""


@app.command("planner")
def planner_command(
    data: Annotated[Path, typer.Option(help="Training set made by `efficientgen data render`.")] = Path("data/set"),
    out: Annotated[Path, typer.Option(help="Model directory to write; training goes on if it holds a state.")] = Path(
        "data/nano-ddrive"
    ),
    seconds: Annotated[float, typer.Option(min=1, help="Wall time to train for.")] = 1080.0,
    batch: Annotated[int, typer.Option(min=1)] = 256,
    seed: Annotated[int, typer.Option()] = 0,
    start: Annotated[Path | None, typer.Option(help="Model directory to go on from (fine-tuning).")] = None,
    peak_lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    ar_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of the time for the AR warm-up.")] = 0.45,
    move_pixels: Annotated[
        bool, typer.Option("--move-pixels", help="Augment pictures by shift and noise too.")
    ] = False,
    balance: Annotated[bool, typer.Option("--balance", help="Both answers to a yes/no question count alike.")] = False,
    look: Annotated[
        float, typer.Option(min=0, help="Weight of a loss that makes vision tokens tell what they show and how far.")
    ] = 0.0,
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the towers.")] = True,
) -> None:
    """Train nano Fast-dDrive: AR warm-up, then section-aware structured diffusion (SASD)."""
    import torch

    from efficientgen.planning.train.data import load_set
    from efficientgen.planning.train.trainer import TrainConfig, Trainer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = TrainConfig(
        seconds=seconds,
        batch=batch,
        seed=seed,
        compile=compile_model,
        peak_lr=peak_lr,
        ar_fraction=ar_fraction,
        move_pixels=move_pixels,
        balance=balance,
        look=look,
    )
    trainer = Trainer(load_set(data, device), out, config, device, lambda line: print(line, flush=True), start=start)
    if trainer.resume():
        print(f"going on at step {trainer.step}, {trainer.elapsed:.0f} s")
    print(trainer.run())


Corpus = Annotated[Path, typer.Option(help="Directory of texts made by `efficientgen data text`.")]
Steps = Annotated[int, typer.Option(min=1, help="Optimiser steps in all; a resumed run goes on to this one.")]
Batch = Annotated[int, typer.Option(min=1, help="Texts per step, over all processes.")]
PeakRate = Annotated[float, typer.Option(help="Highest learning rate.")]
Device = Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")]


@app.command("text")
def text_command(
    corpus: Corpus = Path("data/text"),
    out: Annotated[Path, typer.Option(help="Model directory to write; training goes on if it holds a state.")] = Path(
        "data/nano-ar"
    ),
    steps: Steps = 2400,
    batch: Batch = 16,
    peak_lr: PeakRate = 2e-3,
    hidden: Annotated[int, typer.Option(min=16, help="Width of the model.")] = 128,
    layers: Annotated[int, typer.Option(min=1)] = 4,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "",
) -> None:
    """Train a nano autoregressive text model on scene descriptions: the parent that `train convert` starts from.

    Several GPUs: torchrun --nproc-per-node N -m efficientgen_ros.cli train text ...
    """
    from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
    from efficientgen.planning.train.ranks import join, leave
    from efficientgen.planning.train.run import RunConfig
    from efficientgen.planning.train.text import read_corpus, train_parent

    ranks = join(device)
    tokenizer = nano_text_tokenizer()
    lines = read_corpus(corpus / "train.txt", tokenizer)
    config = RunConfig(steps, batch, peak_lr, seed=seed)
    train_parent(nano_text_config(tokenizer, hidden, layers), tokenizer, lines, out, config, ranks, _say)
    leave(ranks)


@app.command("convert")
def convert_command(
    parent: Annotated[Path, typer.Option(help="Model directory of the autoregressive parent.")] = Path("data/nano-ar"),
    recipe: Annotated[
        Literal["nano-efficient-dlm", "efficient-dlm", "fast-dllm-v2", "fast-dvlm", "fast-ddrive"],
        typer.Option(
            help="Whose way; fast-ddrive converts a planner on --driving, the others a text model on --corpus."
        ),
    ] = "nano-efficient-dlm",
    corpus: Corpus = Path("data/text"),
    driving: Annotated[Path, typer.Option(help="Training set made by `efficientgen data render`.")] = Path("data/set"),
    out: Annotated[Path, typer.Option(help="Model directory to write; training goes on if it holds a state.")] = Path(
        "data/nano-edlm"
    ),
    steps: Steps = 1000,
    batch: Batch = 16,
    peak_lr: PeakRate = 1e-3,
    block_size: Annotated[int, typer.Option(min=2, help="Tokens in a diffusion block; a power of two.")] = 32,
    gaps: Annotated[
        float | None, typer.Option(min=0, max=1, help="Share of the rows that hide gaps; default: the recipe's.")
    ] = None,
    recompute: Annotated[bool, typer.Option("--recompute", help="Recompute activations to save memory.")] = False,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "",
) -> None:
    """Convert an autoregressive model to block diffusion.

    Several GPUs: torchrun --nproc-per-node N -m efficientgen_ros.cli train convert ...
    """
    from dataclasses import replace

    from efficientgen.planning.config import ModelConfig
    from efficientgen.planning.schema import SCHEMAS, compile_template
    from efficientgen.planning.tokenizer import Tokenizer
    from efficientgen.planning.train.data import load_set
    from efficientgen.planning.train.driving import DrivingData
    from efficientgen.planning.train.ranks import join, leave
    from efficientgen.planning.train.recipe import RECIPES, RecipeError
    from efficientgen.planning.train.run import GlobalBatch, RunConfig
    from efficientgen.planning.train.text import NANO_EFFICIENT_DLM, TextData, convert, read_corpus

    ranks = join(device)
    chosen = replace((RECIPES | {"nano-efficient-dlm": NANO_EFFICIENT_DLM})[recipe], bd_size=block_size)
    if gaps is not None:
        chosen = replace(chosen, gaps=gaps)

    def data(config: ModelConfig, tokenizer: Tokenizer) -> GlobalBatch:
        if recipe != "fast-ddrive":
            return TextData(read_corpus(corpus / "train.txt", tokenizer), batch, tokenizer)
        if config.schema is None:
            raise RecipeError(f"{parent} is a text model without a schema; fast-ddrive converts planners")
        template = compile_template(SCHEMAS[config.schema], tokenizer, config.bd_size)
        return DrivingData(load_set(driving), template, config, batch)

    convert(parent, chosen, data, out, RunConfig(steps, batch, peak_lr, seed=seed, recompute=recompute), ranks, _say)
    leave(ranks)


@app.command("ablate")
def ablate_command(
    corpus: Corpus = Path("data/text"),
    out: Annotated[Path, typer.Option(help="JSON file to write; runs that it holds are kept.")] = Path(
        "docs/results/conversion.json"
    ),
    seeds: Annotated[int, typer.Option(min=1)] = 3,
    steps: Annotated[int, typer.Option(min=1, help="Steps of each conversion.")] = 150,
    scratch: Annotated[Path, typer.Option(help="Directory for what is thrown away.")] = Path("data/ablate"),
) -> None:
    """Convert small AR models in ways that differ in one choice, and say which of the papers' claims hold here."""
    from efficientgen.eval.provenance import provenance
    from efficientgen.planning.nano_text import nano_text_tokenizer
    from efficientgen.planning.train.ablate import Budget, ablate
    from efficientgen.planning.train.text import read_corpus

    tokenizer = nano_text_tokenizer()
    train, heldout = (read_corpus(corpus / f"{name}.txt", tokenizer) for name in ("train", "heldout"))
    budget = Budget(steps=steps)
    spread = heldout[:: max(1, len(heldout) // budget.heldout)]
    head = {"result": "conversion", **provenance()}
    ablate(train, spread, tokenizer, out, seeds, budget, scratch, _say, head)


@app.command("ablate-sections")
def ablate_sections_command(
    data: Annotated[Path, typer.Option(help="Training set made by `efficientgen data render`.")] = Path("data/set"),
    out: Annotated[Path, typer.Option(help="JSON file to write; runs that it holds are kept.")] = Path(
        "docs/results/section_weights.json"
    ),
    seeds: Annotated[int, typer.Option(min=1, help="Each runs in a process of its own, side by side.")] = 3,
    parent_steps: Annotated[int, typer.Option(min=1, help="Of the autoregressive parent.")] = 1200,
    steps: Annotated[int, typer.Option(min=1, help="Of each conversion.")] = 600,
    batch: Annotated[int, typer.Option(min=1)] = 128,
    drives: Annotated[int, typer.Option(min=1, help="Of the set that are loaded.")] = 150,
    seconds: Annotated[float, typer.Option(min=1, help="Begin no conversion after so long.")] = 600.0,
    scratch: Annotated[Path, typer.Option(help="Directory for what is thrown away.")] = Path("data/ablate-sections"),
    device: Device = "",
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the towers.")] = True,
) -> None:
    """Train nano Fast-dDrive with and without section weights and a noise schedule per section."""
    import torch

    from efficientgen.eval.provenance import provenance
    from efficientgen.planning.train.ablate_sections import SectionBudget, ablate_sections

    if device or not torch.cuda.is_available():
        devices = [device or "cpu"]
    else:
        devices = [f"cuda:{i}" for i in range(torch.cuda.device_count())]
    gpu = torch.cuda.get_device_name() if devices[0].startswith("cuda") else "cpu"
    head = {"result": "section-weights", "device": gpu, **provenance()}
    budget = SectionBudget(parent_steps, steps, batch, drives)
    result = ablate_sections(data, out, scratch, seeds, budget, seconds, devices, _say, head, compile_model)
    for claim in result["claims"]:
        words = {k: v["verdict"] for k, v in claim.items() if isinstance(v, dict)}
        _say(f"{claim['claim']} ({claim['seeds']} seeds): {words}")
    if result["failed"]:
        raise typer.Exit(1)


def _say(line: str) -> None:
    print(line, flush=True)
