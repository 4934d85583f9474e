"""The full-size command at tiny size: every decoder, both prompts, an error told by name, and stock's rotary tables."""

import json

import pytest
import torch
from typer.testing import CliRunner

from efficientgen.eval.full_size import LIMIT, full_size, logit_errors
from efficientgen.eval.random_models import tiny_subjects
from efficientgen_ros.cli import app

pytest.importorskip("transformers")
from efficientgen.eval.stock import Stock  # noqa: E402


def test_the_command_measures_decoders_and_logits(tmp_path):
    out = tmp_path / "size.json"
    ask = ["eval", "full-size", "--shape", "tiny", "--device", "cpu", "--model", "tiny-dvlm", "--new-tokens", "6"]
    done = CliRunner().invoke(app, [*ask, "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert [r["decoder"] for r in written["decoders"]] == ["ar", "self-spec", "fused-self-spec", "diffusion"]
    assert all(r["forwards"] and r["values"] for r in written["decoders"])
    assert [r["prompt"] for r in written["logits"]] == ["text", "images"]
    assert all(0 < r["ours"] <= LIMIT * r["stock"] < 0.1 * r["logits"] for r in written["logits"])
    assert not written["failed"] and not written["left_out"]
    assert CliRunner().invoke(app, ["eval", "full-size", "--model", "nobody", "--device", "cpu"]).exit_code == 2


def test_a_model_that_fails_is_named_and_others_go_on():
    def broken():
        raise MemoryError("no room")

    subjects = {"broken": broken, "tiny-efficient-dlm": tiny_subjects()["tiny-efficient-dlm"]}
    told = []
    result = full_size(subjects, "cpu", 1, 4, 1e9, lambda so_far: told.append(len(so_far["decoders"])))
    assert [f["what"] for f in result["failed"]] == ["logits", "decoders"] and "no room" in result["failed"][0]["error"]
    assert [r["model"] for r in result["decoders"]] == ["tiny-efficient-dlm"] and told[-1] == 1
    late = full_size({"tiny-dvlm": tiny_subjects()["tiny-dvlm"]}, "cpu", 1, 4, -1.0, lambda so_far: None)
    assert late["left_out"] == ["tiny-dvlm: logits", "tiny-dvlm: decoders"]


def test_a_run_goes_on_where_another_ended():
    subjects = {"tiny-dvlm": tiny_subjects()["tiny-dvlm"]}
    whole = full_size(subjects, "cpu", 1, 4, 1e9, lambda so_far: None)
    half = {"decoders": whole["decoders"][:2], "logits": whole["logits"]}
    told = []
    again = full_size(subjects, "cpu", 1, 4, 1e9, lambda so_far: told.append(len(so_far["decoders"])), half)
    assert told[0] == 3 and [r["decoder"] for r in again["decoders"]] == [r["decoder"] for r in whole["decoders"]]
    assert again["logits"] == whole["logits"]


def test_an_error_of_ours_would_be_seen():
    """A layer that differs by three per cent errs more than the limit."""
    subject = tiny_subjects()["tiny-dvlm"]()
    subject.model.to(torch.bfloat16)
    assert all(row.within for row in logit_errors(subject, "cpu"))
    forward = subject.model.model.language_model.layers[0].mlp.forward
    subject.model.model.language_model.layers[0].mlp.forward = lambda x: 1.03 * forward(x)
    assert not any(row.within for row in logit_errors(subject, "cpu"))


def test_stock_in_bf16_keeps_its_rotary_frequencies():
    low = Stock(tiny_subjects()["tiny-dvlm"]().model, torch.bfloat16)
    tables = {n: b for n, b in low.model.named_buffers() if n.endswith("inv_freq")}
    assert tables and all(b.dtype == torch.float32 for b in tables.values())
    assert next(low.model.parameters()).dtype == torch.bfloat16
