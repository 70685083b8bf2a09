"""Places that several machines see: a folder that all of them mount, or an object store (s3://, gs://, ...).

Objects are small files with names of their own, written whole or not at all: a local file is renamed when it is
complete, and an object store shows an object only when its upload is. Credentials are the environment's business
(AWS_ACCESS_KEY_ID and the like), on every machine that reads or writes.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import os
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from jepa_ray import secrets
from jepa_ray.config import is_uri
from jepa_ray.errors import ConfigError, StorageError
from jepa_ray.files import write_atomically

RETRY_FOR_S = 60.0  # that a store may be away, or a network; twice as long as it takes S3 to move elsewhere
PAUSE_S = 2.0
T = TypeVar("T")


def local_path(place: str) -> Path:
    """The path that a place without a URI stands for."""
    return Path(place.removeprefix("file://"))


@dataclass(frozen=True)
class Storage:
    """One folder of such a place; picklable, since a node opens it by itself.

    Args:
        uri: a path, or a URI that pyarrow or fsspec knows; may hold `${env:NAME}`.
        within: the folder below it.
    """

    uri: str
    within: str = ""

    def below(self, folder: str) -> Storage:
        """A folder of this one."""
        return Storage(self.uri, f"{self.within}/{folder}".lstrip("/"))

    def __str__(self) -> str:
        base, question, query = self.uri.partition("?")
        return f"{base.rstrip('/')}/{self.within}".rstrip("/") + question + query

    def check(self) -> None:
        """Raise `ConfigError` if nothing can be written there: no such bucket, no credentials, no network."""
        try:
            self._upload(_PROBE, b"jepa-ray can write here")
            self._fs.delete_file(self._at(_PROBE))
        except OSError as error:
            raise ConfigError(f"storage {self}: cannot be used ({_line(error)})") from None

    def read(self, name: str) -> bytes | None:
        """An object's content; None if there is none. Raises `StorageError`."""

        def attempt() -> bytes | None:
            try:
                with self._fs.open_input_file(self._at(name)) as file:
                    return bytes(file.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._with_retries(attempt, name)

    def write(self, name: str, data: bytes) -> None:
        """Write an object whole, in the place of an older one. Raises `StorageError`."""
        if is_uri(self.uri):
            self._with_retries(lambda: self._upload(name, data), name)
            return
        try:
            write_atomically(Path(self._at(name)), data)
        except OSError as error:
            raise StorageError(f"{self._at(name)}: cannot be written ({error.strerror or error})") from None

    def _upload(self, name: str, data: bytes) -> None:
        self._make_folder(name)
        with self._fs.open_output_stream(self._at(name)) as stream:
            stream.write(data)

    def delete(self, name: str) -> None:
        """Delete an object, if there is one. Raises `StorageError`."""

        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(self._at(name))

        self._with_retries(attempt, name)

    def each(self, work: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """`work` on every name, several at once: a request to an object store is mostly waiting."""
        with ThreadPoolExecutor(_AT_ONCE) as pool:
            return list(pool.map(work, names))

    def names(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """Names of the objects in a folder, below this one, sorted. Raises `StorageError`."""
        found = self._with_retries(lambda: self._list(folder, recursive=recursive), folder)
        root = self._root.rstrip("/") + "/"
        return sorted(info.path.removeprefix(root) for info in found if info.is_file)

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Size in bytes and time of change in ns of an object; None if there is none. Raises `StorageError`."""
        info = self._with_retries(lambda: self._fs.get_file_info(self._at(name)), name)
        return (info.size, info.mtime_ns or 0) if info.is_file else None

    def download(self, name: str, path: Path) -> None:
        """Copy an object to a local file, block by block. Raises `StorageError`."""

        def attempt() -> None:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._fs.open_input_stream(self._at(name)) as source, path.open("wb") as target:
                while block := source.read(_BLOCK):
                    target.write(block)

        self._with_retries(attempt, name)

    def upload(self, path: Path, name: str) -> None:
        """Copy a local file to an object. Raises `StorageError`."""
        self.write(name, path.read_bytes())

    def move(self, name: str, to: Storage) -> None:
        """Move an object to another folder of the same place. Raises `StorageError`."""

        def attempt() -> None:
            to._make_folder(name)
            self._fs.move(self._at(name), to._at(name))

        self._with_retries(attempt, name)

    def _make_folder(self, name: str) -> None:
        """The folder of an object, where there are folders: an object store has but names."""
        if self._fs.type_name not in ("s3", "gcs"):
            self._fs.create_dir(self._at(name).rpartition("/")[0], recursive=True)

    def _list(self, folder: str, *, recursive: bool) -> list[Any]:
        from pyarrow.fs import FileSelector

        selector = FileSelector(self._at(folder).rstrip("/"), recursive=recursive, allow_not_found=True)
        try:
            return list(self._fs.get_file_info(selector))
        except NotADirectoryError:
            return []

    def _with_retries(self, attempt: Callable[[], T], name: str) -> T:
        """What `attempt` returns; a store that is away is waited for. The files of this machine are not."""
        deadline = time.monotonic() + (RETRY_FOR_S if is_uri(self.uri) else 0.0)
        while True:
            try:
                return attempt()
            except OSError as error:
                if time.monotonic() >= deadline or isinstance(error, _FINAL):
                    raise StorageError(f"{self}/{name}: {_line(error)}") from None
            time.sleep(PAUSE_S)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @property
    def _fs(self) -> Any:
        return _opened(self.uri)[0]

    @property
    def _root(self) -> str:
        return "/".join(part for part in (_opened(self.uri)[1].rstrip("/"), self.within) if part)


_BLOCK = 1 << 22
_AT_ONCE = 16
_PROBE = ".check"
_FINAL = (PermissionError, FileExistsError, NotADirectoryError)  # waiting mends none of them


@functools.cache
def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path within it. Raises `ConfigError`."""
    import fsspec
    import pyarrow
    from pyarrow import fs

    place = secrets.resolve(uri)
    if not is_uri(place):
        return fs.LocalFileSystem(), os.path.realpath(local_path(place))
    try:
        found: tuple[Any, str] = fs.FileSystem.from_uri(_with_few_requests(place))
        return found
    except (pyarrow.ArrowInvalid, pyarrow.ArrowNotImplementedError) as error:
        reason = _line(error)
    try:
        system, path = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"storage {uri}: neither pyarrow ({reason}) nor fsspec ({_line(error)}) can open it"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _with_few_requests(uri: str) -> str:
    """Have S3 written to in one request instead of three where an object is small."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


def _line(error: Exception) -> str:
    lines = secrets.mask(str(error)).splitlines()
    return lines[0] if lines else type(error).__name__


# ----------------------------------------------------------------------------------------------- who owns a folder

LEASE = "owner"
BEAT_S = 4.0
DEAD_S = 20.0  # without a beat: its owner is gone
SETTLE_S = 1.5  # two that come at once: the later write wins


class Lease:
    """The right to write to a folder of a store, where there are no locks: an object that its owner keeps changing.

    Nobody's clock is read: an owner whose object has not changed for `DEAD_S` seconds is gone.
    """

    def __init__(self, store: Storage, owner: str, lost: Callable[[], None]) -> None:
        """`lost` is called, from another thread, if somebody else takes the folder all the same."""
        self._store, self._owner, self._lost = store, owner, lost
        self._token = uuid.uuid4().hex
        self._over = threading.Event()

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Own the folder meanwhile. Raises `ConfigError` if somebody else does."""
        self._take(say)
        thread = threading.Thread(target=self._keep, name="lease", daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()
            if self._holder() == self._token:
                self._store.delete(LEASE)

    def _take(self, say: Callable[[str], None]) -> None:
        before = self._store.read(LEASE)
        if before is not None:
            say(f"{_said(before)} owned {self._store}: waiting {DEAD_S:g} s for a sign of life")
        deadline = time.monotonic() + DEAD_S
        while before is not None and time.monotonic() < deadline:
            time.sleep(BEAT_S / 2)
            now = self._store.read(LEASE)
            if now is not None and now != before:
                raise ConfigError(f"{self._store}: {_said(now)} is running this")
            before = now
        self._beat(0)
        time.sleep(SETTLE_S)
        if self._holder() != self._token:
            raise ConfigError(f"{self._store}: {_said(self._store.read(LEASE) or b'')} is running this")

    def _keep(self) -> None:
        for beat in itertools.count(1):
            if self._over.wait(BEAT_S):
                return
            try:
                if self._holder() not in (self._token, None):
                    self._lost()
                    return
                self._beat(beat)
            except StorageError:
                continue  # the store is away: whoever writes results will say so

    def _beat(self, number: int) -> None:
        self._store.write(LEASE, f"{self._token} {number} {self._owner}".encode())

    def _holder(self) -> str | None:
        held = self._store.read(LEASE)
        return held.decode(errors="replace").partition(" ")[0] if held else None


def _said(lease: bytes) -> str:
    """Who wrote a lease."""
    return lease.decode(errors="replace").split(" ", 2)[-1] or "another process"
