"""`efficientgen eval full-size`: the released shapes with random weights on this machine's GPU."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table


def full_size_command(
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    shape: Annotated[
        Literal["released", "tiny"],
        typer.Option(help="released: 1.5 to 8 B parameters; tiny: the same code."),
    ] = "released",
    model: Annotated[list[str], typer.Option(help="Only these models.")] = [],  # noqa: B006
    prompts: Annotated[int, typer.Option(min=1, help="Random prompts per decoder.")] = 1,
    new_tokens: Annotated[int, typer.Option(min=1, help="At most so many tokens of free text.")] = 64,
    seconds: Annotated[float, typer.Option(min=1, help="Begin nothing new after so long.")] = 120.0,
    out: Annotated[
        Path | None, typer.Option(help="Write the result here as JSON, after every cell; cells that it holds are kept.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:
    """What every decoder costs at released shape (random weights, bf16), and bf16 logits beside stock transformers'."""
    import torch

    from efficientgen.eval.full_size import LIMIT, full_size
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.random_models import released_subjects, tiny_subjects
    from efficientgen.eval.results import write_json

    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device.startswith("cuda") and not torch.cuda.is_available():
        raise typer.BadParameter("no CUDA device here; leave --device out or run it where there is one")
    subjects = released_subjects(torch.bfloat16, device) if shape == "released" else tiny_subjects()
    if unknown := sorted(set(model) - set(subjects)):
        raise typer.BadParameter(f"no model {unknown[0]}; choose of {', '.join(subjects)}")
    subjects = {name: make for name, make in subjects.items() if not model or name in model}
    torch.backends.cudnn.allow_tf32 = False  # the reference is fp32
    head: dict[str, Any] = {
        "result": "full-size",
        "shape": shape,
        "settings": {"prompts": prompts, "new_tokens": new_tokens, "limit": LIMIT, "weights": "random, bf16"},
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else "cpu",
        **provenance(),
    }
    console = Console(stderr=True)

    def tell(result: dict[str, Any]) -> None:
        if out is not None:
            write_json(head | result, out)
        last = result["decoders"][-1] if result["decoders"] else {}
        console.print(
            f"{last.get('model')} {last.get('decoder')}: {last.get('forwards')} forwards,"
            f" {last.get('seconds', 0):.1f} s; {len(result['logits'])} logit rows, {len(result['failed'])} failed",
            highlight=False,
        )

    before = json.loads(out.read_text()) if out is not None and out.exists() else {}
    if any(before.get(key) != head[key] for key in ("shape", "settings", "device")):
        before = {}
    result = head | full_size(subjects, device, prompts, new_tokens, seconds, tell, before)
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
    else:
        _print(result)
    if result["failed"] or not all(row["within"] for row in result["logits"]):
        raise typer.Exit(1)


def _print(result: dict[str, Any]) -> None:
    from efficientgen.eval.full_size_table import decoder_lines, logit_lines

    for head, *body in (decoder_lines(result["decoders"]), logit_lines(result["logits"])):
        table = Table(*head, box=SIMPLE_HEAD)
        for line in body:
            table.add_row(*line)
        Console(width=max(124, Console().width)).print(table)
