"""Self-attention of SANA-WM (arXiv 2605.15178): a main branch and a camera branch over the same tokens.

Both branches of a recurrent block run the frame-wise gated delta rule (`kernels/frame_gdn.py`) with the same gates beta
and decay; those of a softmax block attend by softmax.  The main branch knows positions by rotary embedding, the camera
branch by each token's ray (UCPE).  Their sum passes one output gate and one projection.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from efficientgen.kernels.frame_gdn import frame_gdn
from efficientgen.kernels.token_heads import gated_sum, heads_through_rays, rotated_heads, temporal_conv
from efficientgen.worldsim.sana.config import SanaConfig
from efficientgen.worldsim.sana.position import Positions
from efficientgen.worldsim.sana.state import RecurrentState, StreamState, WindowState, remembered, visible

NORM_EPS = 1e-5
ALIGNED = 64  # rows of a fused product, so that every token's share of it begins where wide loads may
FLASH_DIMS = (32, 64, 128, 256)  # the release pads the camera heads to one of these, and scales by the padded width


class TemporalConv(nn.Module):
    """Depthwise over time with the same taps to both sides, the frame itself counted once."""

    def __init__(self, channels: int, kernel: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(channels, 1, kernel))

    def forward(self, x: Tensor, chunks: tuple[int, ...], before: Tensor | None, across: bool) -> Tensor:
        """(B, T, S, C); later frames count within a chunk only, earlier ones over chunk borders where `across`.

        Args:
            before: the kernel - 1 frames before the first; None: zeros.
        """
        if len(chunks) == 1:
            return temporal_conv(x, before, self.weight)
        taps = self.weight[:, 0].flip(-1).to(x.dtype)  # (C, K), [:, j] weighs the frame j away
        frames, reach = x.shape[1], taps.shape[1] - 1
        out = x * taps[:, 0]
        alone = len(chunks) == frames  # chunks of one frame: none has a later one in its chunk
        if alone and not across:
            return out
        nothing = torch.zeros_like(x[:, :1]).expand(-1, reach, -1, -1)
        padded = torch.cat([nothing if before is None else before, x, nothing], 1)
        for j in range(1, reach + 1):
            past, future = padded[:, reach - j : reach - j + frames], padded[:, reach + j : reach + j + frames]
            if alone:
                out = out + past * taps[:, j]
                continue
            same = _together(chunks, j, x.dtype, x.device)
            past = past if across else past * same.roll(j, 0)
            future = future * same
            out = out + (past + future) * taps[:, j]
        return out


@dataclass(frozen=True)
class _Projected:
    """What a block's input is projected to; (B, T, S, C) unless noted.  The last two are of recurrent blocks."""

    main: tuple[Tensor, Tensor, Tensor]  # queries, keys, values
    camera: tuple[Tensor, Tensor, Tensor]
    gate: Tensor
    beta: Tensor | None  # (B, T, S, H) in (0, 1)
    decay: Tensor | None  # (B, T, H), before softplus, fp32


