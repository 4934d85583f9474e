"""`efficientgen bench`: how fast parts of the package are on this machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Literal

import typer
from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

app = typer.Typer(help="Measure speed on this machine.", no_args_is_help=True)


@app.callback()
def _group() -> None:
    """Measure speed on this machine."""


@app.command("eval")
def eval_command(
    samples: Annotated[int, typer.Option(min=1, help="nuScenes samples in a batch.")] = 2000,
    frames: Annotated[int, typer.Option(min=1, help="WOD-E2E frames in a batch.")] = 20000,
    repeats: Annotated[int, typer.Option(min=1, help="Times that each batch is scored.")] = 5,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """The offline metrics: nuScenes samples and WOD-E2E frames per second of one core."""
    from efficientgen.eval.bench_eval import AGENTS, bench_eval
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json

    rows = bench_eval(samples, frames, repeats)
    result = {"result": "bench-eval", "agents_per_step": AGENTS, "repeats": repeats, "rows": rows, **provenance()}
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    table = Table("metric", "rate", "lowest .. highest", "at least", box=SIMPLE_HEAD, title="offline metrics, one core")
    for row in rows:
        spread = f"{row['lowest']:,.0f} .. {row['highest']:,.0f}"
        table.add_row(row["name"], f"{row['rate']:,.0f}", spread, f"{row['target']:,.0f}" if row["target"] else "")
    Console().print(table)


@app.command("planner")
def planner_command(
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    shape: Annotated[
        Literal["nano", "3b"], typer.Option(help="nano: the shipped planner; 3b: the released shape, random weights.")
    ] = "nano",
    checkpoint: Annotated[str, typer.Option(help="A model directory to measure instead of the shipped one.")] = "",
    dtype: Annotated[str, typer.Option(help="Default: float32 on a CPU, else bfloat16.")] = "",
    threads: Annotated[int, typer.Option(min=1, help="Of this process.")] = 1,
    plans: Annotated[int, typer.Option(min=1, help="Timed plans of each decoder, one observation each.")] = 20,
    decoder: Annotated[list[str], typer.Option(help="Only these, beside ar, ar-jump and scaffold-spec.")] = [],  # noqa: B006
    rollouts: Annotated[list[int], typer.Option(min=2, help="Sampled trajectories per plan.")] = [4, 8],  # noqa: B006
    context: Annotated[list[int], typer.Option(min=1, help="Of the single forwards, tokens.")] = [],  # noqa: B006
    repeats: Annotated[int, typer.Option(min=1, help="Of every single forward.")] = 20,
    stock: Annotated[int, typer.Option(min=0, help="Plans of stock transformers; 0: none. Uncached: half.")] = 4,
    observations: Annotated[
        Path | None, typer.Option(help="File of observations: read if it is there, else driven and kept there.")
    ] = None,
    profile: Annotated[
        Literal["published", "measured"],
        typer.Option(help="On a GPU, 3b: acceptance drawn beside nano-ddrive's own; published: Fast-dDrive's, too."),
    ] = "published",
    limit: Annotated[float, typer.Option(min=10, help="On a GPU: seconds; what does not fit is left out.")] = 240.0,
    part: Annotated[
        list[str], typer.Option(help="On a GPU: only these parts; those that --out holds already are kept.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(min=0, help="Of the drives.")] = 0,
    out: Annotated[Path | None, typer.Option(help="Write the result here as JSON.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:
    """A planner term by term: vision, prefill, forwards, every decoder, rollouts; beside stock transformers."""
    from efficientgen.eval import bench_observations as seen
    from efficientgen.eval.bench_device import bench_device
    from efficientgen.eval.bench_planner import NothingToMeasureError, bench_planner, table
    from efficientgen.eval.bench_subject import RANDOM, WOD_PICTURE, nano_subject, random_subject
    from efficientgen.eval.provenance import checkpoint_sha256, provenance
    from efficientgen.eval.results import write_json
    from efficientgen.planning.decode import DECODERS
    from efficientgen.planning.load import DEFAULT

    if unknown := [name for name in decoder if name not in DECODERS]:
        raise NothingToMeasureError(f"no decoder '{unknown[0]}'; choose of {', '.join(DECODERS)}")
    if shape == "3b" and checkpoint:
        raise NothingToMeasureError("--shape 3b has random weights; to measure a checkpoint, leave --shape out")
    big = shape == "3b"
    if big:
        planner = random_subject(device, dtype, threads, copies=2 if stock else 1)
    else:
        planner = nano_subject(checkpoint, device, dtype, threads)
    origin: dict[str, Any] = {
        "result": "bench-planner",
        "shape": shape,
        "settings": {"threads": threads, "plans": plans, "repeats": repeats, "stock": stock, "seed": seed},
        "checkpoint": "" if big else checkpoint_sha256(DEFAULT, checkpoint),
        **provenance(),
    }
    with Console(stderr=True).status("driving") as status:
        if observations is not None and observations.exists():
            looked_at = seen.load_observations(observations, plans + 1)
        else:
            looked_at = seen.held_out_observations(plans + 1, seed)
            if observations is not None:
                seen.save_observations(looked_at, observations)
        if planner.device.type == "cuda":
            measured = bench_device(
                planner,
                [seen.enlarged(o, *WOD_PICTURE) for o in looked_at] if big else looked_at,
                nano_subject("", device, "float32", threads) if big else None,
                profile=profile,
                rollouts=(1, *rollouts),
                contexts=context or (2048, 4096),
                repeats=repeats,
                stock=stock > 0,
                seen_by_trained=looked_at,
                limit_s=limit,
                parts=part,
                before=json.loads(out.read_text("utf-8")) if part and out is not None and out.exists() else None,
                keep=lambda result: write_json(result | origin, out) if out is not None else None,
                on_step=status.update,
            )
        else:
            measured = bench_planner(
                planner,
                looked_at,
                decoders=decoder or tuple(DECODERS),
                rollouts=rollouts,
                contexts=context or ((2048, 4096) if big else ()),
                repeats=repeats,
                stock_plans=(stock, -(-stock // 2)),
                note=RANDOM if big else "",
                on_step=status.update,
            )
    result = measured | origin
    if out is not None:
        write_json(result, out)
    if as_json:
        print(json.dumps(result, indent=1))
        return
    if planner.device.type == "cuda":
        print(json.dumps(result.get("summary"), indent=1))
    head, *body = table(result)
    title = f"{result['planner']} on {device}, {threads} thread(s), {result.get('plans', 0)} plans"
    shown = Table(*head, box=SIMPLE_HEAD, title=title)
    for line in body:
        shown.add_row(*line)
    Console(width=max(120, Console().width)).print(shown)


@app.command("world")
def world_command(
    shape: Annotated[
        Literal["720p", "nano"], typer.Option(help="720p: SANA-WM's released size; nano: a tiny one, to try it.")
    ] = "nano",
    device: Annotated[str, typer.Option(help="cpu or cuda.")] = "cpu",
    chunks: Annotated[int, typer.Option(min=2, help="Of the stream that is watched.")] = 60,
    repeats: Annotated[int, typer.Option(min=3, help="Of every single piece of work.")] = 20,
    part: Annotated[list[str], typer.Option(help="Only these parts.")] = [],  # noqa: B006
    budget: Annotated[float, typer.Option(min=1, help="Seconds after which no further part begins.")] = 3600.0,
    threads: Annotated[int, typer.Option(min=1, help="Of this process.")] = 1,
    out: Annotated[Path | None, typer.Option("--json", help="Write the result here, after every part.")] = None,
) -> None:
    """A chunk of SANA-WM with random weights: passes, stream, memory, decoder, kernels; beside diffusers' class."""
    import torch

    from efficientgen.eval.bench_sana import SHAPES
    from efficientgen.eval.bench_world import Bench, bench_world
    from efficientgen.eval.provenance import provenance
    from efficientgen.eval.results import write_json

    torch.set_num_threads(threads)
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    bench = Bench(SHAPES[shape], device, dtype, chunks, repeats)
    result: dict[str, Any] = {"result": "bench-world", "shape": shape, "device": device, "dtype": str(dtype)[6:],
                              "settings": {"chunks": chunks, "repeats": repeats}, **provenance()}  # fmt: skip
    with Console(stderr=True).status("") as status:
        bench_world(bench, result, part, budget, lambda r: write_json(r, out) if out else None, status.update)
    if out is None:
        print(json.dumps(result, indent=1))
        return
    for name in bench.parts:
        if name in result:
            words = "measured" if result[name]["measured"] else f"not measured: {result[name]['why']}"
            print(f"{name:12} {result[name]['took_s']:6.1f} s  {words}")
    for name, each in result["goals"].items():
        print(f"{name:18} {each['got']}  (aimed at {each['goal']})")
