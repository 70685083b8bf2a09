"""What formats in parquet share: files whose claims are checked before they are read, and columns read forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.hdf5 import HARMLESS, MAX_COMPRESSION
from jepa_ray.data.formats.peek import BROKEN, first_line
from jepa_ray.errors import DataError

BUFFER = 1 << 20  # bytes of a column that are read from a file at once


@dataclass(frozen=True)
class Table:
    """What a file holds, by its own word."""

    path: Path
    kinds: dict[str, Any]  # Arrow types of the columns
    ends: NDArray[np.int64]  # (G,) rows up to the end of each row group

    @property
    def rows(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def kind(self, name: str) -> Any:
        """The Arrow type of a column. Raises `DataError` if there is none of that name."""
        if name not in self.kinds:
            raise DataError(f"{self.path}: lacks the column {name}")
        return self.kinds[name]

    def check_claim(self, name: str, row_bytes: int) -> None:
        """Raise `DataError` if so many rows can hardly come out of a file of that size."""
        claimed, stored = self.rows * row_bytes, self.path.stat().st_size
        if claimed > max(HARMLESS, MAX_COMPRESSION * stored):
            raise DataError(f"{self.path}: {name} claims {claimed:,} bytes, but the file has {stored:,}")


@contextmanager
def open_file(path: Path, name: str = "") -> Iterator[Any]:
    """The file, open for reading the column `name`, or any. Raises `DataError` for damage met meanwhile."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=BUFFER, pre_buffer=False) as file:
            yield file
    except (*BROKEN, pa.ArrowException) as error:
        what = f"{name} cannot be read" if name else "is not a readable parquet file"
        raise DataError(f"{path}: {what} ({first_line(error)})") from error


def read_footer(path: Path) -> Table:
    """What the file at `path` holds; reads its footer alone."""
    with open_file(path) as file:
        about, schema = file.metadata, file.schema_arrow
        groups = np.array([about.row_group(i).num_rows for i in range(about.num_row_groups)], np.int64)
        if (groups < 0).any():
            raise DataError(f"{path}: has a row group of {groups.min()} rows")
        return Table(path, dict(zip(schema.names, schema.types, strict=True)), np.cumsum(groups))


class Forward:
    """Slices of one column of some files, read forward: whoever reads in order reads each batch of rows once."""

    def __init__(self, name: str, batch_rows: int) -> None:
        self._name, self._batch_rows = name, batch_rows
        self._table: Table | None = None
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = ()  # the batch that was read last, an Arrow array
        self._low = 0  # and its first row

    def read(self, table: Table, start: int, stop: int) -> list[Any]:
        """Rows `start` to `stop`, as Arrow arrays."""
        group = int(np.searchsorted(table.ends, start, side="right"))
        first = int(table.ends[group - 1]) if group else 0
        if table is not self._table or start < self._low or first > self._low + len(self._batch):
            self.close()
            self._table, self._low = table, first
            self._batches = self._read_from(table, group)
        pieces = []
        while start < stop:
            while start >= self._low + len(self._batch):
                self._low, self._batch = self._low + len(self._batch), self._following(table)
            pieces.append(self._batch.slice(start - self._low, stop - start))
            start += len(pieces[-1])
        return pieces

    def close(self) -> None:
        if self._table is not None:
            self._batches.close()  # type: ignore[attr-defined]  # a generator, which holds the file
        self._table, self._batch = None, ()

    def _read_from(self, table: Table, group: int) -> Iterator[Any]:
        with open_file(table.path, self._name) as file:
            groups = list(range(group, len(table.ends)))
            for batch in file.iter_batches(self._batch_rows, groups, [self._name]):
                yield batch.column(self._name)

    def _following(self, table: Table) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            raise DataError(f"{table.path}: {self._name} ends before the {table.rows} rows that the file claims")
        return batch


def number_type(kind: Any) -> tuple[int, np.dtype[Any] | None]:
    """How deep lists lie in each other, and what numbers are in them; None if it is not numbers."""
    import pyarrow as pa

    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return depth, np.dtype(kind.to_pandas_dtype()) if plain else None


def numbers(values: Any, lists: tuple[int, ...]) -> NDArray[Any]:
    """(n, *lists) of an Arrow array: numbers, or lists of these lengths. Raises `ValueError` for other lengths."""
    import pyarrow.compute as pc

    rows = len(values)
    for length in lists:
        lengths = pc.list_value_length(_whole(values)).to_numpy(zero_copy_only=False)
        if (lengths != length).any():
            raise ValueError(f"has a list of {lengths[lengths != length][0]} where {length} must be")
        values = values.flatten()
    return np.asarray(_whole(values).to_numpy(zero_copy_only=False)).reshape(rows, *lists)


def _whole(values: Any) -> Any:
    if values.null_count:
        raise ValueError(f"has no value in {values.null_count} rows")
    return values
