"""A model is a directory: `config.json`, safetensors, `tokenizer.json` and a card.  This module reads and writes it.

Any of the released layouts loads (`config_json.py`, `layouts.py`, `kernels/shards.py`): names, shapes and dtypes are
checked from the headers before anything is allocated, then tensors are read, converted and checked one at a time, so
memory stays near the model's own.  Nothing in the directory is ever executed or unpickled.
"""

from __future__ import annotations

import json
import os
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from efficientgen.kernels.shards import CheckpointError, Stored, index_of, reader, some, stored_tensors
from efficientgen.planning import fp8
from efficientgen.planning.config import ModelConfig
from efficientgen.planning.config_json import config_from_json, config_to_json, read_config
from efficientgen.planning.layouts import EMBEDDING, HEAD, Layout, layout_of, our_name, stored_name
from efficientgen.planning.load import WEIGHTS
from efficientgen.planning.model import VisionLanguageModel

__all__ = ["CheckpointError", "config_from_json", "config_to_json", "load_model", "read_config", "save_model"]

INDEX = index_of(WEIGHTS)
WIDE = ("F64", "F32", "BF16", "F16")  # what a weight may be stored as; 8-bit weights need `quantization_config`


def load_model(directory: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> VisionLanguageModel:
    """The model that `directory` describes, in `dtype` on `device`, frozen and in eval mode.

    8-bit weights of a W8A8 FP8 checkpoint stay 8-bit (`fp8.py`); everything around them is `dtype`.

    Raises:
        CheckpointError: a file is missing, damaged or not to be trusted; names, shapes or dtypes do not fit the config;
            a weight is NaN or infinite.
    """
    directory = Path(directory)
    data = read_config(directory)
    config = config_from_json(data)
    stored = stored_tensors(directory, WEIGHTS, our_name)
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    fp8.prepare(model, data.get("quantization_config"), {name: tensor.dtype for name, tensor in stored.items()})
    _check(directory, model.state_dict(), stored, config)
    for path, tensors in groupby(sorted(stored.items(), key=lambda x: (x[1].path, x[0])), key=lambda x: x[1].path):
        with reader(path) as read:
            for name, tensor in tensors:
                if name != HEAD or not config.text.tie_word_embeddings:
                    _assign(model, name, _sound(tensor, read(tensor.name), dtype, device))
    if HEAD in stored and config.text.tie_word_embeddings:
        _check_copy(stored[HEAD], model.get_parameter(EMBEDDING))
    return model.eval().requires_grad_(False)


def save_model(
    model: VisionLanguageModel,
    directory: Path,
    extra: dict[str, Any] | None = None,
    *,
    layout: Layout | None = None,
    dtype: torch.dtype = torch.bfloat16,
    shard_bytes: int | None = None,
    head_copy: bool = False,
) -> None:
    """Write config and weights; every file under a temporary name first, and renamed when all are complete.

    Args:
        extra: keys for `config.json` beside the model's own.
        layout: tensor names, see `layouts.py`; by default those that stock transformers reads.
        dtype: of the weights on disk; 8-bit ones and their scales stay what they are.
        shard_bytes: begin a new shard when the current one would grow beyond this; None: a single file.
        head_copy: store a tied head a second time as `lm_head.weight`, as the 3B releases do.
    """
    directory.mkdir(parents=True, exist_ok=True)
    layout = layout or layout_of(model.config)
    state = dict(model.state_dict())
    if head_copy and HEAD not in state:
        state[HEAD] = state[EMBEDDING]
    kept = {f"{n}.{leaf}" for n, m in model.named_modules() if isinstance(m, fp8.FP8Linear) for leaf in fp8.BUFFERS}
    described = config_to_json(model.config) | (extra or {})
    if kept:
        described["quantization_config"] = {"quant_method": fp8.METHOD, "is_dynamic": False, "ignore": ["re:visual.*"]}

    groups: list[dict[str, torch.dtype]] = [{}]
    size = 0
    for name in sorted(state):
        kind = state[name].dtype if name in kept else dtype
        size += state[name].numel() * kind.itemsize
        if shard_bytes and groups[-1] and size > shard_bytes:
            groups.append({})
            size = state[name].numel() * kind.itemsize
        groups[-1][name] = kind
    single = len(groups) == 1
    files = [WEIGHTS] if single else [f"model-{i + 1:05}-of-{len(groups):05}.safetensors" for i in range(len(groups))]
    for file, group in zip(files, groups, strict=True):
        tensors = {stored_name(n, layout): state[n].detach().to("cpu", d).contiguous() for n, d in group.items()}
        if HEAD in tensors:
            tensors[HEAD] = tensors[HEAD].clone()  # safetensors stores no two names for one memory
        save_file(tensors, directory / f".{file}.new", metadata={"format": "pt"})
    texts = {"config.json": json.dumps(described, indent=2)}
    if not single:
        listed = {stored_name(n, layout): file for file, group in zip(files, groups, strict=True) for n in group}
        texts[INDEX] = json.dumps({"metadata": {}, "weight_map": dict(sorted(listed.items()))}, indent=2)
    for file, text in texts.items():
        (directory / f".{file}.new").write_text(text + "\n")
    for file in [*files, *texts]:
        os.replace(directory / f".{file}.new", directory / file)
    (directory / (INDEX if single else WEIGHTS)).unlink(missing_ok=True)  # of what was here before


def _check(directory: Path, expected: dict[str, Tensor], stored: dict[str, Stored], config: ModelConfig) -> None:
    """Names, shapes and dtypes, from headers alone."""
    optional = {HEAD} if config.text.tie_word_embeddings else set()
    if missing := sorted(expected.keys() - stored.keys()):
        raise CheckpointError(
            f"{directory} lacks {len(missing)} tensors that its config.json asks for: {some(missing)}; "
            "fetch the missing shards, or the config that belongs to these weights"
        )
    if surplus := sorted(stored.keys() - expected.keys() - optional):
        raise CheckpointError(
            f"{directory} has {len(surplus)} tensors that its config.json does not know: {some(surplus)}; "
            "fetch the config that belongs to these weights"
        )
    shapes = {name: tuple(tensor.shape) for name, tensor in expected.items()}
    for name in optional & stored.keys():
        shapes[name] = shapes[EMBEDDING]
    for name, shape in shapes.items():
        tensor = stored[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.path}: {tensor.name} is {tensor.shape}, config.json says {shape}; fetch weights and config "
                "of the same model"
            )
        eight_bit = name in expected and expected[name].dtype == fp8.E4M3
        if tensor.dtype not in (("F8_E4M3",) if eight_bit else WIDE):
            raise CheckpointError(
                f"{tensor.path}: {tensor.name} is stored as {tensor.dtype}; weights must be one of {', '.join(WIDE)}, "
                f"and F8_E4M3 only where a quantization_config of {fp8.METHOD} says so"
            )


