"""Shared by all formats in numpy files: an array of an npz or npy file as a column. Nothing is unpickled."""

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

from jepa_ray.data.formats.peek import PARSER_ERRORS, readable, short_reason
from jepa_ray.errors import DataError

SKIP_BYTES = 1 << 20  # bytes that are read at once while skipping forward to a row
MAX_DEFLATION = 1032  # maximum compression factor of deflate
READ_ERRORS = (*PARSER_ERRORS, zlib.error)


class StoredArray(ABC):
    """An array on disk in numpy's format; the subclasses differ in how they read bytes."""

    def __init__(self, path: Path, name: str, stream: IO[bytes], size: int) -> None:
        """Read and check the header of `stream`, which has `size` bytes in total. Raises `DataError`."""
        self._path, self._name = path, name
        self.shape, fortran, self.dtype = _read_header(stream)  # (N, ...)
        self._start = stream.tell()
        if self.dtype.hasobject:
            raise DataError(
                f"{path}: {name} contains Python objects, which can run code when they are read: if you trust the file,"
                " load it with numpy.load(..., allow_pickle=True) and save it as plain arrays"
            )
        if fortran and len(self.shape) > 1:
            raise DataError(
                f"{path}: {name} is in Fortran order, but must be in C order: save numpy.ascontiguousarray of it"
            )
        if not self.shape or not self.dtype.itemsize:
            raise DataError(f"{path}: {name} has shape {self.shape} and dtype {self.dtype}, but must have rows")
        claimed, stored = math.prod(self.shape) * self.dtype.itemsize, size - self._start
        if claimed != stored:
            raise DataError(f"{path}: {name} claims {claimed:,} bytes, but {stored:,} are stored")

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        count = max(0, stop - start)
        try:
            data = self._read(start, count)
        except READ_ERRORS as error:
            raise DataError(f"{self._path}: {self._name} cannot be read ({short_reason(error)})") from None
        return np.frombuffer(data, self.dtype).reshape(count, *self.shape[1:])

    def merged(self) -> Self:
        """The same array with its first two axes (E, T, ...) merged: (E * T, ...)."""
        flat = copy.copy(self)
        flat.shape = (self.shape[0] * self.shape[1], *self.shape[2:])
        return flat

    @property
    def _row_bytes(self) -> int:
        return math.prod(self.shape[1:]) * self.dtype.itemsize

    @abstractmethod
    def _read(self, start: int, count: int) -> bytes:
        """The bytes of `count` rows, beginning at row `start`."""


class NpyFile(StoredArray):
    """An npy file. It is read, not memory-mapped, because mapped pages would count as memory of this process."""

    def __init__(self, path: Path) -> None:
        try:
            with path.open("rb") as stream:
                super().__init__(path, path.stem, stream, path.stat().st_size)
        except READ_ERRORS as error:
            raise DataError(f"{path}: cannot be read ({short_reason(error)})") from None

    def _read(self, start: int, count: int) -> bytes:
        with self._path.open("rb") as stream:
            stream.seek(self._start + start * self._row_bytes)
            return _read_exactly(stream, count * self._row_bytes)


class NpzMember(StoredArray):
    """One array of an npz file. Reading forward streams it; reading backward opens the member again."""

    def __init__(self, path: Path, name: str) -> None:
        self._stream: IO[bytes] | None = None
        self._at = 0  # bytes of the array that have been read from the stream
        try:
            with zipfile.ZipFile(path) as archive:
                size = _checked_size(archive.getinfo(f"{name}.npy"), path)
                with archive.open(f"{name}.npy") as stream:
                    super().__init__(path, name, stream, size)
        except READ_ERRORS as error:
            raise DataError(f"{path}: {name} cannot be read ({short_reason(error)})") from None

    def merged(self) -> Self:
        flat = super().merged()
        flat._stream = None  # the copies must not share a stream
        return flat

    def _read(self, start: int, count: int) -> bytes:
        stream, self._stream = self._stream_at(start * self._row_bytes), None  # stored again only if reading succeeds
        data = _read_exactly(stream, count * self._row_bytes)
        self._stream, self._at = stream, (start + count) * self._row_bytes
        return data

    def _stream_at(self, byte: int) -> IO[bytes]:
        stream, at = self._stream, self._at
        if stream is None or byte < at:
            with zipfile.ZipFile(self._path) as archive:  # the open member keeps the file open
                stream, at = archive.open(f"{self._name}.npy"), 0
            _read_header(stream)
        while at < byte:
            at += len(_read_exactly(stream, min(byte - at, SKIP_BYTES)))
        return stream


def members(path: Path) -> dict[str, NpzMember]:
    """All arrays of an npz file by name. Raises `DataError`."""
    with readable(path, "npz"), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    for name in names:
        if name.startswith("/") or ".." in PurePosixPath(name.replace("\\", "/")).parts:
            raise DataError(f"{path}: the name {name} leads outside the archive")
        if names.count(name) > 1:
            raise DataError(f"{path}: contains {name} more than once")
    return {name: NpzMember(path, name) for name in names}


def _checked_size(info: zipfile.ZipInfo, path: Path) -> int:
    """Uncompressed size of a member in bytes. Raises `DataError` for a size that the file cannot contain."""
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise DataError(
            f"{path}: {info.filename} uses a compression that numpy does not write: save it with numpy.savez_compressed"
        )
    limit = info.compress_size * (MAX_DEFLATION if info.compress_type == zipfile.ZIP_DEFLATED else 1)
    if info.compress_size > path.stat().st_size or info.file_size > limit:
        raise DataError(
            f"{path}: {info.filename} claims {info.file_size:,} bytes, but the file has {path.stat().st_size:,}"
        )
    return info.file_size


def _read_header(stream: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    version = np.lib.format.read_magic(stream)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, fortran, dtype = read(stream)
    if any(length < 0 for length in shape):
        raise ValueError(f"its shape is {shape}")
    return shape, fortran, dtype


def _read_exactly(stream: IO[bytes], size: int) -> bytes:
    data = stream.read(size)
    if len(data) != size:
        raise EOFError("the data ends too early")
    return data
