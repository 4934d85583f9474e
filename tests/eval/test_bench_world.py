"""The world benchmark at nano size: every part stands alone, the result is kept as it grows, operations are counted."""

import copy
import json

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count
from typer.testing import CliRunner

from efficientgen.eval.bench_sana import SHAPES, chunk, random_model, random_text
from efficientgen.eval.bench_world import PASSES, Bench, bench_world, flops
from efficientgen.worldsim.sana.stream import Stream
from efficientgen_ros.cli import app

SHAPE = SHAPES["nano"]


def test_a_part_that_fails_loses_no_other_and_leaves_its_traceback(monkeypatch):
    bench = Bench(SHAPE, "cpu", torch.float32, chunks=2, repeats=3)

    def burst() -> dict:
        raise FloatingPointError("a part burst")

    monkeypatch.setattr(bench, "_machine", burst)
    kept: list[dict] = []
    asked = ("machine", "stream", "scan")
    result = bench_world(bench, {"x": 1}, asked, keep=lambda r: kept.append(copy.deepcopy(r)))
    assert result["x"] == 1 and [len(r) for r in kept] == [3, 4, 5], "goals and one part more each time"
    assert result["machine"]["measured"] is False and "burst" in result["machine"]["traceback"]
    assert result["scan"] == {"measured": False, "why": "kernels and graphs need a GPU", "took_s": 0.0}
    stream = result["stream"]
    assert stream["measured"] and 0 < stream["chunk_p50_s"] <= stream["chunk_p99_s"] <= stream["slowest_s"] + 1e-4
    assert stream["watched"]["state_bytes"][0] == stream["watched"]["state_bytes"][1] > 0
    assert result["goals"]["chunk_s"]["got"] == stream["chunk_p50_s"]
    assert result["goals"]["times_diffusers"]["got"] is None


def test_no_part_begins_when_the_budget_is_spent():
    bench = Bench(SHAPE, "cpu", torch.float32, chunks=2, repeats=3)
    result = bench_world(bench, {}, ("machine", "stream"), budget_s=-1.0)
    assert "were spent before" in result["machine"]["why"] and "were spent before" in result["stream"]["why"]


@torch.inference_mode()
def test_counted_operations_are_those_of_a_steady_chunk():
    """torch's own counter sees matrix products and attention; it does not see the convolutions that we leave out."""
    model = random_model(SHAPE.config, "cpu", torch.float32)
    stream = Stream(model)
    stream.begin(random_text(SHAPE.config, "cpu", torch.float32))
    for index in range(3):
        stream.sample(*chunk(SHAPE, index, "cpu"))
    noise, rays = chunk(SHAPE, 3, "cpu")
    op = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # which the counter does not know
    attention = {op: lambda q, k, v, *a, **b: sdpa_flop_count(q, k, v)}
    with FlopCounterMode(display=False, custom_mapping=attention) as counter:
        stream.sample(noise, rays)
    convolutions = counter.get_flop_counts()["Global"].get(torch.ops.aten.convolution, 0)
    assert flops(SHAPE) == pytest.approx(counter.get_total_flops() - convolutions, rel=0.03)
    assert len(PASSES) == 5


def test_the_command_writes_its_result(tmp_path):
    out = tmp_path / "world.json"
    asked = ["--part", "stream", "--part", "kernels", "--chunks", "2", "--repeats", "3"]
    done = CliRunner().invoke(app, ["bench", "world", "--json", str(out), *asked], catch_exceptions=False)
    assert done.exit_code == 0 and "not measured: kernels need a GPU" in done.stdout
    result = json.loads(out.read_text())
    assert result["stream"]["measured"] and result["shape"] == "nano" and result["code_sha256"]
