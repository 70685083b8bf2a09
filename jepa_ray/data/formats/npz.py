"""What formats in numpy's own files share: an array of an npz or npy as a column, never unpickled."""

from __future__ import annotations

import copy
import math
import zipfile
import zlib
from abc import ABC, abstractmethod
from pathlib import Path, PurePosixPath
from typing import IO, Any, Self

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.peek import BROKEN, first_line, readable
from jepa_ray.errors import DataError

SKIP_BYTES = 1 << 20  # read at once while going forward to a row
MAX_DEFLATION = 1032  # times smaller than its data that deflate can make a member
DAMAGE = (*BROKEN, zlib.error)


class Stored(ABC):
    """An array as numpy writes it, left on disk; its two kinds differ in how they `_read`."""

    def __init__(self, path: Path, name: str, stream: IO[bytes], size: int) -> None:
        """Read and check the header at the start of `stream`, which has `size` bytes in all. Raises `DataError`."""
        self._path, self._name = path, name
        self.shape, fortran, self.dtype = _header(stream)  # (N, ...)
        self._start = stream.tell()
        if self.dtype.hasobject:
            raise DataError(
                f"{path}: {name} holds Python objects, which can run code when they are read; where you trust it, load"
                " it with numpy.load(..., allow_pickle=True) and save it as plain arrays"
            )
        if fortran and len(self.shape) > 1:
            raise DataError(f"{path}: {name} is in Fortran order: save numpy.ascontiguousarray of it")
        if not self.shape or not self.dtype.itemsize:
            raise DataError(f"{path}: {name} has shape {self.shape} and dtype {self.dtype}, but must have rows")
        claimed, stored = math.prod(self.shape) * self.dtype.itemsize, size - self._start
        if claimed != stored:
            raise DataError(f"{path}: {name} claims {claimed:,} bytes, but there are {stored:,}")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        try:
            data = self._read(start, count)
        except DAMAGE as error:
            raise DataError(f"{self._path}: {self._name} cannot be read ({first_line(error)})") from None
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def merged(self) -> Self:
        """The same values, its first two axes (E, T, ...) as one: (E * T, ...)."""
        flat = copy.copy(self)
        flat.shape = (self.shape[0] * self.shape[1], *self.shape[2:])
        return flat

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @abstractmethod
    def _read(self, start: int, count: int) -> bytes:
        """The bytes of `count` rows from `start` on."""


class File(Stored):
    """A whole npy file. Read, not mapped: a map's pages would count as memory of whoever streams the file."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                super().__init__(path, path.stem, stream, path.stat().st_size)
        except DAMAGE as error:
            raise DataError(f"{path}: cannot be read ({first_line(error)})") from None

    def _read(self, start: int, count: int) -> bytes:
        with self._path.open("rb") as stream:
            stream.seek(self._start + start * self._row_bytes)
            return _exactly(stream, count * self._row_bytes)


class Member(Stored):
    """One array of an npz. Going forward streams; going back opens the member anew."""

    def __init__(self, path: Path, name: str) -> None:
        self._stream: IO[bytes] | None = None
        self._at = 0  # bytes of the array that the stream has given
        try:
            with zipfile.ZipFile(path) as archive:
                size = _honest_size(archive.getinfo(f"{name}.npy"), path)
                with archive.open(f"{name}.npy") as stream:
                    super().__init__(path, name, stream, size)
        except DAMAGE as error:
            raise DataError(f"{path}: {name} cannot be read ({first_line(error)})") from None

    def merged(self) -> Self:
        flat = super().merged()
        flat._stream = None  # each goes its own way
        return flat

    def _read(self, start: int, count: int) -> bytes:
        stream, self._stream = self._standing_at(start * self._row_bytes), None  # kept only if all goes well
        data = _exactly(stream, count * self._row_bytes)
        self._stream, self._at = stream, (start + count) * self._row_bytes
        return data

    def _standing_at(self, byte: int) -> IO[bytes]:
        stream, at = self._stream, self._at
        if stream is None or byte < at:
            with zipfile.ZipFile(self._path) as archive:  # an open member keeps the file open
                stream, at = archive.open(f"{self._name}.npy"), 0
            _header(stream)
        while at < byte:
            at += len(_exactly(stream, min(byte - at, SKIP_BYTES)))
        return stream


def members(path: Path) -> dict[str, Member]:
    """Every array of the npz by its name."""
    with readable(path, "npz"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(f"{path}: {name} names a file outside the archive")
        if names.count(name) > 1:
            raise DataError(f"{path}: holds {name} more than once")
    return {name: Member(path, name) for name in names}


def _honest_size(info: zipfile.ZipInfo, path: Path) -> int:
    """Bytes of the member once it is read. Raises `DataError` for a size that the file cannot hold."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(f"{path}: {info.filename} is compressed in a way that numpy does not write")
    most = info.compress_size * (MAX_DEFLATION if info.compress_type == zipfile.ZIP_DEFLATED else 1)
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
