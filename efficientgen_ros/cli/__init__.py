"""The `efficientgen` command.  One module per group of commands; this one puts them together and words the errors."""

from __future__ import annotations

import sys

import typer
from rich.console import Console

from efficientgen_ros.cli import (
    ask,
    bench,
    compare,
    data,
    drive,
    evaluate,
    export,
    listing,
    questions,
    replay,
    runs,
    score,
    sweep,
    train,
)

app = typer.Typer(
    help="Drive cars with block-diffusion vision-language-action planners, in closed loop, over ROS 2.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.command("drive")(drive.drive_command)
app.command("bringup")(drive.bringup_command)
app.command("replay")(replay.replay_command)
app.command("ask")(ask.ask_command)
app.add_typer(evaluate.app, name="eval")
app.add_typer(score.app, name="score")
app.add_typer(bench.app, name="bench")
app.add_typer(train.app, name="train")
app.add_typer(data.app, name="data")
data.app.command("questions")(questions.data_command)
train.app.command("questions")(questions.train_command)
evaluate.app.command("questions")(questions.eval_command)
app.command("sweep")(sweep.sweep_command)
app.command("compare")(compare.compare_command)
app.command("leaderboard")(compare.leaderboard_command)
app.add_typer(export.app, name="export")
app.command("runs")(runs.runs_command)
app.command("models")(listing.models_command)
app.command("scenarios")(listing.scenarios_command)


def main() -> None:
    """Console script: errors that a user can mend are one red line with the remedy, everything else is a traceback."""
    try:
        app()
    except (ValueError, LookupError, FileNotFoundError, RuntimeError) as error:
        # Our own errors are named for what the user did wrong and carry the remedy in their text.
        if not type(error).__module__.startswith(("efficientgen", "efficientgen_ros")):
            raise
        Console(stderr=True).print(f"[bold red]{type(error).__name__}[/]: {error}", highlight=False, soft_wrap=True)
        sys.exit(2)
