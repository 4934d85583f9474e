"""`efficientgen models` and `efficientgen scenarios`: what there is to drive with and to drive in."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from efficientgen.planning.load import (
    ADAPTER,
    CONSTANT_VELOCITY,
    EXPERT,
    LOG_REPLAY,
    WEIGHTS,
    shipped_adapters,
    shipped_models,
)
from efficientgen.planning.releases import FILES, OPTIONAL_FILES, RELEASES
from efficientgen.worldsim.worlds import nano_directory

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


def models_command(as_json: AsJson = False) -> None:
    """List the planners: baselines, shipped checkpoints, and how to bring your own."""
    rows: list[dict[str, Any]] = [
        {"name": EXPERT, "kind": "privileged rule planner", "size_mib": None, "path": ""},
        {"name": CONSTANT_VELOCITY, "kind": "baseline", "size_mib": None, "path": ""},
        {
            "name": LOG_REPLAY,
            "kind": "baseline of `eval`: the expert's poses of other traffic",
            "size_mib": None,
            "path": "",
        },
    ]
    for name, release in RELEASES.items():
        told = {"release_gib": release.gib, "hub": release.hub, "licence": release.licence}
        told |= {"files": FILES, "optional_files": OPTIONAL_FILES}
        rows.append({"name": name, "kind": f"bring your own: {release.what}", "size_mib": None, "path": "", **told})
    for directory in shipped_models():
        config = json.loads((directory / "config.json").read_text())
        size = (directory / WEIGHTS).stat().st_size / 2**20
        schema = config.get("schema")
        what = f"plans, schema {schema}" if schema else "writes text (`efficientgen text`), drives nothing"
        kind = f"shipped: {config['architectures'][0]}, {what}"
        rows.append({"name": directory.name, "kind": kind, "size_mib": round(size, 1), "path": str(directory)})
    for directory in shipped_adapters():
        base = json.loads((directory / "config.json").read_text())["adapter"]["base"]
        size = (directory / ADAPTER).stat().st_size / 2**20
        kind = f"shipped: answers questions (`efficientgen ask`), an adapter over {base}; drives nothing"
        rows.append({"name": directory.name, "kind": kind, "size_mib": round(size, 1), "path": str(directory)})
    world = nano_directory()
    size = sum(path.stat().st_size for path in world.glob("*.safetensors")) / 2**20
    kind = "shipped: a learned world (`drive --world nano`); draws, drives nothing"
    rows.append({"name": world.name, "kind": kind, "size_mib": round(size, 1), "path": str(world)})
    if as_json:
        print(json.dumps(rows, indent=2))
        return
    table = Table("planner", "what it is", "MiB", "directory", box=SIMPLE_HEAD)
    for row in rows:
        large = f"{row['release_gib']:.0f} GiB" if "release_gib" in row else ""
        table.add_row(row["name"], row["kind"], str(row["size_mib"] or large), row["path"])
    console = Console()
    console.print(table)
    console.print(
        "Bring your own: put its files into a directory of any name and give --checkpoint DIR (checkpoint:=DIR)."
    )
    for name, release in RELEASES.items():
        console.print(f"  [bold]{name}[/]: {release.hub}. Licence: {release.licence}.", highlight=False)
    console.print(f"  The directory holds {FILES}.", highlight=False)
    console.print(f"  It may also hold {OPTIONAL_FILES}.", highlight=False)


def scenarios_command(
    split: Annotated[str | None, typer.Option(help="Only train or heldout.")] = None, as_json: AsJson = False
) -> None:
    """List the scenarios."""
    from efficientgen.worldsim.scenario import SPLITS, load_scenario, scenario_names  # reads the town networks

    scenarios = [load_scenario(name) for name in scenario_names(split)]
    if as_json:
        keys = ("name", "family", "town", "split", "weather", "duration_s", "description")
        print(json.dumps([{k: getattr(s, k) for k in keys} for s in scenarios], indent=2))
        return
    for part in SPLITS if split is None else (split,):
        mine = [s for s in scenarios if s.split == part]
        title = {"train": "towns to train in", "heldout": "held-out towns"}[part]
        table = Table("scenario", "family", "weather", "s", "what happens", box=SIMPLE_HEAD, title=title)
        for s in mine:
            table.add_row(s.name, s.family, s.weather, f"{s.duration_s:.0f}", s.description)
        Console().print(table)
