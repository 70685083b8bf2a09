"""Files that are never half-written, and the output folder of a run or sweep."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jepa_ray.config import yaml_loader
from jepa_ray.errors import ConfigError

PARTIAL = ".partial"
MAX_SHOWN = 5  # differences named in one line


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` under a temporary name beside `path`, then rename: `path` is never half-written.

    Two processes that write the same file don't disturb each other: the later rename wins.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{uuid.uuid4().hex[:8]}{PARTIAL}")
    try:
        partial.write_bytes(data)
        partial.replace(path)
    except OSError:
        partial.unlink(missing_ok=True)
        raise


def remove_partial_files(folder: Path) -> None:
    """What processes that were killed while writing have left, in `folder` and below."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """Dotted key -> (old, new) of every leaf in which two nested mappings differ; None stands for an absent one."""
    before, after = flat(old), flat(new)
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"latent_dim_state": 64}}` -> `{"model.latent_dim_state": 64}`."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


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
    def in_use(self) -> bool:
        """Whether a process of this machine runs it, or, as far as one can tell from here, of another one."""
        try:
            owner = re.fullmatch(r"process (\d+) on (.*)", self._beside("owner").read_text())
        except FileNotFoundError:
            return False
        return owner is None or owner[2] != socket.gethostname() or _exists(int(owner[1]))

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

    def _check_document(self, text: str, growing: Collection[str]) -> bool:
        """Whether the folder was begun with a smaller budget. Raises `ConfigError` for any other difference."""
        path = self.path / self.document
        if not path.exists() or yaml_loader.content(path) == text.encode():
            return False
        changed = differences(yaml_loader.read(path), yaml_loader.parse(text))
        if all(key in growing and isinstance(old, int) and old < new for key, (old, new) in changed.items()):
            return True
        shown = [f"{key} {old} -> {new}" for key, (old, new) in changed.items()]
        more = f" (and {len(shown) - MAX_SHOWN} more)" if len(shown) > MAX_SHOWN else ""
        raise ConfigError(
            f"{path}: was begun with other settings: {', '.join(shown[:MAX_SHOWN])}{more}; give the new run another"
            " name, or start over with --fresh"
        )

    @contextlib.contextmanager
    def begin(self, text: str, *, fresh: bool, growing: Collection[str] = ()) -> Iterator[Path | None]:
        """Own the folder and write its document; yields where `fresh` moved an old folder to, if there was one.

        Args:
            text: the document, YAML.
            fresh: start over, keeping the old folder aside.
            growing: dotted keys that may have grown since the folder was begun; it is not finished then.

        Raises `ConfigError` if another process owns it, or if it was begun with another document.
        """
        lock = FileLock(self._beside("lock"))
        self._refuse_links()
        with self._bad_output():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        try:
            grown = not fresh and self._check_document(text, growing)
            with self._bad_output():
                write_atomically(self._beside("owner"), f"process {os.getpid()} on {socket.gethostname()}".encode())
                aside = self.set_aside() if fresh and self.path.exists() else None
                self.path.mkdir(exist_ok=True)
                write_atomically(self.path / self.document, text.encode())
                if grown:
                    self._end.unlink(missing_ok=True)
                if not self._id.exists():
                    write_atomically(self._id, uuid.uuid4().hex.encode())
            yield aside
        finally:
            self._beside("owner").unlink(missing_ok=True)
            lock.release()

    def _refuse_links(self) -> None:
        """Raise `ConfigError` if what is written here would be written elsewhere: whoever planted it chose where.

        The output root may be a link, or below one: that is where the user wants it.
        """
        inside = self.path.iterdir() if self.path.is_dir() and not self.path.is_symlink() else ()
        for path in (self.path, *(self._beside(what) for what in ("lock", "owner")), *inside):
            if path.is_symlink():
                raise ConfigError(
                    f"{path}: is a link to {path.readlink()}, and would lead out of the output folder: name that place"
                    " as the output root, or remove the link"
                )

    @contextlib.contextmanager
    def _bad_output(self) -> Iterator[None]:
        try:
            yield
        except Timeout:
            owner = self._beside("owner").read_text() if self._beside("owner").exists() else "another process"
            raise ConfigError(f"{self.path}: {owner} is running this") from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _beside(self, what: str) -> Path:
        """A hidden file next to the folder, which outlives its being moved aside."""
        return self.path.with_name(f".{self.path.name}.{what}")

    def set_aside(self) -> Path:
        """Move the folder to a name with the time in it, and return that."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        suffixes = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
        candidates = (self.path.with_name(f"{self.path.name}.{stamp}{suffix}") for suffix in suffixes)
        aside = next(path for path in candidates if not path.exists())
        self.path.rename(aside)
        return aside


def _exists(process: int) -> bool:
    """Whether this machine has a process of that number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to somebody else
        return True
    return True
