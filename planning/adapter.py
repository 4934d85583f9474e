"""A small model as an update of a larger one: low-rank changes of linear layers and a few embedding rows (LoRA).

nano-dvlm is nano-ddrive that has learned to answer questions.  Its directory holds what differs: for a linear layer of
weight W the factors A (r, in) and B (out, r) of W + scale B A (Hu et al. 2021, 2106.09685), and the rows of words that
the base does not have.  `load_adapted` merges them into the base's weights, so what runs is the one engine, at no extra
cost; the base's own file stays as it is, and so does everything that drives with it.
"""

from __future__ import annotations

import hashlib
import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from efficientgen.planning.checkpoint import CheckpointError, config_to_json, load_model, read_config
from efficientgen.planning.config import ModelConfig, NoiseSchedule
from efficientgen.planning.load import ADAPTER, WEIGHTS, model_directory
from efficientgen.planning.model import VisionLanguageModel

ROWS = "embed_rows"  # (n, hidden): the embedding rows `AdapterConfig.rows`
DOWN, UP = ".lora_A", ".lora_B"


@dataclass(frozen=True)
class AdapterConfig:
    """What an adapter changes, and whose weights: those of the shipped model `base` with this sha256."""

    base: str
    base_sha256: str
    rank: int
    scale: float
    vocab_size: int
    rows: tuple[int, ...]  # token ids whose embedding rows it brings
    bd_size: int  # tokens that one draft holds


def is_adapter(directory: Path) -> bool:
    """Whether a model directory holds an update rather than whole weights."""
    return (directory / ADAPTER).exists()


def load_adapted(
    directory: Path, dtype: torch.dtype = torch.float32, device: str = "cpu", base: Path | None = None
) -> VisionLanguageModel:
    """The base model with the adapter of `directory` merged in.

    Args:
        base: directory of the base model; None: the shipped one that the adapter names.

    Raises:
        CheckpointError: a file is missing or damaged, the base is another one, or names or shapes do not fit it.
        UnknownPlannerError: the base is not a shipped model.
    """
    config = _adapter_config(directory)
    base = base or model_directory(config.base)
    if (found := sha256_of(base / WEIGHTS)) != config.base_sha256:
        raise CheckpointError(
            f"{directory} changes {config.base} of sha256 {config.base_sha256[:12]}, {base / WEIGHTS} has "
            f"{found[:12]}: give the base that it was trained on, or train it again with `efficientgen train questions`"
        )
    state = read_adapter(directory / ADAPTER)
    model = load_model(base)
    _check(model, config, state, directory / ADAPTER)
    grow_vocabulary(model, config.vocab_size)
    model.config = _answering(model.config, config)
    with torch.no_grad():
        model.model.language_model.embed_tokens.weight[list(config.rows)] = state[ROWS].float()
        for name in targets_in(state):
            update = state[name + UP].float() @ state[name + DOWN].float()
            model.get_parameter(f"{name}.weight").add_(config.scale * update)
    return model.to(device, dtype).eval().requires_grad_(False)


def read_adapter(path: Path) -> dict[str, Tensor]:
    """The tensors of an adapter's file.

    Raises:
        CheckpointError: it is missing or damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or train it again") from error


def save_adapter(directory: Path, config: AdapterConfig, model: VisionLanguageModel, state: dict[str, Tensor],
                 extra: dict[str, Any]) -> None:  # fmt: skip
    """Write `state` as bf16 with the config of the merged model, each under a temporary name first."""
    directory.mkdir(parents=True, exist_ok=True)
    small = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in state.items()}
    save_file(small, directory / f".{ADAPTER}.new", metadata={"format": "pt"})
    os.replace(directory / f".{ADAPTER}.new", directory / ADAPTER)
    data = config_to_json(_answering(model.config, config)) | {"adapter": asdict(config)} | extra
    (directory / ".config.json.new").write_text(json.dumps(data, indent=2) + "\n")
    os.replace(directory / ".config.json.new", directory / "config.json")


def _answering(model: ModelConfig, adapter: AdapterConfig) -> ModelConfig:
    """The base's config as that of a Fast-dVLM: free text, drafted `bd_size` tokens at a time."""
    size = adapter.bd_size
    return replace(model, family="fast-dvlm", schema=None, noise=NoiseSchedule(), bd_size=size, decode_block_size=size,
                   sub_block_size=size)  # fmt: skip


def grow_vocabulary(model: VisionLanguageModel, size: int) -> None:
    """Embedding rows for `size` tokens, new ones 0; the config follows.  The head is tied to them."""
    old = model.model.language_model.embed_tokens
    table = nn.Embedding(size, old.embedding_dim, device=old.weight.device, dtype=old.weight.dtype)
    with torch.no_grad():
        table.weight.zero_()
        table.weight[: old.num_embeddings] = old.weight
    model.model.language_model.embed_tokens = table
    text = replace(model.config.text, vocab_size=size)
    model.config = replace(model.config, text=text)
    model.model.language_model.config = text


def targets_in(state: dict[str, Tensor]) -> list[str]:
    """Names of the linear layers that an adapter's tensors update."""
    return sorted(name.removesuffix(DOWN) for name in state if name.endswith(DOWN))


def sha256_of(path: Path) -> str:
    """Hex digest of a file.

    Raises:
        CheckpointError: there is none.
    """
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: is its directory a model? `efficientgen models` lists some") from (
            error
        )


def _adapter_config(directory: Path) -> AdapterConfig:
    data = read_config(directory).get("adapter") or {}
    try:
        config = AdapterConfig(**{**data, "rows": tuple(data["rows"])})
    except (TypeError, KeyError) as error:
        raise CheckpointError(f"{directory / 'config.json'} does not describe an adapter ({error!r})") from error
    if Path(config.base).name != config.base:
        raise CheckpointError(f"{directory / 'config.json'}: base {config.base!r} is the name of a model, not a path")
    return config


def _check(model: VisionLanguageModel, config: AdapterConfig, state: dict[str, Tensor], path: Path) -> None:
    """Every tensor must belong to a layer of the base, fit its shape and be finite."""
    shapes: dict[str, tuple[int, ...]] = {ROWS: (len(config.rows), model.config.text.hidden_size)}
    modules = dict(model.named_modules())
    for name in targets_in(state):
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            raise CheckpointError(f"{path} changes {name}, which {config.base} does not have")
        shapes |= {name + DOWN: (config.rank, layer.in_features), name + UP: (layer.out_features, config.rank)}
    if odd := sorted(shapes.keys() ^ state.keys()):
        raise CheckpointError(f"{path} lacks or does not know the tensor {odd[0]}")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise CheckpointError(f"{path}: {name} is {tuple(state[name].shape)}, {config.base} needs {shape}")
        if not torch.isfinite(state[name]).all():
            raise CheckpointError(f"{path}: {name} holds values that are not numbers; fetch or train it again")
    if not all(0 <= row < config.vocab_size for row in config.rows) or config.vocab_size < model.config.text.vocab_size:
        raise CheckpointError(f"{path}: embedding rows lie outside a vocabulary of {config.vocab_size}")
