"""README says what the committed results say."""

import json
from pathlib import Path

import pytest

from efficientgen.eval.markdown import NoTableError, table_of

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("name", ["heldout", "honesty"])
def test_tables_are_those_of_the_results(name: str):
    result = json.loads((ROOT / "docs" / "results" / f"{name}.json").read_text())
    assert table_of(result) in (ROOT / "README.md").read_text(), (
        f"run: efficientgen eval table docs/results/{name}.json"
    )


def test_other_results_have_no_table():
    with pytest.raises(NoTableError, match="closed-loop, honesty"):
        table_of({"result": "latency-curve"})
