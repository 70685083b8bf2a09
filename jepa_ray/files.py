"""Files that are never half-written, and the output folder of a run or sweep."""

from __future__ import annotations

import contextlib
import itertools
import json
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from filelock import FileLock, Timeout

from jepa_ray.errors import ConfigError


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, then rename: `path` is never half-written."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + ".partial")
    partial.write_bytes(data)
    partial.replace(path)


@dataclass(frozen=True)
class RunFolder:
    """An output folder: begun with one document, owned by one process at a time, and finished or not."""

    path: Path
    document: str  # name of the file it was begun with

    @property
    def finished(self) -> bool:
        """Whether all results are written; to say so is the last thing a run does."""
        return self._end.exists()

    @property
    def seconds(self) -> float:
        """What the session that finished it took."""
        return float(json.loads(self._end.read_text())["seconds"])

    def mark_finished(self, seconds: float) -> None:
        write_atomically(self._end, json.dumps({"seconds": round(seconds, 1)}).encode())

    @property
    def id(self) -> str:
        """What tells this run from every other, a later one in the same place included."""
        return self._id.read_text()

    @property
    def _id(self) -> Path:
        return self.path / ".id"

    @property
    def _end(self) -> Path:
        return self.path / "finished.json"

    def check_document(self, text: str) -> None:
        """Raise `ConfigError` if the folder was begun with another document."""
        path = self.path / self.document
        if path.exists() and path.read_text(encoding="utf-8") != text:
            raise ConfigError(
                f"{path}: was begun with other settings: give the new run another name, or start over with --fresh"
            )

    @contextlib.contextmanager
    def begin(self, text: str, *, fresh: bool) -> Iterator[Path | None]:
        """Own the folder and write its document; yields where `fresh` moved an old folder to, if there was one.

        Raises `ConfigError` if another process owns it, or if it was begun with another document.
        """
        if not fresh:
            self.check_document(text)
        lock = FileLock(self.path.with_name(f".{self.path.name}.lock"))
        with self._bad_output():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        try:
            with self._bad_output():
                aside = self._set_aside() if fresh and self.path.exists() else None
                self.path.mkdir(exist_ok=True)
                write_atomically(self.path / self.document, text.encode())
                if not self._id.exists():
                    write_atomically(self._id, uuid.uuid4().hex.encode())
            yield aside
        finally:
            lock.release()

    @contextlib.contextmanager
    def _bad_output(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            raise ConfigError(f"{self.path}: another process is running this") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _set_aside(self) -> Path:
        stamp = time.strftime("%Y%m%d-%H%M%S")
        suffixes = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
        candidates = (self.path.with_name(f"{self.path.name}.{stamp}{suffix}") for suffix in suffixes)
        aside = next(path for path in candidates if not path.exists())
        self.path.rename(aside)
        return aside
