"""`efficientgen score`: planners on recorded data, by the data sets' own metrics."""

from __future__ import annotations

import inspect
import json
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from efficientgen.planning.load import DEFAULT

if TYPE_CHECKING:
    from efficientgen.eval.offline import Driver, Journal

app = typer.Typer(help="Score planners on recorded data sets.", no_args_is_help=True)


@dataclass(frozen=True)
class Asked:
    """The options of every data set: who plans, what counts, where the result goes."""

    planner: Annotated[str, typer.Option(help="A planner, or constant-velocity.")] = DEFAULT
    predictions: Annotated[
        Path | None, typer.Option(help="Score this prediction file (Fast-dDrive / dVLM-AD JSON) instead of a planner.")
    ] = None
    checkpoint: Annotated[str, typer.Option(help="Model directory in place of the shipped one.")] = ""
    schema: Annotated[str, typer.Option(help="Answer to ask for: wod-e2e, nuscenes; empty: the checkpoint's.")] = ""
    decoder: Annotated[str, typer.Option(help="ar or scaffold-spec.")] = ""
    rollouts: Annotated[int, typer.Option(min=1, help="Trajectories sampled and averaged per plan; 1: greedy.")] = 1
    seed: Annotated[int, typer.Option(help="Of the rollouts.")] = 0
    threads: Annotated[int, typer.Option(min=1, help="Threads for the model.")] = 1
    device: Annotated[str, typer.Option(help="Where its model runs: cpu, cuda, cuda:1.")] = "cpu"
    dtype: Annotated[str, typer.Option(help="Of its weights; empty: float32 on a CPU, bfloat16 elsewhere.")] = ""
    extrapolate: Annotated[
        bool, typer.Option("--extrapolate", help="Go on at the last velocity where a plan ends before the metric does.")
    ] = False
    on_error: Annotated[
        Literal["stop", "skip"],
        typer.Option(help="A sample that cannot be scored: stop, or leave it out and count it."),
    ] = "stop"
    out: Annotated[
        Path | None, typer.Option(help="Write the result here as JSON; goes on from there if interrupted.")
    ] = None
    journal: Annotated[
        Path | None,
        typer.Option(help="One JSON line per sample; default: beside --out, with .jsonl; else none is kept."),
    ] = None
    write_predictions: Annotated[
        Path | None, typer.Option(help="Write the planner's answers as a prediction file.")
    ] = None
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False


def asking(command: Callable[..., None]) -> Callable[..., None]:
    """`command(asked, **its own options)` as typer reads it: with the fields of `Asked` as options of its own."""
    kinds, names = get_type_hints(Asked, include_extras=True), {field.name for field in fields(Asked)}

    @wraps(command)
    def whole(**given: Any) -> None:
        command(Asked(**{name: given.pop(name) for name in names}), **given)

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    shared = [
        inspect.Parameter(
            field.name, inspect.Parameter.KEYWORD_ONLY, default=field.default, annotation=kinds[field.name]
        )
        for field in fields(Asked)
    ]
    taken = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in own] + shared
    whole.__signature__ = inspect.Signature(taken)  # type: ignore[attr-defined]
    whole.__annotations__ = {parameter.name: parameter.annotation for parameter in taken}
    return whole


@app.callback()
def _group() -> None:
    """Score planners on recorded data sets."""


@app.command("nuscenes")
@asking
def nuscenes_command(
    asked: Asked,
    dataroot: Annotated[Path, typer.Option(help="Where v1.0-*, samples, sweeps, maps and can_bus lie.")],
    convention: Annotated[
        Literal["uniad", "stp3", "vad", "omnidrive"], typer.Option(help="Whose metric; their numbers do not compare.")
    ],
    version: Annotated[str, typer.Option(help="Of the tables.")] = "v1.0-trainval",
    split: Annotated[str, typer.Option(help="Official split, e.g. val; default: every scene of the version.")] = "",
    scene: Annotated[list[str], typer.Option(help="Only these scenes.")] = [],  # noqa: B006
    reference: Annotated[
        Literal["", "lidar", "ego"], typer.Option(help="Point whose path is scored; default: the convention's own.")
    ] = "",
) -> None:
    """Open-loop planning on nuScenes: L2 and collision rate in one of four conventions."""
    from efficientgen.eval.io_nuscenes import NuScenesReader
    from efficientgen.eval.offline import Skips
    from efficientgen.eval.offline_nuscenes import NuScenesTask, default_reference, nuscenes_result, score_nuscenes

    driver = _driver(asked)
    task = NuScenesTask(convention, reference or default_reference(convention), asked.extrapolate)
    reader = NuScenesReader(dataroot, version, split, scene)
    skips = Skips(asked.on_error)
    data = {"dataroot": str(dataroot.resolve()), "version": version, "split": split, "scenes": sorted(scene)}
    with _journal(asked, driver, task, data) as kept:
        with _progress("key frames", len(reader)) as advance:
            score_nuscenes(reader, driver, task, kept, skips, advance)
        result = nuscenes_result(driver, task, reader, kept, skips)
        _finish(result, kept, asked)


