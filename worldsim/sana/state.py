"""What a stream remembers (SANA-WM, arXiv 2605.15178, streaming inference): the same size for ever.

A recurrent block carries the gated delta rule's numerators and denominator, the last keys before their temporal
convolution, and the last frame before the feed-forward's; a softmax block the keys and values, at their absolute
positions, of the first chunk (the sink) and of the last frames.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

import torch
from torch import Tensor

from efficientgen.kernels.frame_gdn import GDNState


@dataclass(frozen=True)
class RecurrentState:
    """Of one gated-delta-rule block."""

    main: GDNState
    camera: GDNState
    keys: Tensor  # (B, kernel - 1, S, C) before their convolution, zeros before the first frame


@dataclass(frozen=True)
class WindowState:
    """Of one softmax block; (B, F, S, H, D) each, the sink's frames first."""

    keys: Tensor
    values: Tensor
    camera_keys: Tensor
    camera_values: Tensor


@dataclass(frozen=True)
class BlockState:
    """One block's attention, and the last frame (B, 1, S, C) before the feed-forward's temporal convolution."""

    attention: RecurrentState | WindowState
    tail: Tensor


@dataclass(frozen=True)
class StreamState:
    """A stream after `frames` latent frames, the first `sink` of which softmax blocks never forget."""

    blocks: tuple[BlockState, ...]
    frames: int
    sink: int

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        return sum(x.numel() * x.element_size() for x in leaves(self))


def remembered(x: Tensor, sink: int, window: int) -> Tensor:
    """The frames of (B, F, ...) that the next chunk sees: the sink, which comes first, and the last `window`."""
    if x.shape[1] <= sink + window:
        return x
    return torch.cat([x[:, :sink], x[:, x.shape[1] - window :]], 1)


def visible(chunks: tuple[int, ...], sink_token: bool, window: int, device: torch.device) -> Tensor:
    """The same rule for a one-shot pass: (T, T) booleans, [i, j]: frame i sees frame j."""
    frames = sum(chunks)
    sink = chunks[0] if sink_token else 0
    out = torch.zeros(frames, frames, dtype=torch.bool)
    start = 0
    for n in chunks:
        rows = out[start : start + n]
        rows[:, : min(sink, start)] = True
        rows[:, max(0, start - window) : start + n] = True
        start += n
    return out.to(device)


def leaves(thing: Any) -> Iterator[Tensor]:
    """Every tensor in nested dataclasses and tuples, in order."""
    if isinstance(thing, Tensor):
        yield thing
    elif is_dataclass(thing):
        for field in fields(thing):
            yield from leaves(getattr(thing, field.name))
    elif isinstance(thing, tuple):
        for part in thing:
            yield from leaves(part)


def copied(thing: Any) -> Any:
    """The same with tensors of its own."""
    if isinstance(thing, Tensor):
        return thing.clone()
    if is_dataclass(thing) and not isinstance(thing, type):
        return replace(thing, **{field.name: copied(getattr(thing, field.name)) for field in fields(thing)})
    return tuple(copied(part) for part in thing) if isinstance(thing, tuple) else thing
