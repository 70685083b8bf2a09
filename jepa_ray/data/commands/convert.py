"""Converts any recording to one canonical HDF5 file in bounded memory.

`convert` works in parts. Each part is a complete small file in `TARGET.partial/`, so a killed conversion resumes at the
next part. At the end, the compressed chunks of the parts are copied into the target without recompression.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import h5py
import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from jepa_ray.data.cache import list_files
from jepa_ray.data.columns import Column, Gathered, chunks, row_bytes
from jepa_ray.data.formats import open_recording
from jepa_ray.data.formats.hdf5 import FILE_CHUNK_BYTES, new_column, new_file
from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import Pieces, align_actions, as_matrix, choose_columns, prepare_frames
from jepa_ray.data.trajectories import check_shapes
from jepa_ray.errors import DataError
from jepa_ray.files import write_atomically

PART_BYTES = 256 << 20  # bytes of one part, before compression
LAYOUT = 2  # increase it when the layout of parts changes; older parts are then discarded

Progress = Callable[[int, int], None]  # parts done, parts in all


@dataclass(frozen=True)
class _Table:
    """The columns and episodes that a conversion writes."""

    columns: Mapping[str, Column]  # of N rows each
    lengths: NDArray[np.int64]  # (E,)
    held_out: NDArray[np.bool_] | None  # (E,)

    @property
    def rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def part_rows(self) -> int:
        """Rows of one part: a power of two, so that it is a multiple of every column's chunk size."""
        return _power_of_two(PART_BYTES // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        return sum(row_bytes(column) for column in self.columns.values())

    def chunk_rows(self, column: Column) -> int:
        return min(self.part_rows, _power_of_two(FILE_CHUNK_BYTES // row_bytes(column)))


def convert(
    source: Path,
    target: Path,
    *,
    frameskip: int = 1,
    resize: tuple[int, int] | None = None,
    grayscale: bool = False,
    keys: Collection[str] | None = None,
    action_alignment: Literal["auto", "next", "previous"] = "auto",
    progress: Progress = lambda done, total: None,
) -> None:
    """Write the dataset at `source` as canonical HDF5 with actions aligned as `next`; resumes a killed conversion.

    Args:
        source: the dataset, in any supported format.
        target: the file to write; it must not exist.
        frameskip: keep every `frameskip`th row of an episode, from its first; the actions in between are concatenated.
        resize: new (H, W) of all pixel columns; None: unchanged.
        grayscale: write pixel columns with one channel.
        keys: the columns to write; None: all numeric columns.
        action_alignment: how the source stores actions, as in `data.action_alignment`.
        progress: called with the number of finished parts and of all parts.

    Raises `DataError` if the source cannot be read, an option is invalid, or the target cannot be written.
    """
    if frameskip < 1:
        raise DataError(f"frameskip is {frameskip}, but must be at least 1")
    if keys is not None and not keys:
        raise DataError("keys is empty, but must name at least one column: omit it to write all numeric columns")
    if os.path.realpath(target) == os.path.realpath(source):  # not Path.resolve, which raises for a cycle of links
        raise DataError(f"{target}: is the source itself: choose another name")
    options: dict[str, Any] = {
        "frameskip": frameskip,
        "resize": resize,
        "grayscale": grayscale,
        "keys": keys and sorted(keys),
        "alignment": action_alignment,
    }
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(target.with_name(f".{target.name}.lock"), timeout=0):
            folder = target.with_name(target.name + ".partial")
            if target.exists() and not folder.exists():
                raise DataError(f"{target}: already exists: remove it or choose another name")
            if not target.exists():
                with open_recording(source) as recording:
                    table = _prepare_table(recording, frameskip, resize, grayscale, keys, action_alignment)
                    _write_in_parts(table, target, folder, _fingerprint(source, options, table), progress)
            shutil.rmtree(folder)  # the last step: a target without this folder is a finished conversion
    except Timeout:
        raise DataError(f"{target}: another process is writing this file: wait for it or choose another name") from None
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None


def _prepare_table(
    recording: Recording,
    frameskip: int,
    resize: tuple[int, int] | None,
    grayscale: bool,
    keys: Collection[str] | None,
    action_alignment: Literal["auto", "next", "previous"],
) -> _Table:
    """The columns as they will be written; reads only the data that the alignment is determined from."""
    chosen = choose_columns(recording, None)
    check_shapes(chosen)
    columns = _select_columns(recording, chosen.action.shape[0], keys)
    if "action" in columns:
        columns["action"] = align_actions(recording, chosen, action_alignment).action
    lengths = recording.lengths
    if frameskip > 1:
        pieces = Pieces.of(recording.offsets, lengths, np.arange(len(lengths)), frameskip, phases=1)
        columns = {
            name: Gathered(as_matrix(column), pieces.actions) if name == "action" else Gathered(column, pieces.rows)
            for name, column in columns.items()
        }
        lengths = pieces.lengths
    for name, column in columns.items():
        if len(column.shape) == 4 and column.dtype == np.uint8:
            columns[name] = prepare_frames(column, resize, grayscale, recording.source)
    return _Table(columns, lengths, recording.held_out)


def _select_columns(recording: Recording, rows: int, keys: Collection[str] | None) -> dict[str, Column]:
    found = {
        name: column
        for name, column in recording.columns.items()
        if column.shape[:1] == (rows,) and column.dtype.kind in "biuf" and 0 not in column.shape
    }
    names = found if keys is None else dict.fromkeys(keys)
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{recording.source}: {name!r} is not a valid column name")
        if name not in found:
            raise DataError(f"{recording.source}: lacks the column {name} (it has {', '.join(sorted(found))})")
    return {name: found[name] for name in names}


def _fingerprint(source: Path, options: Mapping[str, Any], table: _Table) -> str:
    """Source, options and layout of a conversion as JSON; existing parts are reused only if theirs are the same."""
    shapes = {name: [*column.shape, str(column.dtype)] for name, column in table.columns.items()}
    files = list_files(source)
    fingerprint = [LAYOUT, FILE_CHUNK_BYTES, os.path.realpath(source), files, options, shapes, table.part_rows]
    return json.dumps(fingerprint, sort_keys=True)


def _write_in_parts(table: _Table, target: Path, folder: Path, fingerprint: str, progress: Progress) -> None:
    record = folder / "plan.json"
    if folder.exists() and not (record.exists() and record.read_text() == fingerprint):
        shutil.rmtree(folder)
    starts = range(0, table.rows, table.part_rows)
    parts = [folder / f"{number:06}.h5" for number in range(len(starts))]
    write_atomically(record, fingerprint.encode())
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        if not part.exists():
            _check_disk_space(table, target, parts[:number])
            _write_part(table, slice(start, min(start + table.part_rows, table.rows)), part)
        progress(number + 1, len(parts))
    _merge(table, parts, folder / "whole.tmp")
    (folder / "whole.tmp").replace(target)
    _sync(target.parent)


def _check_disk_space(table: _Table, target: Path, written: list[Path]) -> None:
    """Raise `DataError` unless the next part, uncompressed, and a copy of all parts fit on the disk."""
    part = min(table.part_rows, table.rows) * table.row_bytes
    needed = 2 * part + sum(path.stat().st_size for path in written)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DataError(
            f"{target}: needs {needed / 1e9:,.1f} GB of free disk space, but the disk has {free / 1e9:,.1f} GB:"
            " free some and run the command again; it continues after the parts that are finished"
        )


def _write_part(table: _Table, rows: slice, part: Path) -> None:
    partial = part.with_suffix(".tmp")
    with h5py.File(partial, "w") as file:
        for name, column in table.columns.items():
            out = new_column(
                file, name, column.dtype, column.shape[1:], rows.stop - rows.start, table.chunk_rows(column)
            )
            step = chunks(column)[0].stop
            for start in range(rows.start, rows.stop, step):
                stop = min(start + step, rows.stop)
                out[start - rows.start : stop - rows.start] = column[slice(start, stop)]
    _sync(partial)
    partial.replace(part)


def _merge(table: _Table, parts: list[Path], whole: Path) -> None:
    with h5py.File(whole, "w") as file:
        for name, column in table.columns.items():
            new_column(file, name, column.dtype, column.shape[1:], table.rows, table.chunk_rows(column))
        for number, part in enumerate(parts):
            with h5py.File(part, "r") as opened:
                for name in table.columns:
                    _copy_chunks(opened[name], file[name], number * table.part_rows)
        file["ep_len"] = table.lengths.astype(np.int32)
        file["ep_offset"] = np.cumsum(table.lengths) - table.lengths
        if table.held_out is not None:
            file["ep_held_out"] = table.held_out
    _sync(whole)


def _copy_chunks(part: h5py.Dataset, out: h5py.Dataset, first_row: int) -> None:
    """Copy compressed chunks; a chunk at the edge of a part is stored at full size, so it can be copied as well."""
    rest = (0,) * (part.ndim - 1)
    for row in range(0, part.shape[0], part.chunks[0]):
        mask, data = part.id.read_direct_chunk((row, *rest))
        out.id.write_direct_chunk((first_row + row, *rest), data, mask)


def _sync(path: Path) -> None:
    """Flush a file's content, or a folder's entries, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _power_of_two(limit: int) -> int:
    """The largest power of two that is at most `limit`; 1 for a smaller limit."""
    return 1 << (max(1, limit).bit_length() - 1)


def write_canonical(path: Path, recording: Recording, keys: Collection[str] | None = None) -> None:
    """Write a recording in the canonical layout: to a temporary file, which is then renamed.

    Args:
        path: the file to write; its folder is created.
        recording: the data; columns keep their names and dtypes. Its actions must be aligned as `next`.
        keys: the columns to write; None: all columns.

    Raises `DataError` if the file cannot be written.
    """
    with new_file(path) as file:
        for name, column in recording.columns.items():
            if keys is None or name in keys:
                rows = min(max(1, FILE_CHUNK_BYTES // row_bytes(column)), column.shape[0])
                out = new_column(file, name, column.dtype, column.shape[1:], column.shape[0], rows)
                for part in chunks(column):
                    out[part] = column[part]
        file["ep_len"] = recording.lengths.astype(np.int32)
        file["ep_offset"] = recording.offsets
        if recording.held_out is not None:
            file["ep_held_out"] = recording.held_out
