"""Any recording as one canonical HDF5 file, streamed: memory is bounded whatever the size."""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

import h5py
import numpy as np

from jepa_ray.data.columns import Column, chunks, row_bytes
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

CHUNK = 256 << 10  # bytes of a chunk of the file, before compression


def write_canonical(path: Path, recording: Recording, keys: Collection[str] | None = None) -> None:
    """Write a recording in the canonical layout, under a temporary name, then renamed.

    Args:
        path: the file; its folder is made.
        recording: its columns keep their names and dtypes; actions keep their alignment, which must be `next`.
        keys: the columns to write; None: all that are arrays of numbers.

    Raises `DataError`.
    """
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            for name, column in recording.columns.items():
                if keys is None or name in keys:
                    _write_column(file, name, column)
            file["ep_len"] = recording.lengths.astype(np.int32)
            file["ep_offset"] = recording.offsets
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def _write_column(file: h5py.File, name: str, column: Column) -> None:
    rows = min(max(1, CHUNK // row_bytes(column)), column.shape[0])
    pixels = column.dtype == np.uint8
    out = file.create_dataset(
        name,
        shape=column.shape,
        dtype=column.dtype,
        chunks=(rows, *column.shape[1:]) if pixels else None,
        compression="gzip" if pixels else None,
        compression_opts=1 if pixels else None,
    )
    for part in chunks(column):
        out[part] = column[part]
