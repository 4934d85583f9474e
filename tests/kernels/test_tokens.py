"""The token kernels: against their torch references under the interpreter, and through the assembler."""

import pytest

from tests.kernels.test_frame_gdn import _script as script


def test_kernels_are_their_references_under_the_interpreter():
    """On fresh inputs that are shares of wider tensors, with heads of 16 and of the released 112 channels."""
    pytest.importorskip("triton")
    cases = script("interpreted_tokens.py", TRITON_INTERPRET="1")
    assert {case["kernel"] for case in cases} == {
        "rotated", "plain", "rays", "grown", "conv", "conv first", "gated sum", "sum", "norm", "depthwise"
    }  # fmt: skip
    for case in cases:
        assert case["error"] < 2e-6, case


def test_kernels_compile_for_a_chip_without_spilling():
    pytest.importorskip("triton")
    built = script("compiled_tokens.py", "90")
    assert {kernel["kernel"] for kernel in built} == {"rotated", "rays", "conv", "gated", "row", "depthwise"}
    for kernel in built:
        assert kernel["spilled"] == 0, kernel
