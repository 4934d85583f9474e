"""The planner benchmark on a GPU: CUDA events, the released shape with random weights."""

import pytest
import torch

from efficientgen.eval.bench_clock import copy_bandwidth, timed
from efficientgen.eval.bench_planner import bench_planner
from efficientgen.eval.bench_subject import random_subject
from efficientgen.planning.qwen_tokenizer import installed_ranks
from tests.planning.conftest import random_observation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with 24 GB"),
]


def test_the_clock_waits_for_the_device():
    """A product that takes far longer than its launch is timed whole."""
    device = torch.device("cuda")
    x = torch.randn(8192, 8192, device=device)
    x @ x
    _, took = timed(device, lambda: x @ x)
    assert took.wall_s > 2 * 8192**3 / 2e15  # no GPU does 2 PFLOP/s of this
    assert 100 < copy_bandwidth(device)["median_gb_s"] < 20000


@pytest.mark.skipif(installed_ranks() is None, reason="needs Qwen's vocabulary: pip install --no-deps dashscope")
def test_the_released_shape_is_measured():
    planner = random_subject("cuda", "", 1)
    result = bench_planner(
        planner,
        [random_observation(seed) for seed in range(2)],
        decoders=("scaffold-spec",),
        rollouts=(4,),
        contexts=(2048,),
        rows=(1, 32),
        repeats=5,
        stock_plans=(0, 0),
    )
    assert result["clock_of_ratios"] == "wall" and result["value_tokens"] == 280
    assert all(0 < row["share_of_copy"] < 1 for row in result["forwards"])
    print(result)
