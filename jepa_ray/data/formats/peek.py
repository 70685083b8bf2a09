"""A first look at a path: what it is and which names are in it, without reading any data.

Formats are told apart by this alone. Nothing is unpickled: where a pickle lies in the way, the refusal names
the command that converts it in a place where it is trusted.
"""

from __future__ import annotations

import os
import stat
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py

from jepa_ray.errors import DataError

Kind = Literal["folder", "hdf5", "npz", "npy", "torch", "unknown"]

# What parsers raise for files that are damaged, or made to do harm; each is the file's fault, not ours.
BROKEN = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, EOFError, OverflowError,
    MemoryError, SyntaxError, ArithmeticError, NotImplementedError, AssertionError, zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Peek:
    """What lies at a path."""

    path: Path
    kind: Kind
    names: frozenset[str]  # top-level: entries of a folder, datasets and groups of HDF5, arrays of npz

    def has(self, *names: str) -> bool:
        """Whether all of `names` are there."""
        return self.names.issuperset(names)


def peek(path: Path) -> Peek:
    """Look at `path`. Raises `DataError` if it cannot be read, or is a pickle."""
    check_kind(path)
    try:
        if path.is_dir():
            return Peek(path, "folder", frozenset(entry.name for entry in path.iterdir()))
        with path.open("rb") as file:
            head = file.read(8)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if head[:6] == b"\x93NUMPY":
        return Peek(path, "npy", frozenset())
    if head[:4] == b"PK\x03\x04":
        with readable(path, "zip archive"), zipfile.ZipFile(path) as archive:
            members = archive.namelist()
        if any(name.endswith("/data.pkl") or name == "data.pkl" for name in members):
            return Peek(path, "torch", frozenset())
        return Peek(path, "npz", frozenset(name.removesuffix(".npy") for name in members))
    if path.suffix in (".h5", ".hdf5", ".he5") or head == b"\x89HDF\r\n\x1a\n":
        with readable(path, "HDF5 file"), h5py.File(path, "r") as opened:
            return Peek(path, "hdf5", frozenset(map(str, opened)))
    if path.suffix in (".pkl", ".pickle") or head[:1] == b"\x80":
        raise DataError(refusal_of_pickle(path))
    return Peek(path, "unknown", frozenset())


def check_kind(path: Path) -> None:
    """Raise `DataError` unless a file or a folder is there, or a link to one: opening a pipe would wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path}: is neither a file nor a folder")


def refusal_of_pickle(path: Path) -> str:
    """Why a pickle is not read, and the command that makes it something that is."""
    out = path.with_suffix(".pth")
    return (
        f"{path}: is a pickle, which can run code when it is read; where you trust it, convert it:"
        f" python -c \"import pickle, torch; torch.save(torch.as_tensor(pickle.load(open('{path}', 'rb'))), '{out}')\""
    )


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Turn whatever a parser raises for a bad file into one clear line."""
    try:
        yield
    except BROKEN as error:
        raise DataError(f"{path}: is not a readable {what} ({first_line(error)})") from error


def first_line(error: BaseException) -> str:
    """What an exception says, in one line of bearable length."""
    lines = str((isinstance(error, OSError) and error.strerror) or error).strip().splitlines()
    return lines[0][:200] if lines else type(error).__name__


def files_below(path: Path) -> list[Path]:
    """`path` itself if it is a file, else every file in the folder and below; links to folders are not followed."""
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, folders, names in _walk(path) for name in sorted(names)]


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield folder, folders, names
