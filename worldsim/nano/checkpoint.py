"""A nano world as a directory: `config.json`, `world.safetensors` with both parts, and a card.

The autoencoder is stored in bf16, whose error shows in every picture.  The world model's matrices are stored as int8
with one fp32 scale per row: the error of a weight, about 1 %, is small beside what a dream leaves open, and the file a
third smaller.  Files without scales hold bf16 alone.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from efficientgen.kernels.shards import CheckpointError, some
from efficientgen.worldsim.nano.autoencoder import Autoencoder, AutoencoderConfig
from efficientgen.worldsim.nano.model import NanoModel, WorldConfig
from efficientgen.worldsim.sana.checkpoint import MissingWorldError, WrongVariantError
from efficientgen.worldsim.sana.config import config_from_json, read_json

ARCHITECTURE = "NanoWorld"
WEIGHTS = "world.safetensors"  # other names than planners have: `shipped_models` looks for theirs
EXACT = ("mean", "std")  # statistics stay fp32
PARTS = ("autoencoder", "world")
SCALE = ".scale"  # behind the name of a tensor in int8: fp32, one per row
LEAST_IN_INT8 = 4096  # elements


def save_nano(directory: Path, autoencoder: Autoencoder, model: NanoModel) -> None:
    """Write both parts, the weights first, each under a temporary name."""
    directory.mkdir(parents=True, exist_ok=True)
    tensors = {}
    for part, module in zip(PARTS, (autoencoder, model), strict=True):
        for name, value in module.state_dict().items():
            value = value.detach().to("cpu", torch.float32)
            if part == "world" and value.dim() > 1 and value.numel() >= LEAST_IN_INT8:
                tensors[f"{part}.{name}"], tensors[f"{part}.{name}{SCALE}"] = _rounded(value)
            else:
                tensors[f"{part}.{name}"] = value.to(torch.float32 if name in EXACT else torch.bfloat16).contiguous()
    save_file(tensors, directory / f".{WEIGHTS}.new")
    (directory / f".{WEIGHTS}.new").chmod(0o644)
    os.replace(directory / f".{WEIGHTS}.new", directory / WEIGHTS)
    world = asdict(model.config)
    config = {"architectures": [ARCHITECTURE], "autoencoder": asdict(autoencoder.config), "world": world}
    (directory / ".config.json.new").write_text(json.dumps(config, indent=1) + "\n")
    os.replace(directory / ".config.json.new", directory / "config.json")


def load_nano(directory: Path, device: str | torch.device = "cpu") -> tuple[Autoencoder, NanoModel]:
    """Both parts in fp32, frozen.

    Raises:
        MissingWorldError: no such directory.
        WrongVariantError: it holds another model.
        CheckpointError: config or weights are missing, damaged, of other sizes, or not finite.
    """
    if not directory.is_dir():
        raise MissingWorldError(
            f"{directory} is no directory; give one that `efficientgen train world` has written, or leave --world-dir "
            "out for the shipped one"
        )
    config = read_json(directory / "config.json")
    if config.get("architectures") != [ARCHITECTURE]:
        there = sorted(p.name for p in directory.iterdir())
        raise WrongVariantError(
            f"{directory} holds no nano world (config.json says {config.get('architectures')!r}; files: "
            f"{some(there) or 'none'}); --world sana-wm takes the released model"
        )
    autoencoder, model = _shaped(config, directory / "config.json")
    try:
        stored = load_file(directory / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{directory / WEIGHTS} cannot be read: {error}; write or fetch it again") from error
    stored = {k: _restored(k, v, stored, directory) for k, v in stored.items() if not k.endswith(SCALE)}
    expected = {f"{part}.{k}": v for part, m in zip(PARTS, (autoencoder, model), strict=True)
                for k, v in m.state_dict().items()}  # fmt: skip
    _check(directory / WEIGHTS, expected, stored)
    for part, module in zip(PARTS, (autoencoder, model), strict=True):
        state = {k.partition(".")[2]: v.float() for k, v in stored.items() if k.partition(".")[0] == part}
        module.load_state_dict(state)
        module.to(device).eval().requires_grad_(False)
    return autoencoder, model


def _rounded(value: Tensor) -> tuple[Tensor, Tensor]:
    """(rows, ...) as int8 of the same shape, and what a unit of each row is worth (rows,)."""
    scale = value.flatten(1).abs().amax(1) / 127.0
    flat = value.flatten(1) / scale.clamp_min(torch.finfo(torch.float32).tiny)[:, None]
    return flat.round().to(torch.int8).view(value.shape).contiguous(), scale


def _restored(name: str, value: Tensor, stored: dict[str, Tensor], directory: Path) -> Tensor:
    """The inverse of `_rounded`, fp32; what is not in int8 as it is."""
    if value.dtype != torch.int8:
        return value
    scale = stored.get(name + SCALE)
    if scale is None or scale.shape != value.shape[:1]:
        raise CheckpointError(f"{directory / WEIGHTS}: {name} is int8 without a scale per row; write or fetch it again")
    return (value.float().flatten(1) * scale[:, None]).view(value.shape)


def _shaped(config: dict[str, Any], path: Path) -> tuple[Autoencoder, NanoModel]:
    """Empty models of the sizes in a config."""
    try:
        world = dict(config["world"])
        transformer = config_from_json(dict(world.pop("transformer")), path)
        known = {f.name for f in fields(WorldConfig)}
        values: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in world.items() if k in known}
        autoencoder = Autoencoder(AutoencoderConfig(**config["autoencoder"]))
        return autoencoder, NanoModel(WorldConfig(transformer=transformer, **values))
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise CheckpointError(f"{path} does not describe a nano world ({error}); write or fetch it again") from error


def _check(path: Path, expected: dict[str, Tensor], stored: dict[str, Tensor]) -> None:
    missing, surplus = sorted(expected.keys() - stored.keys()), sorted(stored.keys() - expected.keys())
    if missing or surplus:
        lacks, more = some(missing) or "nothing", some(surplus) or "nothing"
        raise CheckpointError(
            f"{path} lacks {lacks} and has {more} too many; config and weights are of different models"
        )
    for name, value in stored.items():
        if value.shape != expected[name].shape:
            raise CheckpointError(f"{path}: {name} is {tuple(value.shape)}, {tuple(expected[name].shape)} was expected")
        if not bool(torch.isfinite(value).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinite weights; a damaged file: fetch it again")
