"""Every decoder at released shape on a GPU, random weights in bf16: it runs, keeps to its form and fits in memory."""

import pytest
import torch

from efficientgen.eval.losslessness import costs
from efficientgen.eval.random_models import released_subjects

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with 40 GB"),
]


@pytest.mark.parametrize("name", released_subjects(torch.bfloat16, "cuda"))
def test_every_decoder_runs_at_released_shape(name):
    subject = released_subjects(torch.bfloat16, "cuda")[name]()
    limit = 24 * 1024 if name[-2:] not in ("7b", "8b") else 40 * 1024
    for row in costs(subject, "bf16", 1, 64):
        assert row.forwards > 0 and row.values > 0 and 0 < row.peak_mib < limit
        assert row.answers_valid in (None, row.prompts)
        assert row.logit_gap < 0.25, "where the AR family differs from our AR, two logits nearly tie"
        print(row)
