"""`efficientgen train`: train a planner on a rendered set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Train models.", no_args_is_help=True)


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
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the towers.")] = True,
) -> None:
    """Train nano Fast-dDrive: AR warm-up, then section-aware structured diffusion (SASD)."""
    import torch

    from efficientgen.planning.train.data import load_set
    from efficientgen.planning.train.trainer import TrainConfig, Trainer

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = TrainConfig(seconds=seconds, batch=batch, seed=seed, compile=compile_model)
    trainer = Trainer(load_set(data), out, config, device, lambda line: print(line, flush=True))
    if trainer.resume():
        print(f"going on at step {trainer.step}, {trainer.elapsed:.0f} s")
    print(trainer.run())
