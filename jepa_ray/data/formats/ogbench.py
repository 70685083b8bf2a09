"""OGBench: an npz of flat rows; `terminals` is 1 in the last row of a trajectory; `NAME-val.npz` is held out.

The other formats with flat rows also use the functions for end marks and names that are defined here.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, Concatenated, SideBySide
from jepa_ray.data.formats.npz import NpzMember, members
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
# Arrays that define episodes in other formats; if one of them exists, `terminals` may not mark all ends.
OTHER_EPISODE_ARRAYS = frozenset({
    "ep_len", "lengths", "seq_lengths", "episode_ends", "episode_ids", "dones", "timeouts", "terminated", "truncated",
})  # fmt: skip


class OGBench:
    """OGBench files; `action[t]` leads from row t to t + 1, and a trajectory's last action is not used."""

    name = "OGBench"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "npz" and seen.has(*REQUIRED) and seen.names.isdisjoint(OTHER_EPISODE_ARRAYS)

    def files(self, path: Path) -> list[Path]:
        held_out = path.with_name(f"{path.stem}-val.npz")
        return [path, held_out] if held_out.is_file() else [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        files = self.files(path)
        tables = [_read_table(file) for file in files]
        ends = [_pop_ends(table, file) for table, file in zip(tables, files, strict=True)]
        lengths = [lengths_from_ends(marks) for marks in ends]
        joined, notes = _join_files(tables, files, np.array([len(marks) for marks in ends], np.int64))
        columns = join_state(joined, "qpos", "qvel")
        columns["action"] = columns.pop("actions")
        seen = columns.pop("observations")
        columns[observation_name(seen)] = seen
        held_out = np.repeat([False, True][: len(files)], [len(part) for part in lengths])
        yield Recording.consecutive(
            str(path),
            self.name,
            columns,
            np.concatenate(lengths),
            held_out=held_out if len(files) > 1 else None,
            notes=notes,
        )


def join_state(columns: Mapping[str, Column], *names: str) -> dict[str, Column]:
    """The columns, with those of `names` that exist joined to one column `state`."""
    found = [columns[name] for name in names if name in columns]
    rest = {name: column for name, column in columns.items() if name not in names}
    return rest | {"state": found[0] if len(found) == 1 else SideBySide(found)} if found else rest


def observation_name(seen: Column) -> str:
    """The name of an observation column: `pixels` or `observation`."""
    return "pixels" if seen.dtype == np.uint8 and len(seen.shape) == 4 else "observation"


def lengths_from_ends(ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) true in an episode's last row -> (E,) rows per episode; rows after the last end are an episode too."""
    last = np.flatnonzero(ends)
    if len(ends) and not ends[-1]:
        last = np.append(last, len(ends) - 1)
    return np.diff(last, prepend=-1).astype(np.int64)


def check_end_marks(column: Column, path: Path, name: str) -> None:
    """Raise `DataError` unless end marks are numbers or booleans."""
    if column.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} has dtype {column.dtype}, but must be numbers or booleans")


def read_end_marks(column: Column, path: Path, name: str) -> NDArray[np.bool_]:
    """Marks (N,) or (N, 1) as (N,): true where the value is not zero, and not NaN. Raises `DataError`."""
    if column.shape[1:] not in ((), (1,)):
        raise DataError(f"{path}: {name} has shape {column.shape}, but must be (N,)")
    check_end_marks(column, path, name)
    return np.nan_to_num(np.asarray(column[:], np.float64)).astype(bool).reshape(-1)


def _read_table(path: Path) -> dict[str, NpzMember]:
    found = members(path)
    for name in REQUIRED:
        if name not in found:
            raise DataError(f"{path}: lacks {name} (it has {', '.join(sorted(found)) or 'no arrays'})")
    rows = found["terminals"].shape[0]
    for name, column in found.items():
        if column.shape[0] != rows:
            raise DataError(f"{path}: {name} has shape {column.shape}, but terminals has {rows} rows")
    return found


def _pop_ends(table: dict[str, NpzMember], path: Path) -> NDArray[np.bool_]:
    """Remove the end marks (N,) of trajectories from the table, and return them."""
    terminals = table.pop("terminals")
    if len(terminals.shape) != 1 or not terminals.shape[0]:
        raise DataError(f"{path}: terminals has shape {terminals.shape}, but must be (N,) with at least one row")
    check_end_marks(terminals, path, "terminals")
    return np.asarray(terminals[:], bool)


def _join_files(
    tables: list[dict[str, NpzMember]], files: list[Path], rows: NDArray[np.int64]
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """The columns that all files have, concatenated, and notes on the others."""
    first, last = tables[0], tables[-1]
    columns: dict[str, Column] = {}
    for name in (name for name in first if name in last):
        ours, theirs = first[name], last[name]
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise DataError(
                f"{files[-1]}: {name} has rows of shape {theirs.shape[1:]} and dtype {theirs.dtype}, but must"
                f" have {ours.shape[1:]} and {ours.dtype} as in {files[0].name}"
            )
        columns[name] = Concatenated([table[name] for table in tables], rows)
    alone = [(name, files[0]) for name in first if name not in last]
    alone += [(name, files[-1]) for name in last if name not in first]
    return columns, tuple(f"{name} is not read: only {file.name} has it" for name, file in alone)