@app.command("wod-e2e")
@asking
def wod_command(
    asked: Asked,
    data: Annotated[list[str], typer.Option(help="TFRecord files, or patterns in quotes.")],
    clusters: Annotated[
        Path | None, typer.Option(help="JSON: sequence name to cluster; gives per-cluster means.")
    ] = None,
    frames: Annotated[
        Literal["", "rated", "all"], typer.Option(help="Which frames; default: rated, and all for a submission.")
    ] = "",
    names: Annotated[Path | None, typer.Option(help="Only the frames that this file names, one a line.")] = None,
    submit: Annotated[Path | None, typer.Option(help="Write a challenge submission into this folder.")] = None,
    account: Annotated[str, typer.Option(help="Submission: the registered account; needed before an upload.")] = "",
    method: Annotated[str, typer.Option(help="Submission: unique method name; default: the planner's.")] = "",
    parameters: Annotated[
        str, typer.Option(help="Submission: number of parameters, e.g. 3B; default: the planner's.")
    ] = "",
    pretrained: Annotated[
        list[str], typer.Option(help="Submission: public models that the method was pretrained from.")
    ] = [],  # noqa: B006
    author: Annotated[list[str], typer.Option(help="Submission: authors.")] = [],  # noqa: B006
) -> None:
    """The Waymo Open Dataset's end-to-end driving: Rater Feedback Score and ADE."""
    from efficientgen.eval.io_wod import count_records, matching
    from efficientgen.eval.offline import Skips
    from efficientgen.eval.offline_wod import WodTask, predictions_of, read_clusters, score_wod, wod_result
    from efficientgen.eval.wod_submission import SubmissionForm, check_form, write_submission

    paths = matching(data)
    only = frozenset(names.read_text("utf-8").split()) if names else frozenset()
    driver = _driver(asked)
    form = SubmissionForm(account, method or driver.name, parameters or driver.parameters, bool(pretrained),
                          tuple(author), public_model_names=tuple(pretrained))  # fmt: skip
    if submit is not None:
        check_form(form)  # before hours of planning
    task = WodTask(
        frames or ("rated" if submit is None else "all"),
        only,
        read_clusters(clusters) if clusters else None,
        asked.extrapolate,
    )
    skips = Skips(asked.on_error)
    told = {"data": [[str(path.resolve()), path.stat().st_size] for path in paths]}
    with _journal(asked, driver, task, told) as kept:
        with _progress("frames", sum(map(count_records, paths))) as advance:
            score_wod(paths, driver, task, kept, skips, advance)
        result = wod_result(driver, task, kept, skips)
        if submit is not None:
            path, count = write_submission(predictions_of(kept), form, submit)
            result["submission"] = {"file": path.name, "frames": count, "account": account or MISSING_ACCOUNT}
        _finish(result, kept, asked)


@app.command("compare")
def compare_command(
    a: Annotated[Path, typer.Argument(help="A result of this command.", exists=True)],
    b: Annotated[Path, typer.Argument(help="Another, of the same metric on the same samples.", exists=True)],
) -> None:
    """The difference of two results; refused where their numbers mean different things."""
    from efficientgen.eval.offline import compare_results

    one, two = (json.loads(path.read_text("utf-8")) for path in (a, b))
    for key, value in compare_results(one, two).items():
        print(f"{key}: {value:+.4g}")


MISSING_ACCOUNT = "not given: name it with --account before you upload"
SHOWN = ("maple_left", "oak_round_left", "birch_dense", "elm_centre_left", "oak_cut_in", "oak_five_left")


