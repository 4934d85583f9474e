"""In bf16 our error to fp32 is that of stock bf16 (within a factor), at small size here and at full size on a GPU."""

import pytest

from tests.planning.bf16 import LIMIT, bf16_errors
from tests.planning.families import SMALL, stock_model
from tests.planning.test_stock_families import UNEVEN

pytest.importorskip("transformers")


@pytest.mark.parametrize(
    ("family", "grids"), [("fast-dvlm", UNEVEN), ("fast-dvlm", ()), ("fast-dllm-v2", ()), ("efficient-dlm", ())]
)
def test_bf16_errs_no_more_than_stock(family, grids, tmp_path):
    mine, theirs, size = bf16_errors(stock_model(SMALL[family]), tmp_path, grids, range(3))
    assert 0 < theirs < 0.1 * size, "stock itself must make a small error, else this says nothing"
    assert mine <= LIMIT * theirs
