"""SANA-WM at released shape on a GPU, random weights: diffusers' numbers, time, memory, an exhausted device."""

import time
from contextlib import suppress
from pathlib import Path
from statistics import median

import numpy as np
import pytest
import torch
from torch import Tensor

from efficientgen.eval.bench_clock import graphed_ms
from efficientgen.eval.bench_sana import SHAPES, chunk, random_model, random_text, stock_pass
from efficientgen.worldsim.sana.sampler import LEVELS
from efficientgen.worldsim.sana.stream import Stream, cuda_graphs
from tests.worldsim.sana_files import write_release
from tests.worldsim.test_sana_world import CAMERA, Scene, ticks

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with about 40 GB"),
]
SHAPE = SHAPES["720p"]
CHUNKS_A_MINUTE = 40  # of 24 pictures at 16/s
FILLING = 3  # chunks until the stream is captured and warm


def streamed(stream: Stream, chunks: int) -> tuple[list[float], list[int], list[Tensor]]:
    """Seconds, peak bytes and latents of each chunk."""
    seconds, peaks, latents = [], [], []
    for index in range(chunks):
        noise, rays = chunk(SHAPE, index, "cuda")
        torch.cuda.synchronize()
        began = time.perf_counter()
        latents.append(stream.sample(noise, rays))
        torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
        peaks.append(torch.cuda.max_memory_allocated())
    return seconds, peaks, latents


def relative(ours: Tensor, theirs: Tensor) -> float:
    return float((ours.float() - theirs.float()).norm() / theirs.float().norm())


@torch.inference_mode()
def test_a_chunk_takes_less_than_a_third_of_a_second_and_memory_stays_flat_over_a_minute():
    """3 latent frames (24 pictures), 5 passes, warm; a minute of video."""
    model = random_model(SHAPE.config, "cuda", torch.bfloat16).fuse()
    stream = Stream(model, capture=cuda_graphs(model))
    stream.begin(random_text(SHAPE.config, "cuda", torch.bfloat16))
    streamed(stream, FILLING)
    assert stream.captured
    torch.cuda.reset_peak_memory_stats()
    seconds, peaks, latents = streamed(stream, CHUNKS_A_MINUTE)
    p50, p99 = np.percentile(seconds, (50, 99))
    print(
        f"720p chunk, {len(LEVELS) + 1} passes: p50 {p50:.3f} s, p99 {p99:.3f} s, state {stream.bytes / 2**20:.0f} "
        f"MiB, peak {peaks[-1] / 2**30:.1f} GiB, {torch.cuda.get_device_name()}"
    )
    del latents
    assert peaks[-1] - peaks[0] < 2 * CHUNKS_A_MINUTE * 4 * 3 * 880 * 128, "the latents that this test keeps, no more"
    assert p50 <= 0.30


@torch.inference_mode()
def test_a_captured_stream_is_the_eager_one():
    """Three chunks fill the window; from the third on one of them replays graphs.  The second drive begins mid-way."""
    model = random_model(SHAPE.config, "cuda", torch.bfloat16).fuse()
    text = random_text(SHAPE.config, "cuda", torch.bfloat16)
    eager, replayed = Stream(model), Stream(model, capture=cuda_graphs(model))
    for drive in range(2):
        for stream in (eager, replayed):
            stream.begin(text)
        _, _, expected = streamed(eager, 5)
        _, _, ours = streamed(replayed, 5)
        assert replayed.captured and not eager.captured and replayed.state.frames == eager.state.frames == 15
        for index, (a, b) in enumerate(zip(ours, expected, strict=True)):
            assert relative(a, b) < 1e-2, (drive, index)


@torch.inference_mode()
def test_five_passes_are_three_times_faster_than_diffusers_class_in_a_graph():
    """The same three latent frames and levels; diffusers' class without anything to remember, ours as it streams."""
    pytest.importorskip("diffusers")
    model, text = random_model(SHAPE.config, "cuda", torch.bfloat16), random_text(SHAPE.config, "cuda", torch.bfloat16)
    x, rays = chunk(SHAPE, 0, "cuda")
    t = torch.full((1, SHAPE.latents), 960.0, device="cuda")
    theirs = stock_pass(model, x, t, text, rays)
    model.fuse()
    error = relative(model.forward_chunk(x, t, text, rays, None, save=False)[0], theirs())
    assert error < 0.05, error

    def five() -> None:
        for level, following in zip((*LEVELS, 0), (*LEVELS[1:], 0, 0), strict=True):
            t.fill_(float(level))
            x.add_((following - level) / 1000.0 * theirs())

    slow = median(graphed_ms(five, 5))
    stream = Stream(model, capture=cuda_graphs(model))
    stream.begin(text)
    seconds, _, _ = streamed(stream, FILLING + 20)
    fast = 1e3 * median(seconds[FILLING:])
    print(f"720p, 3 latent frames, 5 passes: {fast:.0f} ms, diffusers {slow:.0f} ms, {torch.cuda.get_device_name()}")
    assert slow >= 3.0 * fast


def test_the_tiny_world_drives_on_the_gpu_and_survives_an_exhausted_device(tmp_path: Path):
    pytest.importorskip("diffusers")
    from efficientgen.worldsim.sana.world import SanaWorld, WorldMemoryError

    write_release(tmp_path)
    world = SanaWorld.from_pretrained(tmp_path, device="cuda", dtype=torch.float32, camera=CAMERA, opening=Scene())

    def film(chunks: int) -> np.ndarray:
        world.reset("testville", "day", 0)
        frames = [world.step(ticks(k)) for k in range(chunks)]
        return np.stack([frame.image for step in frames for frame in step.cameras["FRONT"]])

    good = film(8)
    assert world.diagnostics()["captured"]
    world.reset("testville", "day", 0)
    torch.cuda.empty_cache()
    held = torch.cuda.memory_reserved() / torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(held)
    blocks: list[Tensor] = []
    try:
        for size in (1 << 20, 1 << 9):  # what is reserved is used up too
            with suppress(torch.OutOfMemoryError):
                while True:
                    blocks.append(torch.empty(size, dtype=torch.uint8, device="cuda"))
        with pytest.raises(WorldMemoryError):
            film(8)
    finally:
        blocks.clear()
        torch.cuda.set_per_process_memory_fraction(1.0)
    again = film(8)
    assert np.abs(again.astype(int) - good.astype(int)).max() <= 1
