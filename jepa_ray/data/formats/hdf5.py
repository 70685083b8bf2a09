"""The canonical format: one HDF5 file, flat over time.

`pixels (N, H, W, C) uint8` or `observation (N, D)`, `action (N, A) float` or `(N,) int`, optional `state (N, S)`,
`ep_len (E,) int32`, `ep_offset (E,) int64`. `action[t]` moves row t to row t + 1.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.trajectories import Trajectories, existing_file
from jepa_ray.data.two_rooms import TwoRoomsEpisodes
from jepa_ray.errors import DataError


@contextmanager
def open_hdf5(path: Path, observation: str | None = None) -> Iterator[Trajectories]:
    """The file's trajectories, columns still on disk, not yet validated.

    `observation` names the column to learn from (default: `pixels`, else `observation`). Raises
    `DataError` for a file that is not HDF5, is truncated, or lacks a column.
    """
    try:
        file = h5py.File(existing_file(path), "r")
    except OSError as error:
        raise DataError(f"{path}: is not a readable HDF5 file ({error})") from None
    with file:
        yield _trajectories(file, path, observation)


class _Column:
    """A dataset on disk whose damage is reported as what it is: bad data."""

    def __init__(self, dataset: h5py.Dataset, path: Path) -> None:
        self._dataset, self._path = dataset, path
        self.shape: tuple[int, ...] = dataset.shape
        self.dtype: np.dtype[Any] = dataset.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        try:
            return np.asarray(self._dataset[rows])
        except OSError as error:  # damaged, or compressed with a filter that is not installed
            raise DataError(f"{self._path}: {self._dataset.name[1:]} cannot be read ({error})") from None


def _trajectories(file: h5py.File, path: Path, observation: str | None) -> Trajectories:
    name = observation or ("pixels" if "pixels" in file else "observation")
    missing = [column for column in (name, "action", "ep_len", "ep_offset") if column not in file]
    if missing:
        has = ", ".join(sorted(file)) or "nothing"
        raise DataError(f"{path}: lacks the column {missing[0]} (it has {has})")
    for column in (name, "action", "state", "ep_len", "ep_offset"):
        if column in file and not isinstance(file[column], h5py.Dataset):
            raise DataError(f"{path}: {column} is a group, but must be a dataset")
    return Trajectories(
        source=str(path),
        observation=_Column(file[name], path),
        action=_Column(file["action"], path),
        state=_Column(file["state"], path) if "state" in file else None,
        lengths=_integers(file["ep_len"], path),
        offsets=_integers(file["ep_offset"], path),
    )


def _integers(column: h5py.Dataset, path: Path) -> NDArray[np.int64]:
    if not np.issubdtype(column.dtype, np.integer):
        raise DataError(f"{path}: {column.name[1:]} has dtype {column.dtype}, but must be integers")
    return np.asarray(column[()], np.int64)


def write_two_rooms(path: Path, episodes: TwoRoomsEpisodes) -> None:
    """Write simulated episodes in the canonical layout; under a temporary name, then renamed."""
    count, rows = episodes.state.shape[:2]
    partial = path.with_name(path.name + ".partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with h5py.File(partial, "w") as file:
            pixels = episodes.pixels.reshape(count * rows, *episodes.pixels.shape[2:])
            file.create_dataset(
                "pixels", data=pixels, chunks=(rows, *pixels.shape[1:]), compression="gzip", compression_opts=1
            )
            file["action"] = episodes.action.reshape(count * rows, -1)
            file["state"] = episodes.state.reshape(count * rows, -1)
            file["ep_len"] = np.full(count, rows, np.int32)
            file["ep_offset"] = np.arange(count, dtype=np.int64) * rows
        partial.replace(path)
    except OSError as error:
        raise DataError(f"{path}: cannot be written ({error.strerror or error})") from None
    finally:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
