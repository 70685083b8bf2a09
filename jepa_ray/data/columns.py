"""Columns: arrays that may be larger than memory, and are read in slices along time.

Readers return columns, and the later steps wrap them; data is read only when a column is sliced.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

CHUNK_BYTES = 64 << 20  # bytes of a column that are in memory at once while it is checked or copied


class Column(Protocol):
    """An array on disk or in memory, with a shape, a dtype and slicing along time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


def row_bytes(column: Column) -> int:
    """Bytes of one row, at least 1."""
    return max(1, int(np.prod(column.shape[1:], dtype=object)) * column.dtype.itemsize)


def column_bytes(column: Column) -> int:
    """Bytes of the whole column in memory."""
    return column.shape[0] * row_bytes(column)


def chunks(column: Column, limit: int = CHUNK_BYTES) -> list[slice]:
    """Slices along time; reading one of them takes about `limit` bytes of memory."""
    rows = max(1, limit // _bytes_to_read_row(column))
    return [slice(start, min(start + rows, column.shape[0])) for start in range(0, column.shape[0], rows)]


def _bytes_to_read_row(column: Column) -> int:
    """Bytes needed to read one row: those of the row itself, or of its source if that is larger."""
    made_from = _bytes_to_read_row(column.column) if isinstance(column, Gathered | Mapped) else 0
    if isinstance(column, Gathered) and column.index.ndim == 2:
        made_from *= column.index.shape[1]
    return max(row_bytes(column), made_from)


def fill_value(dtype: np.dtype[Any]) -> Any:
    """The value that stands for a missing value: NaN for floats, 0 for other types."""
    return np.nan if np.issubdtype(dtype, np.floating) else 0


@dataclass(frozen=True)
class Gathered:
    """Rows of a column in another order: row i is `column[index[i]]`, or F concatenated rows if the index is (N, F).

    Use it with an index whose neighbouring entries are close together: the rows between them are read as well.
    """

    column: Column
    index: NDArray[np.int64]  # (N,), or (N, F) to concatenate F vectors into one row

    @property
    def shape(self) -> tuple[int, ...]:
        rest = self.column.shape[1:]
        if self.index.ndim == 2:
            rest = (self.index.shape[1] * rest[0],)
        return (len(self.index), *rest)

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.column.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        index = self.index[rows]
        if not index.size:
            return np.empty((0, *self.shape[1:]), self.dtype)
        low = int(index.min())
        block = self.column[slice(low, int(index.max()) + 1)]
        return block[index - low].reshape(len(index), *self.shape[1:])


@dataclass(frozen=True)
class Mapped:
    """A function applied to blocks of a column: (n, ...) rows of the column -> (n, *tail) rows of `dtype`."""

    column: Column
    function: Callable[[NDArray[Any]], NDArray[Any]]
    tail: tuple[int, ...]
    dtype: np.dtype[Any]

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.column.shape[0], *self.tail)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        block = self.column[rows]
        return self.function(block) if len(block) else np.empty((0, *self.tail), self.dtype)


class SideBySide:
    """Columns of N rows, concatenated along the last axis: (N, D), (N, F) -> (N, D + F)."""

    def __init__(self, parts: Sequence[Column]) -> None:
        self._parts = parts
        width = sum(int(np.prod(part.shape[1:], dtype=object)) for part in parts)
        self.shape: tuple[int, ...] = (parts[0].shape[0], width)
        self.dtype: np.dtype[Any] = np.result_type(*(part.dtype for part in parts))

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        blocks = [part[rows] for part in self._parts]
        flat = [block.reshape(len(block), int(np.prod(block.shape[1:]))) for block in blocks]
        return np.concatenate(flat, axis=1, dtype=self.dtype)


class Concatenated:
    """One column per episode, concatenated along time.

    Args:
        parts: one column per episode, all with the same dtype and row shape.
        lengths: (E,) rows of each episode. A part may be one row shorter, such as the actions of an episode that has
            one more observation than actions; its last row is then filled with NaN, or with 0 for integers.
    """

    def __init__(self, parts: Sequence[Column], lengths: NDArray[np.int64]) -> None:
        first = parts[0]
        self._parts, self._ends = parts, np.cumsum(lengths)
        self._starts = self._ends - lengths
        self.dtype: np.dtype[Any] = first.dtype
        self.shape: tuple[int, ...] = (int(self._ends[-1]), *first.shape[1:])
        for episode, (part, length) in enumerate(zip(parts, lengths, strict=True)):
            if part.shape[1:] != first.shape[1:] or part.dtype != first.dtype:
                raise ValueError(
                    f"episode {episode} has rows of shape {part.shape[1:]} and dtype {part.dtype}, but the first"
                    f" episode has rows of shape {first.shape[1:]} and dtype {first.dtype}"
                )
            if part.shape[0] not in (length, length - 1):
                raise ValueError(f"episode {episode} has {part.shape[0]} rows, but must have {length}")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.full((max(0, stop - start), *self.shape[1:]), fill_value(self.dtype), self.dtype)
        episode = int(np.searchsorted(self._ends, start, side="right"))
        while episode < len(self._parts) and self._starts[episode] < stop:
            begin, part = int(self._starts[episode]), self._parts[episode]
            low, high = max(start, begin), min(stop, begin + part.shape[0])
            if low < high:
                out[low - start : high - start] = part[slice(low - begin, high - begin)]
            episode += 1
        return out
