"""`efficientgen ask`: a free question about pictures, a scenario or a recorded drive; the answer streams."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

COMMANDS = {"straight": "GO_STRAIGHT", "left": "GO_LEFT", "right": "GO_RIGHT"}


class PictureFileError(ValueError):
    """A file that is not a picture."""


def ask_command(
    question: Annotated[str, typer.Argument(help='Such as "may I go?"; the nano model knows 15 kinds of question.')],
    image: Annotated[
        list[Path], typer.Option(help="Picture: front alone, or front left, front and front right in this order.")
    ] = [],  # noqa: B006
    scenario: Annotated[str, typer.Option(help="Ask about the expert's drive of this scenario, see --at.")] = "",
    run: Annotated[Path | None, typer.Option(help="Ask about a recorded drive: a directory below runs/.")] = None,
    at: Annotated[float, typer.Option(help="Seconds into the drive.")] = 8.0,
    seed: Annotated[int, typer.Option(min=0, help="Of the scenario's traffic.")] = 0,
    command: Annotated[str, typer.Option(help="Where the route goes, with --image: straight, left, right.")] = (
        "straight"
    ),
    planner: Annotated[str, typer.Option(help="nano-dvlm, or fast-dvlm with --checkpoint.")] = "nano-dvlm",
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = "",
    decoder: Annotated[str, typer.Option(help="self-spec, ar, fused-self-spec, diffusion.")] = "self-spec",
    device: Annotated[str, typer.Option(help="cpu, cuda, ...")] = "cpu",
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of streaming.")] = False,
) -> None:
    """Ask a vision-language model about pictures; the answer streams as it is written."""
    sources = [bool(image), bool(scenario), run is not None]
    if sum(sources) != 1:
        raise typer.BadParameter("give one of --image, --scenario and --run to say what to look at")
    if command not in COMMANDS:
        raise typer.BadParameter(f"--command {command}: one of {', '.join(COMMANDS)}")
    from efficientgen.planning.load import question_model, resolve_dtype

    directory = question_model(planner, checkpoint)
    import torch

    from efficientgen.perception.types import Command
    from efficientgen.planning.dvlm import DVLM

    if device == "cpu":
        torch.set_num_threads(1)
    told, truth = Command(COMMANDS[command]), None
    pictures: Any
    if image:
        pictures = [_read(path) for path in image]
    else:
        moment = _moment(scenario, run, seed, at)
        pictures, told, truth = moment.pictures, moment.command, moment.truth(question)
    model = DVLM.from_pretrained(directory, decoder=decoder, device=device, dtype=resolve_dtype(device))
    stream = None if as_json else lambda piece: print(piece, end="", flush=True)
    reply = model.ask(pictures, question, told, stream)
    if as_json:
        row = {"question": reply.question, "answer": reply.text, "oracle": truth, "planner": model.name}
        row |= {"decoder": reply.decoder, "tokens": reply.tokens, "counts": asdict(reply.counts)}
        print(json.dumps(row | {"seconds": dict(reply.seconds)}, indent=1))
        return
    print()
    ms = {stage: 1e3 * seconds for stage, seconds in reply.seconds.items()}
    console = Console(stderr=True)
    console.print(
        f"[dim]{model.name}, {reply.decoder}: {reply.tokens} tokens in {reply.counts.forwards} forwards "
        f"({reply.tokens_per_forward:.1f} a forward); vision {ms['vision']:.0f}, prefill {ms['prefill']:.0f}, "
        f"decode {ms['decode']:.0f} ms[/]",
        highlight=False,
        soft_wrap=True,
    )
    if truth is not None:
        console.print(f"[dim]the oracle says: {truth}[/]", highlight=False, soft_wrap=True)


def _read(path: Path) -> Any:
    """RGB uint8 (H, W, 3) of a picture file."""
    import numpy as np
    from PIL import Image

    try:
        with Image.open(path) as picture:
            return np.asarray(picture.convert("RGB"))
    except FileNotFoundError as error:
        raise PictureFileError(f"there is no file {path}") from error
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise PictureFileError(f"{path} is not a picture that can be read ({error})") from error


def _moment(scenario: str, run: Path | None, seed: int, at: float) -> Any:
    from efficientgen.eval.moment import moment_of_log, moment_of_scenario  # these load SUMO and Panda3D
    from efficientgen.worldsim.reference.world import ReferenceWorld

    world = ReferenceWorld()
    try:
        if run is not None:
            from efficientgen.eval.store import load

            return moment_of_log(load(run), at, world)
        from efficientgen.worldsim.scenario import load_scenario

        return moment_of_scenario(load_scenario(scenario), seed, at, world)
    finally:
        world.close()