class DualBranchAttention(nn.Module):
    """Main and camera branch; recurrent, or softmax every n-th block."""

    def __init__(self, config: SanaConfig, recurs: bool) -> None:
        super().__init__()
        self.width, self.heads, self.recurs = config.hidden_size, config.heads, recurs
        width = self.width
        self.wide_weight: Tensor | None
        self.wide_bias: Tensor | None
        self.register_buffer("wide_weight", None, persistent=False)
        self.register_buffer("wide_bias", None, persistent=False)
        self.sink_token, self.window = config.sink_token, config.window
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.q_proj_cam, self.k_proj_cam, self.v_proj_cam = (nn.Linear(width, width) for _ in range(3))
        self.q_norm, self.k_norm, self.q_norm_cam, self.k_norm_cam = (nn.RMSNorm(width, eps=NORM_EPS) for _ in range(4))
        self.output_gate, self.out_proj_cam, self.proj = (nn.Linear(width, width) for _ in range(3))
        nn.init.zeros_(self.out_proj_cam.weight)
        nn.init.zeros_(self.out_proj_cam.bias)
        if recurs:
            self.beta_proj, self.gate_proj = nn.Linear(width, self.heads), nn.Linear(width, self.heads)
            self.A_log = nn.Parameter(torch.empty(self.heads).uniform_(1, 16).log())
            steps = torch.empty(self.heads).uniform_(-6.9, -2.3).exp()  # 0.001 to 0.1, log-uniform
            self.dt_bias = nn.Parameter(steps.expm1().log())  # the inverse of softplus
            self.conv_k = TemporalConv(width, config.conv_kernel_size)
            self.conv_k_cam = TemporalConv(width, config.conv_kernel_size)
            for conv in (self.conv_k, self.conv_k_cam):  # the frame itself
                nn.init.ones_(conv.weight[:, :, -1])

    def fuse(self) -> None:
        """Lay the weights of all products of the input into one, of which the parameters become views."""
        parts: list[nn.Linear] = [self.qkv, self.q_proj_cam, self.k_proj_cam, self.v_proj_cam, self.output_gate]
        parts += [self.beta_proj, self.gate_proj] if self.recurs else []
        rows = sum(part.out_features for part in parts)
        first = parts[0].weight.detach()
        weight = first.new_zeros(-(-rows // ALIGNED) * ALIGNED, self.width)
        bias, begin = first.new_zeros(len(weight)), 0
        for part in parts:
            end = begin + part.out_features
            weight[begin:end] = part.weight.detach()
            part.weight = nn.Parameter(weight[begin:end], requires_grad=False)
            if part.bias is not None:
                bias[begin:end] = part.bias.detach()
                part.bias = nn.Parameter(bias[begin:end], requires_grad=False)
            begin = end
        self.wide_weight, self.wide_bias = weight, bias

    def forward(
        self, x: Tensor, where: Positions, chunks: tuple[int, ...], stream: StreamState | None, index: int, save: bool
    ) -> tuple[Tensor, RecurrentState | WindowState | None]:
        """(B, T, S, C) to the same, and where `save` the state of this block, the `index`-th, after the last frame."""
        carried = None if stream is None else stream.blocks[index].attention
        seen_by = self._projected(x)
        state: RecurrentState | WindowState | None
        if self.recurs:
            assert carried is None or isinstance(carried, RecurrentState)
            out, seen, state = self._recur(seen_by, where, chunks, carried, save)
        else:
            assert carried is None or isinstance(carried, WindowState)
            out, seen, state = self._attend(seen_by, where, chunks, carried, stream, save)
        ray = (where.ray_from_world, where.camera)
        seen, _ = heads_through_rays(seen.flatten(3), None, *ray, self.heads, capped=False, back=True, dtype=x.dtype)
        return self.proj(gated_sum(out.flatten(3), self.out_proj_cam(seen.flatten(3)), seen_by.gate)), state

    def _projected(self, x: Tensor) -> _Projected:
        if self.wide_weight is None:
            beta = self.beta_proj(x).sigmoid() if self.recurs else None  # (B, T, S, H)
            decay = self.gate_proj(x.mean(2)).float() if self.recurs else None  # (B, T, H)
            q, k, v = self.qkv(x).chunk(3, -1)
            camera = (self.q_proj_cam(x), self.k_proj_cam(x), self.v_proj_cam(x))
            return _Projected((q, k, v), camera, self.output_gate(x), beta, decay)
        wide = F.linear(x, self.wide_weight, self.wide_bias)
        q, k, v, q_cam, k_cam, v_cam, gate = wide[..., : 7 * self.width].chunk(7, -1)
        beta = wide[..., 7 * self.width :][..., : self.heads].sigmoid() if self.recurs else None
        decay = wide[..., 7 * self.width + self.heads :][..., : self.heads] if self.recurs else None
        decay = None if decay is None else decay.float().mean(2)  # of the product as of the input
        return _Projected((q, k, v), (q_cam, k_cam, v_cam), gate, beta, decay)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1))  # (B, T, S, H, D)

    def _recur(
        self, seen_by: _Projected, where: Positions, chunks: tuple[int, ...], carried: RecurrentState | None, save: bool
    ) -> tuple[Tensor, Tensor, RecurrentState | None]:
        """Gated delta rule, fp32 (B, T, S, H, D) of both branches.  The camera keys' convolution carries no state."""
        assert seen_by.beta is not None and seen_by.decay is not None
        beta = seen_by.beta
        decay = (-self.A_log.float().exp() * F.softplus(seen_by.decay + self.dt_bias.float())).exp()  # (B, T, H)
        q, raw, v = seen_by.main
        scale = (raw.shape[2] * raw.shape[3] // self.heads) ** -0.5  # D^-1/2 S^-1/2, or the recurrence diverges

        k = self.conv_k(raw, chunks, None if carried is None else carried.keys, across=True)
        q, q0 = rotated_heads(q, _of(self.q_norm), where.main, self.heads, relu=True, plain=True)
        k, k0 = rotated_heads(k, _of(self.k_norm), where.main, self.heads, relu=True, scale=scale, plain=True)
        assert q0 is not None and k0 is not None
        out, after = frame_gdn(
            q, k, self._heads(v), beta, decay,
            mass=(q0, k0), state=None if carried is None else carried.main, chunks=chunks,
        )  # fmt: skip

        q, k, v = seen_by.camera
        k = self.conv_k_cam(k, chunks, None, across=False)
        q, k, v, grown = self._into_world(q, k, v, where, recurs=True, scale=scale)
        assert grown is not None
        inflation = grown.mean(2, keepdim=True)  # (B, T, 1, H)
        seen, after_seen = frame_gdn(
            q, k, v, beta / inflation.clamp_min(1.0).to(beta.dtype), decay,
            state=None if carried is None else carried.camera, chunks=chunks,
        )  # fmt: skip
        return out, seen, RecurrentState(after, after_seen, self._last_keys(raw, carried)) if save else None

    def _last_keys(self, raw: Tensor, carried: RecurrentState | None) -> Tensor:
        reach = self.conv_k.weight.shape[-1] - 1
        before = torch.zeros_like(raw[:, :1]).expand(-1, reach, -1, -1) if carried is None else carried.keys
        return torch.cat([before, raw], 1)[:, raw.shape[1] :].clone()

    def _into_world(
        self, q: Tensor, k: Tensor, v: Tensor, where: Positions, recurs: bool = False, scale: float = 1.0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
        """UCPE: queries by P^T, keys and values by P^-1, none longer than it was; by how much keys grew, squared."""
        forward, back = where.ray_from_world.transpose(-1, -2), where.world_from_ray
        q, _ = heads_through_rays(q, _of(self.q_norm_cam), forward, where.camera, self.heads, relu=recurs)
        k, grown = heads_through_rays(
            k, _of(self.k_norm_cam), back, where.camera, self.heads, relu=recurs, scale=scale, measured=recurs
        )
        return q, k, heads_through_rays(v, None, back, where.camera, self.heads)[0], grown

    def _attend(
        self, seen_by: _Projected, where: Positions, chunks: tuple[int, ...],
        carried: WindowState | None, stream: StreamState | None, save: bool,
    ) -> tuple[Tensor, Tensor, WindowState | None]:  # fmt: skip
        """Softmax attention (B, T, S, H, D) of both branches over the remembered frames and the chunk's own."""
        q, k, v = seen_by.main
        q, _ = rotated_heads(q, _of(self.q_norm), where.main, self.heads)
        k, _ = rotated_heads(k, _of(self.k_norm), where.main, self.heads)
        v = self._heads(v)
        q_cam, k_cam, v_cam, _ = self._into_world(*seen_by.camera, where)
        held: tuple[Tensor, ...] = (k, v, k_cam, v_cam)
        if carried is not None:
            before = (carried.keys, carried.values, carried.camera_keys, carried.camera_values)
            held = tuple(torch.cat(pair, 1) for pair in zip(before, held, strict=True))
        mask = None
        if len(chunks) > 1:
            mask = _visible_tokens(chunks, self.sink_token, self.window, q.shape[2], q.device)
        dim = q.shape[-1]
        out = _softmax(q, held[0], held[1], mask, dim)
        padded = dim if dim in FLASH_DIMS or dim > 256 else 128 if dim < 128 else 256
        seen = _softmax(q_cam, held[2], held[3], mask, padded)
        if not save:
            return out, seen, None
        sink = (chunks[0] if self.sink_token else 0) if stream is None else stream.sink
        return out, seen, WindowState(*(remembered(x, sink, self.window) for x in held))


# Masks are made once per shape and kept on the device: a captured step may copy nothing from the host.  They are no
# inference tensors, whoever asks first: training saves them for its backward pass.


@lru_cache(maxsize=64)
def _together(chunks: tuple[int, ...], j: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """(T, 1, 1) ones where a frame and the j-th after it are of one chunk."""
    with torch.inference_mode(False):
        chunk = torch.repeat_interleave(torch.arange(len(chunks)), torch.tensor(chunks))
        same = F.pad((chunk[j:] == chunk[:-j]).to(dtype), (0, min(j, len(chunk))))
        return same[: len(chunk), None, None].to(device)


@lru_cache(maxsize=8)
def _visible_tokens(
    chunks: tuple[int, ...], sink_token: bool, window: int, tokens: int, device: torch.device
) -> Tensor:
    """`visible` for `tokens` tokens a frame, (T S, T S)."""
    with torch.inference_mode(False):
        mask = visible(chunks, sink_token, window, torch.device("cpu"))
        return mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1).to(device)


def _of(norm: nn.RMSNorm) -> tuple[Tensor, float]:
    return norm.weight, NORM_EPS


def _softmax(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dim: int) -> Tensor:
    """(B, T, S, H, D) queries over all tokens of (B, F, S, H, D) keys and values, scaled by dim^-1/2."""
    q_, k_, v_ = (x.flatten(1, 2).transpose(1, 2) for x in (q, k, v))  # (B, H, N, D)
    out = F.scaled_dot_product_attention(q_, k_, v_, attn_mask=mask, scale=dim**-0.5)
    return out.transpose(1, 2).unflatten(1, q.shape[1:3])
