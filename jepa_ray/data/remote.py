"""Datasets in an object store: each node fetches one when it builds its cache, and keeps the cache alone."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

from jepa_ray.errors import DataError, StorageError
from jepa_ray.storage import Storage


def name_of(uri: str) -> str:
    """The last part of a URI's path."""
    return PurePosixPath(uri.partition("?")[0].partition("://")[2]).name


def files_at(uri: str) -> list[tuple[str, int, int]]:
    """Name, size and time of each file of the dataset at a URI, a file or a folder. Raises `DataError`."""
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
def fetched(uri: str, beside: Path) -> Iterator[Path]:
    """The dataset at a URI as files in a folder `beside` another, while it lasts. Raises `DataError`."""
    place, files = Storage(uri), files_at(uri)
    with tempfile.TemporaryDirectory(prefix=".fetched-", dir=beside.parent) as folder:
        local = Path(folder) / name_of(uri)
        needed, free = sum(size for _, size, _ in files), shutil.disk_usage(folder).free
        if needed > free:
            raise DataError(
                f"data.path {place}: takes {needed / 1e9:,.1f} GB, but {beside.parent} has {free / 1e9:,.1f} GB free"
            )
        try:
            place.each(lambda name: place.download(name, local / name if name else local), [name for name, *_ in files])
        except StorageError as error:
            raise DataError(f"data.path {error}") from None
        yield local
