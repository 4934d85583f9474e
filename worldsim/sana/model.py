"""The SANA-WM transformer (arXiv 2605.15178), one class for one-shot passes and for streams.

A block: x += gate attn(mod(LN x)); x += the rays' Pluecker embedding, projected; x += cross-attention to the text;
x += gate FFN(mod(LN x)).  Modulation is per frame (adaLN-single), so frames of one pass may stand at different noise
levels.  `forward` sees whole clips, bidirectional within chunks and causal across them; with one chunk it is the
bidirectional release.  `forward_chunk` does the same one chunk at a time with a state of constant size.  Parameters
carry the names of the released checkpoints.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.kernels.token_rows import add_and_norm
from efficientgen.worldsim.sana.attention import NORM_EPS, DualBranchAttention
from efficientgen.worldsim.sana.camera import Rays
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.feed_forward import FeedForward
from efficientgen.worldsim.sana.position import Positions, positions
from efficientgen.worldsim.sana.state import BlockState, StreamState

FREQUENCIES = 256  # of the timestep's sinusoid


@dataclass(frozen=True)
class Text:
    """Hidden states (B, L, caption_channels) of a prompt, and which of them are no padding (B, L)."""

    hidden: Tensor
    mask: Tensor


@dataclass(frozen=True)
class Read:
    """Keys and values (B, H, L, D) of a prompt in every block's cross-attention, and which are no padding (B, L)."""

    blocks: tuple[tuple[Tensor, Tensor], ...]
    mask: Tensor | None


@dataclass(frozen=True)
class Prepared:
    """What the passes over one chunk share: positions, each block's embedding of the rays (B, T, S, C), the text."""

    where: Positions
    plucker: tuple[Tensor, ...]
    text: Read


class SanaTransformer(nn.Module):
    """Predicts the flow's velocity, noise minus latent, of video latents."""

    def __init__(self, config: SanaConfig) -> None:
        super().__init__()
        self.config = config
        width = config.hidden_size
        self.x_embedder = Patches(config.in_channels, width)
        self.plucker_embedder = Patches(config.chunk_plucker_channels, width)
        for parameter in self.plucker_embedder.parameters():
            nn.init.zeros_(parameter)
        self.t_embedder = TwoLayers(FREQUENCIES, width)
        self.t_block = nn.Sequential(nn.SiLU(), nn.Linear(width, 6 * width))
        self.y_embedder = CaptionEmbedder(config.caption_channels, width)
        self.attention_y_norm = nn.RMSNorm(width, eps=NORM_EPS)
        nn.init.constant_(self.attention_y_norm.weight, 0.01)
        self.blocks = nn.ModuleList(Block(config, config.recurs(i)) for i in range(config.num_layers))
        self.final_layer = FinalLayer(width, config.in_channels)

    def forward(self, x: Tensor, t: Tensor, text: Text, rays: Rays, chunks: tuple[int, ...] = ()) -> Tensor:
        """Velocity (B, C, T, H, W) of a whole clip.

        Args:
            x: (B, C, T, H, W) latents.
            t: (B, T) noise levels, 0 clean to 1000 noise; truncated to integers, as the release was trained.
            chunks: lengths that add up to T; (): one chunk, every frame sees every other.
        """
        prepared = self.prepare(self.read(text), rays, 0, (x.shape[3], x.shape[4]))
        return self.advance(x, t, prepared, None, save=False, chunks=chunks)[0]

    def forward_chunk(
        self, x: Tensor, t: Tensor, text: Text | Read, rays: Rays | Prepared, state: StreamState | None, save: bool
    ) -> tuple[Tensor, StreamState | None]:
        """The same for the chunk after `state` (None: the first), and the state after it where `save`, else `state`.

        Args:
            rays: of the chunk, or what `prepare` made of them and the text, once for all passes.
        """
        if isinstance(rays, Rays):
            read = self.read(text) if isinstance(text, Text) else text
            rays = self.prepare(read, rays, 0 if state is None else state.frames, (x.shape[3], x.shape[4]))
        return self.advance(x, t, rays, state, save)

    def read(self, text: Text) -> Read:
        """What every block's cross-attention sees of a prompt: the same for all passes of a drive."""
        y = self.attention_y_norm(self.y_embedder(text.hidden.to(self.x_embedder.proj.weight.dtype)))
        mask: Tensor | None = text.mask.bool()
        assert mask is not None
        if len(mask) == 1 and bool(mask.any()):  # padding that nobody attends to need not be there
            y, mask = y[:, mask[0]], None
        return Read(tuple(block.cross_attn.read(y) for block in self._each_block()), mask)

    def prepare(self, text: Read, rays: Rays, first_frame: int | Tensor, grid: tuple[int, int]) -> Prepared:
        """What every pass over a chunk that begins at `first_frame` shares."""
        config = self.config
        where = positions(rays, first_frame, grid, config.linear_head_dim, config.rope_theta)
        plucker = self.plucker_embedder(rays.plucker.to(self.x_embedder.proj.weight.dtype))
        return Prepared(where, tuple(block.plucker_proj(plucker) for block in self._each_block()), text)

    def advance(
        self, x: Tensor, t: Tensor, prepared: Prepared, state: StreamState | None, save: bool,
        chunks: tuple[int, ...] = (),
    ) -> tuple[Tensor, StreamState | None]:  # fmt: skip
        """One pass: velocity, and the state after the chunk where `save`, else `state`.  Arguments as above."""
        config, dtype, grid = self.config, self.x_embedder.proj.weight.dtype, (x.shape[3], x.shape[4])
        chunks = chunks or (x.shape[2],)
        tokens = self.x_embedder(x.to(dtype).flatten(3).permute(0, 2, 3, 1))  # (B, T, S, C)
        level = self.t_embedder(_sinusoid(t.long().float()).to(dtype))  # (B, T, C)
        modulation = self.t_block(level).unflatten(-1, (6, -1))[:, :, :, None]  # (B, T, 6, 1, C)
        blocks = []
        for index, block in enumerate(self._each_block()):
            tokens, after = block(tokens, modulation, prepared, grid, chunks, state, index, save)
            blocks.append(after)
        out = self.final_layer(tokens, level).permute(0, 3, 1, 2).unflatten(3, grid)
        if not save:
            return out, state
        sink = (chunks[0] if config.sink_token else 0) if state is None else state.sink
        return out, StreamState(tuple(blocks), x.shape[2] + (0 if state is None else state.frames), sink)

    def fuse(self) -> SanaTransformer:
        """Lay weights that read the same input side by side, for inference on the device where the model is now."""
        for block in self._each_block():
            block.attn.fuse()
            block.mlp.fuse()
        return self

    def _each_block(self) -> tuple[Block, ...]:
        return cast("tuple[Block, ...]", tuple(self.blocks))


