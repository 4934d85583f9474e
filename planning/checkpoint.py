"""A model is a directory: `config.json`, safetensors, `tokenizer.json` and a card.  This module reads and writes it.

`config.json` has the layout of transformers' Qwen2.5-VL config with the block-diffusion keys beside it, so that the
stock class can be built from the same file.  Nothing in the directory is ever executed.
"""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from efficientgen.perception.patches import MERGE, PATCH, TEMPORAL_PATCH
from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.config import ModelConfig, NoiseSchedule, TextConfig
from efficientgen.planning.load import WEIGHTS
from efficientgen.planning.model import VisionLanguageModel

OUR_KEYS = ("family", "bd_size", "decode_block_size", "sub_block_size", "token_shift", "clean_context",
            "mask_token_id", "null_token_id", "image_token_id", "vision_start_token_id", "im_end_token_id",
            "schema")  # fmt: skip


class CheckpointError(ValueError):
    """A model directory that cannot be loaded; the message says which file and what to do."""


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """`config` in the layout of transformers' Qwen2.5-VL, plus our keys."""
    text = {k: v for k, v in dataclasses.asdict(config.text).items() if k not in ("mrope_section", "rope_theta")}
    rope: dict[str, Any] = {"type": "default", "rope_type": "default", "rope_theta": config.text.rope_theta}
    if config.text.mrope_section:
        rope["mrope_section"] = list(config.text.mrope_section)
    out: dict[str, Any] = {
        "architectures": ["Fast_dDriveForConditionalGeneration"],
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": config.text.tie_word_embeddings,
        "text_config": text | {"rope_parameters": rope, "hidden_act": "silu", "model_type": "qwen2_5_vl_text"},
        "noise": dataclasses.asdict(config.noise),
        **{k: getattr(config, k) for k in OUR_KEYS},
    }
    if config.vision is not None:
        vision = {k: v for k, v in dataclasses.asdict(config.vision).items() if k not in ("rope_theta", "rms_norm_eps")}
        vision |= {"fullatt_block_indexes": list(config.vision.fullatt_block_indexes), "patch_size": PATCH}
        vision |= {"temporal_patch_size": TEMPORAL_PATCH, "spatial_merge_size": MERGE, "hidden_act": "silu"}
        out["vision_config"] = vision | {"model_type": "qwen2_5_vl"}
    return out


def config_from_json(data: dict[str, Any]) -> ModelConfig:
    """The inverse of `config_to_json`; keys we do not know are ignored, as transformers writes many."""

    def pick(cls: type, section: dict[str, Any]) -> Any:
        names = {f.name for f in dataclasses.fields(cls)}
        return cls(**{k: tuple(v) if isinstance(v, list) else v for k, v in section.items() if k in names})

    text = data["text_config"]
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    text = text | {"mrope_section": None} | {k: rope[k] for k in ("mrope_section", "rope_theta") if k in rope}
    ours = {k: data[k] for k in OUR_KEYS if k in data}
    if "noise" in data:
        noise = data["noise"] | {"beta": tuple(tuple(pair) for pair in data["noise"]["beta"])}
        ours["noise"] = pick(NoiseSchedule, noise)
    vision = pick(VisionConfig, data["vision_config"]) if "vision_config" in data else None
    return ModelConfig(text=pick(TextConfig, text), vision=vision, **ours)


def load_model(directory: Path, dtype: torch.dtype = torch.float32, device: str = "cpu") -> VisionLanguageModel:
    """Build the model that `directory` describes and fill it, checking every name and shape before allocating.

    Raises:
        CheckpointError: a file is missing or damaged, or names or shapes do not fit the config.
    """
    config = config_from_json(read_config(directory))
    path = directory / WEIGHTS
    if not path.exists():
        raise CheckpointError(
            f"{directory} has no {WEIGHTS}: is it a model directory? `efficientgen models` lists some"
        )
    try:
        state = load_file(path)
    except SafetensorError as error:
        raise CheckpointError(f"{path} is damaged ({error}); fetch or train it again") from error
    with torch.device("meta"):
        model = VisionLanguageModel(config)
    expected = {k: v.shape for k, v in model.state_dict().items()}
    if missing := sorted(expected.keys() - state.keys()):
        raise CheckpointError(f"{path} lacks {len(missing)} tensors, the first is {missing[0]}")
    if config.text.tie_word_embeddings:
        state.pop("lm_head.weight", None)  # a tied copy that some releases store
    if surplus := sorted(state.keys() - expected.keys()):
        raise CheckpointError(f"{path} has {len(surplus)} tensors that the config does not, the first is {surplus[0]}")
    for name, shape in expected.items():
        if state[name].shape != shape:
            raise CheckpointError(f"{path}: {name} is {tuple(state[name].shape)}, config.json says {tuple(shape)}")
    model.load_state_dict({k: v.to(device, dtype) for k, v in state.items()}, assign=True)
    return model.eval().requires_grad_(False)


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a model directory.

    Raises:
        CheckpointError: it is missing or not JSON.
    """
    path = Path(directory) / "config.json"
    try:
        return json.loads(path.read_text())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; `efficientgen models` lists the shipped checkpoints") from error
    except json.JSONDecodeError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error


def save_model(model: VisionLanguageModel, directory: Path, extra: dict[str, Any] | None = None) -> None:
    """Write config and bf16 weights, each under a temporary name first."""
    directory.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to("cpu", torch.bfloat16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, directory / f".{WEIGHTS}.new", metadata={"format": "pt"})
    os.replace(directory / f".{WEIGHTS}.new", directory / WEIGHTS)
    text = json.dumps(config_to_json(model.config) | (extra or {}), indent=2)
    (directory / ".config.json.new").write_text(text + "\n")
    os.replace(directory / ".config.json.new", directory / "config.json")