@app.command("conventions")
def conventions_command(
    scenario: Annotated[list[str], typer.Option(help="Scenario; default: six with turns and traffic.")] = [],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Seeds per scenario, counted from 0.")] = 1,
    out: Annotated[Path | None, typer.Option(help="Write the numbers here as JSON.")] = None,
    pictures: Annotated[Path | None, typer.Option(help="Write the pictures into this folder as SVG.")] = None,
) -> None:
    """Score the same plans in all four nuScenes conventions, on drives of our own towns (docs/offline.md)."""
    from efficientgen.eval.conventions import collect, disagreements, measure, table_of
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json

    scenario = scenario or list(SHOWN)
    with _progress("drives", len(scenario) * seeds) as advance:
        scenes = collect(scenario, seeds, advance)
    found = disagreements(scenes)
    result = {"result": "conventions", "scenarios": scenario, "seeds": seeds, "disagreements": len(found),
              **measure(scenes), **provenance()}  # fmt: skip
    if out is not None:
        write_json(result, out)
    if pictures is not None:
        from efficientgen.eval.convention_pictures import draw_averages, draw_cells, draw_collisions

        draw_averages(result, pictures / "offline-l2.svg")
        draw_collisions(result, pictures / "offline-collisions.svg")
        if found:
            draw_cells(found[0], pictures / "offline-cells.svg")
    print(table_of(result))
    print(f"{len(found)} steps on which the conventions disagree about a collision with the same vehicles")


def _driver(asked: Asked) -> Driver:
    """The prediction file, or the planner that the options name."""
    from efficientgen.eval.offline import file_driver, planner_driver

    if asked.predictions is not None:
        return file_driver(asked.predictions)
    names = ("checkpoint", "decoder", "rollouts", "seed", "threads", "device", "dtype", "schema")
    return planner_driver(asked.planner, **{name: getattr(asked, name) for name in names})


@contextmanager
def _journal(asked: Asked, driver: Driver, task: Any, data: Mapping[str, Any]) -> Iterator[Journal]:
    """The journal of a run; without a place to keep it, in a folder that goes with the run."""
    from efficientgen.eval.offline import Journal
    from efficientgen.eval.provenance import code_sha256

    path = asked.journal or (asked.out.with_suffix(".jsonl") if asked.out is not None else None)
    settings = {
        "planner": driver.name,
        "origin": dict(driver.origin),
        "task": _told(task),
        "code": code_sha256(),
        **data,
    }
    if path is not None:
        yield Journal(path, settings)
        return
    with tempfile.TemporaryDirectory(prefix="efficientgen-score-") as folder:
        yield Journal(Path(folder) / "journal.jsonl", settings)


def _told(task: Any) -> dict[str, Any]:
    """A task as JSON, sets in order."""
    return {key: sorted(value) if isinstance(value, frozenset) else value for key, value in vars(task).items()}


@contextmanager
def _progress(what: str, total: int) -> Iterator[Callable[[], None]]:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
               TimeRemainingColumn())  # fmt: skip
    with Progress(*columns, console=Console(stderr=True)) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda: progress.advance(bar)


def _finish(result: dict[str, Any], journal: Journal, asked: Asked) -> None:
    from efficientgen.eval.predictions import prediction_record, write_predictions
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json

    result = result | provenance()
    if asked.write_predictions is not None:
        answers = ((record["key"], record["answer"]) for record in journal.records())
        rows = (prediction_record(key, a["times_s"], a["waypoints"], a["text"]) for key, a in answers)
        write_predictions(rows, asked.write_predictions)
    if asked.out is not None:
        write_json(result, asked.out)
    if asked.as_json:
        print(json.dumps(result, indent=1))
        return
    console = Console()
    table = Table("measure", *result["scores"], box=SIMPLE_HEAD, title=result["metric"])
    keys = dict.fromkeys(key for scores in result["scores"].values() for key in scores)
    for key in keys:
        cells = [scores.get(key) for scores in result["scores"].values()]
        if any(isinstance(cell, float) for cell in cells):
            table.add_row(key, *("" if cell is None else f"{cell:.4g}" for cell in cells))
    console.print(table)
    for key in ("samples", "mask_rule", "reference", "agents", "commands", "ade_vs", "rfs_is", "horizon", "skipped",
                "submission"):  # fmt: skip
        if result.get(key):
            told = result[key]
            if key == "skipped":
                told = ", ".join(f"{n['samples']} {why} (first: {n['first']})" for why, n in told.items())
            elif key == "submission":
                told = f"{told['frames']} frames in {told['file']}, account {told['account']}"
            elif isinstance(told, dict):
                told = ", ".join(f"{n} {words}" for words, n in told.items())
            console.print(f"{key.replace('_', ' ')}: {told}", highlight=False, soft_wrap=True)
    if asked.out is not None:
        Console(stderr=True).print(f"written: {asked.out}", soft_wrap=True)
