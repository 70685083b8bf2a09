"""A contact sheet: some episodes of a dataset as one picture, frames side by side or lines over time."""

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
from jepa_ray.data.selection import choose
from jepa_ray.data.trajectories import Trajectories, check_forms
from jepa_ray.files import write_atomically

MIN_SIDE, MAX_SIDE = 64, 256  # of a frame on the sheet, in pixels, as far as its shape allows both
GAP, MARGIN, CAPTION = 4, 78, 14  # between frames, left of them for the episode, under each for the step
PLOTTED_DIMS, PLOTTED_ROWS, PLOTS_ACROSS = 8, 1000, 4


def contact_sheet(recording: Recording, path: Path, episodes: int = 8, frames: int = 8) -> None:
    """Write a PNG of `episodes` episodes, evenly spaced over the dataset: `frames` frames of each, or line plots.

    Raises `DataError` where observation, action or episodes don't have the forms that training needs.
    """
    chosen = choose(recording, None)
    check_forms(chosen)
    picked = _spread(len(chosen.lengths), episodes)
    draw = _frames_sheet if len(chosen.observation.shape) == 4 else _plots_sheet
    write_atomically(path, draw(chosen, picked, frames))


def _spread(count: int, wanted: int) -> list[int]:
    """Up to `wanted` of `count` positions, evenly spaced, the first and the last among them."""
    return sorted(set(np.linspace(0, count - 1, min(count, wanted)).round().astype(int).tolist()))


def _frames_sheet(data: Trajectories, picked: list[int], frames: int) -> bytes:
    height, width = _scaled(data.observation[slice(0, 1)][0]).size[::-1]
    line, step = height + CAPTION + GAP, width + GAP
    across = max(len(_spread(int(data.lengths[episode]), frames)) for episode in picked)
    sheet = Image.new("RGB", (MARGIN + across * step, GAP + len(picked) * line), "white")
    pen, font = ImageDraw.Draw(sheet), ImageFont.load_default(11)
    for i, episode in enumerate(picked):
        top = GAP + i * line
        pen.text((GAP, top), f"episode {episode}\n{data.lengths[episode]} rows", "black", font)
        for j, moment in enumerate(_spread(int(data.lengths[episode]), frames)):
            row = int(data.offsets[episode]) + moment
            sheet.paste(_scaled(data.observation[slice(row, row + 1)][0]), (MARGIN + j * step, top))
            pen.text((MARGIN + j * step, top + height), f"step {moment}", "black", font)
    return _png(sheet)


def _scaled(frame: NDArray[np.uint8]) -> Image.Image:
    """A frame (H, W, C) by nearest neighbours at a size one can see, its first 3 channels or its first."""
    channels = frame[:, :, :3] if frame.shape[2] >= 3 else np.repeat(frame[:, :, :1], 3, axis=2)
    height, width = frame.shape[:2]
    scale = max(MIN_SIDE / min(height, width), min(1.0, MAX_SIDE / max(height, width)))
    scale = float(np.ceil(scale)) if scale > 1 else scale  # whole factors keep pixels square
    size = (round(width * scale), round(height * scale))
    return Image.fromarray(np.ascontiguousarray(channels)).resize(size, Image.Resampling.NEAREST)


def _png(sheet: Image.Image) -> bytes:
    buffer = io.BytesIO()
    sheet.save(buffer, "PNG")
    return buffer.getvalue()


def _plots_sheet(data: Trajectories, picked: list[int], frames: int) -> bytes:
    """Observations above and actions below, over time; a line has no frames, so their number has no part in it."""
    across = min(PLOTS_ACROSS, len(picked))
    down = -(-len(picked) // across)
    figure = Figure(figsize=(3.2 * across, 2.6 * down), dpi=100, layout="constrained")
    parts = figure.subfigures(down, across, squeeze=False).flat
    for episode, part in zip(picked, parts, strict=False):
        start, length = int(data.offsets[episode]), int(data.lengths[episode])
        shown = min(length, PLOTTED_ROWS)
        upper, lower = part.subplots(2, 1, sharex=True, height_ratios=(3, 2))
        cut = "" if shown == length else f", first {shown}"
        upper.set_title(f"episode {episode} ({length} rows{cut})", fontsize=8)
        _lines(upper, "observation", data.observation[slice(start, start + shown)])
        _lines(lower, "action", data.action[slice(start, start + shown)])
        lower.xaxis.set_major_locator(MaxNLocator(integer=True))
        lower.set_xlabel("step", fontsize=7)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _lines(axes: Any, name: str, block: NDArray[Any]) -> None:
    """The first dimensions of (n, D) or (n,) over time; actions hold from one step to the next."""
    values = block.reshape(len(block), -1)[:, :PLOTTED_DIMS].astype(np.float64)
    values[~np.isfinite(values)] = np.nan
    marker = "." if len(values) < 3 else None
    axes.plot(values, linewidth=0.8, marker=marker, drawstyle="steps-post" if name == "action" else "default")
    axes.set_ylabel(name, fontsize=7)
    axes.tick_params(labelsize=6)
