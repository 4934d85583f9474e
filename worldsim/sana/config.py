"""Sizes of a SANA-WM transformer (arXiv 2605.15178); the defaults are the released 1600M model's."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from efficientgen.kernels.shards import CheckpointError

LARGEST = 1 << 16  # of any size: more is a damaged file, not a model


@dataclass(frozen=True)
class SanaConfig:
    """One transformer and how it streams.  Frames are latent frames; each stands for `temporal_stride` pictures."""

    in_channels: int = 128  # LTX-2 latents
    num_layers: int = 20
    hidden_size: int = 2240
    linear_head_dim: int = 112
    num_attention_heads: int = 20  # of the cross-attention
    softmax_every_n: int = 4  # every n-th block attends by softmax, the others recur
    mlp_ratio: float = 3.0
    conv_kernel_size: int = 4  # of the keys' temporal convolution, both directions
    t_kernel_size: int = 3
    caption_channels: int = 2304  # gemma-2-2b-it
    chunk_plucker_channels: int = 48  # 6 * temporal_stride
    rope_theta: float = 10000.0
    picture_height: int = 704  # px, of the pictures that it was trained on
    picture_width: int = 1280
    chunk_size: int = 3  # frames generated at once
    num_cached_blocks: int = 2  # chunks that softmax blocks remember, the sink among them
    sink_token: bool = True  # the first chunk is remembered for ever

    @property
    def heads(self) -> int:
        return self.hidden_size // self.linear_head_dim

    @property
    def temporal_stride(self) -> int:
        return self.chunk_plucker_channels // 6

    @property
    def window(self) -> int:
        """Frames right before a chunk that its softmax blocks see."""
        return self.chunk_size * (self.num_cached_blocks - self.sink_token)

    def recurs(self, block: int) -> bool:
        """Is this block a gated delta rule (else softmax)?"""
        return not self.softmax_every_n or (block + 1) % self.softmax_every_n != 0


def read_config(directory: Path) -> SanaConfig:
    """From `config.json` beside the weights, in diffusers' keys; without one (the original releases), the defaults.

    Raises:
        CheckpointError: it is not JSON, a size is absurd, or it asks for what we do not compute.
    """
    path = directory / "config.json"
    return config_from_json(read_json(path), path)


def read_levels(directory: Path, default: tuple[int, ...]) -> tuple[int, ...]:
    """The noise levels that the weights were distilled for: `denoising_step_list` of `config.json`, its end 0 left out.

    Raises:
        CheckpointError: it is no falling list of levels from 1000 down.
    """
    path = directory / "config.json"
    listed = read_json(path).get("denoising_step_list", list(default))
    whole = isinstance(listed, list) and all(type(level) is int for level in listed)
    levels = tuple(level for level in listed if level) if whole else ()
    if not levels or sorted(set(levels), reverse=True) != list(levels) or not 0 < levels[-1] <= levels[0] <= 1000:
        raise CheckpointError(
            f"{path}: denoising_step_list is {listed!r}, falling whole levels below 1000 were expected"
        )
    return levels


def read_json(path: Path) -> dict[str, Any]:
    """The object in a file; {} where there is none.

    Raises:
        CheckpointError: it is not JSON or not an object.
    """
    if not path.exists():
        return {}
    try:
        data: Any = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} cannot be read as JSON: {error}; fetch it again") from error
    if not isinstance(data, dict):
        raise CheckpointError(f"{path} holds a {type(data).__name__}, not an object; fetch it again")
    return data


def config_from_json(data: dict[str, Any], path: Path) -> SanaConfig:
    """Raises:
    CheckpointError: as `read_config`.
    """
    values: dict[str, Any] = {}
    for field in fields(SanaConfig):
        value = data.get(field.name, field.default)
        kinds = {"int": (int,), "float": (int, float), "bool": (bool,)}[str(field.type)]
        wrong = not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds)
        if wrong or (bool not in kinds and not 0 <= value <= LARGEST):
            raise CheckpointError(f"{path}: {field.name} is {value!r}, a {field.type} from 0 to {LARGEST} was expected")
        values[field.name] = value
    for key, computed in _COMPUTED.items():
        given = data.get(key, computed[0])
        if (tuple(given) if isinstance(given, list) else given) not in computed:
            raise CheckpointError(f"{path}: {key} is {given!r}; we compute {' or '.join(map(repr, computed))} only")
    config = SanaConfig(**values)
    split = config.linear_head_dim and config.hidden_size % config.linear_head_dim == 0
    if not config.num_layers or not split or config.linear_head_dim % 8 or config.chunk_plucker_channels % 6:
        raise CheckpointError(
            f"{path}: {config.num_layers} layers, width {config.hidden_size} in heads of {config.linear_head_dim}, "
            f"{config.chunk_plucker_channels} ray channels do not go together: heads are whole multiples of 8, ray "
            "channels of 6"
        )
    if config.num_cached_blocks < 1 or not config.num_attention_heads or not config.chunk_size:
        raise CheckpointError(f"{path}: num_cached_blocks, num_attention_heads and chunk_size are at least 1")
    return config


# What the release fixes and this code takes as given, with the names that variants have for the same thing.
_COMPUTED: dict[str, tuple[Any, ...]] = {
    "patch_size": ((1, 1, 1),),
    "ffn_type": ("GLUMBConvTemp", "CachedGLUMBConvTemp"),
    "pos_embed_type": ("wan_rope", "casual_wan_rope"),
    "k_conv_only": (True,),
    "qk_norm": (True,),
    "cross_norm": (True,),
    "y_norm": (True,),
    "cam_attn_compress": (1,),
    "use_chunk_plucker_post_attn": (True,),
    "mlp_acts": (("silu", "silu", None),),
    "use_pe": (True,),
    "pred_sigma": (False,),
}
