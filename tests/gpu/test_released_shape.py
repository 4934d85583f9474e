"""Numerics at released shape: bf16 on a GPU against stock transformers, random weights."""

from dataclasses import replace

import pytest
import torch

from efficientgen.planning.config import efficient_dlm, fast_dllm_v2, fast_dvlm
from tests.planning.bf16 import LIMIT, bf16_errors
from tests.planning.families import TOKENS, stock_model

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with about 45 GB"),
]


@pytest.mark.parametrize(
    ("config", "grids"),
    [(fast_dvlm(), ((1, 32, 30),) * 3), (fast_dllm_v2("1.5b"), ()), (efficient_dlm("4b"), ())],
    ids=["fast-dvlm-3b", "fast-dllm-v2-1.5b", "efficient-dlm-4b"],
)
def test_bf16_errs_no_more_than_stock_at_released_shape(config, grids, tmp_path):
    pytest.importorskip("transformers")
    with torch.device("cuda"):
        stock = stock_model(replace(config, **TOKENS), std=0.02)
    mine, theirs, size = bf16_errors(stock, tmp_path, grids, range(2), "cuda")
    print(f"RMS to fp32: ours {mine:.3e}, stock {theirs:.3e}, logits {size:.3e}, {torch.cuda.get_device_name()}")
    assert 0 < theirs
    assert mine <= LIMIT * theirs
