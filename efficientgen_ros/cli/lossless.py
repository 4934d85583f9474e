"""`efficientgen eval lossless`: every decoder on every model against its reference."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from efficientgen.eval.losslessness_table import lines
from efficientgen.planning.load import DEFAULT


def lossless_command(
    model: Annotated[list[str], typer.Option(help="Only these models.")] = [],  # noqa: B006
    dtype: Annotated[list[str], typer.Option(help="fp64, fp32 or bf16; default: all of them.")] = [],  # noqa: B006
    prompts: Annotated[int, typer.Option(min=1, help="Fresh random prompts per cell.")] = 3,
    new_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens of free text.")] = 40,
    seed: Annotated[int, typer.Option(min=0, help="Of the first prompt.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the matrix here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Compare every decoder with its reference: stock transformers without a cache, in float64, token for token."""
    import torch  # these load torch and transformers

    from efficientgen.eval import losslessness
    from efficientgen.eval.provenance import checkpoint_sha256, provenance
    from efficientgen.eval.random_models import shipped_subject, tiny_subjects
    from efficientgen.eval.results import write_json

    dtypes = dtype or list(losslessness.DTYPES)
    if unknown := sorted(set(dtypes) - set(losslessness.DTYPES)):
        raise typer.BadParameter(f"no dtype {unknown[0]}; choose of {', '.join(losslessness.DTYPES)}")
    subjects = dict(tiny_subjects()) | {DEFAULT: lambda: shipped_subject(DEFAULT)}
    if unknown := sorted(set(model) - set(subjects)):
        raise typer.BadParameter(f"no model {unknown[0]}; choose of {', '.join(subjects)}")
    subjects = {name: make for name, make in subjects.items() if not model or name in model}
    torch.set_num_threads(1)
    rows: list[losslessness.Row] = []
    console = Console(stderr=True)
    with console.status("decoding") as status:
        for row in losslessness.matrix(subjects, dtypes, prompts, new_tokens, seed):
            rows.append(row)
            status.update(f"{row.model}, {row.dtype}, {row.decoder}")
    result: dict[str, Any] = {
        "result": "losslessness",
        "settings": {"prompts": prompts, "new_tokens": new_tokens, "seed": seed},
        "checkpoints": {DEFAULT: checkpoint_sha256(DEFAULT)} if DEFAULT in subjects else {},
        **provenance(),
        **losslessness.summarise(rows),
    }
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print(lines(result["rows"]))
    if result["exact_in_fp64"] is False:
        raise typer.Exit(1)


def _print(body: list[list[str]]) -> None:
    table = Table(box=SIMPLE_HEAD, title="tokens that agree with the reference")
    for name in body[0]:
        table.add_column(name, no_wrap=True)
    for line in body[1:]:
        table.add_row(*line)
    Console(width=max(124, Console().width)).print(table)
