"""The frame-wise gated delta rule: reference against a recurrence told token by token, kernel against the reference."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from efficientgen.kernels.frame_gdn import GDNState, frame_gdn, frame_gdn_reference
from tests.kernels.recurrence import inputs, token_by_token

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("t", "d", "chunks"), [(1, 64, (1,)), (3, 112, (3,)), (4, 64, (1, 3)), (4, 112, (2, 2))])
def test_reference_is_the_rule_told_token_by_token(t: int, d: int, chunks: tuple[int, ...]):
    q, k, v, beta, decay, mass, state = inputs(t, 5, d, seed=t * d, dtype=torch.float64)
    for pair in (mass, None):
        out, after = frame_gdn_reference(q, k, v, beta, decay, mass=pair, state=state, chunks=chunks)
        expected, n, z = token_by_token(q, k, v, beta, decay, pair, state, chunks)
        np.testing.assert_allclose(out, expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(after.numerator, n, rtol=1e-9, atol=1e-12)
        if pair is not None:
            np.testing.assert_allclose(after.denominator, z, rtol=1e-9, atol=1e-12)


def test_a_stream_with_carried_state_is_the_one_shot_scan():
    q, k, v, beta, decay, (q0, k0), _ = inputs(9, 6, 16, seed=1, b=2, dtype=torch.float64)
    chunks = (2, 3, 1, 3)
    whole, end = frame_gdn(q, k, v, beta, decay, mass=(q0, k0), chunks=chunks)
    state, parts, begin = None, [], 0
    for n in chunks:
        cut = slice(begin, begin + n)
        part, state = frame_gdn(
            *(x[:, cut] for x in (q, k, v, beta, decay)), mass=(q0[:, cut], k0[:, cut]), state=state
        )
        parts.append(part)
        begin += n
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(state.numerator, end.numerator, rtol=1e-12, atol=1e-12)


def test_frames_after_a_chunk_do_not_reach_it_and_those_within_do():
    q, k, v, beta, decay, _, _ = inputs(4, 3, 8, seed=2)
    before, _ = frame_gdn(q, k, v, beta, decay, chunks=(2, 2))
    v[:, 3] += 1.0
    after, _ = frame_gdn(q, k, v, beta, decay, chunks=(2, 2))
    assert torch.equal(before[:, :2], after[:, :2])
    assert not torch.allclose(before[:, 2], after[:, 2])


def test_scaled_keys_never_let_the_state_grow_without_input():
    """Keys with D^-1/2 S^-1/2 keep every eigenvalue of I - K b K^T within the unit circle, without it they do not."""
    q, k, v, beta, decay, _, _ = inputs(1, 20, 16, seed=3)
    still, one = torch.zeros_like(v), torch.ones_like(decay)
    start = GDNState(torch.eye(16).expand(1, 2, 16, 16))
    for scale, grows in ((1.0, False), ((16 * 20) ** 0.5, True)):
        state = start
        for _ in range(4):
            _, state = frame_gdn(q, k * scale, still, beta, one, state=state)
        assert (float(state.numerator.norm()) > 2.0 * float(start.numerator.norm())) == grows


def test_chunks_must_add_up():
    q, k, v, beta, decay, _, _ = inputs(3, 2, 8, seed=4)
    with pytest.raises(ValueError, match="do not add up to 3"):
        frame_gdn(q, k, v, beta, decay, chunks=(2, 2))


def _script(name: str, *arguments: str, **environment: str) -> list[dict]:
    """Run a script of this directory in a process of its own: Triton decides at import whether it interprets."""
    script = str(Path(__file__).with_name(name))
    done = subprocess.run([sys.executable, script, *arguments], cwd=ROOT, capture_output=True, text=True, timeout=300,
                          env=os.environ | environment | {"PYTHONPATH": str(ROOT)})  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_kernel_is_the_reference_under_the_interpreter():
    pytest.importorskip("triton")
    cases = _script("interpreted.py", TRITON_INTERPRET="1")
    assert {(case["d"], case["t"]) for case in cases} == {(64, 1), (64, 4), (112, 2), (112, 3)}
    for case in cases:
        assert max(case["out"], case["numerator"], case["denominator"]) < 2e-5, case


def test_kernels_compile_for_a_chip_without_spilling():
    pytest.importorskip("triton")
    built = _script("compiled.py", "90")
    assert {kernel["kernel"] for kernel in built} == {"transitions", "scan_rows", "scan_mass", "read_out"}
    for kernel in built:
        assert kernel["spilled"] == 0 and kernel["shared"] <= 99 * 1024, kernel
