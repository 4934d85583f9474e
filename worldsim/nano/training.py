"""What both trainings of the nano world share: a budget of wall time, averaged weights, metrics, a resumable state."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

Log = Callable[[str], None]
Kind = TypeVar("Kind", bound=nn.Module)


@dataclass(frozen=True)
class TrainConfig:
    """One training run of both parts.  `seconds` is its whole budget of wall time, gates included."""

    seconds: float = 480.0
    gates_s: float = 75.0  # left over for them
    autoencoder_share: float = 0.35  # of what remains after loading
    polish_share: float = 0.06  # at the end, for the decoder on dreams
    autoencoder_batch: int = 32  # time steps, of three pictures
    autoencoder_lr: float = 1.2e-3
    polish_lr: float = 4e-4
    batch: int = 32  # windows
    window: int = 12  # time steps
    lr: float = 1e-3
    dream_every_s: float = 20.0  # from the end of a dream of all drives to the next
    dream_share: float = 0.15  # of the time at most goes into dreams
    dream_segment: int = 48  # time steps that are dreamed in one go; what was dreamed before stands in front of them
    first_dream: float = 0.35  # share of the world's progress after which training is on its own dreams as well
    dreamed: float = 0.5  # share of windows whose context is dreamed, reached ...
    dreamed_ramp: float = 0.2  # ... this share of progress later: first dreams say little
    pixels_from: float = 0.5  # share of progress after which pictures count as well
    pixel_frames: int = 12  # per step
    warmup: float = 0.03  # share of progress; and no fewer than
    warmup_steps: int = 100  # (or that share of `max_steps`): a capture must not eat the warm-up's time
    ema: float = 0.999
    weight_decay: float = 0.02
    export_every_s: float = 60.0
    max_steps: int = 1_000_000  # of either part, for tests
    seed: int = 0
    compile: bool = False
    capture: bool = True  # whole steps as CUDA graphs, on an accelerator
    capture_autoencoder: bool = True  # its steps too; a capture that fails may spoil later ones
    bf16: bool | None = None  # autocast; None: on an accelerator


def autocast(device: torch.device, config: TrainConfig) -> torch.autocast:
    """bf16 where `config` says so."""
    return torch.autocast(
        device.type, torch.bfloat16, enabled=device.type == "cuda" if config.bf16 is None else config.bf16
    )


@dataclass
class Clock:
    """Wall time of a run, over interruptions."""

    before: float = 0.0
    began: float = field(default_factory=time.monotonic)

    @property
    def elapsed(self) -> float:
        return self.before + time.monotonic() - self.began


class Average:
    """Exponential moving average of a module's floating-point state, faster at the beginning."""

    def __init__(self, module: nn.Module, keep: float) -> None:
        self.module, self.keep, self.steps = module, keep, 0
        self._current = module.state_dict()  # the module's own storage
        self.state = {k: v.detach().clone() for k, v in self._current.items()}
        self._share = torch.ones((), device=next(iter(self.state.values())).device)  # of the current weights

    def plan(self) -> None:
        """How much the next `follow` takes over: the host's part."""
        self.steps += 1
        self._share.fill_(1 - min(self.keep, (self.steps + 1) / (self.steps + 10)))

    @torch.no_grad()
    def follow(self) -> None:
        """The device's part."""
        held = list(self.state.values())
        way = torch._foreach_sub([self._current[k] for k in self.state], held)
        torch._foreach_mul_(way, self._share)
        torch._foreach_add_(held, way)

    @torch.no_grad()
    def load(self, state: dict[str, Tensor], steps: int) -> None:
        """Go on from another's state, in this one's memory."""
        for name, value in self.state.items():
            value.copy_(state[name])
        self.steps = steps

    def into(self, module: Kind) -> Kind:
        """The averaged weights in another module of the kind, frozen."""
        module.load_state_dict(self.state)
        return module.eval().requires_grad_(False)


def adamw(module: nn.Module, lr: float, decay: float) -> torch.optim.AdamW:
    parameters = [p for p in module.parameters() if p.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    device, cuda = parameters[0].device, parameters[0].is_cuda  # a graph reads its learning rate from memory
    rate = torch.tensor(lr, device=device) if cuda else lr
    return torch.optim.AdamW(groups, lr=rate, betas=(0.9, 0.95), fused=cuda, capturable=cuda)


def learning_rate(progress: float, peak: float, warmup: float) -> float:
    """Linear up, then a cosine down to a hundredth."""
    if progress < warmup:
        return peak * max(progress, 1e-3) / warmup
    share = min(1.0, (progress - warmup) / (1 - warmup))
    return peak * (0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * share)))


