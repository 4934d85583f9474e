"""The Qwen2.5-VL vision tower: windowed attention over 14 px patches, 2-D RoPE, a 2x2 merger into the text width.

Parameter names equal the released checkpoints' (`patch_embed.proj.weight`, `blocks.N.attn.qkv.*`, `merger.mlp.*`).
Patches are put in window order once; windows and whole images are then contiguous runs, so both attention patterns are
a reshape when the runs have equal length, and a padded gather otherwise (Qwen2.5-VL, 2502.13923, section 2.1.1).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from efficientgen.perception.patches import MERGE, PATCH, TEMPORAL_PATCH

Grid = tuple[int, int, int]  # patches in time, height, width


@dataclass(frozen=True)
class VisionConfig:
    """Shape of the tower; the defaults are Qwen2.5-VL-3B's."""

    depth: int = 32
    hidden_size: int = 1280
    intermediate_size: int = 3420
    num_heads: int = 16
    out_hidden_size: int = 2048
    window_size: int = 112  # px
    fullatt_block_indexes: tuple[int, ...] = (7, 15, 23, 31)
    rope_theta: float = 1e4
    rms_norm_eps: float = 1e-6


class RMSNorm(nn.Module):
    """y = x / rms(x) * weight, the mean square taken in float32 or wider."""

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        wide = x if x.dtype == torch.float64 else x.float()
        return self.weight * (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + self.eps)).to(x.dtype)


def rotate_half(x: Tensor) -> Tensor:
    a, b = x.chunk(2, -1)
    return torch.cat((-b, a), -1)


@dataclass(frozen=True)
class Layout:
    """Where every patch goes: the window order and the run lengths of windows and of images."""

    order: Tensor  # (N / 4,) merge groups in window order
    windows: tuple[int, ...]  # patches per window
    images: tuple[int, ...]  # patches per image
    positions: Tensor  # (N, 2) row and column of each patch, in window order


@lru_cache(maxsize=64)
@torch.inference_mode(False)  # kept: the first caller may be a planner, the next a training step
def layout_of(grids: tuple[Grid, ...], window_groups: int) -> Layout:
    """The order of the patches of images with `grids`, for windows of so many merge groups a side."""
    order, windows, images, positions, start = [], [], [], [], 0
    for t, h, w in grids:
        gh, gw = h // MERGE, w // MERGE
        groups = torch.arange(t * gh * gw).view(t, gh, gw) + start
        row, column = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
        cell = torch.stack([row, column], -1).view(gh, MERGE, gw, MERGE, 2).permute(0, 2, 1, 3, 4)  # (gh, gw, 2, 2, 2)
        for frame in range(t):
            for i in range(0, gh, window_groups):
                for j in range(0, gw, window_groups):
                    inside = groups[frame, i : i + window_groups, j : j + window_groups].reshape(-1)
                    order.append(inside)
                    windows.append(len(inside) * MERGE * MERGE)
                    positions.append(cell[i : i + window_groups, j : j + window_groups].reshape(-1, 2))
            images.append(h * w)
        start += t * gh * gw
    return Layout(torch.cat(order), tuple(windows), tuple(images), torch.cat(positions))


def _attend_runs(q: Tensor, k: Tensor, v: Tensor, runs: tuple[int, ...]) -> Tensor:
    """Attention inside consecutive runs of tokens.  q, k, v (B, N, H, D); returns (B, N, H, D)."""
    batch, n, heads, width = q.shape
    if len(set(runs)) == 1:
        q, k, v = (x.reshape(batch * len(runs), runs[0], heads, width).transpose(1, 2) for x in (q, k, v))
        return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(batch, n, heads, width)
    longest = max(runs)
    starts = torch.tensor([0, *runs[:-1]]).cumsum(0)
    index = starts[:, None] + torch.arange(longest)  # (R, longest)
    valid = torch.arange(longest) < torch.tensor(runs)[:, None]
    index = torch.where(valid, index, 0).to(q.device)
    valid = valid.to(q.device)
    q, k, v = (x[:, index].flatten(0, 1).transpose(1, 2) for x in (q, k, v))  # (B R, H, longest, D)
    mask = valid[None, :, None, None].expand(batch, -1, 1, longest, -1).flatten(0, 1)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2)
    return out.view(batch, len(runs), longest, heads, width)[:, valid]