class Block(nn.Module):
    def __init__(self, config: SanaConfig, recurs: bool) -> None:
        super().__init__()
        width = config.hidden_size
        self.attn = DualBranchAttention(config, recurs)
        self.plucker_proj = nn.Linear(width, width)
        self.cross_attn = CrossAttention(width, config.num_attention_heads)
        self.mlp = FeedForward(width, int(width * config.mlp_ratio), config.t_kernel_size)
        self.scale_shift_table = nn.Parameter(torch.randn(6, width) / width**0.5)

    def forward(
        self, x: Tensor, modulation: Tensor, prepared: Prepared, grid: tuple[int, int], chunks: tuple[int, ...],
        state: StreamState | None, index: int, save: bool,
    ) -> tuple[Tensor, BlockState | None]:  # fmt: skip
        """Tokens (B, T, S, C) to tokens, and where `save` this block's state after them."""
        shift, scale, gate, shift_ffn, scale_ffn, gate_ffn = (self.scale_shift_table[:, None] + modulation).unbind(2)
        x, seen = add_and_norm(x, modulation=(shift, scale))
        out, attention = self.attn(seen, prepared.where, chunks, state, index, save)
        x, _ = add_and_norm(x, out, gate, prepared.plucker[index])
        read, mask = prepared.text.blocks[index], prepared.text.mask
        x, seen = add_and_norm(x, self.cross_attn(x, read, mask), modulation=(shift_ffn, scale_ffn))
        tail = None if state is None else state.blocks[index].tail
        out, tail = self.mlp(seen, grid, chunks, tail)
        x, _ = add_and_norm(x, out, gate_ffn)
        return x, None if attention is None else BlockState(attention, tail.clone())


class CrossAttention(nn.Module):
    """Every token to the text."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q_linear, self.kv_linear, self.proj = (nn.Linear(width, n * width) for n in (1, 2, 1))
        self.q_norm, self.k_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)

    def read(self, y: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values (B, H, L, D) of a text's embedding (B, L, C)."""
        k, v = self.kv_linear(y).chunk(2, -1)
        return self._heads(self.k_norm(k)).contiguous(), self._heads(v).contiguous()

    def forward(self, x: Tensor, read: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        q = self._heads(self.q_norm(self.q_linear(x)).flatten(1, 2))
        mask = None if mask is None else mask[:, None, None]
        out = F.scaled_dot_product_attention(q, *read, attn_mask=mask)
        return self.proj(out.transpose(1, 2).flatten(2).view_as(x))

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)  # (B, H, L, D)


class FinalLayer(nn.Module):
    def __init__(self, width: int, channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(width, channels)
        self.scale_shift_table = nn.Parameter(torch.randn(2, width) / width**0.5)

    def forward(self, x: Tensor, level: Tensor) -> Tensor:
        shift, scale = (self.scale_shift_table[:, None] + level[:, :, None, None]).unbind(2)
        _, out = add_and_norm(x, modulation=(shift, scale))
        assert out is not None
        return self.linear(out)


class Patches(nn.Module):
    """A 1x1x1 convolution, as the releases store it, over channels that come last."""

    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv3d(channels, width, 1)

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.proj.weight.flatten(1), self.proj.bias)


class TwoLayers(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.linear_1, self.linear_2 = nn.Linear(channels, width), nn.Linear(width, width)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_2(F.silu(self.linear_1(x)))


class CaptionEmbedder(nn.Module):
    def __init__(self, channels: int, width: int) -> None:
        super().__init__()
        self.y_proj = nn.ModuleDict({"fc1": nn.Linear(channels, width), "fc2": nn.Linear(width, width)})

    def forward(self, x: Tensor) -> Tensor:
        return self.y_proj["fc2"](F.gelu(self.y_proj["fc1"](x), approximate="tanh"))


def _sinusoid(t: Tensor) -> Tensor:
    """(..., 256): cosines, then sines, of geometric frequencies from 1 down."""
    half = FREQUENCIES // 2
    angle = t[..., None] * torch.exp(-math.log(10000.0) / half * torch.arange(half, device=t.device).float())
    return torch.cat([angle.cos(), angle.sin()], -1)
