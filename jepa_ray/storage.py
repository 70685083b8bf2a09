"""Storage that several machines share: a folder that all of them mount, or an object store (s3://, gs://, ...).

An object is a small file with a name. It is written completely or not at all: a local file is renamed when it is
complete, and an object store shows an object only after its upload. Every machine that reads or writes takes the
credentials from its environment (such as AWS_ACCESS_KEY_ID).
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

RETRY_FOR_S = 60.0  # retry for this long while a store or the network is unreachable; S3 fails over in half the time
PAUSE_S = 2.0  # between two attempts
T = TypeVar("T")


def local_path(place: str) -> Path:
    """The path of a place that is not a URI. `file:///folder` is a path too."""
    return Path(place.removeprefix("file://"))


@dataclass(frozen=True)
class Storage:
    """A folder of a shared storage. It can be pickled, since each node opens the storage itself.

    Args:
        uri: a path, or a URI that pyarrow or fsspec can open; it may contain `${env:NAME}`.
        within: the folder, relative to `uri`.
    """

    uri: str
    within: str = ""

    def below(self, folder: str) -> Storage:
        """A folder inside this one."""
        return Storage(self.uri, f"{self.within}/{folder}".lstrip("/"))

    def __str__(self) -> str:
        base, question, query = self.uri.partition("?")
        return f"{base.rstrip('/')}/{self.within}".rstrip("/") + question + query

    def check(self) -> None:
        """Raise `ConfigError` if the storage cannot be written to, for want of a bucket, credentials or a network."""
        try:
            self._upload(_PROBE, b"jepa-ray can write here")
            self._fs.delete_file(self._at(_PROBE))
        except OSError as error:
            raise ConfigError(f"storage {self}: cannot be used ({secrets.mask_error(error)})") from None

    def read(self, name: str) -> bytes | None:
        """The content of an object; None if it does not exist. Raises `StorageError`."""

        def attempt() -> bytes | None:
            try:
                with self._fs.open_input_file(self._at(name)) as file:
                    return bytes(file.read())
            except (FileNotFoundError, NotADirectoryError):
                return None

        return self._with_retries(attempt, name)

    def write(self, name: str, data: bytes) -> None:
        """Write an object atomically, replacing an older one. Raises `StorageError`."""
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
        """Delete an object if it exists. Raises `StorageError`."""

        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_file(self._at(name))

        self._with_retries(attempt, name)

    def delete_folder(self, folder: str) -> None:
        """Delete a folder with all its objects if it exists. Raises `StorageError`."""

        def attempt() -> None:
            with contextlib.suppress(FileNotFoundError):
                self._fs.delete_dir(self._at(folder))

        self._with_retries(attempt, folder)

    def each(self, work: Callable[[str], T], names: Iterable[str]) -> list[T]:
        """Call `work` with every name, several at once, since most of a request is waiting; returns the results."""
        with ThreadPoolExecutor(_MAX_REQUESTS) as pool:
            return list(pool.map(work, names))

    def names(self, folder: str = "", *, recursive: bool = False) -> list[str]:
        """The sorted names of the objects in `folder`, relative to this one. Raises `StorageError`."""
        found = self._with_retries(lambda: self._list(folder, recursive=recursive), folder)
        root = self._root.rstrip("/") + "/"
        return sorted(info.path.removeprefix(root) for info in found if info.is_file)

    def stamp(self, name: str) -> tuple[int, int] | None:
        """Size in bytes and modification time in ns of an object; None if it does not exist. Raises `StorageError`."""
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
        """Move an object to another folder of the same storage. Raises `StorageError`."""

        def attempt() -> None:
            to._make_folder(name)
            self._fs.move(self._at(name), to._at(name))

        self._with_retries(attempt, name)

    def _make_folder(self, name: str) -> None:
        """Create the folder of an object, except in object stores, which have no folders."""
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
        """The result of `attempt`, which is retried while an object store (but not a local disk) is unreachable."""
        deadline = time.monotonic() + (RETRY_FOR_S if is_uri(self.uri) else 0.0)
        while True:
            try:
                return attempt()
            except OSError as error:
                if time.monotonic() >= deadline or isinstance(error, _FINAL):
                    raise StorageError(f"{self}/{name}: {secrets.mask_error(error)}") from None
            time.sleep(PAUSE_S)

    def _at(self, name: str) -> str:
        return f"{self._root}/{name}" if name else self._root

    @property
    def _fs(self) -> Any:
        return _opened(self.uri)[0]

    @property
    def _root(self) -> str:
        return "/".join(part for part in (_opened(self.uri)[1].rstrip("/"), self.within) if part)


_BLOCK = 1 << 22  # bytes that are copied at once
_MAX_REQUESTS = 16  # at the same time
_PROBE = ".check"  # an object that is written and deleted to check whether that is possible
_FINAL = (PermissionError, FileExistsError, NotADirectoryError)  # a retry cannot succeed


@functools.cache
def _opened(uri: str) -> tuple[Any, str]:
    """The file system of a URI, and the path in it. Raises `ConfigError`."""
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
        reason = secrets.mask_error(error)
    try:
        system, path = fsspec.core.url_to_fs(place)
    except (ValueError, ImportError) as error:
        raise ConfigError(
            f"storage {uri}: neither pyarrow ({reason}) nor fsspec ({secrets.mask_error(error)}) can open it"
        ) from None
    return fs.PyFileSystem(fs.FSSpecHandler(system)), path


def _with_few_requests(uri: str) -> str:
    """An S3 URI with the option that writes small objects in one request instead of three."""
    if not uri.startswith("s3://") or "allow_delayed_open" in uri:
        return uri
    return f"{uri}{'&' if '?' in uri else '?'}allow_delayed_open=true"


# ------------------------------------------------------------------------------------------- ownership of a folder

LEASE = "owner"  # name of the object that the owner of a folder keeps changing
BEAT_S = 4.0  # pause between two changes of that object
DEAD_S = 20.0  # an owner without a change for this long counts as dead
SETTLE_S = 1.5  # wait after taking a lease: if two processes take it at once, the later write wins


class Lease:
    """The exclusive right to write to a folder of a storage without locks: an object that its owner keeps changing.

    An owner whose object has not changed for `DEAD_S` seconds counts as dead. Clocks of different machines are never
    compared.
    """

    def __init__(self, store: Storage, owner: str, lost: Callable[[], None]) -> None:
        """Prepare a lease.

        Args:
            store: the folder.
            owner: a description of this process for error messages, such as `process 1 on host`.
            lost: called from another thread if another process takes the folder in spite of the lease.
        """
        self._store, self._owner, self._lost = store, owner, lost
        self._token = uuid.uuid4().hex
        self._over = threading.Event()

    @contextmanager
    def held(self, say: Callable[[str], None]) -> Iterator[None]:
        """Own the folder inside the `with` block. Raises `ConfigError` if another process owns it."""
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
            say(f"{_owner_of(before)} owned {self._store}: waiting {DEAD_S:g} s to see whether it is still running")
        deadline = time.monotonic() + DEAD_S
        while before is not None and time.monotonic() < deadline:
            time.sleep(BEAT_S / 2)
            now = self._store.read(LEASE)
            if now is not None and now != before:
                raise self._in_use(now)
            before = now
        self._beat(0)
        time.sleep(SETTLE_S)
        if self._holder() != self._token:
            raise self._in_use(self._store.read(LEASE) or b"")

    def _in_use(self, lease: bytes) -> ConfigError:
        return ConfigError(
            f"{self._store}: is in use by {_owner_of(lease)}: wait until it ends, or choose another name"
        )

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
                continue  # the storage is unreachable: the next write of a result raises the error

    def _beat(self, number: int) -> None:
        self._store.write(LEASE, f"{self._token} {number} {self._owner}".encode())

    def _holder(self) -> str | None:
        held = self._store.read(LEASE)
        return held.decode(errors="replace").partition(" ")[0] if held else None


def _owner_of(lease: bytes) -> str:
    """The description of the owner in a lease."""
    return lease.decode(errors="replace").split(" ", 2)[-1] or "another process"
