"""The memory-mapped cache: a dataset read, checked and prepared once, then shared by every worker on the node.

A cache is a folder of `.npy` files named by a fingerprint of the source, its preparation and the cache layout. It is
built under a temporary name, behind a file lock, and renamed when whole; so a cache that exists is complete,
several groups may ask for it at once, and one that dies while building leaves nothing that is read.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from jepa_ray.config import DataConfig
from jepa_ray.data import remote
from jepa_ray.data.columns import Column, chunks, column_bytes
from jepa_ray.data.formats import format_of, open_recording
from jepa_ray.data.recording import Recording
from jepa_ray.data.selection import select
from jepa_ray.data.trajectories import Trajectories
from jepa_ray.data.two_rooms import as_recording
from jepa_ray.errors import DataError

LAYOUT = 3  # raise when the files of a cache or the simulator change: old caches are then left alone


# Keys of `data` that a cache is made by.
PREPARATION = ("observation", "action_alignment", "resize", "grayscale", "frameskip", "max_trajectories")


@dataclass(frozen=True)
class CachedTrajectories:
    """Read-only memory maps of a validated dataset, flat over time."""

    observation: NDArray[Any]  # (N, H, W, C) uint8 or (N, D) float32
    action: NDArray[Any]  # (N, A) float32 or (N,) int64; 0 in a trajectory's last row, where it leads nowhere
    state: NDArray[np.float32] | None  # (N, S)
    lengths: NDArray[np.int64]  # (E,)
    offsets: NDArray[np.int64]  # (E,)
    episode: NDArray[np.int64]  # (E,) the episode a trajectory is a part of; with a frameskip it has several
    held_out: NDArray[np.bool_] | None  # (E,) what the dataset itself keeps for validation


def load_trajectories(config: DataConfig) -> CachedTrajectories:
    """The dataset a config names, from its cache; built first where there is none.

    Raises `DataError` for data that breaks a rule of the canonical layout.
    """
    folder = ensure_cache(config)

    def array(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    def optional(name: str) -> Any:
        return array(name) if (folder / f"{name}.npy").exists() else None

    return CachedTrajectories(
        array("observation"),
        array("action"),
        optional("state"),
        array("lengths"),
        array("offsets"),
        array("episode"),
        optional("held_out"),
    )


def is_cached(config: DataConfig) -> bool:
    """Whether the dataset has a cache already. Raises `DataError` if the dataset cannot be read."""
    return _folder(config).exists()


def _folder(config: DataConfig) -> Path:
    root = config.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_ray"
    return root / _cache_name(config)


def ensure_cache(config: DataConfig) -> Path:
    """The folder of the dataset's cache, built if it is not there yet. Raises `DataError`."""
    folder = _folder(config)
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _build(config, folder)
    except OSError as error:  # of a path that cannot be read there is a `DataError` already
        raise DataError(f"{folder}: the cache cannot be written ({error.strerror or error})") from None
    return folder


def _cache_name(config: DataConfig) -> str:
    identity: dict[str, Any]
    if config.builtin:
        rooms = config.two_rooms
        label = (
            f"{config.builtin}-{rooms.wall}-{rooms.trajectories}x{rooms.steps}-{rooms.image_size}px-seed{rooms.seed}"
        )
        identity = rooms.model_dump(mode="json")
    else:
        assert config.path is not None, "a DataConfig has a path or a builtin"
        if isinstance(config.path, str):
            label, identity = Path(remote.name_of(config.path)).stem, {"path": config.path}
            identity["files"] = remote.files_at(config.path)
        else:
            label, identity = config.path.stem, {"path": os.path.realpath(config.path)}
            identity["files"] = files_of(config.path)
    identity["prepared"] = {key: getattr(config, key) for key in PREPARATION}
    digest = hashlib.sha256(json.dumps([LAYOUT, identity], sort_keys=True).encode()).hexdigest()
    return f"{label}-{digest[:12]}"


def files_of(path: Path) -> list[tuple[str, int, int]]:
    """Name, size and time of each file that the dataset at `path` consists of. Raises `DataError`."""
    found = []
    try:
        for file in format_of(path).files(path):
            stat = file.stat()
            found.append((str(file.relative_to(path.parent)), stat.st_size, stat.st_mtime_ns))
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    return found


def _build(config: DataConfig, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # ours alone: the lock is held
    partial.mkdir()
    try:
        with _open_source(config, partial) as recording:
            selection = select(recording, config)
            data = selection.trajectories
            _check_room(data, partial)
            for name, column in data.columns().items():
                _copy_column(name, column, partial / f"{name}.npy", data)
            np.save(partial / "lengths.npy", data.lengths)
            np.save(partial / "offsets.npy", data.offsets)
            np.save(partial / "episode.npy", selection.episode)
            if selection.held_out is not None:
                np.save(partial / "held_out.npy", selection.held_out)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _open_source(config: DataConfig, partial: Path) -> Iterator[Recording]:
    if config.path is None:
        yield as_recording(config.two_rooms)
    elif isinstance(config.path, str):
        with remote.fetched(config.path, partial) as path, open_recording(path) as recording:
            yield recording
    else:
        with open_recording(config.path) as recording:
            yield recording


def _check_room(data: Trajectories, folder: Path) -> None:
    """Refuse what the disk has no room for before it is full."""
    needed = sum(column_bytes(column) for column in data.columns().values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{data.source}: its cache takes {needed / 1e9:,.1f} GB, but {folder.parent} has {free / 1e9:,.1f} GB free;"
            " data.cache_dir can name another place, data.resize and data.max_trajectories make it smaller"
        )


def _copy_column(name: str, column: Column, target: Path, data: Trajectories) -> None:
    """Copy chunk by chunk: floats as float32, integers as int64, pixels as they are."""
    if column.dtype == np.uint8 and name == "observation":
        dtype: Any = np.uint8
    else:
        dtype = np.int64 if np.issubdtype(column.dtype, np.integer) else np.float32
    out = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=column.shape)
    for rows in chunks(column):
        out[rows] = column[rows].astype(dtype, copy=False)
    if name == "action":
        out[data.last_rows()] = 0
    out.flush()
