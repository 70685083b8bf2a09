"""A first look at a path: its kind and the names in it, without reading any data; and the errors of parsers.

Formats are distinguished by kind and names alone. Nothing is unpickled: the error for a pickle gives the command that
converts it, for users who trust the file.
"""

from __future__ import annotations

import os
import stat
import tokenize
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import h5py

from jepa_ray.errors import DataError, first_line

Kind = Literal["folder", "hdf5", "npz", "npy", "torch", "unknown"]

# The exceptions that parsers raise for damaged or malicious files: these are faults of the file, not bugs here.
PARSER_ERRORS = (
    OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RuntimeError, EOFError, OverflowError,
    MemoryError, SyntaxError, ArithmeticError, NotImplementedError, AssertionError, tokenize.TokenError,
    zipfile.BadZipFile,
)  # fmt: skip


@dataclass(frozen=True)
class Peek:
    """The kind of a path and the names in it."""

    path: Path
    kind: Kind
    names: frozenset[str]  # top-level names: entries of a folder, datasets and groups of HDF5, or arrays of npz

    def has(self, *names: str) -> bool:
        """Whether all of `names` exist."""
        return self.names.issuperset(names)


def peek(path: Path) -> Peek:
    """Inspect `path`. Raises `DataError` if it cannot be read, or is a pickle."""
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
        raise DataError(explain_pickle_refusal(path))
    return Peek(path, "unknown", frozenset())


def check_kind(path: Path) -> None:
    """Raise `DataError` unless the path is a file or folder, or a link to one: opening a pipe would wait forever."""
    try:
        mode = path.stat().st_mode
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise DataError(f"{path}: is neither a file nor a folder, but must be one")


def explain_pickle_refusal(path: Path) -> str:
    """The error message for a pickle: why it is not read, and the command that converts it."""
    out = path.with_suffix(".pth")
    return (
        f"{path}: is a pickle, which can run code when it is read: if you trust it, convert it with"
        f" python -c \"import pickle, torch; torch.save(torch.as_tensor(pickle.load(open('{path}', 'rb'))), '{out}')\""
    )


@contextmanager
def readable(path: Path, what: str) -> Iterator[None]:
    """Raise the errors of a parser for a bad file as a one-line `DataError`."""
    try:
        yield
    except PARSER_ERRORS as error:
        raise DataError(f"{path}: is not a readable {what} ({short_reason(error)})") from error


def short_reason(error: BaseException) -> str:
    """The first line of an error's message, or of the operating system's reason; at most 200 characters."""
    reason = error.strerror if isinstance(error, OSError) else None
    return first_line(reason or error)[:200]


def files_below(path: Path) -> list[Path]:
    """`path` if it is a file, else all files in the folder and its subfolders; links to folders are not followed."""
    if not path.is_dir():
        return [path]
    return [Path(folder, name) for folder, folders, names in _walk(path) for name in sorted(names)]


def _walk(path: Path) -> Iterator[tuple[str, list[str], list[str]]]:
    for folder, folders, names in os.walk(path):
        folders.sort()
        yield folder, folders, names
