"""What a dataset holds, before anything is trained on it: numbers, their printing, and a sheet of its episodes.

Columns are read chunk by chunk, pixels only once, and what training would refuse is looked at and told, never raised.
"""

from __future__ import annotations

import hashlib
import io
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from rich.console import Console
from rich.table import Table
from rich.text import Text

from jepa_ray.cli import in_one_line
from jepa_ray.config import DataConfig
from jepa_ray.data import alignment
from jepa_ray.data.columns import Column, chunks
from jepa_ray.data.recording import Alignment, Recording
from jepa_ray.data.selection import choose, select
from jepa_ray.data.trajectories import Trajectories, check_forms
from jepa_ray.errors import DataError
from jepa_ray.files import write_atomically

BINS = 10  # of the histogram of lengths, at most
MOST_SHOWN = 10  # values of a discrete action, and constant dimensions of a column
MOST_RANGES = 8  # dimensions of an action whose ranges are shown one by one
LEAST_NAME = 18  # characters that a column's name may have without being folded
BAR = 24  # characters of the histogram's longest bar
LOADED_BYTES = {"u": 8, "i": 8, "f": 4, "b": 1}  # of a value in memory, by kind of dtype; but pixels stay bytes

SHORTEST_SIDE, LONGEST_SIDE = 64, 256  # of a frame on the sheet, in pixels, as far as its shape allows both
GAP, MARGIN, CAPTION = 4, 78, 14  # between frames, left of them for the episode, under each for the step
PLOTTED_DIMS, PLOTTED_ROWS, PLOTS_ACROSS = 8, 1000, 4

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Bin:
    """`count` trajectories have from `low` to `high` rows, both included."""

    low: int
    high: int
    count: int


@dataclass(frozen=True)
class Lengths:
    """Rows per trajectory."""

    low: int
    median: float
    high: int
    bins: tuple[Bin, ...]


@dataclass(frozen=True)
class Values:
    """What a column of numbers holds; a dimension is one position in a row, counted in C order."""

    low: float | None  # of the finite values; None if there are none
    high: float | None
    mean: float | None
    nan: int  # values that are NaN
    infinite: int
    dims: int
    constant: tuple[int, ...]  # dimensions without two different finite values
    ranges: tuple[tuple[float, float], ...]  # (low, high) of each dimension, of no more than `MOST_RANGES`


@dataclass(frozen=True)
class ColumnInfo:
    """A column; `values` is None where it holds no numbers, or not one row per row of the dataset."""

    name: str
    shape: tuple[int, ...]
    dtype: str
    values: Values | None


@dataclass(frozen=True)
class Continuous:
    """Vectors of `dims` floats; `ranges` is empty if there are too many to show."""

    dims: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class Discrete:
    """One integer per row."""

    distinct: int
    shares: tuple[tuple[int, float], ...]  # (value, share of the rows), the most frequent ones, by value


@dataclass(frozen=True)
class MultiDiscrete:
    """Several integers per row; `ranges` is empty if there are too many to show."""

    dims: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ActionAlignment:
    """Which way actions are read, and what speaks for it."""

    rule: Alignment  # the layout's
    evidence: str
    verdict: Alignment | None  # of the evidence; None if it does not decide


@dataclass(frozen=True)
class Repeats:
    """What is in the data more than once."""

    episodes: tuple[int, ...]  # whose observations and actions are those of an earlier one, byte for byte
    still: float | None  # share of the steps in which the observation does not change; None without steps


@dataclass(frozen=True)
class Description:
    """A recording in numbers; alignment and repeats are None where the columns don't have the forms they need."""

    source: str
    format: str
    trajectories: int
    rows: int
    transitions: int
    lengths: Lengths | None  # None without trajectories
    columns: tuple[ColumnInfo, ...]
    actions: Continuous | Discrete | MultiDiscrete | None  # None if they are none of these
    alignment: ActionAlignment | None
    repeats: Repeats | None
    memory: int  # bytes of observation, action and state, loaded for training
    notes: tuple[str, ...]
    refusal: str | None  # why training with default settings would refuse it