class Run:
    """One part's training until `until_s` on the clock: weights, optimiser, average and where it stands."""

    def __init__(self, model: nn.Module, lr: float, config: TrainConfig, clock: Clock, until_s: float) -> None:
        self.model, self.lr, self.config, self.clock, self.until_s = model, lr, config, clock, until_s
        self.average, self.optimiser = Average(model, config.ema), adamw(model, lr, config.weight_decay)
        self.steps, self.began = 0, clock.elapsed
        self.saved = clock.elapsed
        self._learning = [p for p in model.parameters() if p.requires_grad]

    @property
    def progress(self) -> float:
        """Share of the time, or of the steps, that is gone; 1: over."""
        share = (self.clock.elapsed - self.began) / max(self.until_s - self.began, 1e-6)
        return min(1.0, max(share, self.steps / self.config.max_steps))

    def descend(self, loss: Tensor) -> None:
        """One step of the optimiser."""
        self.plan()
        self.move(loss)

    def plan(self) -> None:
        """The host's part of a step: it counts, and says how far the device shall go."""
        rate = learning_rate(self.progress, self.lr, self.config.warmup)
        first = min(self.config.warmup_steps, max(1.0, self.config.warmup * self.config.max_steps))
        rate *= min(1.0, (self.steps + 1) / first)
        for group in self.optimiser.param_groups:
            if isinstance(group["lr"], Tensor):
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        self.average.plan()
        self.steps += 1

    def move(self, loss: Tensor) -> None:
        """The device's part: backwards, and with no gradient at all where it is not finite, on."""
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self._clip()
        self.optimiser.step()
        self.average.follow()

    @torch.no_grad()
    def _clip(self) -> None:
        """Gradients of norm 1 at most, in one piece of memory, each laid out as its parameter is."""
        learning = [(p, p.grad) for p in self._learning if p.grad is not None]
        flat = torch.cat([g.as_strided((g.numel(),), (1,)) for _, g in learning])
        norm = torch.linalg.vector_norm(flat)
        scale = torch.where(torch.isfinite(norm), 1.0 / norm.clamp_min(1.0), 0.0)
        flat = torch.nan_to_num(flat) * scale
        for (parameter, _), part in zip(learning, flat.split([p.numel() for p, _ in learning]), strict=True):
            parameter.grad = part.as_strided(parameter.shape, parameter.stride())

    def state(self) -> dict[str, Any]:
        """What `load` takes."""
        return {"model": self.model.state_dict(), "average": self.average.state, "averaged": self.average.steps,
                "optimiser": self.optimiser.state_dict(), "steps": self.steps, "began": self.began,
                "elapsed": self.clock.elapsed}  # fmt: skip

    def load(self, state: dict[str, Any]) -> None:
        """Go on where a run of the same kind was."""
        self.model.load_state_dict(state["model"])
        self.average.load(state["average"], state["averaged"])
        habits = [{k: group[k] for k in ("lr", "fused", "capturable")} for group in self.optimiser.param_groups]
        self.optimiser.load_state_dict(state["optimiser"])
        for group, ours in zip(self.optimiser.param_groups, habits, strict=True):
            group.update(ours)  # of this device, whatever device the state is from
        self.steps, self.began = state["steps"], state["began"]

    def save_due(self) -> bool:
        """Has `export_every_s` gone by since it last was?"""
        due = self.clock.elapsed - self.saved > self.config.export_every_s
        self.saved = self.clock.elapsed if due else self.saved
        return due


class Metrics:
    """JSON lines in a file and on a log."""

    def __init__(self, path: Path, clock: Clock, log: Log) -> None:
        self._path, self._clock, self._log = path, clock, log
        path.parent.mkdir(parents=True, exist_ok=True)

    def __call__(self, **row: object) -> None:
        row = {"seconds": round(self._clock.elapsed, 1), **row}
        line = json.dumps({k: round(v, 5) if isinstance(v, float) else v for k, v in row.items()})
        with self._path.open("a") as file:
            file.write(line + "\n")
        self._log(line)


def save_state(path: Path, state: dict[str, Any]) -> None:
    temporary = path.with_name(f".{path.name}.new")
    torch.save(state, temporary)
    os.replace(temporary, path)
