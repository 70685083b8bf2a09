"""The canonical format: one HDF5 file, flat over time.

`pixels (N, H, W, C) uint8` or `observation (N, D)`, `action (N, A) float` or `(N,) int`, optional `state (N, S)`,
`ep_len (E,) int32`, `ep_offset (E,) int64`, optional `ep_held_out (E,) bool`: episodes kept for validation.
`action[t]` leads from row t to row t + 1. stable-worldmodel writes the same format.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.hdf5 import DatasetColumn, open_file
from jepa_ray.data.formats.peek import Peek, readable
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

EPISODES = ("ep_len", "ep_offset")
HELD_OUT = "ep_held_out"
COLUMNS = ("pixels", "observation", "action", "state")


class Canonical:
    """Canonical HDF5; also reads, or refuses, every HDF5 file that no other format recognises."""

    name = "canonical HDF5"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "hdf5"

    def files(self, path: Path) -> list[Path]:
        return [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        with open_file(path) as file:
            for name in (*COLUMNS, *EPISODES, HELD_OUT):
                with readable(path, name):
                    if name in file and not isinstance(file[name], h5py.Dataset):
                        raise DataError(f"{path}: {name} is a group, but must be a dataset")
                    if name in file:
                        # Raises for data that is stored in another file, or not stored at all.
                        DatasetColumn(file[name], path)
            for name in ("action", *EPISODES):
                if name not in file:
                    has = ", ".join(sorted(map(str, file))) or "nothing"
                    raise DataError(f"{path}: lacks the column {name} (it has {has})")
            lengths, offsets = (_read_integers(file[name], path) for name in EPISODES)
            columns = {name: DatasetColumn(dataset, path) for name, dataset in _find_datasets(file).items()}
            held_out = _read_flags(file[HELD_OUT], path, len(lengths)) if HELD_OUT in file else None
            yield Recording(str(path), self.name, columns, lengths, offsets, held_out=held_out)


def _find_datasets(file: h5py.File) -> dict[str, h5py.Dataset]:
    """All datasets by name, including those in groups; links to other files are not followed."""
    found: dict[str, h5py.Dataset] = {}

    def visit(name: str | bytes, item: h5py.HLObject) -> None:
        if isinstance(name, str) and isinstance(item, h5py.Dataset) and name not in (*EPISODES, HELD_OUT):
            found[name] = item

    file.visititems(visit)
    return found


def _read_flags(column: h5py.Dataset, path: Path, episodes: int) -> NDArray[np.bool_]:
    if column.dtype != np.bool_ or column.shape != (episodes,):
        raise DataError(
            f"{path}: {HELD_OUT} has shape {column.shape} and dtype {column.dtype}, but must be ({episodes},) bool"
        )
    return np.asarray(column[()])


def _read_integers(column: h5py.Dataset, path: Path) -> NDArray[np.int64]:
    if not np.issubdtype(column.dtype, np.integer):
        raise DataError(f"{path}: {column.name[1:]} has dtype {column.dtype}, but must be integers")
    return np.asarray(column[()], np.int64)
