"""Plain arrays, an npz or a folder of npy: batched (E, T, ...), or flat (N, ...) with something that tells episodes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, Concatenated
from jepa_ray.data.formats.npz import File, Stored, members
from jepa_ray.data.formats.ogbench import OGBench, check_marks, until
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

Lengths = NDArray[np.int64]
Table = Mapping[str, Stored]

ACTIONS = ("actions", "action")
SEEN = ("observations", "observation", "obs", "pixels", "images", "frames", "states", "state")
LENGTHS = ("ep_len", "lengths", "seq_lengths")
TELLERS = (*LENGTHS, "episode_ends", "episode_ids", "dones")  # each tells all there is
MARKS = ("terminals", "timeouts", "terminated", "truncated")  # together they do, at best
NAMES = dict.fromkeys(("observations", "observation", "obs"), "observation")
NAMES |= dict.fromkeys(("pixels", "images", "frames"), "pixels")
NAMES |= {"actions": "action", "rewards": "reward", "states": "state"}
NEEDED = ("action", "observation", "pixels", "state")


class Arrays:
    """`action[t]` moves row t to t + 1."""

    name = "plain arrays"

    def recognises(self, seen: Peek) -> bool:
        names = {name.removesuffix(".npy") for name in seen.names if seen.kind == "npz" or name.endswith(".npy")}
        return seen.kind in ("npz", "folder") and not names.isdisjoint(ACTIONS) and not OGBench().recognises(seen)

    def files(self, path: Path) -> list[Path]:
        return sorted(path.glob("*.npy")) if path.is_dir() else [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        table: Table = {f.stem: File(f) for f in self.files(path)} if path.is_dir() else members(path)
        seen = next((name for name in SEEN if name in table), None)
        action = next((name for name in ACTIONS if name in table), None)
        if seen is None or action is None:
            raise DataError(f"{path}: lacks {'actions' if action is None else 'observations'}")
        batched = _is_batched(table, seen, action)
        lengths, columns, notes = (_batched if batched else _flat)(table, seen, path)
        marks = [(name, columns.pop(name)) for name in (*MARKS, "dones") if name in columns]
        _check_marks(marks, lengths, batched, path)
        yield Recording.consecutive(str(path), self.name, _named(columns, path), lengths, notes=notes)


def _is_batched(table: Table, seen: str, action: str) -> bool:
    """Whether rows are (E, T, ...): told by the axes, unless a row of its own tells where episodes end."""
    if any(name in table and len(table[name].shape) == 1 for name in ("episode_ends", "episode_ids", "dones", *MARKS)):
        return False
    return len(table[seen].shape) in (3, 5) and table[action].shape[0] == table[seen].shape[0]


def _batched(table: Table, seen: str, path: Path) -> tuple[Lengths, dict[str, Column], tuple[str, ...]]:
    """From (E, T, ...), with (E, T - 1, ...) where nothing follows the last row: lengths, columns and notes."""
    episodes, steps = table[seen].shape[:2]
    tellers = {name: _integers(table[name], name, path) for name in LENGTHS if name in table}
    lengths = _agreed(tellers, path) if tellers else np.full(episodes, steps, np.int64)
    if lengths.shape != (episodes,) or (lengths < 1).any() or (lengths > steps).any():
        raise DataError(f"{path}: {_list(tellers) or seen} must tell {episodes} lengths from 1 to {steps}")
    rest = {name: column for name, column in table.items() if name not in LENGTHS}
    fits = [n for n, c in rest.items() if c.shape[0] == episodes and c.shape[1:2] in ((steps,), (steps - 1,))]
    columns: dict[str, Column] = {name: _unpadded(rest[name], lengths) for name in fits}
    return lengths, columns, _left(rest, columns, f"({episodes}, {steps} or {steps - 1}, ...)", path)


def _flat(table: Table, seen: str, path: Path) -> tuple[Lengths, dict[str, Column], tuple[str, ...]]:
    """From (N, ...): lengths, columns and notes."""
    rows = table[seen].shape[0]
    told = {name: _told(name, table[name], path) for name in TELLERS if name in table}
    marks = [_bools(table[name], name, path) for name in MARKS if name in table]
    if not told and not marks:
        raise DataError(f"{path}: nothing tells where episodes end; add one of {', '.join((*TELLERS, *MARKS))}")
    for name, values in zip((n for n in MARKS if n in table), marks, strict=True):
        if len(values) != rows:
            raise DataError(f"{path}: {name} has {len(values)} rows, but {seen} has {rows}")
    lengths = _agreed(told, path) if told else until(np.logical_or.reduce(marks))
    if not len(lengths) or (lengths < 1).any() or (lengths > rows).any() or lengths.sum() != rows:
        raise DataError(f"{path}: {_list(told) or _list(table)} must tell episodes of {rows} rows in all")
    rest = {name: column for name, column in table.items() if name not in TELLERS}
    columns: dict[str, Column] = {name: column for name, column in rest.items() if column.shape[0] == rows}
    return lengths, columns, _left(rest, columns, f"({rows}, ...)", path)


def _left(rest: Table, taken: Mapping[str, Column], must: str, path: Path) -> tuple[str, ...]:
    """Notes on arrays that do not fit. Raises `DataError` for one that plays a role."""
    left = [name for name in rest if name not in taken]
    for name in left:
        if NAMES.get(name, name) in NEEDED or name in (*MARKS, "dones"):
            raise DataError(f"{path}: {name} has shape {rest[name].shape}, but must be {must}")
    return tuple(f"{name} is not read: it has shape {rest[name].shape}, not {must}" for name in left)


def _named(columns: Mapping[str, Column], path: Path) -> dict[str, Column]:
    """Columns by the names of a recording; states are also the observation where there is no other."""
    named: dict[str, Column] = {}
    for name, column in columns.items():
        known = NAMES.get(name, name)
        if known == "observation" and column.dtype == np.uint8 and len(column.shape) == 4:
            known = "pixels"
        if known in named:
            raise DataError(f"{path}: {name} is one {known} too many; leave one in")
        named[known] = column
    return ({"observation": named["state"]} if "state" in named else {}) | named


@dataclass(frozen=True)
class _Part:
    """Rows of a column from `start` on, `rows` of them."""

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


def _unpadded(column: Stored, lengths: Lengths) -> Column:
    """(E, T, ...) or (E, T - 1, ...) -> (N, ...), without what lies behind an episode's end."""
    steps = column.shape[1]
    flat = column.merged()
    return Concatenated([_Part(flat, e * steps, min(int(n), steps)) for e, n in enumerate(lengths)], lengths)


