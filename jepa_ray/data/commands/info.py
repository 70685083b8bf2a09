"""What a dataset holds, before anything is trained on it, in numbers: `info_text` prints them, `sheet` draws episodes.

Columns are read chunk by chunk, pixels only once, and what training would refuse is looked at and told, never raised.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.config import DataConfig
from jepa_ray.data import alignment
from jepa_ray.data.columns import Column, chunks
from jepa_ray.data.recording import Alignment, Recording
from jepa_ray.data.selection import choose, select
from jepa_ray.data.trajectories import Trajectories, check_forms
from jepa_ray.errors import DataError

BINS = 10  # of the histogram of lengths, at most
MAX_SHOWN = 10  # values of a discrete action, and constant dimensions of a column
MAX_RANGES = 8  # dimensions of an action whose ranges are shown one by one
LOADED_BYTES = {"u": 8, "i": 8, "f": 4, "b": 1}  # of a value in memory, by kind of dtype; but pixels stay bytes


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
    ranges: tuple[tuple[float, float], ...]  # (low, high) of each dimension, of no more than `MAX_RANGES`


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
        few = self.dims <= MAX_RANGES
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
    return Discrete(len(counts), tuple(sorted((value, n / total) for value, n in counts.most_common(MAX_SHOWN))))
