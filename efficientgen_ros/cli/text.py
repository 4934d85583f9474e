"""`efficientgen text`: complete and infill texts with an Efficient-DLM, and score one on held-out descriptions."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Complete and infill text by block diffusion.", no_args_is_help=True)

DEFAULT = "nano-edlm"
Checkpoint = Annotated[str, typer.Option(help="Model directory; default: the shipped nano-edlm.")]
Confidence = Annotated[float, typer.Option(min=0, max=1, help="A token surer than this is written at once.")]


@app.command("complete")
def complete_command(
    text: Annotated[str, typer.Argument(help="The beginning of a scene description.")],
    checkpoint: Checkpoint = "",
    confidence: Confidence = 0.9,
    tokens: Annotated[int, typer.Option(min=1, help="Tokens to write at most.")] = 96,
) -> None:
    """Continue TEXT; prints the whole text, then tokens and forwards."""
    from efficientgen.planning.text_model import TextLM

    written = TextLM.from_pretrained(DEFAULT, checkpoint).complete(text, tokens, confidence)
    _show(written.text, written.tokens, written.forwards)


@app.command("infill")
def infill_command(
    text: Annotated[str, typer.Argument(help="A description with [gap], or [gap:5] for 5 tokens, in it.")],
    checkpoint: Checkpoint = "",
    confidence: Confidence = 0.9,
) -> None:
    """Fill the gaps of TEXT; a gap of unknown length is tried with 1 to 12 tokens."""
    from efficientgen.planning.text_model import TextLM

    written = TextLM.from_pretrained(DEFAULT, checkpoint).infill(text, confidence)
    _show(written.text, written.tokens, written.forwards)


@app.command("score")
def score_command(
    corpus: Annotated[Path, typer.Option(help="Directory of texts made by `efficientgen data text`.")] = Path(
        "data/text"
    ),
    checkpoint: Checkpoint = "",
    parent: Annotated[str, typer.Option(help="Model directory of the AR parent, to compare with.")] = "",
    texts: Annotated[int, typer.Option(min=2, help="Held-out texts to score.")] = 150,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
) -> None:
    """Infilling and completion on held-out drives, beside the AR parent, a bigram model and the most frequent words."""
    from efficientgen.eval.provenance import checkpoint_sha256, provenance
    from efficientgen.eval.text_corpus import HELDOUT, TRAIN, read_texts
    from efficientgen.eval.text_scores import score_texts
    from efficientgen.planning.text_model import TextLM

    model = TextLM.from_pretrained(DEFAULT, checkpoint)
    other = TextLM.from_pretrained("", parent) if parent else None
    train, heldout = read_texts(corpus / TRAIN), read_texts(corpus / HELDOUT)
    scores = score_texts(model, other, train, heldout, texts, lambda line: print(line, flush=True))
    result = {"result": "text", **provenance(), "checkpoint_sha256": checkpoint_sha256(DEFAULT, checkpoint), **scores}
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.with_name(f".{out.name}").write_text(json.dumps(result, indent=1) + "\n")
        os.replace(out.with_name(f".{out.name}"), out)


def _show(text: str, tokens: int, forwards: int) -> None:
    print(text)
    print(f"{tokens} tokens in {forwards} forwards, {tokens / max(forwards, 1):.2f} tokens per forward")
