"""`config.json` of a model directory, in every layout that the four models are released in, to `ModelConfig` and back.

Vision-language models come with the text keys at the top (transformers 4) or under `text_config` (transformers 5),
text models with flat keys.  Our own keys (block sizes, token shift, noise, schema) stand beside them; what a release
does not say is filled in from the named configurations.  A config is untrusted input: every number is checked before it
can size anything, and `auto_map` and every other pointer to code is ignored.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, get_args

from efficientgen.kernels.shards import CheckpointError
from efficientgen.perception.patches import MERGE, PATCH, TEMPORAL_PATCH
from efficientgen.perception.vision import VisionConfig
from efficientgen.planning.config import (
    CleanContext,
    Family,
    ModelConfig,
    NoiseKind,
    NoiseSchedule,
    TextConfig,
    efficient_dlm,
    fast_ddrive,
    fast_dllm_v2,
    fast_dvlm,
)

# What `architectures` or `model_type` says; a plain parent reads as the model that is converted from it.
FAMILIES: dict[str, Family] = {
    "Fast_dDriveForConditionalGeneration": "fast-ddrive",
    "Fast_dVLMForConditionalGeneration": "fast-dvlm",
    "Fast_dLLM_Qwen2_5_VLForConditionalGeneration": "fast-dvlm",
    "Fast_dLLM_QwenForCausalLM": "fast-dllm-v2",
    "EfficientDLM": "efficient-dlm",
    "Qwen2_5_VLForConditionalGeneration": "fast-dvlm",
    "Qwen2ForCausalLM": "fast-dllm-v2",
    "Qwen3ForCausalLM": "efficient-dlm",
    "Fast_dLLM_Qwen": "fast-dllm-v2",
    "edlm": "efficient-dlm",
}
ARCHITECTURES = {family: name for name, family in reversed(FAMILIES.items())}  # the first name of each family
RELEASES = {
    "fast-ddrive": fast_ddrive, "fast-dvlm": fast_dvlm, "fast-dllm-v2": fast_dllm_v2, "efficient-dlm": efficient_dlm,
}  # fmt: skip
LARGEST = 1 << 20  # width, vocabulary, ...: more is a damaged file, not a model
MOST_LAYERS = 512


def read_config(directory: Path) -> dict[str, Any]:
    """`config.json` of a model directory.

    Raises:
        CheckpointError: it is missing, not JSON, or not an object.
    """
    path = Path(directory) / "config.json"
    try:
        data = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path} does not exist; `efficientgen models` lists the shipped checkpoints") from error
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not JSON: {error}; fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object; fetch it again")
    return data


def config_to_json(config: ModelConfig) -> dict[str, Any]:
    """`config` as the stock class of its parent reads it, plus our keys: nested with vision, flat without."""
    text = {k: getattr(config.text, k) for k in _TEXT_SIZES}
    text |= {"rms_norm_eps": config.text.rms_norm_eps, "tie_word_embeddings": config.text.tie_word_embeddings}
    rope: dict[str, Any] = {"type": "default", "rope_type": "default", "rope_theta": config.text.rope_theta}
    if config.text.mrope_section:
        rope["mrope_section"] = list(config.text.mrope_section)
    text |= {"rope_parameters": rope, "hidden_act": "silu"}
    if config.text.explicit_head_dim:
        text["head_dim"] = config.text.explicit_head_dim
    if config.vision is None or config.text.qk_norm or not config.text.qkv_bias:
        text |= {"qk_norm": config.text.qk_norm, "qkv_bias": config.text.qkv_bias}
    ours = {k: getattr(config, k) for k in _OUR_INTEGERS} | {"family": config.family, "schema": config.schema}
    ours |= {"clean_context": config.clean_context, "noise": dataclasses.asdict(config.noise)}
    out = {"architectures": [ARCHITECTURES[config.family]], **ours}
    if config.vision is None:
        kind = "Fast_dLLM_Qwen" if config.family == "fast-dllm-v2" else "edlm"
        return out | text | {"model_type": kind}
    vision = {k: getattr(config.vision, k) for k in _VISION_SIZES}
    vision |= {"fullatt_block_indexes": list(config.vision.fullatt_block_indexes), "patch_size": PATCH}
    vision |= {"temporal_patch_size": TEMPORAL_PATCH, "spatial_merge_size": MERGE, "hidden_act": "silu"}
    return out | {
        "model_type": "qwen2_5_vl",
        "tie_word_embeddings": config.text.tie_word_embeddings,
        "text_config": text | {"model_type": "qwen2_5_vl_text"},
        "vision_config": vision | {"model_type": "qwen2_5_vl"},
    }


def config_from_json(data: dict[str, Any]) -> ModelConfig:
    """The inverse of `config_to_json`, and the releases' own layouts; keys we do not know are ignored.

    Raises:
        CheckpointError: no model of ours, a size is missing or absurd, or it asks for what we do not compute.
    """
    family = _family(data)
    release = RELEASES[family]()
    nested = data.get("text_config")
    vision = None
    if release.vision is not None:
        vision = _vision(_section(data, "vision_config", "this family needs a vision tower"))
    text = data if nested is None else _section(data, "text_config", "it must hold the decoder's sizes")
    tied = _switch(data if "tie_word_embeddings" in data else text, "tie_word_embeddings", True)
    config = dataclasses.replace(
        release, text=_text(text, family, tied), vision=vision, noise=_noise(data.get("noise"), release.noise)
    )
    block = _integer(data, "bd_size", 1, LARGEST, release.bd_size)
    decoded = block if release.decode_block_size == release.bd_size else min(release.decode_block_size, block)
    decoded = _integer(data, "decode_block_size", 1, LARGEST, decoded)
    part = decoded if release.sub_block_size == release.decode_block_size else min(release.sub_block_size, decoded)
    ids: dict[str, Any] = {k: _integer(data, k, 0, LARGEST, getattr(release, k)) for k in _TOKENS}
    config = dataclasses.replace(
        config,
        bd_size=block,
        decode_block_size=decoded,
        sub_block_size=_integer(data, "sub_block_size", 1, LARGEST, part),
        token_shift=_integer(data, "token_shift", 0, 1, release.token_shift),
        clean_context=_choice(data, "clean_context", get_args(CleanContext), release.clean_context),
        schema=_schema(data, release.schema),
        **ids,
    )
    _check_fit(config)
    return config


_TEXT_SIZES = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
               "vocab_size")  # fmt: skip
_VISION_SIZES = ("depth", "hidden_size", "intermediate_size", "num_heads", "out_hidden_size", "window_size")
_TOKENS = ("mask_token_id", "null_token_id", "image_token_id", "vision_start_token_id", "im_end_token_id")
_OUR_INTEGERS = ("bd_size", "decode_block_size", "sub_block_size", "token_shift", *_TOKENS)


def _family(data: dict[str, Any]) -> Family:
    if "family" in data:
        return _choice(data, "family", get_args(Family), "")
    names = data.get("architectures")
    told = [*(names if isinstance(names, list) else []), data.get("model_type")]
    name = next((n for n in told if isinstance(n, str) and n in FAMILIES), None)
    if name is None:
        raise CheckpointError(
            f"config.json: architecture {str(told[0])[:60]!r} is none of ours; known are {', '.join(FAMILIES)}"
        )
    scaffold = data.get("deep_json_scaffold") or data.get("use_json_scaffold")  # Fast-dDrive under its older name
    return "fast-ddrive" if FAMILIES[name] == "fast-dvlm" and scaffold else FAMILIES[name]


def _text(section: dict[str, Any], family: Family, tied: bool) -> TextConfig:
    _require_plain(section, "text")
    sizes = {k: _integer(section, k, 1, MOST_LAYERS if k == "num_hidden_layers" else LARGEST) for k in _TEXT_SIZES}
    rope = section.get("rope_parameters") or section.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise CheckpointError("config.json: rope_parameters must be an object")
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind not in ("default", "mrope"):
        raise CheckpointError(f"config.json: RoPE of type {kind!r} is not computed here; only default and mrope are")
    theta = _real(rope if "rope_theta" in rope else section, "rope_theta", 1.0, 1e12, 1e6)
    head_dim = _integer(section, "head_dim", 2, LARGEST) if section.get("head_dim") is not None else None
    # Efficient-DLM is Qwen3 at 4B and 8B, whose configs state a head width, and Qwen2.5 at 1.5B, whose does not.
    qwen3 = family == "efficient-dlm" and head_dim is not None
    text = TextConfig(
        **sizes,
        rope_theta=theta,
        rms_norm_eps=_real(section, "rms_norm_eps", 1e-12, 1.0, 1e-6),
        mrope_section=None,
        tie_word_embeddings=tied,
        qkv_bias=_switch(section, "qkv_bias", not qwen3),
        qk_norm=_switch(section, "qk_norm", qwen3),
        explicit_head_dim=head_dim,
    )
    heads, shared, width = text.num_attention_heads, text.num_key_value_heads, text.hidden_size
    if heads % shared or (head_dim is None and width % heads) or text.head_dim % 2:
        raise CheckpointError(
            f"config.json: {heads} heads and {shared} K/V heads do not divide hidden_size {width}; fetch it again"
        )
    if "mrope_section" in rope:
        parts = _integers(rope, "mrope_section", 3, ())
        if sum(parts) != text.head_dim // 2:
            raise CheckpointError(f"config.json: mrope_section {parts} must sum to half the head, {text.head_dim // 2}")
        text = dataclasses.replace(text, mrope_section=parts)
    return text


def _vision(section: dict[str, Any]) -> VisionConfig:
    _require_plain(section, "vision")
    for key, value in {"patch_size": PATCH, "temporal_patch_size": TEMPORAL_PATCH, "spatial_merge_size": MERGE,
                       "in_channels": 3, "in_chans": 3}.items():  # fmt: skip
        if section.get(key, value) != value:
            raise CheckpointError(f"config.json: vision {key} {section[key]!r}; only {value} is computed here")
    sizes = {k: _integer(section, k, 1, MOST_LAYERS if k == "depth" else LARGEST) for k in _VISION_SIZES[:-1]}
    window = _integer(section, "window_size", PATCH * MERGE, LARGEST, VisionConfig.window_size)
    blocks = _integers(section, "fullatt_block_indexes", None, VisionConfig.fullatt_block_indexes)
    if sizes["hidden_size"] % (4 * sizes["num_heads"]):
        raise CheckpointError(
            f"config.json: vision heads {sizes['num_heads']} do not divide {sizes['hidden_size']} in 4s"
        )
    return VisionConfig(**sizes, window_size=window, fullatt_block_indexes=blocks)


def _noise(section: Any, default: NoiseSchedule) -> NoiseSchedule:
    if section is None:
        return default
    if not isinstance(section, dict):
        raise CheckpointError("config.json: noise must be an object")
    pairs = section.get("beta", [])
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and all(_is_number(x) and 0 < x < 1e6 for x in pair) for pair in pairs
    ):
        raise CheckpointError("config.json: noise.beta must be pairs of positive numbers, one per section")
    return NoiseSchedule(
        kind=_choice(section, "kind", get_args(NoiseKind), default.kind),
        beta=tuple((float(a), float(b)) for a, b in pairs),
        half_life=_real(section, "half_life", 0.0, 1e6, 0.0),
        floor=_real(section, "floor", 0.0, 1.0, 1e-3),
    )


def _check_fit(config: ModelConfig) -> None:
    """What concerns more than one section."""
    text, vision = config.text, config.vision
    if vision is not None and vision.out_hidden_size != text.hidden_size:
        raise CheckpointError(
            f"config.json: vision out_hidden_size {vision.out_hidden_size} is not the text's {text.hidden_size}"
        )
    if vision is not None and text.mrope_section is None:
        raise CheckpointError("config.json: a model with vision needs rope_parameters.mrope_section")
    ids = ["mask_token_id", "im_end_token_id"]
    ids += ["image_token_id", "vision_start_token_id"] if vision is not None else []
    ids += ["null_token_id"] if config.schema is not None else []
    for name in ids:
        if getattr(config, name) >= text.vocab_size:
            raise CheckpointError(
                f"config.json: {name} {getattr(config, name)} is outside the vocabulary of {text.vocab_size}; "
                f"state `{name}` in config.json"
            )


def _require_plain(section: dict[str, Any], where: str) -> None:
    """What the release never uses and we do not compute must be off."""
    if section.get("hidden_act", "silu") != "silu":
        raise CheckpointError(f"config.json: {where} activation {section['hidden_act']!r}; only silu is computed here")
    for key in ("use_sliding_window", "attention_bias"):
        if section.get(key):
            raise CheckpointError(f"config.json: {where} {key} is on, which no model of ours has")


def _section(data: dict[str, Any], key: str, why: str) -> dict[str, Any]:
    section = data.get(key)
    if not isinstance(section, dict):
        raise CheckpointError(f"config.json lacks the object {key}: {why}")
    return section


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _integer(section: dict[str, Any], key: str, least: int, most: int, default: int | None = None) -> int:
    value = section.get(key, default)
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        told = "is missing" if value is None else f"is {str(value)[:40]}"
        raise CheckpointError(f"config.json: {key} {told}; it must be an integer from {least} to {most}")
    return value


def _integers(section: dict[str, Any], key: str, count: int | None, default: tuple[int, ...]) -> Any:
    values: Sequence[Any] = section.get(key, default)
    if (
        not isinstance(values, (list, tuple))
        or (count is not None and len(values) != count)
        or not all(isinstance(v, int) and not isinstance(v, bool) and 0 <= v <= LARGEST for v in values)
    ):
        raise CheckpointError(f"config.json: {key} must be a list of {count or 'some'} non-negative integers")
    return tuple(values)


def _real(section: dict[str, Any], key: str, least: float, most: float, default: float) -> float:
    value = section.get(key, default)
    if not _is_number(value) or not least <= value <= most:  # NaN is neither
        raise CheckpointError(f"config.json: {key} is {str(value)[:40]}; it must be a number from {least} to {most}")
    return float(value)


def _switch(section: dict[str, Any], key: str, default: bool) -> bool:
    value = section.get(key, default)
    if not isinstance(value, bool):
        raise CheckpointError(f"config.json: {key} is {str(value)[:40]}; it must be true or false")
    return value


def _choice(section: dict[str, Any], key: str, choices: tuple[Any, ...], default: Any) -> Any:
    value = section.get(key, default)
    if value not in choices:
        raise CheckpointError(f"config.json: {key} is {str(value)[:40]!r}; it must be one of {', '.join(choices)}")
    return value


def _schema(data: dict[str, Any], default: str | None) -> str | None:
    value = data.get("schema", default)
    if value is not None and not isinstance(value, str):
        raise CheckpointError("config.json: schema must be the name of an answer format, or null")
    return value
