"""The three pictures of docs/offline.md, drawn from measured key frames (`eval.conventions`)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from efficientgen.eval.collision_cells import (
    EGO_LENGTH,
    EGO_SHIFT,
    EGO_WIDTH,
    FINE,
    RESOLUTION,
    cell_centres,
    footprint_cells,
    occupied_cells,
)
from efficientgen.eval.conventions import PLANNERS, Disagreement
from efficientgen.eval.latency_plot import ACCENT, GRID, INK, SECOND
from efficientgen.eval.nuscenes_planning import CONVENTIONS, HORIZONS
from efficientgen.eval.offline_nuscenes import TIMES_S
from efficientgen.perception.types import F64

COLOURS = {"uniad": ACCENT, "stp3": "#6b4c9a", "vad": SECOND, "omnidrive": "#2e7d4f"}
WINDOW_M = 7.0  # around the step that a picture of cells shows


def draw_averages(result: Mapping[str, Any], path: Path) -> Path:
    """Error over time of one planner, and what each way of averaging makes of it."""
    error = np.array(result["error_at_step"][PLANNERS[0]])
    scores = result["scores"][PLANNERS[0]]
    with _figure(path, (8.4, 3.4), 2) as (curve, bars):
        means = np.cumsum(error) / np.arange(1, len(error) + 1)
        curve.plot(TIMES_S, error, color=INK, linewidth=1.2, label="error at each step")
        at = [steps - 1 for steps in HORIZONS.values()]
        curve.plot(TIMES_S[at], error[at], "o", color=COLOURS["uniad"], label="at 1, 2, 3 s (uniad)")
        curve.plot(TIMES_S, means, color=COLOURS["vad"], linewidth=1.2, linestyle="--")
        curve.plot(TIMES_S[at], means[at], "s", color=COLOURS["vad"], label="mean up to 1, 2, 3 s (the others)")
        curve.set(xlabel="s", ylabel="m", ylim=(0, None), xlim=(0, 3.1))
        curve.set_title(f"{PLANNERS[0]}, {result['whole']} whole key frames", fontsize=9, color=INK)
        curve.legend(frameon=False, fontsize=7)
        for k, convention in enumerate(CONVENTIONS):
            value = scores[convention]["L2_avg"]
            bars.bar(k, value, color=COLOURS[convention], width=0.65)
            bars.text(k, value, f"{value:.2f}", ha="center", va="bottom", fontsize=8, color=INK)
        bars.set_xticks(range(len(CONVENTIONS)), CONVENTIONS)
        bars.set(ylabel="m")
        bars.set_title('the "average L2" of the same plans', fontsize=9, color=INK)
    return path


def draw_collisions(result: Mapping[str, Any], path: Path) -> Path:
    """The collision rates of the same plans at 1, 2, 3 s and their mean."""
    with _figure(path, (7.2, 3.0), 1) as (axes,):
        keys = [*HORIZONS, "avg"]
        for k, convention in enumerate(CONVENTIONS):
            values = [100 * result["scores"][PLANNERS[0]][convention][f"obj_box_col_{key}"] for key in keys]
            x = np.arange(len(keys)) + 0.2 * (k - 1.5)
            axes.bar(x, values, width=0.18, color=COLOURS[convention], label=convention)
        axes.set_xticks(range(len(keys)), ["1 s", "2 s", "3 s", "average"])
        axes.set(ylabel="% of key frames")
        axes.set_title(f'"collision rate" of {PLANNERS[0]}, {result["key_frames"]} key frames', fontsize=9, color=INK)
        axes.legend(frameon=False, fontsize=8)
    return path


def draw_cells(found: Disagreement, path: Path) -> Path:
    """One step as each convention sees it: painted cells, the cells under the ego's footprint, true outlines."""
    plan, boxes = found.scene.plans[found.planner], found.scene.vehicles[found.step]
    middle = plan[found.step] + [0.0, EGO_SHIFT]
    with _figure(path, (9.6, 3.1), len(CONVENTIONS)) as all_axes:
        for axes, convention in zip(all_axes, CONVENTIONS, strict=True):
            size = FINE if convention == "omnidrive" else RESOLUTION
            ego = footprint_cells(convention, plan)[found.step]
            other = occupied_cells(convention, boxes)
            _cells(axes, cell_centres(convention, other), size, "#9aa5b1", middle)
            _cells(axes, cell_centres(convention, ego), size, COLOURS[convention], middle)
            both = {tuple(c) for c in other} & {tuple(c) for c in ego}
            if both:
                _cells(axes, cell_centres(convention, np.array(sorted(both))), size, "#c81e1e", middle)
            for corners in _outlines(boxes):
                axes.plot(*corners.T, color=INK, linewidth=1.0)
            straight = np.array([[*middle, np.pi / 2, EGO_LENGTH, EGO_WIDTH]])
            axes.plot(*_outlines(straight)[0].T, color=INK, linewidth=1.0, linestyle=":")
            axes.plot(*plan.T, color=INK, linewidth=0.8, marker=".", markersize=3)
            axes.set_xlim(middle[0] - WINDOW_M, middle[0] + WINDOW_M)
            axes.set_ylim(middle[1] - WINDOW_M, middle[1] + WINDOW_M)
            axes.set_aspect("equal")
            axes.tick_params(labelsize=6)
            verdict = "collides" if found.hits[convention] else "clear"
            axes.set_title(f"{convention}: {verdict}", fontsize=9, color=INK)
    return path


def _cells(axes: Any, centres: F64, size: float, colour: str, middle: F64) -> None:
    from matplotlib.collections import PolyCollection

    near = centres[(np.abs(centres - middle) < WINDOW_M + 1).all(1)]
    square = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * size / 2
    edge = "white" if size == RESOLUTION else colour
    cells = PolyCollection(list(near[:, None] + square), facecolors=colour, edgecolors=edge, linewidths=0.3)
    cells.set_rasterized(size == FINE)  # thousands of squares
    axes.add_collection(cells)


def _outlines(boxes: F64) -> F64:
    """Closed outlines (A, 5, 2)."""
    c, s = np.cos(boxes[:, 2]), np.sin(boxes[:, 2])
    along = np.stack([c, s], -1) * boxes[:, 3:4] / 2
    across = np.stack([-s, c], -1) * boxes[:, 4:5] / 2
    corners = [along + across, across - along, -along - across, along - across, along + across]
    return np.asarray(boxes[:, None, :2] + np.stack(corners, 1))


@contextmanager
def _figure(path: Path, size: tuple[float, float], panels: int) -> Iterator[tuple[Any, ...]]:
    """Axes side by side, written whole as SVG with the same bytes for the same data."""
    import matplotlib  # a plotting library, only for pictures

    matplotlib.use("Agg")
    matplotlib.rcParams["svg.hashsalt"] = "efficientgen"
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, panels, figsize=size, squeeze=False)
    try:
        for each in axes[0]:
            each.grid(color=GRID, linewidth=0.5)
            each.set_axisbelow(True)
            each.spines[["top", "right"]].set_visible(False)
        yield tuple(axes[0])
        figure.tight_layout()
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.stem}.new{path.suffix}")
        figure.savefig(draft, dpi=160, metadata={"Date": None} if path.suffix == ".svg" else None)
        draft.rename(path)
    finally:
        pyplot.close(figure)
