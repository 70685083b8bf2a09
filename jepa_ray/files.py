"""Atomic writing of files, and the output folder of a run or sweep."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import socket
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from jepa_ray.config import yaml_loader
from jepa_ray.errors import ConfigError

PARTIAL = ".partial"
MAX_SHOWN = 5  # differences in an error message


def write_atomically(path: Path, data: bytes) -> None:
    """Write `data` to a temporary file beside `path` and rename it, so that `path` is never incomplete.

    Two processes may write the same file at once: the file of the later rename stays.
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
    """Remove the temporary files of processes that were killed while writing, in `folder` and below."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        partial.unlink(missing_ok=True)


def files_in(path: Path) -> list[Path]:
    """All files in a folder and below, sorted, or the file itself. Links to folders are followed."""
    if path.is_file():
        return [path]
    return sorted(Path(folder) / name for folder, _, names in os.walk(path, followlinks=True) for name in names)


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
    """All leaves in which two nested mappings differ: dotted key -> (old, new), with None for a missing leaf."""
    before, after = flat(old), flat(new)
    keys = dict.fromkeys([*before, *after])
    return {key: (before.get(key), after.get(key)) for key in keys if before.get(key) != after.get(key)}


def flat(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Flatten nested mappings: `{"model": {"latent_dim_state": 64}}` -> `{"model.latent_dim_state": 64}`."""
    leaves: dict[str, Any] = {}
    for key, value in values.items():
        leaves |= flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return leaves


@dataclass(frozen=True)
class RunFolder:
    """The output folder of one run or sweep.

    It is started with one document, and only one process at a time may write to it.

    Args:
        path: the folder.
        document: the name of the file in it with the config or spec that it was started with.
        add_defaults: adds the defaults of new keys to a document that an earlier version wrote.
    """

    path: Path
    document: str
    add_defaults: Callable[[dict[str, Any]], Mapping[str, Any]] = dict

    @property
    def finished(self) -> bool:
        """Whether all results have been written."""
        return self._end.exists()

    @property
    def in_use(self) -> bool:
        """Whether a process owns it. A process of another machine counts as running until its owner file is removed."""
        try:
            owner = re.fullmatch(r"process (\d+) on (.*)", self._beside("owner").read_text())
        except FileNotFoundError:
            return False
        return owner is None or owner[2] != socket.gethostname() or _process_exists(int(owner[1]))

    @property
    def seconds(self) -> float:
        """The duration of the session that finished it."""
        return float(json.loads(self._end.read_text())["seconds"])

    def mark_finished(self, seconds: float) -> None:
        """Record that all results have been written, and the duration of the session. This is a run's last step."""
        write_atomically(self._end, json.dumps({"seconds": round(seconds, 1)}).encode())

    @property
    def id(self) -> str:
        """A unique ID of this run, which a later run in the same folder does not share."""
        return self._id.read_text()

    @property
    def _id(self) -> Path:
        return self.path / ".id"

    @property
    def _end(self) -> Path:
        return self.path / "finished.json"

    def _check_document(self, text: str, growing: Collection[str]) -> bool:
        """Whether the folder was started with a smaller budget. Raises `ConfigError` for any other difference."""
        path = self.path / self.document
        if not path.exists() or yaml_loader.content(path) == text.encode():
            return False
        changed = differences(self.add_defaults(yaml_loader.read(path)), yaml_loader.parse(text))
        if all(key in growing and isinstance(old, int) and old < new for key, (old, new) in changed.items()):
            return bool(changed)
        shown = [f"{key} {old} -> {new}" for key, (old, new) in changed.items()]
        more = f" (and {len(shown) - MAX_SHOWN} more)" if len(shown) > MAX_SHOWN else ""
        raise ConfigError(
            f"{path}: was started with other settings: {', '.join(shown[:MAX_SHOWN])}{more}; give the new run another"
            " name, or start over with --fresh"
        )

    @contextlib.contextmanager
    def begin(self, text: str, *, fresh: bool, growing: Collection[str] = ()) -> Iterator[Path | None]:
        """Own the folder inside the `with` block, and write its document.

        Args:
            text: the document as YAML.
            fresh: start over, after renaming the old folder.
            growing: dotted keys whose values may have grown. If one has, the folder is no longer finished.

        Yields the new path of the old folder if `fresh` renamed one, otherwise None. Raises `ConfigError` if another
        process owns the folder, or if it was started with another document.
        """
        lock = FileLock(self._beside("lock"))
        self._refuse_links()
        with self._explain_output_errors():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock.acquire(timeout=0)
        try:
            grown = not fresh and self._check_document(text, growing)
            with self._explain_output_errors():
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
        """Raise `ConfigError` for a symbolic link that would redirect writes to a place that another user chose.

        The output root itself may be a link, or below one.
        """
        inside = self.path.iterdir() if self.path.is_dir() and not self.path.is_symlink() else ()
        for path in (self.path, *(self._beside(name) for name in ("lock", "owner")), *inside):
            if path.is_symlink():
                raise ConfigError(
                    f"{path}: is a link to {path.readlink()}, which leads out of the output folder: use that place as"
                    " the output root, or remove the link"
                )

    @contextlib.contextmanager
    def _explain_output_errors(self) -> Iterator[None]:
        """Raise `ConfigError` for a lock that another process holds, and for a folder that cannot be written."""
        try:
            yield
        except Timeout:
            owner = self._beside("owner").read_text() if self._beside("owner").exists() else "another process"
            raise ConfigError(
                f"{self.path}: is in use by {owner}: wait until it ends, or choose another name"
            ) from None
        except OSError as error:
            raise ConfigError(f"{self.path}: cannot be written ({error.strerror or error})") from None

    def _beside(self, name: str) -> Path:
        """A hidden file next to the folder, which stays when the folder is renamed."""
        return self.path.with_name(f".{self.path.name}.{name}")

    def set_aside(self) -> Path:
        """Rename the folder so that its name contains the present time, and return the new path."""
        stamp = time.strftime("%Y%m%d-%H%M%S")
        suffixes = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
        candidates = (self.path.with_name(f"{self.path.name}.{stamp}{suffix}") for suffix in suffixes)
        aside = next(path for path in candidates if not path.exists())
        self.path.rename(aside)
        return aside


def _process_exists(process: int) -> bool:
    """Whether this machine has a process with this number."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:  # it belongs to another user
        return True
    return True
