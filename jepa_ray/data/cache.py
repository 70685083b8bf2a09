"""The memory-mapped cache: a dataset is read, checked and prepared once, then shared by all workers on the node.

A cache is a folder of `.npy` files named by a fingerprint of the source, its preparation and the cache layout. It is
built under a temporary name while a file lock is held, and renamed when it is complete. So an existing cache is always
complete, several worker groups can request it at once, and a process that dies while building leaves nothing readable.
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

LAYOUT = 3  # increase it when the files of a cache or the simulator change; older caches are then ignored


# Keys of `data` that change the content of a cache.
PREPARATION = ("observation", "action_alignment", "resize", "grayscale", "frameskip", "max_trajectories")


@dataclass(frozen=True)
class CachedTrajectories:
    """Read-only memory maps of a validated dataset, flat over time."""

    observation: NDArray[Any]  # (N, H, W, C) uint8 or (N, D) float32
    action: NDArray[Any]  # (N, A) float32 or (N,) int64; 0 in a trajectory's last row, where it is not used
    state: NDArray[np.float32] | None  # (N, S)
    lengths: NDArray[np.int64]  # (E,)
    offsets: NDArray[np.int64]  # (E,)
    # (E,) the episode that a trajectory belongs to; a frameskip splits an episode into several.
    episode: NDArray[np.int64]
    held_out: NDArray[np.bool_] | None  # (E,) trajectories that the dataset itself reserves for validation


def load_trajectories(config: DataConfig) -> CachedTrajectories:
    """Load the dataset of a config from its cache, which is built if it is missing.

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
    """Whether the dataset is already cached. Raises `DataError` if the dataset cannot be read."""
    return _folder(config).exists()


def _folder(config: DataConfig) -> Path:
    root = config.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_ray"
    return root / _cache_name(config)


def ensure_cache(config: DataConfig) -> Path:
    """The folder of the dataset's cache, which is built if it does not exist. Raises `DataError`."""
    folder = _folder(config)
    if folder.exists():
        return folder
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _build(config, folder)
    except OSError as error:  # an unreadable dataset has already raised a `DataError`
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
            label, identity = Path(remote.dataset_name(config.path)).stem, {"path": config.path}
            identity["files"] = remote.list_remote_files(config.path)
        else:
            label, identity = config.path.stem, {"path": os.path.realpath(config.path)}
            identity["files"] = list_files(config.path)
    identity["prepared"] = {key: getattr(config, key) for key in PREPARATION}
    digest = hashlib.sha256(json.dumps([LAYOUT, identity], sort_keys=True).encode()).hexdigest()
    return f"{label}-{digest[:12]}"


def list_files(path: Path) -> list[tuple[str, int, int]]:
    """Name, size in bytes and modification time in ns of each file of the dataset at `path`. Raises `DataError`."""
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
    shutil.rmtree(partial, ignore_errors=True)  # safe, because this process holds the lock
    partial.mkdir()
    try:
        with _open_source(config, partial) as recording:
            selection = select(recording, config)
            data = selection.trajectories
            _check_disk_space(data, partial)
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
        with remote.fetched_dataset(config.path, partial) as path, open_recording(path) as recording:
            yield recording
    else:
        with open_recording(config.path) as recording:
            yield recording


def _check_disk_space(data: Trajectories, folder: Path) -> None:
    """Raise `DataError` if the cache does not fit on the disk, before anything is written."""
    needed = sum(column_bytes(column) for column in data.columns().values())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{data.source}: its cache needs {needed / 1e9:,.1f} GB, but {folder.parent} has {free / 1e9:,.1f} GB free:"
            " set data.cache_dir to another disk, or make the cache smaller with data.resize or data.max_trajectories"
        )


def _copy_column(name: str, column: Column, target: Path, data: Trajectories) -> None:
    """Copy a column chunk by chunk: floats as float32, integers as int64, pixels unchanged."""
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
