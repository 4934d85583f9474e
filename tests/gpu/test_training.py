"""Conversion on GPUs: FlexAttention against the dense oracle, losses and gradients; FSDP2 over NCCL on two of them."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
from efficientgen.planning.train import convert
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.recipe import EFFICIENT_DLM, FAST_DLLM_V2, FAST_DVLM
from efficientgen.planning.train.run import Run, RunConfig
from efficientgen.planning.train.text import TextData

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
ROOT = Path(__file__).resolve().parents[2]
LINES = ["It is day.", "It is night. The car stands still.", "The traffic light is red, 12 metres away.",
         "No person is near. The road ahead is clear, driving on.", "The plan is to slow down."]  # fmt: skip
RECIPES = {
    "ar": None,
    "dvlm": replace(FAST_DVLM, bd_size=8),
    "v2": replace(FAST_DLLM_V2, bd_size=8),
    "efficient-dlm": replace(EFFICIENT_DLM, bd_size=8),
}
STEPS = 12


def tiny_run(directory, name, ranks, steps=STEPS):
    """A deterministic run on the GPU; head width 32, three layers, rows of uneven lengths."""
    tokenizer = nano_text_tokenizer()
    torch.manual_seed(0)
    model = VisionLanguageModel(nano_text_config(tokenizer, hidden=128, layers=3))
    initialise(model)
    end = tokenizer.id_of("<|im_end|>")
    data = TextData([[*tokenizer.encode(line), end] for line in LINES], 4, tokenizer)
    config = RunConfig(steps, batch=4, log_every=4, peak_lr=3e-3)
    return Run(model, RECIPES[name], data, Path(directory), config, ranks)


def on_gpu():
    from efficientgen.planning.train.ranks import Ranks

    return Ranks(device="cuda")


@pytest.mark.parametrize("name", RECIPES)
def test_flex_attention_trains_as_the_dense_oracle_does(name, tmp_path, monkeypatch):
    """fp32, so that only the order of sums differs; every parameter's gradient."""
    run = tiny_run(tmp_path, name, on_gpu())
    inputs = run.inputs(0.0)
    found = {}
    flexible = convert.attend_in
    for flex in (True, False):
        monkeypatch.setattr(convert, "attend_in", lambda layout, context, flex=flex: flexible(layout, context, flex))
        run.model.zero_grad()
        loss = run.conversion(*inputs).total
        loss.backward()
        found[flex] = loss.item(), {n: p.grad.clone() for n, p in run.model.named_parameters()}
    assert found[True][0] == pytest.approx(found[False][0], rel=1e-4)
    for parameter, gradient in found[True][1].items():
        dense = found[False][1][parameter]
        assert (gradient - dense).norm() <= 5e-3 * dense.norm() + 1e-6, parameter


@pytest.mark.parametrize("name", ["ar", "dvlm", "efficient-dlm"])
def test_training_in_bf16_learns(name, tmp_path):
    run = tiny_run(tmp_path, name, on_gpu(), steps=30)
    run.run()
    assert sum(run.losses[-5:]) < 0.8 * sum(run.losses[:5])


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two CUDA devices")
def test_two_sharded_gpus_train_as_one_does(tmp_path):
    """FSDP2 over NCCL in bf16, beside one GPU under autocast; then one GPU goes on with what two wrote."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "tests.gpu.test_training", str(tmp_path)]  # fmt: skip
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr[-3000:]
    for name in ("dvlm", "efficient-dlm"):
        alone = tiny_run(tmp_path / "alone" / name, name, on_gpu())
        alone.run()
        two = json.loads((tmp_path / name / "losses.json").read_text())
        print(name, [round(x, 3) for x in two["losses"]], [round(x, 3) for x in alone.losses], two["peak_mib"])
        assert two["losses"] == pytest.approx(alone.losses[: len(two["losses"])], rel=0.05)
        back = tiny_run(tmp_path / name, name, on_gpu())
        assert back.resume() and back.step == STEPS - 4
        back.run()
        assert back.losses == pytest.approx(alone.losses[-4:], rel=0.1)


def worker(directory: str) -> None:
    """One of the two processes of the test above."""
    from efficientgen.planning.train.ranks import join, leave

    ranks = join("cuda")
    for name in ("dvlm", "efficient-dlm"):
        run = tiny_run(Path(directory) / name, name, ranks)
        assert all(type(p).__name__ == "DTensor" for p in run.model.parameters())
        run.run(until=STEPS - 4)
        print(f"rank {ranks.rank}, {name}: {run.step} steps in {run.seconds:.1f} s", flush=True)
        if ranks.rank == 0:
            report = {"losses": run.losses, "peak_mib": torch.cuda.max_memory_allocated() / 2**20}
            (Path(directory) / name / "losses.json").write_text(json.dumps(report))
    leave(ranks)


if __name__ == "__main__":
    worker(sys.argv[1])
