"""A picture with the curves of all runs."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from jepa_ray.compare.result import SIDES, Measured, Side
from jepa_ray.files import write_atomically

# Blue and vermilion of Okabe and Ito: distinguishable with every kind of colour vision, and in grey by the dashes.
COLOURS: dict[Side, str] = {"jepa": "#0072B2", "generative": "#D55E00"}
DASHES: dict[Side, str] = {"jepa": "-", "generative": "--"}
MARKERS: dict[Side, str] = {"jepa": "o", "generative": "s"}
NAMES: dict[Side, str] = {"jepa": "JEPA", "generative": "generative"}
GREY = "#555555"
INCHES, DPI = (10, 4), 150


def save_picture(runs: Sequence[Measured], target: float, title: str, path: Path) -> None:
    """Write a .png of val_rollout_mrr against seconds (left) and epochs (right) of training, with one line per run."""
    figure = Figure(figsize=INCHES, dpi=DPI, layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    for axes, column, label in ((left, "seconds", "seconds of training"), (right, "epoch", "epochs of training")):
        _draw(axes, runs, column, target)
        axes.set_xlabel(label)
    left.set_ylabel("val_rollout_mrr")
    right.xaxis.set_major_locator(MaxNLocator(integer=True))
    figure.legend(*left.get_legend_handles_labels(), loc="outside lower center", ncols=2, frameon=False)
    figure.suptitle(title)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    write_atomically(path, buffer.getvalue())


def _draw(axes: Axes, runs: Sequence[Measured], column: str, target: float) -> None:
    for side in SIDES:
        mine = [run for run in runs if run.side == side]
        for i, run in enumerate(mine):
            axes.plot(
                [row[column] for row in run.curve],
                [row["val_rollout_mrr"] for row in run.curve],
                color=COLOURS[side],
                linestyle=DASHES[side],
                marker=MARKERS[side],
                markersize=4,
                linewidth=1.6,
                alpha=0.85,
                label=f"{NAMES[side]}, {len(mine)} {'seed' if len(mine) == 1 else 'seeds'}" if i == 0 else None,
            )
    _level(axes, target, "target")
    _level(axes, runs[0].curve[-1]["val_mrr_chance"], "chance")
    axes.set_ylim(0, 1)
    axes.set_xlim(left=0)
    axes.grid(color="#e6e6e6", linewidth=0.6)
    axes.spines[["top", "right"]].set_visible(False)


def _level(axes: Axes, value: float, name: str) -> None:
    """A horizontal line with its name above it, at the left end."""
    axes.axhline(value, color=GREY, linewidth=0.9, linestyle=":")
    axes.annotate(name, (0, value), (4, 2), xycoords=("axes fraction", "data"), textcoords="offset points", color=GREY)
