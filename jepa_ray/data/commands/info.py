"""Statistics of a dataset, for inspection before training: `info_text` prints them, `sheet` draws episodes.

Columns are read chunk by chunk, pixels only once. Data that training would refuse is reported, not raised as an error.
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
from jepa_ray.data.selection import choose_columns, select
from jepa_ray.data.trajectories import Trajectories, check_shapes
from jepa_ray.errors import DataError

BINS = 10  # maximum number of bins in the histogram of lengths
MAX_SHOWN = 10  # maximum number of values of a discrete action, or of constant dimensions, that are shown
MAX_RANGES = 8  # up to this many dimensions, the range of each dimension of an action is shown
LOADED_BYTES = {"u": 8, "i": 8, "f": 4, "b": 1}  # bytes per value in memory, by kind of dtype; pixels stay bytes


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
    """Statistics of a numeric column; a dimension is one position in a row, numbered in C order."""

    low: float | None  # minimum of the finite values; None if there are no finite values
    high: float | None
    mean: float | None
    nan: int  # number of NaN values
    infinite: int
    dims: int
    constant: tuple[int, ...]  # dimensions with at most one distinct finite value
    ranges: tuple[tuple[float, float], ...]  # (low, high) of each dimension; empty above `MAX_RANGES` dimensions


@dataclass(frozen=True)
class ColumnInfo:
    """A column; `values` is None if it is not numeric, or does not have one row per row of the dataset."""

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
    shares: tuple[tuple[int, float], ...]  # (value, share of the rows) of the most frequent values, sorted by value


@dataclass(frozen=True)
class MultiDiscrete:
    """Several integers per row; `ranges` is empty if there are too many to show."""

    dims: int
    ranges: tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class ActionAlignment:
    """The alignment of actions, and the evidence for it."""

    rule: Alignment  # the alignment by the rule of the file format
    evidence: str
    verdict: Alignment | None  # the alignment that the evidence supports; None if it does not decide


@dataclass(frozen=True)
class Repeats:
    """Repeated content in the data."""

    episodes: tuple[int, ...]  # episodes whose observations and actions are byte-identical to an earlier episode
    unchanged: float | None  # share of steps in which the observation does not change; None if there are no steps


@dataclass(frozen=True)
class Description:
    """Statistics of a recording; alignment and repeats are None if the columns have invalid shapes or dtypes."""

    source: str
    format: str
    trajectories: int
    rows: int
    transitions: int
    lengths: Lengths | None  # None without trajectories
    columns: tuple[ColumnInfo, ...]
    actions: Continuous | Discrete | MultiDiscrete | None  # None for any other type
    alignment: ActionAlignment | None
    repeats: Repeats | None
    memory: int  # bytes of observation, action and state when loaded for training
    notes: tuple[str, ...]
    refusal: str | None  # the error of training with default settings; None if it would succeed


def describe(recording: Recording, progress: Progress | None = None) -> Description:
    """Compute everything that `info` shows.

    Args:
        recording: an open recording; it may be invalid in any way that training would refuse.
        progress: called with the number of rows read so far and in total, summed over all columns.

    Raises `DataError` only if a column cannot be read at all.
    """
    lengths = np.ravel(recording.lengths)
    chosen = _training_columns(recording)
    rows = _common_rows(recording) if chosen is None else int(chosen.observation.shape[0])
    detectors = () if chosen is None else tuple(_RepeatDetector(recording) for _ in range(2))
    roles = dict(zip((_observation_column(recording), "action"), detectors, strict=False))
    measured = [name for name, column in recording.columns.items() if _has_statistics(column, rows)]
    counter = _ProgressCounter(progress or (lambda done, total: None), rows * len(measured))
    scanned = {name: _scan(recording.columns[name], roles.get(name), counter) for name in measured}
    return Description(
        source=recording.source,
        format=recording.format,
        trajectories=len(lengths),
        rows=rows,
        transitions=int(np.maximum(lengths - 1, 0).sum()),
        lengths=_summarize_lengths(lengths),
        columns=tuple(
            ColumnInfo(name, tuple(column.shape), str(column.dtype), scanned.get(name))
            for name, column in recording.columns.items()
        ),
        actions=_describe_actions(recording, scanned.get("action")),
        alignment=None if chosen is None else _describe_alignment(recording, chosen),
        repeats=_find_repeats(*detectors) if detectors else None,
        memory=_training_bytes(recording),
        notes=recording.notes,
        refusal=_refusal(recording),
    )


def _common_rows(recording: Recording) -> int:
    """The number of rows that most columns have; the sum of the episode lengths may be wrong."""
    counts = Counter(column.shape[0] for column in recording.columns.values() if column.shape)
    return int(counts.most_common(1)[0][0]) if counts else 0


def _observation_column(recording: Recording) -> str:
    return "pixels" if "pixels" in recording.columns else "observation"


def _training_columns(recording: Recording) -> Trajectories | None:
    """The columns that training would use; None if their shapes or dtypes would be refused."""
    try:
        chosen = choose_columns(recording, None)
        check_shapes(chosen)
    except DataError:
        return None
    return chosen


def _refusal(recording: Recording) -> str | None:
    try:
        select(recording, DataConfig(path=Path(recording.source)))
    except DataError as error:
        return str(error)
    return None


def _describe_alignment(recording: Recording, chosen: Trajectories) -> ActionAlignment:
    evidence = alignment.gather_evidence(recording, chosen.action, chosen.state_or_observation)
    return ActionAlignment(recording.alignment, str(evidence), evidence.verdict)


def _summarize_lengths(lengths: NDArray[np.int64]) -> Lengths | None:
    if not len(lengths):
        return None
    low, high = int(lengths.min()), int(lengths.max())
    width = -(-(high - low + 1) // BINS)
    counts = Counter(((lengths - low) // width).tolist())
    last = (high - low) // width
    bins = (Bin(low + i * width, min(low + (i + 1) * width - 1, high), counts[i]) for i in range(last + 1))
    return Lengths(low, float(np.median(lengths)), high, tuple(bins))


def _training_bytes(recording: Recording) -> int:
    roles = (_observation_column(recording), "action", "state")
    return sum(_loaded_bytes(recording.columns[name]) for name in roles if name in recording.columns)


def _loaded_bytes(column: Column) -> int:
    pixels = len(column.shape) == 4 and column.dtype == np.uint8
    return int(np.prod(column.shape, dtype=object)) * (1 if pixels else LOADED_BYTES.get(column.dtype.kind, 0))


# One pass over a column computes its statistics, and finds repetitions in observations and actions.


class _ProgressCounter:
    """Reports to a callback how many rows have been read."""

    def __init__(self, callback: Progress, total: int) -> None:
        self._callback, self._done, self._total = callback, 0, total

    def step(self, rows: int) -> None:
        self._done += rows
        self._callback(self._done, self._total)


def _has_statistics(column: Column, rows: int) -> bool:
    return column.dtype.kind in LOADED_BYTES and len(column.shape) >= 1 and column.shape[0] == rows


def _scan(column: Column, detector: _RepeatDetector | None, counter: _ProgressCounter) -> Values:
    statistics = _Statistics(column)
    for rows in chunks(column):
        block = column[rows].reshape(rows.stop - rows.start, statistics.dims)
        statistics.add(block)
        if detector is not None:
            detector.add(rows, block)
        counter.step(len(block))
    return statistics.values()


class _Statistics:
    """Running minimum and maximum of each dimension, and sums over all dimensions."""

    def __init__(self, column: Column) -> None:
        self.dims = int(np.prod(column.shape[1:], dtype=object))
        self.low, self.high = np.full(self.dims, np.inf), np.full(self.dims, -np.inf)
        self.total, self.finite, self.nan, self.infinite = 0.0, 0, 0, 0

    def add(self, block: NDArray[Any]) -> None:
        """Add a block (n, dims)."""
        finite: NDArray[np.bool_] | bool = True  # no mask is needed if all numbers are finite
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
        """The statistics of all added blocks; dimensions without any finite value count as constant."""
        constant = tuple(np.flatnonzero(self.low >= self.high).tolist())
        few = self.dims <= MAX_RANGES
        ranges = tuple(zip(self.low.tolist(), self.high.tolist(), strict=True)) if few else ()
        if not self.finite:
            return Values(None, None, None, self.nan, self.infinite, self.dims, constant, ranges)
        low, high, mean = float(self.low.min()), float(self.high.max()), self.total / self.finite
        return Values(low, high, mean, self.nan, self.infinite, self.dims, constant, ranges)


class _RepeatDetector:
    """Finds repetitions in a column: a digest of each episode, and the number of rows that equal the row before."""

    def __init__(self, recording: Recording) -> None:
        self.starts = recording.offsets
        self.ends = recording.offsets + recording.lengths
        self.digests: list[bytes] = []
        self.unchanged = 0
        self._open = hashlib.blake2b(digest_size=16)
        self._before: NDArray[Any] | None = None

    def add(self, rows: slice, block: NDArray[Any]) -> None:
        """Add `block` (n, dims), which are the rows `rows`; blocks must be added in order and without gaps."""
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
        same[self.starts[low:high] - rows.start] = False  # an episode's first row has no row before it
        self.unchanged += int(same.sum())
        self._before = block[-1].copy()


def _find_repeats(observation: _RepeatDetector, action: _RepeatDetector) -> Repeats:
    seen: set[tuple[bytes, bytes]] = set()
    again = []
    for episode, both in enumerate(zip(observation.digests, action.digests, strict=True)):
        if both in seen:
            again.append(episode)
        seen.add(both)
    steps = int((observation.ends - observation.starts - 1).sum())
    return Repeats(tuple(again), observation.unchanged / steps if steps else None)


def _describe_actions(recording: Recording, values: Values | None) -> Continuous | Discrete | MultiDiscrete | None:
    if values is None or not values.dims:
        return None
    action = recording.columns["action"]
    match action.dtype.kind, len(action.shape):
        case "f", 2:
            return Continuous(values.dims, values.ranges)
        case "i" | "u", 1:
            return _describe_discrete_actions(action)
        case "i" | "u", 2:
            return MultiDiscrete(values.dims, values.ranges)
    return None


def _describe_discrete_actions(action: Column) -> Discrete:
    counts: Counter[int] = Counter()
    for rows in chunks(action):
        found, times = np.unique(action[rows], return_counts=True)
        counts.update(dict(zip(found.tolist(), times.tolist(), strict=True)))
    total = counts.total()
    return Discrete(len(counts), tuple(sorted((value, n / total) for value, n in counts.most_common(MAX_SHOWN))))
