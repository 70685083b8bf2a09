"""Replay buffers: rows of (state, action, next_state), in HDF5 or as a dict of tensors.

Rows i and i + 1 belong together if next_state[i] equals state[i + 1] and no end separates them. T chained transitions
become T + 1 rows: the last one's observation is next_state, its action is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, chunks, unused
from jepa_ray.data.formats import torch_files
from jepa_ray.data.formats.hdf5 import Dataset, open_file
from jepa_ray.data.formats.ogbench import check_marks
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

STATES = ("state", "next_state")
PAIRS = (("observation", "next_observation"), ("obs", "next_obs"), STATES)  # the first there is the observation
ENDS = ("done", "terminal", "terminated", "truncated")
EPISODES = ("episode_id", "episode")
WITH_ACTION = ("action", "reward")  # of a transition, thus without a value in an episode's last row
READ = frozenset((*ENDS, *EPISODES, *WITH_ACTION, *(name for pair in PAIRS for name in pair)))


class Transitions:
    """Each row is one transition."""

    name = "transitions"

    def recognises(self, seen: Peek) -> bool:
        if seen.kind == "torch":  # what it holds is not known before it is loaded; no other format is one such file
            return True
        pair = any(seen.has(*pair) for pair in PAIRS)
        return seen.kind == "hdf5" and seen.has("action") and pair and not seen.has("ep_len")

    def files(self, path: Path) -> list[Path]:
        return [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        if h5py.is_hdf5(path):
            with open_file(path) as file:
                table = {n: Dataset(d, path) for n, d in file.items() if n in READ and isinstance(d, h5py.Dataset)}
                yield self._recording(path, table, sorted(file))
            return
        loaded = torch_files.load(path)
        if not isinstance(loaded, dict):
            raise DataError(f"{path}: holds a {type(loaded).__name__}, but must be a dict of tensors")
        arrays = {str(n): torch_files.array(v, path, str(n)) for n, v in loaded.items() if n in READ}
        yield self._recording(path, arrays, sorted(map(str, loaded)))

    def _recording(self, path: Path, table: Mapping[str, Column], names: list[str]) -> Recording:
        """The transitions of `table` as episodes; `names` are all that the file has."""
        if "action" not in table:
            raise DataError(f"{path}: lacks action (it has {', '.join(names) or 'nothing'})")
        pairs = {pair: (table[pair[0]], table[pair[1]]) for pair in PAIRS if pair[0] in table and pair[1] in table}
        if not pairs:
            raise DataError(f"{path}: lacks state and next_state (it has {', '.join(names)})")
        for pair, (now, after) in pairs.items():
            _check(path, pair, now, after)
        now, after = next(iter(pairs.values()))
        for name, column in table.items():
            if column.shape[:1] != now.shape[:1]:
                raise DataError(f"{path}: {name} has shape {column.shape}, but must have {now.shape[0]} rows")
        ends = _ends(path, table, now, after)
        lengths = np.diff(np.flatnonzero(ends), prepend=-1) + 1  # T transitions are T + 1 rows
        columns: dict[str, Column] = {n: _Rows(table[n], None, lengths) for n in WITH_ACTION if n in table}
        columns["pixels" if len(now.shape) == 4 else "observation"] = _Rows(now, after, lengths)
        if STATES in pairs and len(pairs[STATES][0].shape) == 2:
            columns["state"] = _Rows(*pairs[STATES], lengths)
        return Recording.consecutive(str(path), self.name, columns, lengths, notes=_notes(ends, names))


class _Rows:
    """Transitions (N, ...) as rows (N + E, ...): each episode's from `now`, and a last one.

    That is its last transition's in `after`, or without a value (NaN, or 0 for integers) if there is no `after`.
    """

    def __init__(self, now: Column, after: Column | None, lengths: NDArray[np.int64]) -> None:
        self._now, self._after = now, after
        self._lasts = np.cumsum(lengths) - 1  # (E,) each episode's last row
        self.shape: tuple[int, ...] = (int(lengths.sum()), *now.shape[1:])
        self.dtype: np.dtype[Any] = now.dtype

    def __getitem__(self, rows: slice, /) -> NDArray[Any]:
        start, stop, _ = rows.indices(self.shape[0])
        row = np.arange(start, stop)
        if not len(row):
            return np.empty((0, *self.shape[1:]), self.dtype)
        before = np.searchsorted(self._lasts, row)  # episodes that end before the row
        last = self._lasts[before] == row
        source = row - before - last  # which transition
        block = slice(int(source[0]), int(source[-1]) + 1)
        out = np.array(self._now[block][source - source[0]])
        if last.any():
            out[last] = unused(self.dtype) if self._after is None else self._after[block][source[last] - source[0]]
        return out


def _check(path: Path, names: tuple[str, str], now: Column, after: Column) -> None:
    """Raise `DataError` unless both are alike, and vectors or pixels."""
    known = len(now.shape) == 2 or (len(now.shape) == 4 and now.dtype == np.uint8)
    if now.shape != after.shape or now.dtype != after.dtype or not known or not now.shape[0]:
        raise DataError(
            f"{path}: {names[0]} is {now.dtype} {now.shape} and {names[1]} {after.dtype} {after.shape}, but both must"
            " be alike: (N, D), or (N, H, W, C) of uint8, with N at least 1"
        )


def _notes(ends: NDArray[np.bool_], names: list[str]) -> tuple[str, ...]:
    notes = []
    if len(ends) > 1 and ends.all():
        notes.append(
            "no transition's next_state is the state of the following one, as in a shuffled buffer: each is an episode"
            " of its own"
        )
    unread = [name for name in names if name not in READ]
    if unread:
        notes.append(f"not read: {', '.join(unread[:8])}")
    return tuple(notes)


def _ends(path: Path, table: Mapping[str, Column], now: Column, after: Column) -> NDArray[np.bool_]:
    """(N,) whether an episode ends with the transition: by its flags, by its number, or by what follows."""
    ends = np.zeros(now.shape[0], bool)
    for name in ENDS:
        if name in table:
            check_marks(table[name], path, name)
            ends |= np.asarray(table[name][:]).reshape(len(ends), -1).any(axis=1)
    for name in EPISODES:
        if name in table:
            ids = np.asarray(table[name][:]).reshape(len(ends), -1)
            ends[:-1] |= (ids[1:] != ids[:-1]).any(axis=1)
    for rows in chunks(now):
        stop = min(rows.stop, len(ends) - 1)
        follows = now[slice(rows.start + 1, stop + 1)] == after[slice(rows.start, stop)]
        ends[rows.start : stop] |= ~follows.reshape(stop - rows.start, int(np.prod(now.shape[1:]))).all(axis=1)
    ends[-1] = True
    return ends
