"""`efficientgen data questions`, `train questions`, `eval questions`: how nano-dvlm is made and what it can answer."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer

Base = Annotated[
    Path | None, typer.Option("--base-checkpoint", help="Directory of the base where it is not the shipped one.")
]
Device = Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")]
SetDirectory = Annotated[Path, typer.Option(help="Question set made by `efficientgen data questions`.")]


def data_command(
    logs: Annotated[Path, typer.Option(help="Oracle logs of the training towns, from `data record`.")] = Path(
        "data/question-logs"
    ),
    out: Annotated[Path, typer.Option(help="Directory for the set.")] = Path("data/questions"),
    train: Annotated[int, typer.Option(min=1, help="Moments to learn from.")] = 5500,
    heldout: Annotated[int, typer.Option(min=1, help="Moments of the held-out scenarios to be examined on.")] = 1500,
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per held-out scenario, counted from 0.")] = 4,
    workers: Annotated[int, typer.Option(min=1, help="Renderer processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Draws weathers, moments and places beside the lane.")] = 0,
) -> None:
    """Label, choose and render moments of drives, with questions and the oracle's answers."""
    from efficientgen.eval.question_set import HELDOUT, TRAIN, QuestionSetConfig, make_set, record_heldout

    def show(line: str) -> None:
        print(line, flush=True)

    config = QuestionSetConfig(train=train, heldout=heldout, seed=seed)
    held_logs = out / "heldout-logs"
    record_heldout(held_logs, seeds)
    for split, directory in ((TRAIN, logs), (HELDOUT, held_logs)):
        count = make_set(sorted(directory.glob("*.npz")), out, split, config, workers, show)
        print(f"{count} moments for {split} in {out}")


def train_command(
    data: SetDirectory = Path("data/questions"),
    out: Annotated[Path, typer.Option(help="Model directory to write.")] = Path("data/nano-dvlm"),
    base: Annotated[str, typer.Option(help="Shipped model that learns to answer.")] = "nano-ddrive",
    start: Annotated[Path | None, typer.Option(help="Adapter to go on from.")] = None,
    steps: Annotated[int, typer.Option(min=1, help="Training steps, of 8 questions to each scene.")] = 1200,
    seconds: Annotated[float | None, typer.Option(min=1, help="End earlier, after so much wall time.")] = None,
    blind: Annotated[bool, typer.Option("--blind", help="The control: zeros in place of pictures.")] = False,
    batch: Annotated[int, typer.Option(min=1, help="Scenes per step.")] = 16,
    rank: Annotated[int, typer.Option(min=1, help="Of the changes to each layer.")] = 16,
    vision_blocks: Annotated[int, typer.Option(min=0, help="How many of the last vision blocks learn, too.")] = 1,
    emphasis: Annotated[
        list[str], typer.Option(help="TYPE:TIMES asks a type of question so many times as often, e.g. people:3.")
    ] = [],  # noqa: B006
    base_checkpoint: Base = None,
    seed: Annotated[int, typer.Option()] = 0,
    device: Device = "",
    threads: Annotated[int, typer.Option(min=1)] = 1,
) -> None:
    """Teach a driving model to answer questions: a low-rank adapter."""
    import torch

    from efficientgen.planning.train.question_data import load_scenes, load_types
    from efficientgen.planning.train.questions import QuestionTraining, Teacher

    torch.set_num_threads(threads)
    try:
        often = tuple((name, float(times)) for name, times in (item.split(":") for item in emphasis))
    except ValueError as error:
        raise typer.BadParameter(f"--emphasis takes TYPE:TIMES, e.g. people:3, not {' '.join(emphasis)}") from error
    config = QuestionTraining(
        steps=steps,
        seconds=seconds,
        batch=batch,
        rank=rank,
        vision_blocks=vision_blocks,
        emphasis=often,
        blind=blind,
        seed=seed,
    )
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    teacher = Teacher(load_types(data), config, base, start, device, base_checkpoint or "")
    scenes = load_scenes(data, "train", teacher.model, teacher.stem, see=not blind)
    print(f"{len(scenes)} moments of {len(set(scenes.drives))} drives", flush=True)
    rows: list[dict[str, float]] = []

    def log(row: dict[str, float]) -> None:
        rows.append(row)
        print(json.dumps(row), flush=True)

    teacher.train(scenes, log)
    teacher.save(out, {"moments": len(scenes), "drives": len(set(scenes.drives))})
    (out / "training.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    print(f"adapter in {out}")


def eval_command(
    data: SetDirectory = Path("data/questions"),
    planner: Annotated[str, typer.Option(help="Shipped question model.")] = "nano-dvlm",
    checkpoint: Annotated[str, typer.Option(help="Model directory in its place.")] = "",
    control: Annotated[Path | None, typer.Option(help="Directory of the control, trained with --blind.")] = None,
    streamed: Annotated[
        int, typer.Option(min=0, help="Questions to ask one by one too, for the decoder's cost.")
    ] = 150,
    base_checkpoint: Base = None,
    device: Device = "",
    threads: Annotated[int, typer.Option(min=1)] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """Examine a question model on the held-out half, beside answerers that see nothing."""
    import torch
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    from efficientgen.eval.question_exam import examine
    from efficientgen.eval.results import write_json
    from efficientgen.planning.load import question_model

    torch.set_num_threads(threads)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    model = question_model(planner, checkpoint)
    result = examine(data, model, control, streamed, lambda line: print(line, flush=True), device, base_checkpoint)
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    answerers = result["answerers"]
    table = Table("question", "asked", *answerers, "over control", box=SIMPLE_HEAD)
    for name, row in result["types"].items():
        cells = [f"{row[who]['balanced']['mean']:.2f}" if who in row else "" for who in answerers]
        gain = row.get("over control")
        note = f"{gain['mean']:+.2f} ({gain['low']:+.2f} .. {gain['high']:+.2f})" if gain else ""
        table.add_row(name, str(row["asked"]), *cells, note)
    console = Console()
    console.print(table)
    console.print("Balanced accuracy, exact answers; 95 % intervals over drives.")
