"""One model for AR and block diffusion: Qwen2.5-VL with its text and vision towers, or Qwen2.5 and Qwen3 text alone.

The block-diffusion papers add no parameters to their parents: only the attention pattern differs.  So the layers take
an `attend` callable and never see a mask or a cache; `planning/cache.py` and `planning/masks.py` provide the patterns.
Parameter names equal Qwen2.5-VL's as transformers 5 writes them; `planning/layouts.py` maps the releases' onto them.
Shapes: B rows, L tokens, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientgen.perception.vision import Grid, RMSNorm, VisionTower, rotate_half
from efficientgen.planning.config import ModelConfig, TextConfig

# (q (B, H, L, D), k (B, Hkv, L, D), v (B, Hkv, L, D)) -> (B, H, L, D)
LayerAttend = Callable[[Tensor, Tensor, Tensor], Tensor]
Attend = Callable[[int], LayerAttend]  # of one layer, by its index


class Attention(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.head_dim = config.head_dim
        q_width, kv_width = config.num_attention_heads * config.head_dim, config.num_key_value_heads * config.head_dim
        self.q_proj = nn.Linear(config.hidden_size, q_width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(config.hidden_size, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(q_width, config.hidden_size, bias=False)
        self.qk_norm = config.qk_norm
        if config.qk_norm:
            self.q_norm = RMSNorm(config.head_dim, config.rms_norm_eps)
            self.k_norm = RMSNorm(config.head_dim, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: LayerAttend) -> Tensor:
        batch, length, _ = x.shape
        q, k, v = (
            proj(x).view(batch, length, -1, self.head_dim).transpose(1, 2)  # (B, H or Hkv, L, D)
            for proj in (self.q_proj, self.k_proj, self.v_proj)
        )
        if self.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        out = attend(q, k, v)
        return self.o_proj(out.transpose(1, 2).reshape(batch, length, -1))


class MLP(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=False)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.self_attn = Attention(config)
        self.mlp = MLP(config)
        self.input_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.post_attention_layernorm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, attend: LayerAttend) -> Tensor:
        x = x + self.self_attn(self.input_layernorm(x), cos, sin, attend)
        return x + self.mlp(self.post_attention_layernorm(x))


class TextModel(nn.Module):
    def __init__(self, config: TextConfig):
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_hidden_layers))
        self.norm = RMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(self, embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """embeds (B, L, hidden), positions (3, L) or (3, B, L) -> hidden states (B, L, hidden)."""
        cos, sin = mrope(positions, self.config, embeds.dtype)
        x = embeds
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, attend(i))
        return self.norm(x)


class Towers(nn.Module):
    """What the checkpoints call `model`: the text model, and the vision tower whose tokens it reads if there is one."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        if config.vision is not None:
            self.visual = VisionTower(config.vision)
        self.language_model = TextModel(config.text)


class VisionLanguageModel(nn.Module):
    """`model.visual` (absent in text-only models), `model.language_model` and a (tied) head."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.config = config
        self.model = Towers(config)
        if not config.text.tie_word_embeddings:
            self.lm_head = nn.Linear(config.text.hidden_size, config.text.vocab_size, bias=False)

    def embed(self, ids: Tensor, vision: Tensor | None = None) -> Tensor:
        """Token ids (B, L) to embeddings; `vision` (B, V, hidden) fills the V image positions in order."""
        embeds = self.model.language_model.embed_tokens(ids)
        if vision is None:
            return embeds
        where = (ids == self.config.image_token_id)[..., None].expand_as(embeds)
        return embeds.masked_scatter(where, vision.to(embeds.dtype))

    def see(self, patches: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        """Patch vectors (B, N, 1176) -> vision tokens (B, N / 4, hidden)."""
        return self.model.visual(patches, grids)

    def forward(self, embeds: Tensor, positions: Tensor, attend: Attend) -> Tensor:
        """Final hidden states (B, L, hidden)."""
        return self.model.language_model(embeds, positions, attend)

    def logits(self, hidden: Tensor) -> Tensor:
        """(..., hidden) -> (..., vocab)."""
        return F.linear(hidden, self.head)

    @property
    def head(self) -> Tensor:
        """(vocab, hidden), the embeddings themselves where they are tied."""
        tied = self.config.text.tie_word_embeddings
        return self.model.language_model.embed_tokens.weight if tied else self.lm_head.weight


def mrope(positions: Tensor, config: TextConfig, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """cos and sin of RoPE, broadcastable to (B, H, L, D); `positions` (3, L) or (3, B, L).

    Frequencies are dealt to time, height and width in contiguous sections (Qwen2.5-VL, `mrope_section`).
    Without sections all belong to the first axis, which is plain RoPE; on text, with its axes alike, both are the same.
    """
    wide = torch.float64 if dtype == torch.float64 else torch.float32
    axis, inv_freq = _frequencies(config, wide, positions.device)
    angle = positions.to(wide)[axis].movedim(0, -1) * inv_freq  # (L, half) or (B, L, half)
    angle = torch.cat((angle, angle), -1)
    angle = angle[None, None] if angle.dim() == 2 else angle[:, None]
    return angle.cos().to(dtype), angle.sin().to(dtype)


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept: the first caller may be a planner, the next a training step
def _frequencies(config: TextConfig, wide: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Of each half-width: the axis whose positions it turns with, and its frequency; (D / 2,) each."""
    half = config.head_dim // 2
    steps = torch.arange(0, config.head_dim, 2, dtype=torch.float32, device=device) / config.head_dim
    sections = config.mrope_section or (half, 0, 0)
    axis = torch.repeat_interleave(torch.arange(3), torch.tensor(sections)).to(device)
    if len(axis) != half:
        raise ValueError(f"mrope_section {sections} must sum to half of head_dim {config.head_dim}")
    return axis, (1.0 / config.rope_theta**steps).to(wide)


def lay_out_for_cpu(model: nn.Module) -> None:
    """Store the weights of widening Linears input-major; shapes, names and what is saved stay.

    A CPU multiplies a few rows with them faster that way, with the same sums from a few rows on; narrowing ones gain
    nothing, and lose with one row.
    """
    for layer in model.modules():
        if isinstance(layer, nn.Linear) and layer.out_features > layer.in_features:
            layer.weight.data = layer.weight.data.t().contiguous().t()


def position_ids(ids: list[int], grids: tuple[Grid, ...], config: ModelConfig) -> Tensor:
    """M-RoPE positions (3, L) of one prompt: text counts up in all axes, an image spans (t, row, column) of its grid.

    Text after an image goes on from the largest position in it plus one.  A clean copy of a span repeats its positions.
    """
    if config.vision is None:
        return torch.arange(len(ids)).expand(3, -1)
    columns: list[Tensor] = []
    cursor, i, image = 0, 0, 0
    while i < len(ids):
        if ids[i] == config.image_token_id:
            t, h, w = grids[image]
            h, w = h // 2, w // 2
            frame = torch.stack(torch.meshgrid(torch.arange(t), torch.arange(h), torch.arange(w), indexing="ij"))
            columns.append(frame.reshape(3, -1) + cursor)
            i, cursor, image = i + t * h * w, cursor + max(t, h, w), image + 1
        else:
            end = next((j for j in range(i, len(ids)) if ids[j] == config.image_token_id), len(ids))
            columns.append(torch.arange(cursor, cursor + end - i).expand(3, -1))
            i, cursor = end, cursor + end - i
    return torch.cat(columns, 1)
