"""One module per on-disk format, each yielding a `Recording`; which one reads a path is told from its content.

A format is an object with a name, `recognises(peek)`, `files(path)`, and `open(path)`. To add one, write the class and
name it in `FORMATS`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from jepa_ray.data.columns import Column
from jepa_ray.data.formats.arrays import Arrays
from jepa_ray.data.formats.canonical import Canonical
from jepa_ray.data.formats.d4rl import D4RL
from jepa_ray.data.formats.dino_wm import DinoWM
from jepa_ray.data.formats.lance import Lance
from jepa_ray.data.formats.lerobot import LeRobot
from jepa_ray.data.formats.minari import Minari
from jepa_ray.data.formats.ogbench import OGBench
from jepa_ray.data.formats.peek import BROKEN, Peek, check_kind, first_line, peek, readable
from jepa_ray.data.formats.swm_folder import SwmFolder
from jepa_ray.data.formats.transitions import Transitions
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError


class Format(Protocol):
    """How one layout is told from others, and read."""

    @property
    def name(self) -> str:
        """For people, and for messages."""
        ...

    def recognises(self, seen: Peek) -> bool:
        """Whether what lies there is of this format, by kind and names alone."""
        ...

    def files(self, path: Path) -> list[Path]:
        """Every file that belongs to the dataset at `path`, in a fixed order."""
        ...

    def open(self, path: Path) -> AbstractContextManager[Recording]:
        """The recording, its columns still on disk. May raise `DataError`, or anything of `peek.BROKEN`."""
        ...


# From the most particular to the most general; the first that recognises a path reads it.
FORMATS: tuple[Format, ...] = (
    Minari(),
    Lance(),
    LeRobot(),
    DinoWM(),
    SwmFolder(),
    OGBench(),
    Arrays(),
    D4RL(),
    Transitions(),
    Canonical(),
)


def format_of(path: Path) -> Format:
    """The format that reads `path`. Raises `DataError` if there is none."""
    seen = peek(path)
    for candidate in FORMATS:
        if candidate.recognises(seen):
            return candidate
    names = ", ".join(sorted(seen.names)[:8]) or "nothing that could be read"
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise DataError(f"{path}: is of no known format: it has {names}; known are {known}")


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """What lies at `path`, read as what it is. Raises `DataError` for what cannot be read."""
    reader = format_of(path)
    with ExitStack() as stack:
        with readable(path, reader.name):
            for file in reader.files(path):
                check_kind(file)
            recording = stack.enter_context(reader.open(path))
        columns = {name: Guarded(column, name, path) for name, column in recording.columns.items()}
        yield replace(recording, columns=columns)


class Guarded:
    """A column whose damage, met when it is read, is reported as what it is: bad data."""

    def __init__(self, column: Column, name: str, path: Path) -> None:
        self._column, self._name, self._path = column, name, path
        self.shape, self.dtype = column.shape, column.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        try:
            return self._column[rows]
        except BROKEN as error:
            raise DataError(f"{self._path}: {self._name} cannot be read ({first_line(error)})") from error
