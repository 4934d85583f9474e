"""A stream that replays what it captured is the stream that computes every chunk anew."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from efficientgen.worldsim.sana.sampler import DivergedError, frame_noise
from efficientgen.worldsim.sana.state import leaves
from efficientgen.worldsim.sana.stream import Stream
from tests.worldsim.sana_models import GRID, clip, tiny

CHUNKS = 7


def rerun(work: Callable[[], Any]) -> tuple[Any, Callable[[], None]]:
    """A capture for CPUs: the work is done again, and what it returns goes where the first result lies."""
    out = work()

    def again() -> None:
        for a, b in zip(leaves(out), leaves(work()), strict=True):
            a.copy_(b)

    return out, again


def film(stream: Stream, seed: int, frames: int = 1) -> list[Tensor]:
    """Latents of a drive whose first frame is given."""
    _, _, text, rays = clip(1 + frames * CHUNKS, seed)
    stream.begin(text)
    out, begin = [], 0
    for index in range(CHUNKS):
        n = frames + (index == 0)
        clean = torch.ones(1, 8, 1, *GRID) if index == 0 else None
        out.append(stream.sample(frame_noise(seed, begin, n, (8, *GRID)), rays[begin : begin + n], clean))
        begin += n
    return out


@pytest.mark.parametrize("frames", [1, 3])
def test_replayed_chunks_are_the_computed_ones_in_every_drive(frames: int):
    model = tiny(5)
    eager, replayed = Stream(model), Stream(model, capture=rerun)
    for seed in (0, 1):
        expected = film(eager, seed, frames)
        for index, (a, b) in enumerate(zip(film(replayed, seed, frames), expected, strict=True)):
            assert (a - b).abs().max() < 1e-5, (seed, index)
        assert replayed.captured and not eager.captured
        assert replayed.state.frames == eager.state.frames == 1 + CHUNKS * frames
        assert replayed.bytes == eager.bytes


def test_another_chunk_length_is_captured_anew_from_where_the_stream_is():
    model = tiny(6)
    _, _, text, rays = clip(20, 2)
    outs = []
    for stream in (Stream(model), Stream(model, capture=rerun)):
        stream.begin(text)
        cuts = [slice(0, 3), slice(3, 6), slice(6, 9), slice(9, 10), slice(10, 11), slice(11, 14)]
        outs.append([stream.sample(frame_noise(2, c.start, c.stop - c.start, (8, *GRID)), rays[c]) for c in cuts])
    for a, b in zip(*outs, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_a_stream_that_diverged_begins_anew():
    stream = Stream(tiny(7), capture=rerun)
    good = film(stream, 3)
    _, _, text, rays = clip(1, 3)
    with pytest.raises(DivergedError):
        stream.sample(torch.full((1, 8, 1, *GRID), float("nan")), rays)
    for a, b in zip(film(stream, 3), good, strict=True):
        assert (a - b).abs().max() < 1e-5


def test_fused_weights_are_the_weights():
    """The same numbers, the same names, and no second copy of what was fused."""
    model = tiny(8)
    x, t, text, rays = clip(3, 8)
    with torch.inference_mode():
        before, names = model(x, t, text, rays), set(model.state_dict())
        after = model.fuse()(x, t, text, rays)
    assert (before - after).abs().max() < 1e-5 * before.abs().max()
    assert set(model.state_dict()) == names
    attention = model.blocks[0].attn
    inside = attention.wide_weight.untyped_storage().data_ptr()
    assert all(x.weight.untyped_storage().data_ptr() == inside for x in (attention.qkv, attention.output_gate))