def _told(name: str, column: Column, path: Path) -> Lengths:
    """(E,) rows per episode that one array tells of."""
    if name == "dones":
        return until(_bools(column, name, path))
    told = _integers(column, name, path)
    if name == "episode_ends":
        return np.asarray(np.diff(told, prepend=0), np.int64)
    if name != "episode_ids":
        return told
    lengths = until(np.append(told[1:] != told[:-1], np.ones(min(1, len(told)), bool)))
    if len(np.unique(told)) != len(lengths):
        raise DataError(f"{path}: {name} comes back to an episode that had ended")
    return lengths


def _agreed(told: Mapping[str, Lengths], path: Path) -> Lengths:
    (first, lengths), *others = told.items()
    for name, theirs in others:
        if not np.array_equal(lengths, theirs):
            raise DataError(f"{path}: {first} and {name} tell different episodes; leave out the one that is wrong")
    return lengths


def _check_marks(marks: list[tuple[str, Column]], lengths: Lengths, batched: bool, path: Path) -> None:
    """Raise `DataError` for an end inside an episode. Ends without a mark are fine: time may have been up."""
    inside = np.ones(int(lengths.sum()), bool)
    inside[np.cumsum(lengths) - 1] = False
    if batched:  # marks may belong to the T - 1 actions, of which the last is in the row before the episode's last
        inside[np.cumsum(lengths)[lengths > 1] - 2] = False
    for name, column in marks:
        bad = np.flatnonzero(inside & _bools(column, name, path))
        if len(bad):
            raise DataError(f"{path}: {name} ends an episode at row {bad[0]}, but other arrays tell that it goes on")


def _integers(column: Column, name: str, path: Path) -> Lengths:
    """(E,) or (E, 1) whole numbers -> (E,)."""
    if not np.issubdtype(column.dtype, np.integer) or column.shape[1:] not in ((), (1,)):
        raise DataError(f"{path}: {name} has shape {column.shape} and dtype {column.dtype}, but must be (n,) integers")
    return np.asarray(column[:], np.int64).reshape(-1)


def _bools(column: Column, name: str, path: Path) -> NDArray[np.bool_]:
    """(N,) or (N, 1) -> (N,) where it is not zero."""
    if column.shape[1:] not in ((), (1,)):
        raise DataError(f"{path}: {name} has shape {column.shape}, but must be (N,)")
    check_marks(column, path, name)
    return np.nan_to_num(np.asarray(column[:], np.float64)).astype(bool).reshape(-1)


def _list(names: Mapping[str, object]) -> str:
    return " and ".join(name for name in names if name in (*TELLERS, *MARKS))
