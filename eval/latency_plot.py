"""The price of a slow planner as a picture: score against latency, with 95 % intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

INK, ACCENT, SECOND, GRID = "#1f2933", "#0b6e99", "#c2571a", "#d9dee3"


class PlotFormatError(ValueError):
    """A plot cannot be written under this name."""


def check_plot_name(path: Path) -> None:
    """
    Raises:
        PlotFormatError: not .png or .svg.
    """
    if path.suffix not in (".png", ".svg"):
        raise PlotFormatError(f"{path.name}: a plot is .png or .svg")


def plot_latency_curve(points: Sequence[Mapping[str, Any]], planner: str, path: Path, note: str = "") -> Path:
    """Write the curve as .png or .svg, by the suffix of `path`.

    Args:
        points: as `efficientgen eval latency-curve` keeps them: "latency_s" and "metrics", which holds driving_score
            (0 .. 100) and hd_score (0 .. 1), each with mean, low, high.
        note: a line below the title, such as how many drives there are.

    Raises:
        PlotFormatError: another suffix.
    """
    import matplotlib  # a plotting library, only for pictures

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "efficientgen"  # the same curve gives the same bytes
    from matplotlib import pyplot

    check_plot_name(path)
    figure, axes = pyplot.subplots(figsize=(7.2, 4.0), dpi=150)
    try:
        for metric, scale, colour, label in (
            ("driving_score", 1.0, ACCENT, "driving score"),
            ("hd_score", 100.0, SECOND, "HD-Score x 100"),
        ):
            held = [(p["latency_s"], p["metrics"][metric]) for p in points if metric in p["metrics"]]
            if not held:
                continue
            x = [latency for latency, _ in held]
            mean, low, high = ([scale * e[k] for _, e in held] for k in ("mean", "low", "high"))
            axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)
            axes.plot(x, mean, marker="o", color=colour, label=label)
        axes.set(xlabel="latency of a plan, s", ylabel="score", ylim=(0, 105))
        axes.set_xlim(left=0)
        axes.set_title(f"{planner}: score against latency\n{note}" if note else planner, fontsize=10, color=INK)
        axes.grid(color=GRID, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.stem}.new{path.suffix}")
        figure.savefig(draft, metadata={"Date": None} if path.suffix == ".svg" else None)
        draft.rename(path)
    finally:
        pyplot.close(figure)
    return path
