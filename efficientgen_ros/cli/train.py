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
    start: Annotated[Path | None, typer.Option(help="Model directory to go on from (fine-tuning).")] = None,
    peak_lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 1.5e-3,
    ar_fraction: Annotated[float, typer.Option(min=0, max=1, help="Share of the time for the AR warm-up.")] = 0.45,
    move_pixels: Annotated[
        bool, typer.Option("--move-pixels", help="Augment pictures by shift and noise too.")
    ] = False,
    balance: Annotated[bool, typer.Option("--balance", help="Both answers to a yes/no question count alike.")] = False,
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
    )
    trainer = Trainer(load_set(data), out, config, device, lambda line: print(line, flush=True), start=start)
    if trainer.resume():
        print(f"going on at step {trainer.step}, {trainer.elapsed:.0f} s")
    print(trainer.run())
