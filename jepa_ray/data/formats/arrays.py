"""Plain arrays, in an npz file or a folder of npy files: batched (E, T, ...), or flat (N, ...) with episode ends."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, Concatenated
from jepa_ray.data.formats.npz import NpyFile, StoredArray, members
from jepa_ray.data.formats.ogbench import OGBench, lengths_from_ends, read_end_marks
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

Lengths = NDArray[np.int64]
Table = Mapping[str, StoredArray]

ACTIONS = ("actions", "action")
OBSERVATIONS = ("observations", "observation", "obs", "pixels", "images", "frames", "states", "state")
LENGTHS = ("ep_len", "lengths", "seq_lengths")
EPISODE_ARRAYS = (*LENGTHS, "episode_ends", "episode_ids", "dones")  # each of these arrays defines all episodes
# These arrays mark ends; all of them together define the episodes.
MARKS = ("terminals", "timeouts", "terminated", "truncated")
NAMES = dict.fromkeys(("observations", "observation", "obs"), "observation")
NAMES |= dict.fromkeys(("pixels", "images", "frames"), "pixels")
NAMES |= {"actions": "action", "rewards": "reward", "states": "state"}
ROLES = ("action", "observation", "pixels", "state")


class Arrays:
    """Arrays of numpy; `action[t]` leads from row t to t + 1."""

    name = "plain arrays"

    def recognises(self, seen: Peek) -> bool:
        names = {name.removesuffix(".npy") for name in seen.names if seen.kind == "npz" or name.endswith(".npy")}
        return seen.kind in ("npz", "folder") and not names.isdisjoint(ACTIONS) and not OGBench().recognises(seen)

    def files(self, path: Path) -> list[Path]:
        return sorted(path.glob("*.npy")) if path.is_dir() else [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        table: Table = {f.stem: NpyFile(f) for f in self.files(path)} if path.is_dir() else members(path)
        seen = next((name for name in OBSERVATIONS if name in table), None)
        action = next((name for name in ACTIONS if name in table), None)
        if seen is None or action is None:
            raise DataError(f"{path}: lacks {'actions' if action is None else 'observations'} (it has {_names(table)})")
        batched = _is_batched(table, seen, action)
        lengths, columns, notes = (_read_batched if batched else _read_flat)(table, seen, path)
        marks = [(name, columns.pop(name)) for name in (*MARKS, "dones") if name in columns]
        _check_marks(marks, lengths, batched, path)
        yield Recording.consecutive(str(path), self.name, _rename_columns(columns, path), lengths, notes=notes)


def _is_batched(table: Table, seen: str, action: str) -> bool:
    """Whether arrays are (E, T, ...), judged by their axes; a flat array of episode ends means that they are not."""
    if any(name in table and len(table[name].shape) == 1 for name in ("episode_ends", "episode_ids", "dones", *MARKS)):
        return False
    return len(table[seen].shape) in (3, 5) and table[action].shape[0] == table[seen].shape[0]


def _read_batched(table: Table, seen: str, path: Path) -> tuple[Lengths, dict[str, Column], tuple[str, ...]]:
    """Read lengths, columns and notes from arrays (E, T, ...); arrays without a last row may be (E, T - 1, ...)."""
    episodes, steps = table[seen].shape[:2]
    length_arrays = {name: _read_integers(table[name], name, path) for name in LENGTHS if name in table}
    lengths = _common_lengths(length_arrays, path) if length_arrays else np.full(episodes, steps, np.int64)
    if lengths.shape != (episodes,) or (lengths < 1).any() or (lengths > steps).any():
        raise DataError(
            f"{path}: {_join_names(length_arrays) or seen} must contain {episodes} lengths from 1 to {steps}"
        )
    rest = {name: column for name, column in table.items() if name not in LENGTHS}
    fits = [n for n, c in rest.items() if c.shape[0] == episodes and c.shape[1:2] in ((steps,), (steps - 1,))]
    columns: dict[str, Column] = {name: _remove_padding(rest[name], lengths) for name in fits}
    return lengths, columns, _note_unread(rest, columns, f"({episodes}, {steps} or {steps - 1}, ...)", path)


def _read_flat(table: Table, seen: str, path: Path) -> tuple[Lengths, dict[str, Column], tuple[str, ...]]:
    """Read lengths, columns and notes from arrays (N, ...)."""
    rows = table[seen].shape[0]
    found = {name: _read_lengths(name, table[name], path) for name in EPISODE_ARRAYS if name in table}
    marks = [read_end_marks(table[name], path, name) for name in MARKS if name in table]
    if not found and not marks:
        raise DataError(f"{path}: no array says where episodes end: add one of {', '.join((*EPISODE_ARRAYS, *MARKS))}")
    for name, values in zip((n for n in MARKS if n in table), marks, strict=True):
        if len(values) != rows:
            raise DataError(f"{path}: {name} has {len(values)} rows, but {seen} has {rows}")
    lengths = _common_lengths(found, path) if found else lengths_from_ends(np.logical_or.reduce(marks))
    if not len(lengths) or (lengths < 1).any() or (lengths > rows).any() or lengths.sum() != rows:
        raise DataError(
            f"{path}: {_join_names(found) or _join_names(table)} must describe episodes of 1 row or more"
            f" that add up to {rows} rows"
        )
    rest = {name: column for name, column in table.items() if name not in EPISODE_ARRAYS}
    columns: dict[str, Column] = {name: column for name, column in rest.items() if column.shape[0] == rows}
    return lengths, columns, _note_unread(rest, columns, f"({rows}, ...)", path)


def _note_unread(rest: Table, taken: Mapping[str, Column], must: str, path: Path) -> tuple[str, ...]:
    """Notes on arrays of other shapes. Raises `DataError` for such an array if it is needed."""
    left = [name for name in rest if name not in taken]
    for name in left:
        if NAMES.get(name, name) in ROLES or name in (*MARKS, "dones"):
            raise DataError(f"{path}: {name} has shape {rest[name].shape}, but must be {must}")
    return tuple(f"{name} is not read: it has shape {rest[name].shape}, not {must}" for name in left)


def _rename_columns(columns: Mapping[str, Column], path: Path) -> dict[str, Column]:
    """Columns under their names in a recording; the state is also the observation if there is no other."""
    named: dict[str, Column] = {}
    for name, column in columns.items():
        known = NAMES.get(name, name)
        if known == "observation" and column.dtype == np.uint8 and len(column.shape) == 4:
            known = "pixels"
        if known in named:
            raise DataError(
                f"{path}: {name} is a second array for {known}, but there must be only one: remove one of them"
            )
        named[known] = column
    return ({"observation": named["state"]} if "state" in named else {}) | named


@dataclass(frozen=True)
class _Slice:
    """`rows` rows of a column, beginning at row `start`."""

    column: Column
    start: int
    rows: int

    @property
    def shape(self) -> tuple[int, ...]:
        return (self.rows, *self.column.shape[1:])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.column.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.rows)
        return self.column[slice(self.start + start, self.start + max(start, stop))]


def _remove_padding(column: StoredArray, lengths: Lengths) -> Column:
    """(E, T, ...) or (E, T - 1, ...) -> (N, ...), without the padding after an episode's end."""
    steps = column.shape[1]
    flat = column.merged()
    return Concatenated([_Slice(flat, e * steps, min(int(n), steps)) for e, n in enumerate(lengths)], lengths)


