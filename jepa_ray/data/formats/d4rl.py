"""D4RL: HDF5 of flat rows; an episode ends where `terminals` or `timeouts` is true."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np

from jepa_ray.data.columns import Column
from jepa_ray.data.formats.hdf5 import DatasetColumn, open_file
from jepa_ray.data.formats.ogbench import join_state, lengths_from_ends, observation_name, read_end_marks
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

NAMES = {"actions": "action", "rewards": "reward"}
ENDS = ("terminals", "timeouts")
MAX_NAMED = 8  # maximum number of columns that a note lists


class D4RL:
    """D4RL files; `action[t]` leads from row t to t + 1."""

    name = "D4RL HDF5"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "hdf5" and seen.has("observations", "actions") and not seen.names.isdisjoint(ENDS)

    def files(self, path: Path) -> list[Path]:
        return [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        with open_file(path) as file:
            found, notes = _row_datasets(file, path)
            marks = [read_end_marks(found.pop(name), path, name) for name in ENDS if name in found]
            if found.pop("next_observations", None) is not None:
                notes += ("next_observations is not read",)
            columns = join_state(found, "infos/qpos", "infos/qvel")
            seen = columns.pop("observations")
            columns = {NAMES.get(name, name): column for name, column in columns.items()} | {
                observation_name(seen): seen
            }
            lengths = lengths_from_ends(np.logical_or.reduce(marks))
            yield Recording.consecutive(str(path), self.name, columns, lengths, notes=notes)


def _row_datasets(file: h5py.File, path: Path) -> tuple[dict[str, Column], tuple[str, ...]]:
    """All datasets with as many rows as `actions`, and a note on the others; links are not followed."""
    held: dict[str, h5py.Dataset] = {}

    def visit(name: str, item: h5py.HLObject) -> None:
        if isinstance(item, h5py.Dataset):
            held[name] = item

    file.visititems(visit)
    rows = _shape_of(held, "actions", path)[0]
    for name in ("observations", *(name for name in ENDS if name in file)):
        if _shape_of(held, name, path)[0] != rows:
            raise DataError(f"{path}: {name} has shape {held[name].shape}, but actions has {rows} rows")
    fits = {name for name, item in held.items() if item.shape and item.shape[0] == rows}
    others = sorted(set(held) - fits)
    named = ", ".join(others[:MAX_NAMED]) + (", ..." if len(others) > MAX_NAMED else "")
    notes = (f"not read, because they do not have {rows} rows: {named}",) if others else ()
    return {name: DatasetColumn(held[name], path) for name in sorted(fits)}, notes


def _shape_of(held: dict[str, h5py.Dataset], name: str, path: Path) -> tuple[int, ...]:
    """The shape of a dataset. Raises `DataError` if it is missing or has no rows."""
    if name not in held:
        raise DataError(f"{path}: {name} is not a dataset of this file, but must be")
    shape: tuple[int, ...] | None = held[name].shape
    if not shape or not shape[0]:
        raise DataError(f"{path}: {name} has shape {shape}, but must have rows")
    return shape
