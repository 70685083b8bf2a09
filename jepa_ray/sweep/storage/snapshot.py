"""Copies of a study's database, for readers that must not change it."""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
from collections.abc import Iterator
from pathlib import Path

from jepa_ray.errors import ConfigError


@contextlib.contextmanager
def copied(database: Path) -> Iterator[Path]:
    """A temporary copy of a database, since Optuna may upgrade the file that it opens.

    SQLite's own backup is consistent even while another process writes. Raises `ConfigError`.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "optuna.db"
        if not database.is_file():  # opening a named pipe would block forever
            raise ConfigError(f"{database}: cannot be read (it is not a regular file)")
        try:
            with (
                contextlib.closing(sqlite3.connect(f"{database.resolve().as_uri()}?mode=ro", uri=True)) as source,
                contextlib.closing(sqlite3.connect(path)) as target,
            ):
                source.backup(target)
        except sqlite3.Error as error:
            raise ConfigError(f"{database}: cannot be read ({error})") from None
        yield path
