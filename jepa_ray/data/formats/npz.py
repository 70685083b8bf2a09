"""What formats in npz share: an array inside a zip as a column, read forward and never unpickled."""

from __future__ import annotations

import copy
import math
import zipfile
import zlib
from pathlib import Path, PurePosixPath
from typing import IO, Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.peek import BROKEN, first_line
from jepa_ray.errors import DataError

SKIP_BYTES = 1 << 20  # read at once while going forward to a row
MOST_DEFLATED = 1032  # times smaller than its data that deflate can make a member
DAMAGE = (*BROKEN, zlib.error)


class Member:
    """One array of an npz. Going forward streams; going back opens the member anew."""

    def __init__(self, path: Path, name: str) -> None:
        self._path, self._name = path, name
        self._stream: IO[bytes] | None = None
        self._row = 0
        try:
            with zipfile.ZipFile(path) as archive:
                size = _honest_size(archive.getinfo(f"{name}.npy"), path)
                with archive.open(f"{name}.npy") as stream:
                    self.shape, fortran, self.dtype = _header(stream)  # (N, ...)
                    start = stream.tell()
        except DAMAGE as error:
            raise DataError(f"{path}: {name} cannot be read ({first_line(error)})") from None
        if self.dtype.hasobject:
            raise DataError(
                f"{path}: {name} holds Python objects, which can run code when they are read; where you trust it, load"
                " it with numpy.load(..., allow_pickle=True) and save it as plain arrays"
            )
        if fortran and len(self.shape) > 1:
            raise DataError(f"{path}: {name} is in Fortran order: save numpy.ascontiguousarray of it")
        if not self.shape or not self.dtype.itemsize:
            raise DataError(f"{path}: {name} has shape {self.shape} and dtype {self.dtype}, but must have rows")
        claimed = math.prod(self.shape) * self.dtype.itemsize
        if claimed != size - start:
            raise DataError(f"{path}: {name} claims {claimed:,} bytes, but the zip member has {size - start:,}")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        try:
            stream = self._at(start)
            data = _exactly(stream, count * self._row_bytes)
        except DAMAGE as error:
            self._stream = None
            raise DataError(f"{self._path}: {self._name} cannot be read ({first_line(error)})") from None
        self._row = start + count
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def merged(self) -> Member:
        """The same values, its first two axes (E, T, ...) as one: (E * T, ...)."""
        flat = copy.copy(self)
        flat.shape, flat._stream, flat._row = (self.shape[0] * self.shape[1], *self.shape[2:]), None, 0
        return flat

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    def _at(self, row: int) -> IO[bytes]:
        """The member's stream, standing at `row`."""
        if self._stream is None or row < self._row:
            with zipfile.ZipFile(self._path) as archive:  # an open member keeps the file open
                self._stream = archive.open(f"{self._name}.npy")
            _header(self._stream)
            self._row = 0
        left = (row - self._row) * self._row_bytes
        while left:
            left -= len(_exactly(self._stream, min(left, SKIP_BYTES)))
        return self._stream


def members(path: Path) -> dict[str, Member]:
    """Every array of the npz by its name."""
    with zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(f"{path}: {name} names a file outside the archive")
    return {name: Member(path, name) for name in names}


def _honest_size(info: zipfile.ZipInfo, path: Path) -> int:
    """Bytes of the member once it is read. Raises `DataError` for a size that the file cannot hold."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {info.filename} is compressed in a way that numpy does not write")
    most = info.compress_size * (MOST_DEFLATED if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.compress_size > path.stat().st_size or info.file_size > most:
        raise DataError(
            f"{path}: {info.filename} claims {info.file_size:,} bytes, but the file has {path.stat().st_size:,}"
        )
    return info.file_size


def _header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"a shape of {shape}")
    return shape, fortran, dtype


def _exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("it ends too early")
    return data
