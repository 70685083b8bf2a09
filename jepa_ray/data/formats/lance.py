"""stable-worldmodel's Lance tables: rows with `episode_idx` and `step_idx`, images as embedded JPEG or PNG files."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jepa_ray.data.columns import Column
from jepa_ray.data.formats.peek import PARSER_ERRORS, Peek, files_below, short_reason
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

VECTORS = ("action", "state", "observation", "proprio")  # always vectors; other columns of width 1 are single numbers
INDEX = ("episode_idx", "step_idx")


class Lance:
    """Lance tables; `action[t]` leads from row t to t + 1."""

    name = "Lance table"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "folder" and _find_table(seen.path) is not None

    def files(self, path: Path) -> list[Path]:
        return files_below(_find_table(path) or path)

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        rows = _Rows(path, _find_table(path) or path)
        lengths = _read_lengths(path, rows)
        columns: dict[str, Column] = {}
        notes = []
        for field in rows.schema:
            if field.name in INDEX:
                continue
            column = _make_column(rows, field)
            if column is None:
                notes.append(f"{field.name} is not read: it has type {field.type}")
            else:
                columns[field.name] = column
        if "action" not in columns:
            raise DataError(f"{path}: lacks the column action (it has {', '.join(columns) or 'nothing'})")
        yield Recording.consecutive(str(path), self.name, columns, lengths, notes=tuple(notes))


def _find_table(path: Path) -> Path | None:
    """The table at `path`: the folder itself, or the only *.lance in it."""
    inner = [path] if (path / "_versions").is_dir() else list(path.glob("*.lance"))
    if len(inner) == 1 and all((inner[0] / name).is_dir() for name in ("_versions", "data")):
        return inner[0]
    return None


class _Rows:
    """A table; reads slices of one column at a time."""

    def __init__(self, path: Path, table: Path) -> None:
        try:
            import lance
        except ImportError:
            raise DataError(f"{path}: reading Lance tables needs Lance: pip install 'jepa-ray[lance]'") from None
        self.path = path
        with _report_damage(path, "the table"):
            self._dataset = lance.dataset(str(table))
            self.schema: Any = self._dataset.schema
            self.count: int = self._dataset.count_rows()

    def read(self, name: str, start: int, stop: int) -> Any:
        """Rows `start` to `stop` of a column, as one Arrow array without nulls."""
        with _report_damage(self.path, name):
            table = self._dataset.scanner(columns=[name], offset=start, limit=stop - start).to_table()
            values = table.column(name).combine_chunks()
        if len(values) != stop - start:
            raise DataError(
                f"{self.path}: {name} has {len(values)} values in rows {start} to {stop}, but must have {stop - start}"
            )
        if values.null_count:
            raise DataError(f"{self.path}: {name} has {values.null_count} missing values in rows {start} to {stop}")
        return values


@contextmanager
def _report_damage(path: Path, what: str) -> Iterator[None]:
    """Raise damage as `DataError`, including panics of Lance's Rust code, which are not an `Exception` in Python."""
    try:
        yield
    except BaseException as error:
        if isinstance(error, PARSER_ERRORS) or type(error).__name__ == "PanicException":
            raise DataError(f"{path}: {what} cannot be read ({short_reason(error)})") from error
        raise


def _read_lengths(path: Path, rows: _Rows) -> NDArray[np.int64]:
    """(E,) rows per episode. Raises `DataError` for rows that are not in order."""
    for name in INDEX:
        if name not in rows.schema.names:
            raise DataError(f"{path}: lacks the column {name} (it has {', '.join(rows.schema.names) or 'nothing'})")
    if not rows.count:
        raise DataError(f"{path}: contains no rows, but must have at least one")
    episode, step = (_read_integers(rows, name) for name in INDEX)
    starts = np.flatnonzero(np.diff(episode, prepend=episode[:1] - 1))
    ids, times = np.unique(episode[starts], return_counts=True)
    if len(ids) < len(starts):
        raise DataError(f"{path}: episode_idx {ids[times > 1][0]} appears again after another episode: sort the table")
    lengths = np.diff(starts, append=len(episode))
    wrong = np.flatnonzero(step != np.arange(len(step)) - np.repeat(starts, lengths))
    if len(wrong):
        row = wrong[0]
        expected = row - starts[np.searchsorted(starts, row, side="right") - 1]
        raise DataError(
            f"{path}: step_idx of row {row} is {step[row]} (episode_idx {episode[row]}), but must be {expected}"
        )
    return lengths


def _read_integers(rows: _Rows, name: str) -> NDArray[np.int64]:
    values = np.asarray(rows.read(name, 0, rows.count).to_numpy(zero_copy_only=False))
    if not np.issubdtype(values.dtype, np.integer):
        raise DataError(f"{rows.path}: {name} has dtype {values.dtype}, but must be integers")
    return values.astype(np.int64)


def _make_column(rows: _Rows, field: Any) -> Column | None:
    """The column for a field; None for text and other types that cannot be an array."""
    import pyarrow as pa

    kind = field.type
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        return _Images(rows, field.name)
    if pa.types.is_fixed_size_list(kind) and pa.types.is_floating(kind.value_type):
        return _Numbers(rows, field.name, kind.list_size, np.dtype(np.float32))
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind):
        return _Numbers(rows, field.name, None, np.dtype(kind.to_pandas_dtype()))
    return None


class _Numbers:
    """A column (N, K) of lists of K numbers, or (N,) of single numbers."""

    def __init__(self, rows: _Rows, name: str, width: int | None, dtype: np.dtype[Any]) -> None:
        self._rows, self._name, self._lists = rows, name, width is not None
        tail = () if width is None or (width == 1 and name not in VECTORS) else (width,)
        self.shape: tuple[int, ...] = (rows.count, *tail)
        self.dtype = dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        if start >= stop:
            return np.empty((0, *self.shape[1:]), self.dtype)
        values = self._rows.read(self._name, start, stop)
        flat = values.flatten() if self._lists else values
        return np.array(flat.to_numpy(zero_copy_only=False), self.dtype).reshape(stop - start, *self.shape[1:])


class _Images:
    """Images (N, H, W, 3) uint8, decoded when they are sliced."""

    def __init__(self, rows: _Rows, name: str) -> None:
        self._rows, self._name = rows, name
        self.dtype: np.dtype[Any] = np.dtype(np.uint8)
        self.shape: tuple[int, ...] = (rows.count, *self._image(0, rows.read(name, 0, 1)[0].as_py()).shape)

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        out = np.empty((max(0, stop - start), *self.shape[1:]), np.uint8)
        for i, file in enumerate(self._rows.read(self._name, start, stop) if len(out) else ()):
            image = self._image(start + i, file.as_py())
            if image.shape != self.shape[1:]:
                at = f"{self._rows.path}: {self._name} of row {start + i}"
                raise DataError(f"{at} has shape {image.shape}, but the first row has shape {self.shape[1:]}")
            out[i] = image
        return out

    def _image(self, row: int, file: bytes) -> NDArray[np.uint8]:
        try:
            with Image.open(io.BytesIO(file), formats=("JPEG", "PNG")) as image:
                return np.asarray(image.convert("RGB"))
        except (*PARSER_ERRORS, Image.DecompressionBombError) as error:
            at = f"{self._rows.path}: {self._name} of row {row}"
            raise DataError(f"{at} cannot be decoded ({short_reason(error)})") from None
