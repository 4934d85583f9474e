"""The planner benchmark: its clock, its counts, its baselines against our decoders, and what it refuses."""

import json
import math
import sys
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from typer.testing import CliRunner

from efficientgen.eval import bench_subject
from efficientgen.eval.bench_clock import Took, copy_bandwidth, spread, timed
from efficientgen.eval.bench_forward import bench_forwards, forward_bytes
from efficientgen.eval.bench_observations import (
    NoDrivesError,
    ObservationFileError,
    held_out_observations,
    load_observations,
    save_observations,
)
from efficientgen.eval.bench_planner import (
    AR,
    JUMP,
    SPEC,
    Contestant,
    NothingToMeasureError,
    acceptance,
    bench_planner,
    faster,
    positions_kept,
    table,
)
from efficientgen.eval.bench_subject import TooLargeError, nano_subject, random_subject, require_memory
from efficientgen.planning.checkpoint import load_model, save_model
from efficientgen.planning.config import TextConfig, fast_ddrive
from efficientgen.planning.ddrive import DDrive
from efficientgen.planning.decode import NOT_AUTOREGRESSIVE, TemplateOnDevice
from efficientgen.planning.model import VisionLanguageModel, lay_out_for_cpu
from efficientgen.planning.nano import nano_config, nano_tokenizer
from efficientgen.planning.qwen_tokenizer import installed_ranks
from efficientgen.planning.tokenizer import TokenizerError
from efficientgen_ros.cli import app
from tests.planning.conftest import random_observation
from tests.planning.tiny_release import VisionConfig

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def planner():
    """Nano's tokens and schema on two random layers of everything, float64, one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    tokenizer = nano_tokenizer()
    text = TextConfig(64, 96, 2, 4, 2, tokenizer.vocab_size, mrope_section=(2, 3, 3))
    config = replace(nano_config(tokenizer), text=text, vision=VisionConfig(2, 32, 48, 2, 64, 112, (1,)))
    yield DDrive(VisionLanguageModel(config).double().eval().requires_grad_(False), tokenizer)
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def observations():
    return [random_observation(seed) for seed in range(3)]


def test_sleep_is_wall_time_and_work_is_cpu_time():
    _, slept = timed(CPU, lambda: time.sleep(0.05))
    assert slept.wall_s >= 0.05 and slept.cpu_s < 0.02
    answer, worked = timed(CPU, lambda: sum(range(10**6)))
    assert answer == 499999500000 and 0 < worked.cpu_s <= worked.wall_s * 1.5
    told = spread([Took(0.001 * n, 0.002) for n in range(1, 102)])
    assert told["runs"] == 101 and told["cpu_ms"]["p50"] == 2.0
    assert told["wall_ms"] == {"p50": 51.0, "p99": 100.0, "least": 1.0}
    assert copy_bandwidth(CPU)["best_gb_s"] > 0.1


def test_positions_are_counted_as_a_look_at_every_draft_says():
    """Blocks verified by hand: V value, . scaffold; the first token of a block was not drafted."""
    is_value = [c == "V" for c in "V.VV.VVV"]
    # from 0, 8 long, 4 kept: drafts at 2, 3, 5, 6, 7; 2 and 3 kept, 5 rejected (index 4 is scaffold, never compared)
    # from 3, 4 long, 2 kept: drafts at 5, 6 (index 2 and 3 of the block); 5 rejected, 6 not looked at
    assert positions_kept([(0, 8, 5), (3, 4, 2)], is_value) == ([2, 2, 1, 1, 1], [2, 1, 1, 0, 0], [1, 1, 0, 0, 0])
    assert positions_kept([], is_value) == ([], [], [])


def test_positions_add_up_to_the_decoders_own_counts(planner, observations):
    for decoder in (SPEC, "fused-scaffold-spec"):
        told = acceptance(planner, decoder, observations[:1])
        planner.decoder = decoder
        counts = [planner.answer(o)[0].counts for o in observations[:1]]
        assert sum(told["drafted"]) == sum(c.drafted for c in counts) > sum(told["kept"])
        assert sum(told["kept"]) == sum(c.accepted for c in counts)
        # each block rejects one value at most
        assert sum(told["reached"]) - sum(told["kept"]) <= sum(len(c.verified) for c in counts)
        rates = told["rate"]
        assert told["expected"]["4"] == pytest.approx(sum(math.prod(rates[:n]) for n in (1, 2, 3)))


def test_a_forward_reads_the_weights_and_the_context(planner):
    text = planner.model.config.text
    weights = sum(p.numel() for p in planner.model.model.language_model.parameters())
    assert forward_bytes(planner.model, 10) == 8 * (weights + 10 * 2 * 2 * 2 * 16) and text.head_dim == 16
    rows = list(bench_forwards(planner, (5, 9), (1, 4), 2, copy_gb_s=10.0))
    assert [(r["context"], r["rows"]) for r in rows] == [(5, 1), (5, 4), (9, 1), (9, 4)]
    for row in rows:
        assert row["runs"] == 2 and row["gb_s"] == pytest.approx(10.0 * row["share_of_copy"])
        assert row["gb_s"] == pytest.approx(row["bytes"] / row["cpu_ms"]["p50"] / 1e6)


@pytest.mark.parametrize("cached", [True, False])
def test_stock_transformers_write_what_our_ar_writes(planner, observations, cached):
    pytest.importorskip("transformers")
    from efficientgen.eval.bench_stock import stock_answer
    from efficientgen.eval.stock import Stock

    stock, form = Stock(planner.model), TemplateOnDevice(planner.template, CPU)
    planner.decoder = AR
    for observation in observations[:1]:
        patches, grids, ids = planner.inputs(observation)
        assert stock_answer(stock, form, ids, patches, grids, cached) == planner.answer(observation)[0].ids


def test_one_run_holds_every_term(planner, observations):
    pytest.importorskip("transformers")
    asked = {"decoders": ("diffusion",), "rollouts": (2,), "rows": (1, 2), "repeats": 1, "stock_plans": (1, 0)}
    seen: list[str] = []
    result = bench_planner(planner, observations, **asked, on_step=seen.append)
    assert json.loads(json.dumps(result)) == result and len(seen) > 5
    rows = {row["name"]: row for row in result["decoders"]}
    assert list(rows)[:5] == [AR, JUMP, SPEC, "diffusion", f"{SPEC}, N = 2"] and list(rows)[5].startswith("stock-ar ")
    for name, row in rows.items():
        assert row["runs"] == (1 if name.startswith("stock") else 2) and row["cpu_ms"]["p50"] > 0
        assert row.get("lossless", False) is (name not in NOT_AUTOREGRESSIVE and "N =" not in name)
        assert row["same_as_ar"] == row["runs"] if row.get("lossless") else True
    assert rows[AR]["per_plan"]["forwards"] > rows[JUMP]["per_plan"]["forwards"]
    mine, other = rows[SPEC]["times_faster_than"][AR], rows[AR]["times_faster_than"]
    assert AR not in other and mine["plans"] == 2 and mine["cpu"] > 0
    assert [r["context"] for r in result["forwards"]] == 2 * [result["stages"]["prompt_tokens"]] + 2 * [
        2 * result["stages"]["prompt_tokens"]
    ]
    assert result["targets"] is None, "aims are for the shipped planner"
    assert {len(line) for line in table(result)} == {9}
    with pytest.raises(NothingToMeasureError, match="choose of ar"):
        bench_planner(planner, observations, decoders=("magic",))
    with pytest.raises(NothingToMeasureError, match="plans"):
        bench_planner(planner, observations[:1])


def test_ratios_are_paired():
    """A baseline that was given one plan only is compared on that one."""
    slow = Contestant("slow", lambda o: ("", None), 1, took={0: Took(6.0, 3.0)})
    mine = Contestant("mine", lambda o: ("", None), 2, took={0: Took(2.0, 1.5), 1: Took(50.0, 40.0)})
    assert faster(slow, mine, "cpu") == {"plans": 1.0, "wall": 3.0, "cpu": 2.0}
    assert faster(slow, mine, "wall") == {"plans": 1.0, "wall": 3.0}


def test_observations_come_back_as_they_were(observations, tmp_path):
    path = tmp_path / "seen.npz"
    save_observations(observations, path)
    for before, after in zip(observations, load_observations(path, 3), strict=True):
        assert (after.stamp_ns, after.command, after.history) == (before.stamp_ns, before.command, before.history)
        assert list(after.cameras) == list(before.cameras)
        for name, frames in before.cameras.items():
            for old, new in zip(frames, after.cameras[name], strict=True):
                assert old.stamp_ns == new.stamp_ns and np.array_equal(old.image, new.image)
                assert np.array_equal(old.camera_to_ego, new.camera_to_ego)
    with pytest.raises(ObservationFileError, match="4 are asked for"):
        load_observations(path, 4)
    path.write_bytes(b"PK nothing")
    with pytest.raises(ObservationFileError, match="remove it"):
        load_observations(path, 1)


def test_without_a_simulator_a_file_is_asked_for(monkeypatch):
    monkeypatch.setitem(sys.modules, "efficientgen.worldsim.oracle", None)
    with pytest.raises(NoDrivesError, match="--observations FILE"):
        held_out_observations(1)


def test_three_billion_parameters_are_refused_where_they_do_not_fit(monkeypatch):
    monkeypatch.setattr(bench_subject, "free_bytes", lambda device: 10 * 2**30)
    with pytest.raises(TooLargeError, match="3.75 B.*17.5 GiB, 10.0 GiB are free on cpu.*--device cuda"):
        require_memory(fast_ddrive(), torch.float32, CPU, 1)
    require_memory(fast_ddrive(), torch.bfloat16, CPU, 1)
    with pytest.raises(TooLargeError, match="2 x"):
        require_memory(fast_ddrive(), torch.bfloat16, CPU, 2)
    monkeypatch.setattr(bench_subject, "installed_ranks", lambda: None)
    with pytest.raises(TokenizerError, match="pip install"):
        random_subject("cpu", "", 1)


@pytest.mark.skipif(installed_ranks() is None, reason="needs Qwen's vocabulary: pip install --no-deps dashscope")
def test_the_released_shape_is_asked_for_the_released_answer():
    """The real vocabulary, prompt, pictures and slots, over layers that are cut down."""
    config = fast_ddrive()
    text = replace(config.text, hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4,
                   mrope_section=(2, 1, 1))  # fmt: skip
    cut = replace(config, text=text, vision=VisionConfig(1, 32, 48, 2, 32, 112, (0,)))
    planner = random_subject("cpu", "", 1, config=cut)
    plan = planner.plan(random_observation(0))
    assert plan.stats.value_tokens == 280 and len(planner.template) == 404 and plan.waypoints.shape == (5, 2)


def test_input_major_weights_are_the_same_weights(tmp_path):
    """Shapes, values and what is saved stay; outputs differ by rounding at most."""
    made = nano_subject("", "cpu", "", 1).model
    assert any(not p.is_contiguous() for p in made.parameters())
    save_model(made, tmp_path, dtype=torch.float32)
    plain = load_model(tmp_path)
    assert all(p.is_contiguous() for p in plain.parameters())
    for (name, a), (_, b) in zip(made.named_parameters(), plain.named_parameters(), strict=True):
        assert torch.equal(a, b), name
    rows = torch.randn(1, 16, plain.config.text.hidden_size, generator=torch.Generator().manual_seed(0))
    mlp = plain.model.language_model.layers[0].mlp
    before = mlp(rows)
    lay_out_for_cpu(plain)
    assert torch.allclose(mlp(rows), before, rtol=1e-5, atol=1e-6)


def test_the_command_writes_json_and_words_mistakes(observations, tmp_path):
    seen, out = tmp_path / "seen.npz", tmp_path / "speed.json"
    save_observations(observations, seen)
    ask = ["bench", "planner", "--plans", "1", "--repeats", "1", "--stock", "0", "--rollouts", "2", "--context", "40"]
    ask += ["--decoder", SPEC, "--observations", str(seen), "--out", str(out), "--json"]
    done = CliRunner().invoke(app, ask)
    assert done.exit_code == 0, done.output
    result = json.loads(out.read_text())
    assert result["stock_skipped"] == "not asked for" and len(result["checkpoint"]) == 64
    assert set(result["targets"]["measured"]) == {"over_ar", "over_ar_jump", "plan_s", "plan_cpu_s"}
    assert result["machine"]["torch_threads"] == 1 and result["host"]["cores"] >= 1
    for wrong in (["--decoder", "magic"], ["--shape", "3b", "--checkpoint", "x"]):
        failed = CliRunner().invoke(app, ["bench", "planner", *wrong])
        assert isinstance(failed.exception, NothingToMeasureError)
