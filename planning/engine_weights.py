"""The text tower's weights as the CUDA engine reads them: few wide matrices instead of many, made once at load.

q, k and v are one matrix, gate and up another, and the weight of each layer's RMS norms is folded into the columns of
the matrix behind it, so that of a norm only 1 / rms is left at run time.  Checkpoints and everything else keep the
model's own, unfused Linears; this is a copy beside them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from efficientgen.planning.config import TextConfig
from efficientgen.planning.model import Layer, VisionLanguageModel


@dataclass(frozen=True)
class LayerWeights:
    """One layer; H hidden, F feed-forward width, D head width."""

    qkv: Tensor  # ((Hq + 2 Hkv) D, H)
    qkv_bias: Tensor | None
    head_norm: Tensor | None  # (2, D), of q and of k
    out: Tensor  # (H, Hq D)
    gate_up: Tensor  # (2 F, H), gate over up
    down: Tensor  # (H, F)


@dataclass(frozen=True)
class EngineWeights:
    """The whole tower; `embed` and `head` are the model's own storage."""

    config: TextConfig
    embed: Tensor  # (V, H)
    layers: tuple[LayerWeights, ...]
    norm: Tensor  # (H,)
    head: Tensor  # (V, H)


@torch.no_grad()
def fuse(model: VisionLanguageModel) -> EngineWeights:
    """The weights of `model`'s text tower, fused, on its device and in its dtype."""
    text = model.model.language_model
    head = text.embed_tokens.weight if model.config.text.tie_word_embeddings else model.lm_head.weight
    layers = tuple(_layer(cast(Layer, layer)) for layer in text.layers)
    return EngineWeights(
        model.config.text, text.embed_tokens.weight.detach(), layers, text.norm.weight.detach(), head.detach()
    )


def _layer(layer: Layer) -> LayerWeights:
    attention, mlp = layer.self_attn, layer.mlp
    qkv = (attention.q_proj, attention.k_proj, attention.v_proj)
    return LayerWeights(
        qkv=_folded([proj.weight for proj in qkv], layer.input_layernorm.weight),
        qkv_bias=torch.cat([proj.bias for proj in qkv]) if attention.q_proj.bias is not None else None,
        head_norm=torch.stack([attention.q_norm.weight, attention.k_norm.weight]) if attention.qk_norm else None,
        out=attention.o_proj.weight.detach().contiguous(),
        gate_up=_folded([mlp.gate_proj.weight, mlp.up_proj.weight], layer.post_attention_layernorm.weight),
        down=mlp.down_proj.weight.detach().contiguous(),
    )


def _folded(weights: list[Tensor], norm: Tensor) -> Tensor:
    """Matrices stacked, each column multiplied with its weight of the norm in front; rounded once."""
    wide = torch.promote_types(norm.dtype, torch.float32)
    return torch.cat([(w.to(wide) * norm.to(wide)).to(w.dtype) for w in weights]).contiguous()
