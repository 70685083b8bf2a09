"""Datasets in an object store: a node downloads one to build its cache, and then keeps only the cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from jepa_ray.errors import DataError, StorageError
from jepa_ray.storage import Storage


def dataset_name(uri: str) -> str:
    """The last component of a URI's path, without its query."""
    return PurePosixPath(uri.partition("?")[0].partition("://")[2]).name


def list_remote_files(uri: str) -> list[tuple[str, int, int]]:
    """Name, size in bytes and modification time of each file of the dataset at a URI. Raises `DataError`."""
    place = Storage(uri)
    try:
        names = [""] if place.stamp("") else place.names(recursive=True)
        found = [(name, *stamp) for name in names if (stamp := place.stamp(name))]
    except StorageError as error:
        raise DataError(f"data.path {error}") from None
    if not found:
        raise DataError(f"data.path {place}: there is no such file or folder")
    return found


@contextmanager
def fetched_dataset(uri: str, beside: Path) -> Iterator[Path]:
    """Download the dataset at a URI to a temporary folder next to `beside`, which is removed at the end of the block.

    Raises `DataError`.
    """
    place, files = Storage(uri), list_remote_files(uri)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=beside.parent) as folder:
        local = Path(folder) / dataset_name(uri)
        needed, free = sum(size for _, size, _ in files), shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"data.path {place}: needs {needed / 1e9:,.1f} GB, but {beside.parent} has {free / 1e9:,.1f} GB free:"
                " set data.cache_dir to another disk"
            )
        try:
            place.each(lambda name: place.download(name, local / name if name else local), [name for name, *_ in files])
        except StorageError as error:
            raise DataError(f"data.path {error}") from None
        yield local
