"""Shared by all formats in parquet: declared sizes are checked before reading, and columns are read forward."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.hdf5 import MAX_COMPRESSION, UNCHECKED_BYTES
from jepa_ray.data.formats.peek import PARSER_ERRORS, short_reason
from jepa_ray.errors import DataError

BUFFER_BYTES = 1 << 20  # bytes of a column that are read from the file at once


@dataclass(frozen=True)
class Table:
    """The content of a file, as declared in its footer."""

    path: Path
    kinds: dict[str, Any]  # Arrow types of the columns
    ends: NDArray[np.int64]  # (G,) number of rows up to the end of each row group

    @property
    def rows(self) -> int:
        return int(self.ends[-1]) if len(self.ends) else 0

    def kind(self, name: str) -> Any:
        """The Arrow type of a column. Raises `DataError` if there is no such column."""
        if name not in self.kinds:
            raise DataError(f"{self.path}: lacks the column {name}")
        return self.kinds[name]

    def check_claimed_size(self, name: str, row_bytes: int) -> None:
        """Raise `DataError` if the declared rows of a column are too large for the size of the file."""
        claimed, stored = self.rows * row_bytes, self.path.stat().st_size
        if claimed > max(UNCHECKED_BYTES, MAX_COMPRESSION * stored):
            raise DataError(f"{self.path}: {name} claims {claimed:,} bytes, but the file has {stored:,}")


@contextmanager
def open_file(path: Path, name: str = "") -> Iterator[Any]:
    """Open the file to read the column `name`, or any column. Raises `DataError` for damage found while it is open."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(path, buffer_size=BUFFER_BYTES, pre_buffer=False) as file:
            yield file
    except (*PARSER_ERRORS, pa.ArrowException) as error:
        what = f"{name} cannot be read" if name else "is not a readable parquet file"
        raise DataError(f"{path}: {what} ({short_reason(error)})") from error


def read_footer(path: Path) -> Table:
    """Read the footer of the file at `path`. Raises `DataError`."""
    with open_file(path) as file:
        about, schema = file.metadata, file.schema_arrow
        groups = np.array([about.row_group(i).num_rows for i in range(about.num_row_groups)], np.int64)
        if (groups < 0).any():
            raise DataError(f"{path}: has a row group of {groups.min()} rows, but must have 0 or more")
        return Table(path, dict(zip(schema.names, schema.types, strict=True)), np.cumsum(groups))


class ForwardReader:
    """Reads slices of one column of several files; reading in order reads each batch of rows only once."""

    def __init__(self, name: str, batch_rows: int) -> None:
        self._name, self._batch_rows = name, batch_rows
        self._table: Table | None = None
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = ()  # the batch that was read last: an Arrow array
        self._low = 0  # first row of that batch

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
                self._low, self._batch = self._low + len(self._batch), self._next_batch(table)
            pieces.append(self._batch.slice(start - self._low, stop - start))
            start += len(pieces[-1])
        return pieces

    def close(self) -> None:
        if self._table is not None:
            self._batches.close()  # type: ignore[attr-defined]  # a generator, which holds the open file
        self._table, self._batch = None, ()

    def _read_from(self, table: Table, group: int) -> Iterator[Any]:
        with open_file(table.path, self._name) as file:
            groups = list(range(group, len(table.ends)))
            for batch in file.iter_batches(self._batch_rows, groups, [self._name]):
                yield batch.column(self._name)

    def _next_batch(self, table: Table) -> Any:
        batch = next(self._batches, None)
        if batch is None:
            raise DataError(
                f"{table.path}: {self._name} ends early, but must have {table.rows} rows as the file claims"
            )
        return batch


def number_type(kind: Any) -> tuple[int, np.dtype[Any] | None]:
    """Nesting depth of lists in an Arrow type, and the dtype of their numbers; None if they are not numbers."""
    import pyarrow as pa

    depth = 0
    while pa.types.is_list(kind) or pa.types.is_large_list(kind) or pa.types.is_fixed_size_list(kind):
        kind, depth = kind.value_type, depth + 1
    plain = pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
    return depth, np.dtype(kind.to_pandas_dtype()) if plain else None


def numbers(values: Any, lists: tuple[int, ...]) -> NDArray[Any]:
    """Convert an Arrow array to (n, *lists): numbers, or nested lists of these lengths. Raises `ValueError`."""
    import pyarrow.compute as pc

    rows = len(values)
    for length in lists:
        lengths = pc.list_value_length(_without_nulls(values)).to_numpy(zero_copy_only=False)
        if (lengths != length).any():
            raise ValueError(f"has a list of length {lengths[lengths != length][0]}, but must have {length}")
        values = values.flatten()
    return np.asarray(_without_nulls(values).to_numpy(zero_copy_only=False)).reshape(rows, *lists)


def _without_nulls(values: Any) -> Any:
    if values.null_count:
        raise ValueError(f"has {values.null_count} missing values")
    return values