def _read_lengths(name: str, column: Column, path: Path) -> Lengths:
    """(E,) rows per episode, as defined by one array."""
    if name == "dones":
        return lengths_from_ends(read_end_marks(column, path, name))
    values = _read_integers(column, name, path)
    if name == "episode_ends":
        return np.asarray(np.diff(values, prepend=0), np.int64)
    if name != "episode_ids":
        return values
    lengths = lengths_from_ends(np.append(values[1:] != values[:-1], np.ones(min(1, len(values)), bool)))
    if len(np.unique(values)) != len(lengths):
        raise DataError(f"{path}: {name} returns to an earlier episode: sort the rows by episode")
    return lengths


def _common_lengths(found: Mapping[str, Lengths], path: Path) -> Lengths:
    """The lengths (E,) that all arrays agree on. Raises `DataError` if they differ."""
    (first, lengths), *others = found.items()
    for name, theirs in others:
        if not np.array_equal(lengths, theirs):
            raise DataError(f"{path}: {first} and {name} define different episodes: remove the wrong one")
    return lengths


def _check_marks(marks: list[tuple[str, Column]], lengths: Lengths, batched: bool, path: Path) -> None:
    """Raise `DataError` for an end mark inside an episode. Ends without a mark are valid, such as time limits."""
    inside = np.ones(int(lengths.sum()), bool)
    inside[np.cumsum(lengths) - 1] = False
    if batched:  # marks may belong to the T - 1 actions; the last of these is in the episode's second-last row
        inside[np.cumsum(lengths)[lengths > 1] - 2] = False
    for name, column in marks:
        bad = np.flatnonzero(inside & read_end_marks(column, path, name))
        if len(bad):
            raise DataError(
                f"{path}: {name} ends an episode at row {bad[0]}, but by the other arrays that episode continues"
            )


def _read_integers(column: Column, name: str, path: Path) -> Lengths:
    """Integers (E,) or (E, 1) as (E,)."""
    if not np.issubdtype(column.dtype, np.integer) or column.shape[1:] not in ((), (1,)):
        raise DataError(f"{path}: {name} has shape {column.shape} and dtype {column.dtype}, but must be (n,) integers")
    return np.asarray(column[:], np.int64).reshape(-1)


def _names(table: Table) -> str:
    return ", ".join(sorted(table)) or "no arrays"


def _join_names(names: Mapping[str, object]) -> str:
    """The names of the arrays that define episodes, for a message."""
    return " and ".join(name for name in names if name in (*EPISODE_ARRAYS, *MARKS))
