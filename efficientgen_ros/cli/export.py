"""`efficientgen export`: recorded drives as datasets that other people's tools read."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

app = typer.Typer(
    help="Write recorded drives as nuScenes, WOD-E2E or rosbag2; pictures are drawn again.", no_args_is_help=True
)

Runs = Annotated[list[Path], typer.Argument(help="Runs, drives of them, or bare step logs; a scene each.")]
Out = Annotated[Path, typer.Option(help="Directory to write; must not exist yet.")]


@contextmanager
def _progress() -> Iterator[Callable[[str, int, int], None]]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns) as bar:
        tasks: dict[str, int] = {}

        def tell(title: str, done: int, total: int) -> None:
            if title not in tasks or done == 1:
                tasks[title] = bar.add_task(title, total=total)
            bar.update(tasks[title], completed=done)  # type: ignore[arg-type]

        yield tell


@app.command("nuscenes")
def nuscenes_command(
    runs: Runs,
    out: Out = Path("export/nuscenes"),
    width: Annotated[int, typer.Option(min=16, help="Of the pictures, px; nuScenes: 1600.")] = 400,
    split: Annotated[
        str, typer.Option(help="Whose scene names to use: mini_val, mini_train, val, train.")
    ] = "mini_val",
    sweeps: Annotated[bool, typer.Option("--sweeps", help="Also the ticks between key frames (10 Hz).")] = False,
) -> None:
    """13 tables, six cameras and lidar at 2 Hz, CAN bus, map expansion; loads in nuscenes-devkit."""
    from efficientgen.eval.export_nuscenes import export_nuscenes, version_of
    from efficientgen.eval.export_scene import drives_in

    drives = drives_in(runs)
    with _progress() as tell:
        export_nuscenes(drives, out, width, split, sweeps, tell)
    print(f"{out}   (NuScenes({version_of(split)!r}, {str(out)!r}))")


@app.command("wod-e2e")
def wod_command(
    runs: Runs,
    out: Out = Path("export/wod-e2e"),
    width: Annotated[int, typer.Option(min=16, help="Of the pictures, px; full size: 1920.")] = 480,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between frames, a multiple of 0.1.")] = 0.4,
    synthetic_raters: Annotated[
        bool, typer.Option("--synthetic-raters", help="Add rule-based rater trajectories; they are no people's.")
    ] = False,
) -> None:
    """E2EDFrame TFRecords: eight cameras, 4 s of past and 5 s of future at 4 Hz, intent."""
    from efficientgen.eval.export_scene import drives_in
    from efficientgen.eval.export_wod import export_wod

    drives = drives_in(runs)
    with _progress() as tell:
        export_wod(drives, out, width, round(every * 1000) * 1_000_000, synthetic_raters, tell)
    print(f"{out}   (see export.json there)")


@app.command("mcap")
def mcap_command(
    runs: Runs,
    out: Out = Path("export/mcap"),
    rig: Annotated[str, typer.Option(help="Cameras: nano, nuscenes, wod, or none.")] = "nano",
    width: Annotated[int, typer.Option(help="Of the pictures, px; 0: as the rig has them.")] = 0,
    sensors: Annotated[str, typer.Option(help="Also depth, labels, instances, lidar (comma-separated).")] = "",
) -> None:
    """One rosbag2 directory (MCAP) per drive, the topics and messages of a drive over ROS 2."""
    from efficientgen.eval.export_scene import drives_in
    from efficientgen.perception.rig import NANO_RIG, RIGS, scaled
    from efficientgen_ros.export_mcap import export_mcap
    from efficientgen_ros.sensors import sensors_named

    if rig not in (*RIGS, "none"):
        raise typer.BadParameter(f"--rig {rig!r} is not one of {', '.join(RIGS)}, none")
    cameras = RIGS.get(rig, NANO_RIG)
    cameras = scaled(cameras, width) if width else cameras
    drives = drives_in(runs)
    with _progress() as tell:
        export_mcap(drives, out, cameras, sensors_named(sensors), rig != "none", tell)
    print(f"{out}   (a rosbag2 directory per drive)")


@app.command("still")
def still_command(
    run: Annotated[Path, typer.Argument(help="A drive; of a run with several, the first.")],
    at: Annotated[float, typer.Option(help="Seconds into the drive.")] = 6.0,
    out: Annotated[Path, typer.Option(help="JPEG to write.")] = Path("sensors.jpg"),
    width: Annotated[int, typer.Option(min=16, help="Of one camera, px.")] = 320,
) -> None:
    """A picture of what can be sensed at one instant: six cameras, classes, depth, lidar from above."""
    from efficientgen.eval.export_scene import drives_in
    from efficientgen.eval.sensor_still import write_still

    print(write_still(drives_in([run])[0], at, out, width))