def describe(recording: Recording, progress: Progress | None = None) -> Description:
    """Everything `info` shows.

    Args:
        recording: open, its columns still on disk; may be broken in any way that training would refuse.
        progress: called with the rows read so far and all rows to read, each column's counted by itself.

    Raises `DataError` only where a column cannot be read at all.
    """
    lengths = np.ravel(recording.lengths)
    chosen = _chosen(recording)
    rows = _common_rows(recording) if chosen is None else int(chosen.observation.shape[0])
    watched = () if chosen is None else tuple(_Watched(recording) for _ in range(2))
    roles = dict(zip((_observation(recording), "action"), watched, strict=False))
    counted = [name for name, column in recording.columns.items() if _is_counted(column, rows)]
    pace = _Pace(progress or (lambda done, total: None), rows * len(counted))
    scanned = {name: _scan(recording.columns[name], roles.get(name), pace) for name in counted}
    return Description(
        source=recording.source,
        format=recording.format,
        trajectories=len(lengths),
        rows=rows,
        transitions=int(np.maximum(lengths - 1, 0).sum()),
        lengths=_lengths(lengths),
        columns=tuple(
            ColumnInfo(name, tuple(column.shape), str(column.dtype), scanned.get(name))
            for name, column in recording.columns.items()
        ),
        actions=_action_space(recording, scanned.get("action")),
        alignment=None if chosen is None else _alignment(recording, chosen),
        repeats=_repeats(*watched) if watched else None,
        memory=_memory(recording),
        notes=recording.notes,
        refusal=_refusal(recording),
    )


def _common_rows(recording: Recording) -> int:
    """The rows that most columns have; what the lengths add up to may be wrong."""
    counts = Counter(column.shape[0] for column in recording.columns.values() if column.shape)
    return int(counts.most_common(1)[0][0]) if counts else 0


def _observation(recording: Recording) -> str:
    return "pixels" if "pixels" in recording.columns else "observation"


def _chosen(recording: Recording) -> Trajectories | None:
    """The columns that play a role; None if their forms would be refused."""
    try:
        chosen = choose(recording, None)
        check_forms(chosen)
    except DataError:
        return None
    return chosen


def _refusal(recording: Recording) -> str | None:
    try:
        select(recording, DataConfig(path=Path(recording.source)))
    except DataError as error:
        return str(error)
    return None


def _alignment(recording: Recording, chosen: Trajectories) -> ActionAlignment:
    evidence = alignment.gather(recording, chosen.action, chosen.changing)
    return ActionAlignment(recording.alignment, str(evidence), evidence.verdict)


