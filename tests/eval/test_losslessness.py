"""The committed matrix says what the documents say, and the shipped model still decodes as it does there."""

import json
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from efficientgen.eval.losslessness import DTYPES, compare, compare_stock, matrix, read_both, summarise
from efficientgen.eval.losslessness_table import losslessness_table
from efficientgen.eval.random_models import shipped_subject, tiny_subjects
from efficientgen.planning.decode import DECODERS
from efficientgen_ros.cli import app

pytest.importorskip("transformers")
from efficientgen.eval.stock import NoReferenceError, Stock  # noqa: E402

RESULTS = Path(__file__).resolve().parents[2] / "docs" / "results"


@pytest.fixture(scope="module")
def committed():
    return json.loads((RESULTS / "losslessness.json").read_text())


def test_the_page_shows_the_committed_matrix(committed):
    assert losslessness_table(committed) in (RESULTS / "README.md").read_text()


def test_the_committed_matrix_is_whole_and_exact(committed):
    rows = [row for row in committed["rows"] if not row["decoder"].startswith("(")]
    cells = {(row["model"], row["decoder"], row["dtype"]) for row in rows}
    assert {(m, d, t) for m in ("tiny-ddrive", "nano-ddrive") for d in DECODERS for t in DTYPES} <= cells
    assert {m for m, _, _ in cells} == {*tiny_subjects(), "nano-ddrive"}
    assert committed["exact_in_fp64"] and all(r["agreed"] == r["tokens"] > 0 for r in rows if r["dtype"] == "fp64")
    assert all(row["answers_valid"] in (None, row["prompts"]) for row in rows)


def test_the_shipped_model_decodes_as_stock_and_fused_speculation_pays():
    subject = shipped_subject("nano-ddrive")
    stock = Stock(subject.model)
    cases = [read_both(subject, stock, 0, False, 0)]
    rows = {name: compare(subject, stock, name, "fp64", cases) for name in ("scaffold-spec", "fused-scaffold-spec")}
    for row in rows.values():
        assert row.agreed == row.tokens == row.values and row.answers_valid == 1
    assert rows["scaffold-spec"].values / rows["scaffold-spec"].forwards > 2
    assert rows["fused-scaffold-spec"].forwards < 0.75 * rows["scaffold-spec"].forwards


def test_in_bf16_decoders_differ_no_worse_than_stock_does_from_itself():
    subject = tiny_subjects()["tiny-dvlm"]()
    subject.model.to(torch.bfloat16)
    stock = Stock(subject.model)
    cases = [read_both(subject, stock, seed, False, 40) for seed in range(4)]
    itself = compare_stock(subject, stock, "bf16", cases)
    for decoder in ("ar", "self-spec", "fused-self-spec"):
        row = compare(subject, stock, decoder, "bf16", cases)
        assert row.tokens - row.agreed <= 2 * (itself.tokens - itself.agreed) + 2
        assert row.logit_gap < max(2 * itself.logit_gap, 0.5)


def test_a_difference_in_float64_is_an_error_in_the_summary():
    rows = list(matrix({"tiny-dvlm": tiny_subjects()["tiny-dvlm"]}, ["fp64"], 1, 6))
    assert summarise(rows)["exact_in_fp64"] is True
    rows[0].agreed -= 1
    assert summarise(rows)["exact_in_fp64"] is False


def test_weights_that_stock_does_not_know_are_told():
    model = tiny_subjects()["tiny-dllm-v2"]().model
    model.extra = torch.nn.Linear(2, 2)
    with pytest.raises(NoReferenceError, match="extra"):
        Stock(model)


def test_the_command_writes_its_matrix_and_words_mistakes(tmp_path):
    out = tmp_path / "matrix.json"
    ask = ["eval", "lossless", "--model", "tiny-efficient-dlm", "--dtype", "fp64", "--prompts", "1"]
    done = CliRunner().invoke(app, [*ask, "--new-tokens", "8", "--out", str(out), "--json"])
    assert done.exit_code == 0, done.output
    written = json.loads(out.read_text())
    assert [row["decoder"] for row in written["rows"]] == ["diffusion"] and written["exact_in_fp64"] is True
    for wrong in (["--model", "nobody"], ["--dtype", "fp3"]):
        assert CliRunner().invoke(app, ["eval", "lossless", *wrong]).exit_code == 2
