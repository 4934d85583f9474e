"""The decoding kernels: each against its reference under the interpreter, and compiled for a chip that is not here."""

import pytest
import torch
import torch.nn.functional as F

from efficientgen.kernels.prefix_attention import attend_reference, chunk_of, ways
from efficientgen.kernels.skinny import ROPE, SWIGLU, Norm, Tile, TileError, Workspace, skinny, skinny_reference
from efficientgen.planning.engine_tune import candidates
from tests.kernels.decoding import Made, Sizes
from tests.kernels.test_frame_gdn import _script


def test_kernels_are_their_references_under_the_interpreter():
    pytest.importorskip("triton")
    cases = _script("decoding_interpreted.py", TRITON_INTERPRET="1")
    assert [case["case"] for case in cases] == ["narrow", "split", "padded", "half heads", "qwen3", "uneven"]
    for case in cases:
        assert max(case["errors"].values()) < 2e-6, case


def test_kernels_compile_for_a_chip_without_spilling():
    pytest.importorskip("triton")
    built = _script("decoding_compiled.py", "90")
    names = {
        "qkv",
        "normed qkv",
        "out",
        "gate_up",
        "down",
        "attend",
        "merge",
        "embed",
        "squares",
        "normed",
        "swiglu",
        "place",
    }
    assert {kernel["kernel"] for kernel in built} == names
    for kernel in built:
        assert kernel["spilled"] == 0 and kernel["shared"] <= 227 * 1024, kernel


def test_the_folded_norm_is_a_norm_before_the_product():
    """rms(x) * g through W is rms(x) through W with g in its columns, whoever adds up the squares."""
    made = Made("cpu", torch.float64, 1)
    x, weight, g = made.normal(3, 8), made.normal(12, 8), made.normal(8)
    squares = x.pow(2).view(3, 2, 4).sum(-1).t()  # two partial sums a row
    ours = skinny_reference(x, weight * g, SWIGLU, norm=Norm(squares, 1e-6))
    gate, up = F.linear(F.rms_norm(x, (8,), g, 1e-6), weight).chunk(2, -1)
    torch.testing.assert_close(ours, F.silu(gate) * up)


def test_heads_go_to_their_slots_and_nowhere_else():
    sizes, made = Sizes(rows=4), Made("cpu", torch.float64, 2)
    heads = made.heads(sizes, 7)
    before = heads.keys.clone()
    q = skinny_reference(made.normal(4, 64), made.normal(sizes.qkv, 64), ROPE, heads=heads)
    assert q.shape == (4, 4, 32)
    changed = (heads.keys != before).any(-1).any(0)
    assert changed.nonzero().flatten().tolist() == [7, 8, 9, 10]


def test_a_row_sees_the_prefix_and_what_its_mask_has():
    made = Made("cpu", torch.float64, 3)
    q, (keys, values) = made.normal(2, 4, 16), made.normal(2, 2, 12, 16)
    mask = torch.tensor([[1, 0, 1], [0, 1, 0]], dtype=torch.uint8)
    out = attend_reference(q, keys, values, torch.tensor([5]), mask).view(2, 4, 16)
    for row, seen in ((0, [0, 1, 2, 3, 4, 5, 7]), (1, [0, 1, 2, 3, 4, 6])):
        for head in range(4):
            k, v = keys[head // 2, seen], values[head // 2, seen]
            torch.testing.assert_close(out[row, head], (q[row, head] @ k.t() / 4).softmax(-1) @ v)


@pytest.mark.parametrize("rows", [1, 8, 32, 48, 272])
@pytest.mark.parametrize("context", [1024, 2048, 8192])
def test_splits_cover_the_context(rows: int, context: int):
    for chunk, held, _ in ways(context, rows, 16, 2):
        assert chunk % 32 == 0 and held >= 16 and -(-context // chunk) <= 64
    chunk, held = chunk_of(context, rows, 16, 2)
    assert chunk % 32 == 0 and held >= 16


def test_a_tile_that_cuts_a_normed_head_is_refused():
    """The mean square of half a head is not the head's: such a tile gave wrong numbers, not an error."""
    sizes, made = Sizes(rows=4, head_norm=True), Made("cpu", torch.float32, 5)
    x, weight, heads = made.normal(4, 64), made.normal(sizes.qkv, 64), made.heads(sizes, 0)
    room, q = Workspace(x.device, 1), x.new_empty(4, sizes.queries, sizes.width)
    with pytest.raises(TileError, match="8 columns for heads of 32"):
        skinny(x, weight, ROPE, Tile(8, 32, 1), q, room, heads=heads)


@pytest.mark.parametrize("rows", [1, 32, 64, 272])
def test_candidates_keep_normed_heads_whole(rows: int):
    assert {tile.columns for tile in candidates("qkv", rows, 64)} == {64}
    assert candidates("down", rows, 64) == candidates("down", rows)
