"""OGBench: an npz of flat rows, `terminals` 1 in each trajectory's last; `NAME-val.npz` beside it is held out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, Concatenated, SideBySide
from jepa_ray.data.formats.npz import Member, members
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

REQUIRED = ("observations", "actions", "terminals")
# What tells episodes elsewhere: with one of these beside them, terminals need not be all the ends.
FOREIGN = frozenset({
    "ep_len", "lengths", "seq_lengths", "episode_ends", "episode_ids", "dones", "timeouts", "terminated", "truncated",
})  # fmt: skip


class OGBench:
    """`action[t]` moves row t to t + 1; a trajectory's last action leads nowhere."""

    name = "OGBench"

    def recognises(self, seen: Peek) -> bool:
        return seen.kind == "npz" and seen.has(*REQUIRED) and seen.names.isdisjoint(FOREIGN)

    def files(self, path: Path) -> list[Path]:
        held_out = path.with_name(f"{path.stem}-val.npz")
        return [path, held_out] if held_out.is_file() else [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        files = self.files(path)
        tables = [_table(file) for file in files]
        ends = [_ends(table, file) for table, file in zip(tables, files, strict=True)]
        lengths = [until(marks) for marks in ends]
        joined, notes = _joined(tables, files, np.array([len(marks) for marks in ends], np.int64))
        columns = with_state(joined, "qpos", "qvel")
        columns["action"] = columns.pop("actions")
        seen = columns.pop("observations")
        columns[kind_of(seen)] = seen
        held_out = np.repeat([False, True][: len(files)], [len(part) for part in lengths])
        yield Recording.consecutive(
            str(path),
            self.name,
            columns,
            np.concatenate(lengths),
            held_out=held_out if len(files) > 1 else None,
            notes=notes,
        )


def with_state(columns: Mapping[str, Column], *names: str) -> dict[str, Column]:
    """The columns, those of `names` that are there made one, `state`."""
    found = [columns[name] for name in names if name in columns]
    rest = {name: column for name, column in columns.items() if name not in names}
    return rest | {"state": found[0] if len(found) == 1 else SideBySide(found)} if found else rest


def kind_of(seen: Column) -> str:
    """What an observation is called."""
    return "pixels" if seen.dtype == np.uint8 and len(seen.shape) == 4 else "observation"


def until(ends: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(N,) true in an episode's last row -> (E,) rows per episode; what follows the last end is an episode too."""
    last = np.flatnonzero(ends)
    if len(ends) and not ends[-1]:
        last = np.append(last, len(ends) - 1)
    return np.diff(last, prepend=-1).astype(np.int64)


def check_marks(column: Column, path: Path, name: str) -> None:
    """Raise `DataError` unless values are numbers or booleans, of which those other than 0 mark an end."""
    if column.dtype.kind not in "biuf":
        raise DataError(f"{path}: {name} has dtype {column.dtype}, but must be numbers or booleans")


def _table(path: Path) -> dict[str, Member]:
    found = members(path)
    for name in REQUIRED:
        if name not in found:
            raise DataError(f"{path}: lacks {name}")
    rows = found["terminals"].shape[0]
    for name, column in found.items():
        if column.shape[0] != rows:
            raise DataError(f"{path}: {name} has shape {column.shape}, but terminals has {rows} rows")
    return found


def _ends(table: dict[str, Member], path: Path) -> NDArray[np.bool_]:
    """(N,) where trajectories end, taken out of the table."""
    terminals = table.pop("terminals")
    if len(terminals.shape) != 1 or not terminals.shape[0]:
        raise DataError(f"{path}: terminals has shape {terminals.shape}, but must be (N,) with rows in it")
    check_marks(terminals, path, "terminals")
    return np.asarray(terminals[:], bool)


def _joined(
    tables: list[dict[str, Member]], files: list[Path], rows: NDArray[np.int64]
) -> tuple[dict[str, Column], tuple[str, ...]]:
    """Columns that all files have, one file after another, and notes on the others."""
    first, last = tables[0], tables[-1]
    columns: dict[str, Column] = {}
    for name in (name for name in first if name in last):
        ours, theirs = first[name], last[name]
        if ours.shape[1:] != theirs.shape[1:] or ours.dtype != theirs.dtype:
            raise DataError(
                f"{files[-1]}: {name} has rows of shape {theirs.shape[1:]} and dtype {theirs.dtype}, but"
                f" {files[0].name} {ours.shape[1:]} and {ours.dtype}"
            )
        columns[name] = Concatenated([table[name] for table in tables], rows)
    alone = [(name, files[0]) for name in first if name not in last]
    alone += [(name, files[-1]) for name in last if name not in first]
    return columns, tuple(f"{name} is not read: only {file.name} has it" for name, file in alone)