class VisionAttention(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.heads = config.num_heads
        self.qkv = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.proj = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, runs: tuple[int, ...]) -> Tensor:
        batch, n, _ = x.shape
        q, k, v = self.qkv(x).view(batch, n, 3, self.heads, -1).unbind(2)  # (B, N, H, D)
        q, k = q * cos + rotate_half(q) * sin, k * cos + rotate_half(k) * sin
        return self.proj(_attend_runs(q, k, v, runs).reshape(batch, n, -1))


class VisionMLP(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.up_proj = nn.Linear(config.hidden_size, config.intermediate_size)
        self.down_proj = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.down_proj(F.silu(self.gate_proj(x)) * self.up_proj(x))


class VisionBlock(nn.Module):
    def __init__(self, config: VisionConfig):
        super().__init__()
        self.norm1 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.norm2 = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.attn = VisionAttention(config)
        self.mlp = VisionMLP(config)

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, runs: tuple[int, ...]) -> Tensor:
        x = x + self.attn(self.norm1(x), cos, sin, runs)
        return x + self.mlp(self.norm2(x))


class PatchEmbed(nn.Module):
    """The 3-D patch convolution as the matrix product that it is."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.proj = nn.Conv3d(3, config.hidden_size, (TEMPORAL_PATCH, PATCH, PATCH), bias=False)

    def forward(self, patches: Tensor) -> Tensor:
        weight = self.proj.weight
        return F.linear(patches.to(weight.dtype), weight.flatten(1))


class Merger(nn.Module):
    """2x2 neighbouring patches to one token of the text model."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        wide = config.hidden_size * MERGE * MERGE
        self.ln_q = RMSNorm(config.hidden_size, config.rms_norm_eps)
        self.mlp = nn.Sequential(nn.Linear(wide, wide), nn.GELU(), nn.Linear(wide, config.out_hidden_size))

    def forward(self, x: Tensor) -> Tensor:
        return self.mlp(self.ln_q(x).unflatten(1, (-1, MERGE * MERGE)).flatten(2))


class VisionTower(nn.Module):
    """Patch vectors (B, N, 1176) of the images in `grids` to tokens (B, N / 4, out_hidden_size), in reading order."""

    def __init__(self, config: VisionConfig):
        super().__init__()
        self.config = config
        self.patch_embed = PatchEmbed(config)
        self.blocks = nn.ModuleList(VisionBlock(config) for _ in range(config.depth))
        self.merger = Merger(config)

    def forward(self, patches: Tensor, grids: tuple[Grid, ...]) -> Tensor:
        return self.finish(self.begin(patches, grids, 0), grids, 0)

    def begin(self, patches: Tensor, grids: tuple[Grid, ...], blocks: int) -> Tensor:
        """Hidden states (B, N, hidden), in window order, behind the first `blocks` blocks; a frozen stem's are kept."""
        order = self._layout(grids).order.to(patches.device)
        x = self.patch_embed(patches)  # (B, N, hidden)
        batch, n, hidden = x.shape
        x = x.view(batch, n // 4, 4, hidden)[:, order].reshape(batch, n, hidden)
        return self._run(x, grids, range(blocks))

    def finish(self, states: Tensor, grids: tuple[Grid, ...], blocks: int) -> Tensor:
        """What `begin` left undone: its states to tokens (B, N / 4, out_hidden_size), in reading order."""
        x = self.merger(self._run(states, grids, range(blocks, len(self.blocks))))  # (B, N / 4, out), window order
        return x[:, torch.argsort(self._layout(grids).order.to(x.device))]

    def _layout(self, grids: tuple[Grid, ...]) -> Layout:
        return layout_of(grids, self.config.window_size // PATCH // MERGE)

    def _run(self, x: Tensor, grids: tuple[Grid, ...], blocks: range) -> Tensor:
        layout = self._layout(grids)
        cos, sin = self.rope(layout.positions.to(x.device), x.dtype)
        for i in blocks:
            full = i in self.config.fullatt_block_indexes
            x = self.blocks[i](x, cos, sin, layout.images if full else layout.windows)
        return x

    def rope(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """cos and sin (N, 1, D): a quarter of the head for rows, a quarter for columns, then both again."""
        quarter = self.config.hidden_size // self.config.num_heads // 4
        wide = torch.float64 if dtype == torch.float64 else torch.float32
        steps = torch.arange(0, 2 * quarter, 2, dtype=torch.float32, device=positions.device) / (2 * quarter)
        inv_freq = (1.0 / self.config.rope_theta**steps).to(wide)
        angle = (positions[:, :, None].to(wide) * inv_freq).flatten(1)  # (N, 2 * quarter)
        angle = torch.cat((angle, angle), -1)[:, None]
        return angle.cos().to(dtype), angle.sin().to(dtype)
