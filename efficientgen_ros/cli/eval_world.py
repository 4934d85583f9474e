"""`efficientgen eval world`: the gates of a world model on held-out drives."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Annotated, Any

import typer


def world_command(
    heldout: Annotated[Path, typer.Option(help="Clips of held-out towns (`data heldout`, `data world`).")] = Path(
        "data/heldout-clips"
    ),
    reference: Annotated[Path | None, typer.Option(help="Clips of other towns, to teach the reader with.")] = None,
    world: Annotated[str, typer.Option(help="nano; the others have no such gates.")] = "nano",
    world_dir: Annotated[Path | None, typer.Option(help="Its directory; default: the shipped one.")] = None,
    planner: Annotated[Path | None, typer.Option(help="Planner whose vision features are compared.")] = None,
    out: Annotated[Path | None, typer.Option(help="JSON file to write.")] = None,
    samples: Annotated[Path | None, typer.Option(help="PNG to write: dreams beside reference pictures.")] = None,
    drives: Annotated[int | None, typer.Option(min=1, help="Examine at most so many drives, evenly chosen.")] = None,
    steps: Annotated[int | None, typer.Option(min=8, help="Of each drive, at most its first so many.")] = None,
    seconds: Annotated[float, typer.Option(min=1, help="Leave out what has not begun by then.")] = 3600.0,
    reader_seconds: Annotated[float, typer.Option(min=1, help="Time to teach the reader.")] = 240.0,
    most: Annotated[int, typer.Option(min=16, help="Reference time steps to hold at most.")] = 1500,
    device: Annotated[str, typer.Option(help="cuda or cpu; default: whichever is there.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Of this process, on a CPU.")] = 1,
) -> None:
    """Examine the nano world: pictures, motion, lights and road users, views, collapse, speed, planner features."""
    os.environ.setdefault("EFFICIENTGEN_KERNELS", "reference")
    import torch

    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.world_gates import Deadline, chosen, examine
    from efficientgen.planning.load import DEFAULT, model_directory
    from efficientgen.worldsim.nano.checkpoint import load_nano
    from efficientgen.worldsim.nano.clips import load_clips
    from efficientgen.worldsim.nano.training import Clock
    from efficientgen.worldsim.worlds import NANO, WorldOptionsError, nano_directory

    if world != NANO:
        raise WorldOptionsError(f"only --world {NANO} has these gates: {world} is not trained here")
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if device == "cpu":
        torch.set_num_threads(threads)
    directory = nano_directory(world_dir)
    autoencoder, model = load_nano(directory, device)
    clock = Clock()
    clips = chosen(load_clips(heldout, device), drives, steps)
    others = load_clips(reference, device, most) if reference else None
    gates: dict[str, Any] = {"result": "world-gates", "world": NANO, **provenance()}
    gates |= examine(
        autoencoder, model, clips, others, Deadline(seconds, clock), reader_seconds, samples,
        planner or model_directory(DEFAULT),
    )  # fmt: skip
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.new")
        temporary.write_text(json.dumps(gates, indent=1) + "\n")
        os.replace(temporary, out)
    print(json.dumps(gates, indent=1))


def world_trust_command(
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: all.")] = [],  # noqa: B006
    planner: Annotated[list[str], typer.Option(help="Planner; its degraded forms drive as well.")] = ["nano-ddrive"],  # noqa: B006
    checkpoint: Annotated[list[Path], typer.Option(help="More model directories of that planner.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Per scenario.")] = 1,
    workers: Annotated[int, typer.Option(min=1, help="Processes.")] = 1,
    seconds: Annotated[float, typer.Option(min=1, help="Begin no further scenario after this wall time.")] = 1e9,
    out: Annotated[Path, typer.Option(help="JSON file to write; drives made before are kept beside it.")] = Path(
        "docs/results/world-trust.json"
    ),
) -> None:
    """Do reference and nano world rank planners and scenarios alike?  Drives planners of different skill in both."""
    import time

    from efficientgen.eval.metrics import Metrics
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.resume import Finished
    from efficientgen.eval.sweep import Job
    from efficientgen.eval.world_trust import entrants_of, jobs_for, trust
    from efficientgen.worldsim.worlds import NANO
    from efficientgen_ros.cli.sweeping import Setting, chosen_scenarios, drive_all, report_path

    names = chosen_scenarios(scenario, None)
    entrants = entrants_of([*((name, "") for name in planner), *((planner[0], str(path)) for path in checkpoint)])
    finished, began = Finished(out), time.monotonic()
    found: list[tuple[Job, Metrics]] = []
    for name in names:
        jobs = jobs_for(entrants, [name], range(seeds))
        if time.monotonic() - began > seconds and any(finished.get(job) is None for job in jobs):
            continue
        found += zip(jobs, drive_all(jobs, Setting((name,), seeds, workers=workers), finished), strict=True)
        result = {"result": "world-trust", "world": NANO, **provenance(), "seeds": seeds}
        result |= trust(entrants, names, found)
        out.parent.mkdir(parents=True, exist_ok=True)
        temporary = out.with_name(f".{out.name}.new")
        temporary.write_text(json.dumps(result, indent=1) + "\n")
        os.replace(temporary, out)
    report_path(out)