def _lengths(lengths: NDArray[np.int64]) -> Lengths | None:
    if not len(lengths):
        return None
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // BINS)
    counts = Counter(((lengths - low) // width).tolist())
    last = (high - low) // width
    bins = (Bin(low + i * width, min(low + (i + 1) * width - 1, high), counts[i]) for i in range(last + 1))
    return Lengths(low, float(np.median(lengths)), high, tuple(bins))


def _memory(recording: Recording) -> int:
    roles = (_observation(recording), "action", "state")
    return sum(_loaded_bytes(recording.columns[name]) for name in roles if name in recording.columns)


def _loaded_bytes(column: Column) -> int:
    pixels = len(column.shape) == 4 and column.dtype == np.uint8
    return int(np.prod(column.shape, dtype=object)) * (1 if pixels else LOADED_BYTES.get(column.dtype.kind, 0))


# One pass over a column: its numbers, and for observations and actions what repeats.


class _Pace:
    """Tells a callback how many rows have been read."""

    def __init__(self, callback: Progress, total: int) -> None:
        self._callback, self._done, self._total = callback, 0, total

    def step(self, rows: int) -> None:
        self._done += rows
        self._callback(self._done, self._total)


def _is_counted(column: Column, rows: int) -> bool:
    return column.dtype.kind in LOADED_BYTES and len(column.shape) >= 1 and column.shape[0] == rows


def _scan(column: Column, watched: _Watched | None, pace: _Pace) -> Values:
    tally = _Tally(column)
    for rows in chunks(column):
        block = column[rows].reshape(rows.stop - rows.start, tally.dims)
        tally.add(block)
        if watched is not None:
            watched.add(rows, block)
        pace.step(len(block))
    return tally.values()


class _Tally:
    """Running extremes of each dimension, and counts over all of them."""

    def __init__(self, column: Column) -> None:
        self.dims = int(np.prod(column.shape[1:], dtype=object))
        self.low, self.high = np.full(self.dims, np.inf), np.full(self.dims, -np.inf)
        self.total, self.finite, self.nan, self.infinite = 0.0, 0, 0, 0

    def add(self, block: NDArray[Any]) -> None:
        """Take a block (n, dims) into account."""
        finite: NDArray[np.bool_] | bool = True  # without a mask for numbers that are always finite
        count = block.size
        lowest: Any = block
        highest: Any = block
        if block.dtype.kind == "f" and not (mask := np.isfinite(block)).all():
            finite, count = mask, int(mask.sum())
            self.nan += (nan := int(np.isnan(block).sum()))
            self.infinite += block.size - count - nan
            lowest, highest = np.where(mask, block, np.inf), np.where(mask, block, -np.inf)
        self.low = np.minimum(self.low, lowest.min(axis=0))
        self.high = np.maximum(self.high, highest.max(axis=0))
        self.total += float(np.sum(block, dtype=np.float64, where=finite))
        self.finite += count

    def values(self) -> Values:
        """What was added up; constant dimensions include those with no finite value at all."""
        constant = tuple(np.flatnonzero(self.low >= self.high).tolist())
        few = self.dims <= MOST_RANGES
        ranges = tuple(zip(self.low.tolist(), self.high.tolist(), strict=True)) if few else ()
        if not self.finite:
            return Values(None, None, None, self.nan, self.infinite, self.dims, constant, ranges)
        low, high, mean = float(self.low.min()), float(self.high.max()), self.total / self.finite
        return Values(low, high, mean, self.nan, self.infinite, self.dims, constant, ranges)


class _Watched:
    """A digest of each episode of a column, and whether each row equals the one before it."""

    def __init__(self, recording: Recording) -> None:
        self.starts = recording.offsets
        self.ends = recording.offsets + recording.lengths
        self.digests: list[bytes] = []
        self.still = 0
        self._open = hashlib.blake2b(digest_size=16)
        self._before: NDArray[Any] | None = None

    def add(self, rows: slice, block: NDArray[Any]) -> None:
        """Take `block` (n, dims), the rows `rows`, into account; blocks come in order and without gaps."""
        self._compare(rows, block)
        position = rows.start
        while position < rows.stop:
            end = int(self.ends[len(self.digests)])
            upto = min(end, rows.stop)
            self._open.update(np.ascontiguousarray(block[position - rows.start : upto - rows.start]).data)
            if upto == end:
                self.digests.append(self._open.digest())
                self._open = hashlib.blake2b(digest_size=16)
            position = upto

    def _compare(self, rows: slice, block: NDArray[Any]) -> None:
        same = np.zeros(len(block), np.bool_)  # whether each row equals the one before it
        same[1:] = (block[1:] == block[:-1]).all(axis=1)
        if self._before is not None:
            same[0] = np.array_equal(block[0], self._before)
        low, high = np.searchsorted(self.starts, [rows.start, rows.stop])
        same[self.starts[low:high] - rows.start] = False  # an episode's first row follows none
        self.still += int(same.sum())
        self._before = block[-1].copy()


def _repeats(observation: _Watched, action: _Watched) -> Repeats:
    seen: set[tuple[bytes, bytes]] = set()
    again = []
    for episode, both in enumerate(zip(observation.digests, action.digests, strict=True)):
        if both in seen:
            again.append(episode)
        seen.add(both)
    steps = int((observation.ends - observation.starts - 1).sum())
    return Repeats(tuple(again), observation.still / steps if steps else None)


def _action_space(recording: Recording, values: Values | None) -> Continuous | Discrete | MultiDiscrete | None:
    if values is None or not values.dims:
        return None
    action = recording.columns["action"]
    match action.dtype.kind, len(action.shape):
        case "f", 2:
            return Continuous(values.dims, values.ranges)
        case "i" | "u", 1:
            return _discrete(action)
        case "i" | "u", 2:
            return MultiDiscrete(values.dims, values.ranges)
    return None


def _discrete(action: Column) -> Discrete:
    counts: Counter[int] = Counter()
    for rows in chunks(action):
        found, times = np.unique(action[rows], return_counts=True)
        counts.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
    total = counts.total()
    return Discrete(len(counts), tuple(sorted((value, n / total) for value, n in counts.most_common(MOST_SHOWN))))


# Printing


def print_description(description: Description, console: Console) -> None:
    """Print it for people, in the console's width."""
    console.print(_facts(_head(description)))
    console.print()
    console.print(_column_table(description.columns))
    console.print()
    console.print(_facts(_tail(description)))
    if description.refusal is not None:
        warning = f"warning: training would refuse this: {in_one_line(description.refusal)}"
        console.print(Text(warning, "yellow"), soft_wrap=True)


def _facts(facts: list[tuple[str, Text]]) -> Table:
    table = Table.grid(padding=(0, 2), pad_edge=False)
    table.add_column(style="bold", no_wrap=True, min_width=len("duplicates"))
    table.add_column(overflow="fold")
    for label, text in facts:
        table.add_row(label, text)
    return table


def _head(description: Description) -> list[tuple[str, Text]]:
    counts = f"{description.trajectories:,} trajectories, {description.rows:,} rows"
    facts = [
        ("source", Text(in_one_line(description.source))),
        ("format", Text(description.format)),
        ("holds", Text(f"{counts}, {description.transitions:,} transitions")),
    ]
    return facts if description.lengths is None else [*facts, ("lengths", _histogram(description.lengths))]


def _histogram(lengths: Lengths) -> Text:
    summary = f"min {lengths.low:,}, median {lengths.median:,g}, max {lengths.high:,}"
    names = [f"{bin_.low:,}" if bin_.low == bin_.high else f"{bin_.low:,}-{bin_.high:,}" for bin_ in lengths.bins]
    wide, most = max(map(len, names)), max(bin_.count for bin_ in lengths.bins)
    lines = [
        f"{name:>{wide}} {_bar(bin_.count / most)} {bin_.count:,}"
        for name, bin_ in zip(names, lengths.bins, strict=True)
    ]
    return Text("\n".join([summary, *lines]) if len(lines) > 1 else summary)


def _bar(share: float) -> str:
    """Blocks to an eighth of a character; a bar of something is never empty."""
    eighths = max(int(share > 0), round(share * BAR * 8))
    return "█" * (eighths // 8) + " ▏▎▍▌▋▊▉"[eighths % 8].strip()


def _column_table(columns: tuple[ColumnInfo, ...]) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, header_style="bold")
    longest = max((len(column.name) for column in columns), default=0)
    table.add_column("column", overflow="fold", no_wrap=longest <= LEAST_NAME)
    for title in ("shape", "dtype"):
        table.add_column(title, no_wrap=True)
    for title in ("min", "max", "mean", "NaN"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("constant", overflow="fold")
    for column in columns:
        about = ("",) * 5 if column.values is None else _cells(column.values)
        shape = "x".join(map(str, column.shape)) or "scalar"
        table.add_row(*(Text(cell) for cell in (in_one_line(column.name), shape, column.dtype, *about)))
    return table


def _cells(values: Values) -> tuple[str, ...]:
    bad = f"{values.nan:,}" + (f" (+{values.infinite:,} inf)" if values.infinite else "")
    if values.low is None or values.high is None or values.mean is None:
        return "", "", "", bad, _constant(values)
    return _number(values.low), _number(values.high), f"{values.mean:.3g}", bad, _constant(values)


def _constant(values: Values) -> str:
    if not values.constant:
        return ""
    if len(values.constant) == values.dims:
        return "all" if values.dims > 1 else "yes"
    count = f"{len(values.constant):,} of {values.dims:,}"
    runs = _runs(values.constant)
    return count if len(runs) > MOST_SHOWN else f"{count}: {', '.join(runs)}"


def _runs(numbers: tuple[int, ...]) -> list[str]:
    """(0, 4, 5, 6) -> ["0", "4-6"]."""
    breaks = np.flatnonzero(np.diff(numbers) != 1) + 1
    runs = np.split(np.array(numbers), breaks)
    return [f"{run[0]}" if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs]


def _range(low: float, high: float) -> str:
    return f"{_number(low)} … {_number(high)}" if low <= high else "nothing finite"


def _number(value: float) -> str:
    return str(int(value)) if value.is_integer() and abs(value) < 1e12 else f"{value:.4g}"


def _tail(description: Description) -> list[tuple[str, Text]]:
    facts = [("actions", Text(_actions(description.actions)))]
    if description.alignment is not None:
        facts.append(("alignment", Text(_aligned(description.alignment))))
    if description.repeats is not None:
        facts.append(("duplicates", Text(_repeated(description.repeats))))
    facts.append(("memory", Text(f"{_size(description.memory)} when loaded (observation, action and state)")))
    return facts + [("note", Text(in_one_line(note))) for note in description.notes]


def _actions(actions: Continuous | Discrete | MultiDiscrete | None) -> str:
    match actions:
        case Continuous(dims, ranges):
            return f"continuous, {_dims(dims)}{_all_ranges(ranges)}"
        case MultiDiscrete(dims, ranges):
            return f"multi-discrete, {_dims(dims)}{_all_ranges(ranges)}"
        case Discrete(distinct, shares):
            shown = ", ".join(f"{value} ({share:.1%})" for value, share in shares)
            more = f", and {distinct - len(shares):,} rarer ones" if distinct > len(shares) else ""
            return f"discrete, {distinct:,} value{'s' * (distinct != 1)}: {shown}{more}"
    return "none that can be trained on"


def _dims(dims: int) -> str:
    return f"{dims:,} dimension{'s' * (dims != 1)}"


def _all_ranges(ranges: tuple[tuple[float, float], ...]) -> str:
    return ": " + ", ".join(_range(low, high) for low, high in ranges) if ranges else ""


READINGS = {"next": "action[t] leads from row t to t + 1", "previous": "action[t] led from row t - 1 to t"}


def _aligned(found: ActionAlignment) -> str:
    verdict = "undecided by the data" if found.verdict is None else f"the data says {found.verdict}"
    return f"{found.rule} by the layout ({READINGS[found.rule]}); {verdict}: {found.evidence}"


def _repeated(repeats: Repeats) -> str:
    shown = ", ".join(map(str, repeats.episodes[:MOST_SHOWN])) + ", …" * (len(repeats.episodes) > MOST_SHOWN)
    count = len(repeats.episodes)
    text = f"{count:,} episode{'s' * (count != 1)} identical to an earlier one" + (f" ({shown})" if count else "")
    return text if repeats.still is None else f"{text}; the observation stays the same in {repeats.still:.1%} of steps"


def _size(count: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


# The contact sheet


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
    scale = max(SHORTEST_SIDE / min(height, width), min(1.0, LONGEST_SIDE / max(height, width)))
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
