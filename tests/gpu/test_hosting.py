"""A planner at released size, loaded from a directory as it is released: random weights, 16 GB of disk, one plan."""

import pytest
import torch

from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.config import fast_ddrive
from efficientgen.planning.load import load_planner
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.qwen_tokenizer import installed_ranks
from tests.planning.conftest import random_observation

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device with about 24 GB"),
    pytest.mark.skipif(installed_ranks() is None, reason="needs Qwen's vocabulary: pip install --no-deps dashscope"),
]


def test_fast_ddrive_at_released_size_plans(tmp_path):
    """Flat names, float32, shards of 5 GB, the head stored twice; on the GPU in bfloat16."""
    torch.manual_seed(0)
    with torch.device("cuda"):
        model = VisionLanguageModel(fast_ddrive()).to(torch.bfloat16).eval().requires_grad_(False)
    save_model(model, tmp_path, layout="flat", dtype=torch.float32, head_copy=True, shard_bytes=5 * 10**9)
    del model
    planner = load_planner("fast-ddrive", tmp_path, device="cuda")
    plan = planner.plan(random_observation(0))
    assert plan.waypoints.shape == (5, 2) and plan.stats.value_tokens == 280
    assert plan.stats.engine == "graphs-cuda-bfloat16"
    print(plan.stats, f"{torch.cuda.max_memory_allocated() / 2**30:.1f} GiB", torch.cuda.get_device_name())
