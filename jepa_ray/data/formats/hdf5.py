"""What all formats in HDF5 share: a file opened with care, and its datasets as columns."""

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
    import hdf5plugin  # noqa: F401  (registers the filters: blosc, zstd, lz4, ...)

MAX_COMPRESSION = 5000  # times smaller than its data can be in a file that is honest about its size
CHUNK = 256 << 10  # bytes of a chunk of a file that is written, before compression
HARMLESS = 1 << 30  # bytes that are not worth a check


@contextmanager
def open_file(path: Path) -> Iterator[h5py.File]:
    """The file, open for reading. Raises `DataError` for a file that is not HDF5, or is truncated."""
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise DataError(f"{path}: is not a readable HDF5 file ({error})") from None
    with file:
        yield file


class Dataset:
    """A dataset on disk whose damage is reported as what it is: bad data."""

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self._name: str = dataset.name[1:]
        if dataset.shape is None:
            raise DataError(f"{path}: {self._name} holds no array")
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype
        if dataset.is_virtual or dataset.external or dataset.file.filename != str(path):
            raise DataError(f"{path}: {self._name} lies in another file, which is not followed")
        if not self.shape:  # a single number; what is done with it is for others to say
            return
        claimed, stored = column_bytes(self), path.stat().st_size
        if claimed > max(HARMLESS, MAX_COMPRESSION * stored):
            raise DataError(f"{path}: {self._name} claims {claimed:,} bytes, but the file has {stored:,}")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        try:
            return np.asarray(self._dataset[rows])
        except OSError:
            how = self._dataset.id.get_create_plist()
            for code in (how.get_filter(place)[0] for place in range(how.get_nfilters())):
                if not h5py.h5z.filter_avail(code):  # hdf5plugin brings those that files of this field use
                    raise DataError(
                        f"{self._path}: {self._name} went through HDF5 filter {code}, which is not installed:"
                        " pip install 'jepa-ray[formats]' brings the usual ones"
                    ) from None
            raise


@contextmanager
def new_file(path: Path) -> Iterator[h5py.File]:
    """A file to write, which appears at `path` when all is written; nothing is left otherwise. Raises `DataError`."""
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
    """A dataset of `rows` rows of shape `tail` that can grow; bytes, which are pixels, are compressed."""
    pixels = dtype == np.uint8
    return file.create_dataset(
        name,
        shape=(rows, *tail),
        maxshape=(None, *tail),  # a chunk may be longer than a short dataset only if that can grow
        dtype=dtype,
        chunks=(chunk_rows, *tail),
        compression="gzip" if pixels else None,
        compression_opts=1 if pixels else None,
    )
