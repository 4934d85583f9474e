"""The frame-GDN kernel on a GPU: the reference's numbers at the released shapes, faster than a graphed torch scan."""

from statistics import median

import pytest
import torch

from efficientgen.eval.bench_clock import graphed_ms
from efficientgen.kernels import frame_gdn as gdn
from efficientgen.kernels.frame_gdn import frame_gdn, frame_gdn_reference, frame_gdn_triton
from tests.kernels.recurrence import Inputs, inputs

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]


def on_gpu(made: Inputs, dtype: torch.dtype = torch.float32) -> Inputs:
    q, k, v, beta, decay, (q0, k0), state = made
    q, k, v, beta, q0, k0 = (x.to("cuda", dtype) for x in (q, k, v, beta, q0, k0))
    state = type(state)(state.numerator.cuda(), state.denominator.cuda())
    return q, k, v, beta, decay.cuda(), (q0, k0), state


def relative(ours: torch.Tensor, theirs: torch.Tensor) -> float:
    return float((ours.double() - theirs.double()).norm() / theirs.double().norm())


BF16, FP32 = torch.bfloat16, torch.float32
CASES = [  # every T, D, S and dtype, both chunk layouts; each case compiles kernels of its own, for seconds
    (1, (), 64, 112, BF16),
    (2, (), 112, 112, FP32),
    (3, (), 112, 880, BF16),
    (4, (1, 3), 64, 880, FP32),
]


@pytest.fixture
def one_tile(monkeypatch: pytest.MonkeyPatch) -> None:
    """No tuning: what is computed does not depend on it."""
    for kernel in (gdn._transitions, gdn._scan_rows, gdn._read_out):
        monkeypatch.setattr(kernel, "configs", kernel.configs[:1])


@pytest.mark.parametrize(("t", "chunks", "d", "s", "dtype"), CASES)
@torch.inference_mode()
def test_kernel_is_the_reference(one_tile, t: int, chunks: tuple[int, ...], d: int, s: int, dtype: torch.dtype):
    """Both from the same rounded inputs; the reference in fp64, so that its own rounding does not count."""
    q, k, v, beta, decay, mass, state = on_gpu(inputs(t, s, d, seed=torch.seed() % 2**31, h=4), dtype)
    exact = [x.double() for x in (q, k, v, beta, decay)]
    for pair in (mass, None):
        ours, mine = frame_gdn_triton(q, k, v, beta, decay, mass=pair, state=state, chunks=chunks)
        doubled = None if pair is None else (pair[0].double(), pair[1].double())
        theirs, other = frame_gdn_reference(*exact, mass=doubled, state=state, chunks=chunks)
        assert relative(ours, theirs) < 1e-5 and relative(mine.numerator, other.numerator) < 1e-5
        if pair is not None:
            assert relative(mine.denominator, other.denominator) < 1e-5


@torch.inference_mode()
def test_a_stream_of_chunks_takes_the_kernel_and_stays_the_reference(one_tile):
    q, k, v, beta, decay, (q0, k0), _ = on_gpu(inputs(30, 112, 112, seed=5, h=4))
    whole, _ = frame_gdn_reference(q, k, v, beta, decay, mass=(q0, k0), chunks=(2,) * 15)
    state, parts = None, []
    for begin in range(0, 30, 2):
        cut = slice(begin, begin + 2)
        part, state = frame_gdn(
            *(x[:, cut] for x in (q, k, v, beta, decay)), mass=(q0[:, cut], k0[:, cut]), state=state
        )
        parts.append(part)
    assert relative(torch.cat(parts, 1), whole) < 1e-4


@torch.inference_mode()
def test_kernel_is_three_times_faster_than_a_graphed_torch_scan():
    """720p shape, T 3, bf16 inputs, main branch; both as captured graphs in the same process."""
    q, k, v, beta, decay, mass, state = on_gpu(inputs(3, 880, 112, seed=0, h=20), torch.bfloat16)
    ours = median(graphed_ms(lambda: frame_gdn_triton(q, k, v, beta, decay, mass=mass, state=state)))
    theirs = median(graphed_ms(lambda: frame_gdn_reference(q, k, v, beta, decay, mass=mass, state=state)))
    print(f"frame GDN, S 880, D 112, H 20, T 3: {ours:.3f} ms, torch {theirs:.3f} ms, {torch.cuda.get_device_name()}")
    assert theirs >= 3.0 * ours
