"""One module per on-disk format; each reads a dataset as a `Recording`. The format is detected from the content.

A format is an object with a name, `recognises(peek)`, `files(path)` and `open(path)`. To add a format, write its class
and add an instance to `FORMATS`.
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
from jepa_ray.data.formats.peek import PARSER_ERRORS, Peek, check_kind, peek, readable, short_reason
from jepa_ray.data.formats.swm_folder import SwmFolder
from jepa_ray.data.formats.transitions import Transitions
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError


class Format(Protocol):
    """Recognises one format, and reads it."""

    @property
    def name(self) -> str:
        """The name of the format in messages and in `info`."""
        ...

    def recognises(self, seen: Peek) -> bool:
        """Whether the path has this format, judged only by its kind and the names in it."""
        ...

    def files(self, path: Path) -> list[Path]:
        """Every file that belongs to the dataset at `path`, in a fixed order."""
        ...

    def open(self, path: Path) -> AbstractContextManager[Recording]:
        """The recording, its columns still on disk. May raise `DataError`, or any of `peek.PARSER_ERRORS`."""
        ...


# From the most specific to the most general; the first format that recognises a path reads it.
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
    """The format of the dataset at `path`. Raises `DataError` if no format recognises it."""
    seen = peek(path)
    for candidate in FORMATS:
        if candidate.recognises(seen):
            return candidate
    names = ", ".join(sorted(seen.names)[:8]) or "no named entries"
    known = ", ".join(candidate.name for candidate in FORMATS)
    raise DataError(f"{path}: is not in a supported format: it contains {names}; supported formats are {known}")


@contextmanager
def open_recording(path: Path) -> Iterator[Recording]:
    """Open the dataset at `path` in its detected format. Raises `DataError` if it cannot be read."""
    reader = format_of(path)
    with ExitStack() as stack:
        with readable(path, reader.name):
            for file in reader.files(path):
                check_kind(file)
            recording = stack.enter_context(reader.open(path))
        columns = {name: GuardedColumn(column, name, path) for name, column in recording.columns.items()}
        yield replace(recording, columns=columns)


class GuardedColumn:
    """Wraps a column so that damage found while reading it is raised as a `DataError`."""

    def __init__(self, column: Column, name: str, path: Path) -> None:
        self._column, self._name, self._path = column, name, path
        self.shape, self.dtype = column.shape, column.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        try:
            return self._column[rows]
        except PARSER_ERRORS as error:
            raise DataError(f"{self._path}: {self._name} cannot be read ({short_reason(error)})") from error
