"""`efficientgen train world`: train the nano world on rendered clips, and examine it on held-out towns."""

from __future__ import annotations

import json
import os
import shutil
import traceback
from pathlib import Path
from typing import Annotated

import typer


def world_command(
    data: Annotated[Path, typer.Option(help="Clips made by `efficientgen data world`.")] = Path("data/clips"),
    out: Annotated[Path, typer.Option(help="Directory to write; training goes on if it holds a state.")] = Path(
        "data/nano-world"
    ),
    heldout: Annotated[Path | None, typer.Option(help="Clips of held-out towns, for the gates at the end.")] = None,
    export: Annotated[Path | None, typer.Option(help="A second directory for the checkpoint alone.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Wall time for everything, loading and gates included.")] = 480,
    batch: Annotated[int, typer.Option(min=1, help="Windows per step of the world model.")] = 32,
    autoencoder_batch: Annotated[int, typer.Option(min=1, help="Time steps per step of the autoencoder.")] = 48,
    most: Annotated[int, typer.Option(min=16, help="Use at most so many time steps.")] = 1 << 30,
    max_steps: Annotated[int, typer.Option(min=1, help="Of either part, for a short look.")] = 1_000_000,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    compile_model: Annotated[bool, typer.Option("--compile/--no-compile", help="torch.compile the blocks.")] = False,
    capture: Annotated[bool, typer.Option(help="Whole training steps as CUDA graphs, on a GPU.")] = True,
    capture_autoencoder: Annotated[bool, typer.Option(help="The autoencoder's steps too.")] = True,
) -> None:
    """Train the nano world: autoencoder, then world model on recordings and its own dreams; gates into gates.json."""
    os.environ.setdefault("EFFICIENTGEN_KERNELS", "reference")  # compiling them would take a minute of the run
    import torch

    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json
    from efficientgen.worldsim.nano.checkpoint import load_nano
    from efficientgen.worldsim.nano.clips import load_clips
    from efficientgen.worldsim.nano.train import train_nano
    from efficientgen.worldsim.nano.training import Clock, TrainConfig

    clock = Clock()
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    config = TrainConfig(
        seconds=seconds, batch=batch, autoencoder_batch=autoencoder_batch, max_steps=max_steps, seed=seed,
        compile=compile_model, capture=capture, capture_autoencoder=capture_autoencoder,
        gates_s=75.0 if heldout else 1.0,
    )  # fmt: skip
    clips = load_clips(data, device, most)
    print(f"{len(clips.pictures)} time steps of {len(clips.starts)} drives after {clock.elapsed:.1f} s", flush=True)
    train_nano(clips, out, config, clock, lambda line: print(line, flush=True), export)
    if heldout is None:
        return
    from efficientgen.eval.world_gates import Deadline, examine

    try:
        autoencoder, model = load_nano(out, device)  # what the file holds is examined
        deadline = Deadline(max(config.seconds, clock.elapsed + 45.0), clock)
        gates = examine(autoencoder, model, load_clips(heldout, device), clips, deadline, samples=out / "samples.png")
    except Exception:  # the checkpoint is written; what went wrong with its examination goes on record
        gates = {"error": traceback.format_exc()}
    gates = {"result": "world-gates", "world": "nano", **provenance()} | gates
    for directory in (out, export):
        if directory is not None:
            write_json(gates, directory / "gates.json")
    if export is not None:
        for name in ("training.jsonl", "samples.png"):
            if (out / name).exists():
                shutil.copy2(out / name, export / name)
    print(json.dumps(gates, indent=1), flush=True)


def decoder_command(
    data: Annotated[Path, typer.Option(help="Clips of training towns.")] = Path("data/clips"),
    world_dir: Annotated[Path, typer.Option(help="A nano world to go on from.")] = Path("data/nano-world"),
    out: Annotated[Path, typer.Option(help="Directory to write.")] = Path("data/nano-world-finished"),
    seconds: Annotated[float, typer.Option(min=1, help="Wall time to train for, loading and dreaming left out.")] = 660,
    lr: Annotated[float, typer.Option(help="Highest learning rate.")] = 4e-4,
    pieces: Annotated[int, typer.Option(min=1, help="Pieces of pictures per step.")] = 16,
    most: Annotated[int, typer.Option(min=16, help="Use at most so many time steps.")] = 2500,
    seed: Annotated[int, typer.Option()] = 0,
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Of this process, on a CPU.")] = 1,
) -> None:
    """Finish a nano world's decoder on pieces of pictures with lights and road users, as its own dreams leave them."""
    os.environ.setdefault("EFFICIENTGEN_KERNELS", "reference")
    import torch

    from efficientgen.worldsim.nano.checkpoint import load_nano, save_nano
    from efficientgen.worldsim.nano.clips import load_clips
    from efficientgen.worldsim.nano.fit_autoencoder import encode_steps
    from efficientgen.worldsim.nano.fit_decoder import finish_decoder
    from efficientgen.worldsim.nano.fit_world import dream, read_rasters
    from efficientgen.worldsim.nano.model import RigRays
    from efficientgen.worldsim.nano.training import Clock, Metrics, TrainConfig

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        torch.set_num_threads(threads)
    torch.manual_seed(seed)
    autoencoder, model = load_nano(world_dir, device)
    clips, clock = load_clips(data, device, most), Clock()
    steps = torch.arange(len(clips.pictures), device=device)
    truth = torch.cat([encode_steps(autoencoder, clips, part) for part in steps.split(16)])
    dreamed = dream(model, clips, truth, read_rasters(autoencoder, clips), RigRays(device=device), seed=seed)
    metrics = Metrics(out / "training.jsonl", clock, lambda line: print(line, flush=True))
    config = TrainConfig(polish_lr=lr, ema=0.99)
    until = clock.elapsed + seconds
    done = finish_decoder(autoencoder, clips, (truth, dreamed), config, clock, until, metrics, pieces)
    save_nano(out, done, model)
