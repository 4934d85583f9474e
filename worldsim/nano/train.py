"""`train_nano`: both parts of the nano world within one budget of wall time, resumable, exported as it goes.

The autoencoder is trained first and frozen; the world model learns on its latents.  Progress is wall time, so that a
run fits a lease whatever the machine.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from efficientgen.worldsim.nano.autoencoder import Autoencoder, AutoencoderConfig
from efficientgen.worldsim.nano.checkpoint import save_nano
from efficientgen.worldsim.nano.clips import Clips
from efficientgen.worldsim.nano.fit_autoencoder import fit_autoencoder, polish_decoder
from efficientgen.worldsim.nano.fit_world import fit_world
from efficientgen.worldsim.nano.model import NanoModel, WorldConfig
from efficientgen.worldsim.nano.training import Clock, Log, Metrics, TrainConfig, save_state

STATE = "state.pt"


def train_nano(
    clips: Clips, out: Path, config: TrainConfig, clock: Clock, log: Log, export: Path | None = None,
    autoencoder: AutoencoderConfig | None = None, world: WorldConfig | None = None,
) -> tuple[Autoencoder, NanoModel]:  # fmt: skip
    """Train and write a nano world to `out`, and a usable copy to `export` now and then.

    Goes on from `out`'s state if there is one.
    """
    torch.manual_seed(config.seed)
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    torch.backends.cudnn.benchmark = True
    out.mkdir(parents=True, exist_ok=True)
    metrics = Metrics(out / "training.jsonl", clock, log)
    state: dict[str, Any] = {}
    if (out / STATE).exists():
        state = torch.load(out / STATE, map_location=clips.device, weights_only=True)
        clock.before += state["elapsed"]
        metrics(part=state["part"], resumed=True, step=state["run"]["steps"] if state.get("run") else 0)
    ends = config.seconds - config.gates_s
    begin = state.get("begin", clock.elapsed)
    middle = begin + config.autoencoder_share * (ends - begin)

    def save(part: str, run: dict[str, Any] | None, done: Autoencoder | None) -> None:
        held = None if done is None else done.state_dict()
        save_state(out / STATE, {"part": part, "run": run, "autoencoder": held, "begin": begin,
                                 "elapsed": clock.elapsed})  # fmt: skip

    coder = Autoencoder(autoencoder or AutoencoderConfig())
    model = NanoModel(world or WorldConfig())
    if state.get("part") == "world":
        coder.load_state_dict(state["autoencoder"])
        coder = coder.to(clips.device).eval().requires_grad_(False)
    else:
        coder = fit_autoencoder(coder, clips, config, clock, middle, metrics,
                                lambda run: save("autoencoder", run, None), state.get("run"))  # fmt: skip
        save("world", None, coder)

    def written(current: NanoModel) -> None:
        for directory in (out, export):
            if directory is not None:
                save_nano(directory, coder, current)

    written(model)
    resumed = state.get("run") if state.get("part") == "world" else None
    polish = ends - config.polish_share * (ends - begin)
    done, truth, dreamed = fit_world(model, coder, clips, config, clock, polish, metrics,
                                     lambda run: save("world", run, coder), written, resumed)  # fmt: skip
    written(done)
    coder = polish_decoder(coder, clips, (truth, dreamed), config, clock, ends, metrics)
    written(done)
    return coder, done
