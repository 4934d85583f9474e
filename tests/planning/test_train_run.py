"""The training loop: a killed run resumes with the same losses, and two sharded processes train as one does."""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from efficientgen.planning.checkpoint import load_model
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano_text import nano_text_config, nano_text_tokenizer
from efficientgen.planning.train.initial import initialise
from efficientgen.planning.train.ranks import Ranks, RanksError
from efficientgen.planning.train.recipe import EFFICIENT_DLM, FAST_DVLM
from efficientgen.planning.train.run import DivergedError, Run, RunConfig
from efficientgen.planning.train.text import CorpusError, TextData, read_corpus

ROOT = Path(__file__).resolve().parents[2]
CONFIG = RunConfig(steps=6, batch=4, log_every=2, peak_lr=1e-2)
LINES = ["It is day.", "It is night. The car stands still.", "The traffic light is red, 12 metres away.",
         "No person is near. The road ahead is clear, driving on.", "The plan is to slow down."]  # fmt: skip


def tiny_run(directory, recipe, ranks=None, steps=6, recompute=False):
    """A deterministic run; the worker process below makes the same one."""
    tokenizer = nano_text_tokenizer()
    torch.manual_seed(0)
    model = VisionLanguageModel(nano_text_config(tokenizer, hidden=32, layers=2))
    initialise(model.double())
    end = tokenizer.id_of("<|im_end|>")
    data = TextData([[*tokenizer.encode(line), end] for line in LINES], 4, tokenizer)
    return Run(model, recipe, data, Path(directory), replace(CONFIG, steps=steps, recompute=recompute), ranks)


RECIPES = {"ar": None, "dvlm": replace(FAST_DVLM, bd_size=8), "efficient-dlm": replace(EFFICIENT_DLM, bd_size=8)}


@pytest.mark.parametrize("name", ["ar", "dvlm"])
def test_a_killed_run_resumes_with_the_same_losses(tmp_path, name):
    whole = tiny_run(tmp_path / "whole", RECIPES[name])
    whole.run()
    tiny_run(tmp_path / "cut", RECIPES[name]).run(until=3)
    again = tiny_run(tmp_path / "cut", RECIPES[name])
    assert again.resume() and again.step == 3
    again.run()
    assert again.losses == whole.losses[3:] and whole.losses[0] > whole.losses[-1]
    rows = [json.loads(line) for line in (tmp_path / "cut" / "metrics.jsonl").read_text().splitlines()]
    assert [r["step"] for r in rows] == [2, 3, 4, 6] and all({"loss", "clean", "noisy", "lr"} <= r.keys() for r in rows)


def test_recomputed_activations_change_nothing(tmp_path):
    plain = tiny_run(tmp_path, RECIPES["dvlm"], steps=3)
    again = tiny_run(tmp_path, RECIPES["dvlm"], steps=3, recompute=True)
    for run in (plain, again):
        run.run(save=False)
    assert again.losses == pytest.approx(plain.losses, abs=1e-9)


def test_export_is_a_model_directory(tmp_path):
    run = tiny_run(tmp_path, RECIPES["efficient-dlm"], steps=1)
    run.run()
    run.export()
    loaded = load_model(tmp_path)
    assert loaded.config.token_shift == 0 and loaded.config.clean_context == "block"
    for name, value in loaded.state_dict().items():
        torch.testing.assert_close(value, run.model.state_dict()[name].bfloat16().float())


def test_two_sharded_processes_train_as_one_does(tmp_path):
    """FSDP2 over gloo; the ranks hold rows of different lengths, so counts must be averaged over them, too."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2",
               "-m", "tests.planning.test_train_run", str(tmp_path)]  # fmt: skip
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=os.environ | {"OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    for name in ("dvlm", "efficient-dlm"):
        alone = tiny_run(tmp_path / "alone" / name, RECIPES[name])
        alone.run()
        back = tiny_run(tmp_path / name, RECIPES[name])  # what two processes wrote, one goes on with
        assert back.resume() and back.step == 4
        back.run()
        two = json.loads((tmp_path / name / "losses.json").read_text())
        assert two + back.losses == pytest.approx(alone.losses, abs=1e-6)


def test_mistakes_are_named(tmp_path):
    with pytest.raises(RanksError, match="multiple"):
        Ranks(0, 3).share(4)
    run = tiny_run(tmp_path, None)
    with torch.no_grad():
        run.model.model.language_model.norm.weight.fill_(float("nan"))
    with pytest.raises(DivergedError, match="smaller"):
        run.run()
    with pytest.raises(CorpusError, match="data text"):
        read_corpus(tmp_path / "none.txt", nano_text_tokenizer())


def worker(directory: str) -> None:
    """One of the processes of the test above: four sharded steps of each recipe, then the state."""
    from efficientgen.planning.train.ranks import join, leave

    ranks = join("cpu")
    for name in ("dvlm", "efficient-dlm"):
        run = tiny_run(Path(directory) / name, RECIPES[name], ranks)
        assert any(type(p).__name__ == "DTensor" for p in run.model.parameters())
        run.run(until=4)
        if ranks.rank == 0:
            (Path(directory) / name / "losses.json").write_text(json.dumps(run.losses))
    leave(ranks)


if __name__ == "__main__":
    worker(sys.argv[1])