def _check_copy(head: Stored, embedding: Tensor) -> None:
    """A tied head that the release stores a second time must be the embedding."""
    with reader(head.path) as read:
        same = torch.equal(read(head.name).to(embedding.device).to(embedding.dtype), embedding)
    if not same:
        raise CheckpointError(
            f"{head.path}: {head.name} is not the embedding that config.json ties it to; set tie_word_embeddings to "
            "false there if this model has a head of its own"
        )


def _sound(stored: Stored, value: Tensor, dtype: torch.dtype, device: str) -> Tensor:
    """`value` as it goes into the model: converted, copied off the file, and finite."""
    if value.dtype == fp8.E4M3:
        out = value.to(device, copy=True)
        bad = fp8.has_nan(out)
    else:
        kind = torch.float32 if stored.name.endswith(fp8.SCALE) else dtype
        out = value.to(device).to(kind, copy=True)
        bad = not bool(torch.isfinite(out.sum(dtype=torch.float32))) and not bool(torch.isfinite(out).all())
    if bad:
        raise CheckpointError(
            f"{stored.path}: {stored.name} holds NaN or infinite weights as {out.dtype}; a damaged or diverged "
            "checkpoint: fetch it again, or go back to an earlier one"
        )
    return out


def _assign(model: nn.Module, name: str, value: Tensor) -> None:
    module, _, leaf = name.rpartition(".")
    owner = model.get_submodule(module)
    setattr(owner, leaf, nn.Parameter(value, requires_grad=False) if leaf in owner._parameters else value)
