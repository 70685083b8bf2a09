"""The memory-mapped cache: a dataset read and checked once, then shared by every worker on the node.

A cache is a folder of `.npy` files named by a fingerprint of the source and of the cache layout. It is built
under a temporary name, behind a file lock, and renamed when whole; so a cache that exists is complete,
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
from jepa_ray.data.formats.hdf5 import open_hdf5
from jepa_ray.data.trajectories import Trajectories, chunks, validate
from jepa_ray.data.two_rooms import TwoRoomsEpisodes, simulate
from jepa_ray.errors import DataError

LAYOUT = 2  # raise when the files of a cache or the simulator change: old caches are then left alone


@dataclass(frozen=True)
class CachedTrajectories:
    """Read-only memory maps of a validated dataset, flat over time."""

    observation: NDArray[Any]  # (N, H, W, C) uint8 or (N, D) float32
    action: NDArray[Any]  # (N, A) float32, unused last rows 0; or (N,) int64
    state: NDArray[np.float32] | None  # (N, S)
    lengths: NDArray[np.int64]  # (E,)
    offsets: NDArray[np.int64]  # (E,)


def load_trajectories(config: DataConfig) -> CachedTrajectories:
    """The dataset a config names, from its cache; built first where there is none.

    Raises `DataError` for data that breaks a rule of the canonical layout.
    """
    folder = ensure_cache(config)

    def array(name: str) -> Any:
        return np.load(folder / f"{name}.npy", mmap_mode="r")

    has_state = (folder / "state.npy").exists()
    return CachedTrajectories(
        array("observation"), array("action"), array("state") if has_state else None, array("lengths"), array("offsets")
    )


def ensure_cache(config: DataConfig) -> Path:
    """The folder of the dataset's cache, built if it is not there yet. Raises `DataError`."""
    root = config.cache_dir or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "jepa_ray"
    folder = root / _cache_name(config)
    if folder.exists():
        return folder
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.exists():
                _build(config, folder)
    except OSError as error:
        raise DataError(f"{folder}: the cache cannot be written ({error.strerror or error})") from None
    return folder


def _cache_name(config: DataConfig) -> str:
    if config.builtin:
        rooms = config.two_rooms
        label = (
            f"{config.builtin}-{rooms.wall}-{rooms.trajectories}x{rooms.steps}-{rooms.image_size}px-seed{rooms.seed}"
        )
        identity: dict[str, Any] = rooms.model_dump(mode="json")
    else:
        assert config.path is not None, "a DataConfig has a path or a builtin"
        try:
            stat = config.path.stat()
        except OSError as error:
            raise DataError(f"{config.path}: cannot be read ({error.strerror})") from None
        label = config.path.stem
        identity = {"path": str(config.path.resolve()), "size": stat.st_size, "mtime_ns": stat.st_mtime_ns}
        identity["observation"] = config.observation
    digest = hashlib.sha256(json.dumps([LAYOUT, identity], sort_keys=True).encode()).hexdigest()
    return f"{label}-{digest[:12]}"


def _build(config: DataConfig, folder: Path) -> None:
    partial = folder.with_suffix(".partial")
    shutil.rmtree(partial, ignore_errors=True)  # ours alone: the lock is held
    partial.mkdir()
    try:
        with _open_source(config) as data:
            validate(data)
            for name, column in data.columns().items():
                _copy_column(name, column, partial / f"{name}.npy")
            np.save(partial / "lengths.npy", data.lengths)
            np.save(partial / "offsets.npy", data.offsets)
        partial.rename(folder)
    finally:
        shutil.rmtree(partial, ignore_errors=True)


@contextmanager
def _open_source(config: DataConfig) -> Iterator[Trajectories]:
    if config.path is not None:
        with open_hdf5(config.path, config.observation) as data:
            yield data
    else:
        yield _from_episodes(simulate(config.two_rooms))


def _from_episodes(episodes: TwoRoomsEpisodes) -> Trajectories:
    count, rows = episodes.state.shape[:2]
    return Trajectories(
        source="two_rooms",
        observation=episodes.pixels.reshape(count * rows, *episodes.pixels.shape[2:]),
        action=episodes.action.reshape(count * rows, -1),
        state=episodes.state.reshape(count * rows, -1),
        lengths=np.full(count, rows, np.int64),
        offsets=np.arange(count, dtype=np.int64) * rows,
    )


def _copy_column(name: str, column: Any, target: Path) -> None:
    """Copy chunk by chunk: floats as float32, integers as int64, pixels as they are."""
    if column.dtype == np.uint8 and name == "observation":
        dtype: Any = np.uint8
    else:
        dtype = np.int64 if np.issubdtype(column.dtype, np.integer) else np.float32
    out = np.lib.format.open_memmap(target, mode="w+", dtype=dtype, shape=column.shape)
    for rows in chunks(column):
        part = column[rows].astype(dtype, copy=False)
        out[rows] = np.nan_to_num(part) if name == "action" and dtype is np.float32 else part
    out.flush()
