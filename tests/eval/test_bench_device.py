"""The benchmark of a GPU, on a CPU and a tiny model: all its parts run, fail alone, and fit into JSON as they come."""

import json
from dataclasses import replace

import pytest
import torch

from efficientgen.eval.bench_device import Run, bench_device
from efficientgen.eval.bench_planner import NothingToMeasureError
from efficientgen.planning.checkpoint import save_model
from efficientgen.planning.config import TextConfig
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.model import VisionLanguageModel
from efficientgen.planning.nano import nano_config, nano_tokenizer
from tests.planning.conftest import random_observation
from tests.planning.tiny_release import VisionConfig


@pytest.fixture(scope="module")
def planner(tmp_path_factory):
    """Nano's tokens and schema on one random layer of everything, float32."""
    torch.manual_seed(0)
    tokenizer = nano_tokenizer()
    text = TextConfig(64, 96, 1, 4, 2, tokenizer.vocab_size, mrope_section=(2, 3, 3))
    config = replace(nano_config(tokenizer), text=text, vision=VisionConfig(1, 32, 48, 2, 64, 112, (0,)))
    model = VisionLanguageModel(config)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    directory = tmp_path_factory.mktemp("tiny")
    save_model(model, directory)
    tokenizer.save(directory)
    return DDrive.from_pretrained(directory)


def test_every_part_is_kept_as_json_when_it_is_done(planner):
    kept = []
    seen = [random_observation(seed) for seed in range(3)]
    result = bench_device(
        planner, seen[:2], planner, rollouts=(1, 2), contexts=(128,), rows=(1, 8), repeats=1, stock=False,
        seen_by_trained=seen[2:], limit_s=1e9, keep=lambda told: kept.append(json.dumps(told)),
    )  # fmt: skip
    assert not result["skipped"], result["skipped"]
    assert json.loads(kept[-1])["part_seconds"].keys() == result["part_seconds"].keys()
    assert {row["rows"] for row in result["forwards"]} == {1, 8}
    assert [each["rows"] for each in result["kernels"]] == [1, 32]
    assert all(kernel["us"] > 0 for each in result["kernels"] for kernel in each["kernels"])
    names = [row["name"] for row in result["decoders"]]
    assert any(name.startswith("scaffold-spec; published") for name in names) and len(names) == len(set(names))
    assert result["published_profile"]["cycles"] > 20 and result["acceptance"]["of"] == planner.name
    assert all(row["per_plan"]["forwards"] > 0 for row in result["decoders"])


def test_a_part_that_fails_or_comes_too_late_is_named_and_the_others_go_on():
    kept = []
    run = Run(1e9, kept.append, lambda _: None)
    assert run.part("wrong", lambda: 1 / 0) is None
    assert run.part("right", lambda: 7) == 7
    run.limit_s = 0.0
    assert run.part("late", lambda: 8) is None
    assert "ZeroDivisionError" in run.skipped["wrong"] and run.skipped["late"] == "no time left"
    assert kept[-1]["right"] == 7 and "late" not in run.result


def test_a_later_run_adds_parts_to_the_result_of_an_earlier_one(planner):
    seen = [random_observation(seed) for seed in range(2)]
    options = {"contexts": (128,), "rows": (1,), "repeats": 1, "stock": False, "limit_s": 1e9}
    first = bench_device(planner, seen, None, parts=["forwards"], **options)
    assert "stages" not in first and "decoders" not in first and first["forwards"]
    first["skipped"] = {"stages": "no time left"}
    both = bench_device(planner, seen, None, parts=["stages"], before=json.loads(json.dumps(first)), **options)
    assert both["forwards"] == first["forwards"] and both["stages"]["inputs"]["runs"] == 2
    assert [run["parts"] for run in both["runs"]] == [["forwards"], ["stages"]] and not both["skipped"]
    assert "plans" not in both and [run["plans"] for run in both["runs"]] == [1, 1]
    with pytest.raises(NothingToMeasureError, match="choose of forwards, kernels"):
        bench_device(planner, seen, None, parts=["everything"], **options)
