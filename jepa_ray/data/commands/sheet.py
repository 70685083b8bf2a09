"""Draws a contact sheet: one picture with the frames, or line plots, of some episodes of a dataset."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import choose_columns
from jepa_ray.data.trajectories import Trajectories, check_shapes
from jepa_ray.files import write_atomically

MIN_SIDE, MAX_SIDE = 64, 256  # of the sides of a frame on the sheet, in pixels; the minimum is enforced first
GAP, MARGIN, CAPTION = 4, 78, 14  # pixels between frames, left of them (episode), and under each (step)
MAX_DIMS, MAX_ROWS, MAX_PLOTS_ACROSS = 8, 1000, 4  # dimensions and rows of one plot, and plots side by side


def contact_sheet(recording: Recording, path: Path, episodes: int = 8, frames: int = 8) -> None:
    """Write a PNG of `episodes` episodes, evenly spaced over the dataset: `frames` frames of each, or line plots.

    Raises `DataError` if observation, action or episodes are invalid for training.
    """
    chosen = choose_columns(recording, None)
    check_shapes(chosen)
    picked = _evenly_spaced(len(chosen.lengths), episodes)
    draw = _draw_frames if len(chosen.observation.shape) == 4 else _draw_plots
    write_atomically(path, draw(chosen, picked, frames))


def _evenly_spaced(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` positions, evenly spaced from the first to the last."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def _draw_frames(data: Trajectories, picked: list[int], frames: int) -> bytes:
    height, width = _scale_frame(data.observation[slice(0, 1)][0]).size[::-1]
    line, step = height + CAPTION + GAP, width + GAP
    across = max(len(_evenly_spaced(int(data.lengths[episode]), frames)) for episode in picked)
    sheet = Image.new("RGB", (MARGIN + across * step, GAP + len(picked) * line), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, episode in enumerate(picked):
        top = GAP + i * line
        pen.text((GAP, top), f"episode {episode}\n{data.lengths[episode]} rows", "black", font)
        for j, moment in enumerate(_evenly_spaced(int(data.lengths[episode]), frames)):
            row = int(data.offsets[episode]) + moment
            sheet.paste(_scale_frame(data.observation[slice(row, row + 1)][0]), (MARGIN + j * step, top))
            pen.text((MARGIN + j * step, top + height), f"step {moment}", "black", font)
    return _encode_png(sheet)


def _scale_frame(frame: NDArray[np.uint8]) -> Image.Image:
    """A frame (H, W, C), scaled to a visible size by nearest neighbour; shows its first 3 channels, or its first."""
    channels = frame[:, :, :3] if frame.shape[2] >= 3 else np.repeat(frame[:, :, :1], 3, axis=2)
    height, width = frame.shape[:2]
    scale = max(MIN_SIDE / min(height, width), min(1.0, MAX_SIDE / max(height, width)))
    scale = float(np.ceil(scale)) if scale > 1 else scale  # integer factors keep all pixels the same size
    size = (round(width * scale), round(height * scale))
    return Image.fromarray(np.ascontiguousarray(channels)).resize(size, Image.Resampling.NEAREST)


def _encode_png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _draw_plots(data: Trajectories, picked: list[int], frames: int) -> bytes:
    """Line plots over time, observations above actions; `frames` is not used."""
    across = min(MAX_PLOTS_ACROSS, len(picked))
    down = -(-len(picked) // across)
    figure = Figure(figsize=(3.2 * across, 2.6 * down), dpi=100, layout="constrained")
    parts = figure.subfigures(down, across, squeeze=False).flat
    for episode, part in zip(picked, parts, strict=False):
        start, length = int(data.offsets[episode]), int(data.lengths[episode])
        shown = min(length, MAX_ROWS)
        upper, lower = part.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        cut = "" if shown == length else f", first {shown}"
        upper.set_title(f"episode {episode} ({length} rows{cut})", fontsize=8)
        _plot_lines(upper, "observation", data.observation[slice(start, start + shown)])
        _plot_lines(lower, "action", data.action[slice(start, start + shown)])
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_xlabel("step", fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _plot_lines(axes: Any, name: str, block: NDArray[Any]) -> None:
    """Plot the first dimensions of (n, D) or (n,) over time; actions are constant between steps."""
    values = block.reshape(len(block), -1)[:, :MAX_DIMS].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    marker = "." if len(values) < 3 else None
    axes.plot(values, linewidth=0.8, marker=marker, drawstyle="steps-post" if name == "action" else "default")
    axes.set_ylabel(name, fontsize=7)
    axes.tick_params(labelsize=6)
