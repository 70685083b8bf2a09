"""Shared by all formats in HDF5: opening files safely, datasets as columns, and writing files."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import column_bytes
from jepa_ray.errors import DataError

with suppress(ImportError):
    import hdf5plugin  # noqa: F401  (registers compression filters: blosc, zstd, lz4, ...)

MAX_COMPRESSION = 5000  # maximum plausible compression factor; a file that declares more is refused
FILE_CHUNK_BYTES = 256 << 10  # bytes of one chunk in files that are written, before compression
UNCHECKED_BYTES = 1 << 30  # declared sizes up to this many bytes are not checked


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading. Raises `DataError` for a file that is not HDF5, or is truncated."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: is not a readable HDF5 file ({error})") from None
    with file:
        yield file


class DatasetColumn:
    """An HDF5 dataset as a column; raises `DataError` for data that is not stored in this file."""

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._name: str = dataset.name[1:]
        if dataset.shape is None:
            raise DataError(f"{path}: {self._name} is empty (a null dataset), but must be an array")
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype
        if dataset.is_virtual or dataset.external or dataset.file.filename != str(path):
            raise DataError(f"{path}: {self._name} is stored in another file, but must be in this one")
        if not self.shape:  # a single number has no size to check; the reader decides whether it is valid
            return
        claimed, stored = column_bytes(self), path.stat().st_size
        if claimed > max(UNCHECKED_BYTES, MAX_COMPRESSION * stored):
            raise DataError(f"{path}: {self._name} claims {claimed:,} bytes, but the file has {stored:,}")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        try:
            return np.asarray(self._dataset[rows])
        except OSError:
            how = self._dataset.id.get_create_plist()
            for code in (how.get_filter(place)[0] for place in range(how.get_nfilters())):
                if not h5py.h5z.filter_avail(code):  # hdf5plugin provides the filters that common datasets use
                    raise DataError(
                        f"{self._path}: {self._name} uses HDF5 filter {code}, which is not installed:"
                        " pip install 'jepa-ray[formats]' installs the common filters"
                    ) from None
            raise


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """Open a file for writing; it appears at `path` when complete, a failure leaves no file. Raises `DataError`."""
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with suppress(OSError):
            partial.unlink(missing_ok=True)


def new_column(
    file: h5py.File, name: str, dtype: np.dtype[Any], tail: tuple[int, ...], rows: int, chunk_rows: int
) -> h5py.Dataset:
    """Create a resizable dataset of `rows` rows of shape `tail`; uint8 data (pixels) is compressed."""
    pixels = dtype == np.uint8
    return file.create_dataset(
        name,
        shape=(rows, *tail),
        maxshape=(None, *tail),  # HDF5 allows chunks longer than the dataset only if it is resizable
        dtype=dtype,
        chunks=(chunk_rows, *tail),
        compression="gzip" if pixels else None,
        compression_opts=1 if pixels else None,
    )
