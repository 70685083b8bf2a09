"""Any recording as one canonical HDF5 file, streamed: memory is bounded whatever the size.

`convert` works in parts, each a complete small file in `TARGET.partial/`, so that one that was killed goes on where it
was; at the end the parts' compressed chunks are copied into the target as they are.
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

from jepa_ray.data.cache import files_of
from jepa_ray.data.columns import Column, Gathered, chunks, row_bytes
from jepa_ray.data.formats import open_recording
from jepa_ray.data.formats.hdf5 import CHUNK, new_column, new_file
from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import Pieces, aligned, choose, in_form, wide
from jepa_ray.data.trajectories import check_forms
from jepa_ray.errors import DataError
from jepa_ray.files import write_atomically

PART = 256 << 20  # bytes of a part, before compression
LAYOUT = 2  # raise when parts change: old ones are then discarded

Progress = Callable[[int, int], None]  # parts done, parts in all


@dataclass(frozen=True)
class _Table:
    """What a conversion writes."""

    columns: Mapping[str, Column]  # of N rows each
    lengths: NDArray[np.int64]  # (E,)
    held_out: NDArray[np.bool_] | None  # (E,)

    @property
    def rows(self) -> int:
        return int(self.lengths.sum())

    @property
    def part_rows(self) -> int:
        """Rows of a part: a power of two, and so a multiple of every column's chunk."""
        return _power_of_two(PART // self.row_bytes)

    @property
    def row_bytes(self) -> int:
        return sum(row_bytes(column) for column in self.columns.values())

    def chunk_rows(self, column: Column) -> int:
        return min(self.part_rows, _power_of_two(CHUNK // row_bytes(column)))


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
    """Write the dataset at `source` as canonical HDF5, actions aligned `next`; goes on where a killed one stopped.

    Args:
        source: of any known format.
        target: a file that is not there yet.
        frameskip: every how many rows of an episode are kept, from its first; actions between lie side by side.
        resize: (H, W) of all pixel columns.
        grayscale: pixel columns in one channel.
        keys: the columns to write; None: all that are arrays of numbers.
        action_alignment: how the source stores actions, as `data.action_alignment`.
        progress: called with the parts done and all parts.

    Raises `DataError`.
    """
    if frameskip < 1:
        raise DataError(f"frameskip is {frameskip}, but must be at least 1")
    if keys is not None and not keys:
        raise DataError("no columns are asked for: name some, or leave the keys out")
    if os.path.realpath(target) == os.path.realpath(source):  # Path.resolve raises for links in a circle
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
                raise DataError(f"{target}: exists already: remove it or choose another name")
            if not target.exists():
                with open_recording(source) as recording:
                    table = _prepared(recording, frameskip, resize, grayscale, keys, action_alignment)
                    _write_in_parts(table, target, folder, _plan(source, options, table), progress)
            shutil.rmtree(folder)  # last of all: with the target there, it says that the conversion is over
    except Timeout:
        raise DataError(f"{target}: another process is writing it") from None
    except OSError as error:
        raise DataError(f"{target}: cannot be written ({error.strerror or error})") from None


def _prepared(
    recording: Recording,
    frameskip: int,
    resize: tuple[int, int] | None,
    grayscale: bool,
    keys: Collection[str] | None,
    action_alignment: Literal["auto", "next", "previous"],
) -> _Table:
    """The columns as they will be written; reads what establishing the alignment takes."""
    chosen = choose(recording, None)
    check_forms(chosen)
    columns = _wanted(recording, chosen.action.shape[0], keys)
    if "action" in columns:
        columns["action"] = aligned(recording, chosen, action_alignment).action
    lengths = recording.lengths
    if frameskip > 1:
        pieces = Pieces.of(recording.offsets, lengths, np.arange(len(lengths)), frameskip, phases=1)
        columns = {
            name: Gathered(wide(column), pieces.actions) if name == "action" else Gathered(column, pieces.rows)
            for name, column in columns.items()
        }
        lengths = pieces.lengths
    for name, column in columns.items():
        if len(column.shape) == 4 and column.dtype == np.uint8:
            columns[name] = in_form(column, resize, grayscale)
    return _Table(columns, lengths, recording.held_out)


def _wanted(recording: Recording, rows: int, keys: Collection[str] | None) -> dict[str, Column]:
    found = {
        name: column
        for name, column in recording.columns.items()
        if column.shape[:1] == (rows,) and column.dtype.kind in "biuf" and 0 not in column.shape
    }
    names = found if keys is None else dict.fromkeys(keys)
    for name in names:
        if name.startswith("/") or ".." in name.split("/"):
            raise DataError(f"{recording.source}: {name!r} is no name of a column")
        if name not in found:
            raise DataError(f"{recording.source}: lacks the column {name} (it has {', '.join(sorted(found))})")
    return {name: found[name] for name in names}


def _plan(source: Path, options: Mapping[str, Any], table: _Table) -> str:
    """What parts must have been made by to belong to this conversion, as JSON."""
    shapes = {name: [*column.shape, str(column.dtype)] for name, column in table.columns.items()}
    files = files_of(source)
    plan = [LAYOUT, CHUNK, os.path.realpath(source), files, options, shapes, table.part_rows]
    return json.dumps(plan, sort_keys=True)


def _write_in_parts(table: _Table, target: Path, folder: Path, plan: str, progress: Progress) -> None:
    document = folder / "plan.json"
    if folder.exists() and not (document.exists() and document.read_text() == plan):
        shutil.rmtree(folder)
    starts = range(0, table.rows, table.part_rows)
    parts = [folder / f"{number:06}.h5" for number in range(len(starts))]
    write_atomically(document, plan.encode())
    for number, (start, part) in enumerate(zip(starts, parts, strict=True)):
        if not part.exists():
            _check_room(table, target, parts[:number])
            _write_part(table, slice(start, min(start + table.part_rows, table.rows)), part)
        progress(number + 1, len(parts))
    _merge(table, parts, folder / "whole.tmp")
    (folder / "whole.tmp").replace(target)
    _sync(target.parent)


def _check_room(table: _Table, target: Path, written: list[Path]) -> None:
    """Refuse to fill the disk: the next part as if it were incompressible, and a copy of all parts, must find room."""
    part = min(table.part_rows, table.rows) * table.row_bytes
    needed = 2 * part + sum(path.stat().st_size for path in written)
    free = shutil.disk_usage(target.parent).free
    if needed > free:
        raise DataError(
            f"{target}: {needed / 1e9:,.1f} GB must be free to go on, but the disk has {free / 1e9:,.1f} GB;"
            " what is converted so far is kept"
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
    """Chunks as they are compressed; one that lies on the edge is stored whole, so it fits as well."""
    rest = (0,) * (part.ndim - 1)
    for row in range(0, part.shape[0], part.chunks[0]):
        mask, data = part.id.read_direct_chunk((row, *rest))
        out.id.write_direct_chunk((first_row + row, *rest), data, mask)


def _sync(path: Path) -> None:
    """To the disk: a file's bytes, or a folder's names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _power_of_two(most: int) -> int:
    """The largest power of two that is at most `most`, at least 1."""
    return 1 << (max(1, most).bit_length() - 1)


def write_canonical(path: Path, recording: Recording, keys: Collection[str] | None = None) -> None:
    """Write a recording in the canonical layout, under a temporary name, then renamed.

    Args:
        path: the file; its folder is made.
        recording: its columns keep their names and dtypes; actions keep their alignment, which must be `next`.
        keys: the columns to write; None: all that are arrays of numbers.

    Raises `DataError`.
    """
    with new_file(path) as file:
        for name, column in recording.columns.items():
            if keys is None or name in keys:
                rows = min(max(1, CHUNK // row_bytes(column)), column.shape[0])
                out = new_column(file, name, column.dtype, column.shape[1:], column.shape[0], rows)
                for part in chunks(column):
                    out[part] = column[part]
        file["ep_len"] = recording.lengths.astype(np.int32)
        file["ep_offset"] = recording.offsets
        if recording.held_out is not None:
            file["ep_held_out"] = recording.held_out
