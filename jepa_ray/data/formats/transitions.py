"""Replay buffers: rows of (state, action, next_state), in HDF5 or as a dict of tensors.

Rows i and i + 1 are in the same episode if next_state[i] equals state[i + 1] and row i has no end mark. T transitions
become T + 1 rows: the observation of the last row is the last next_state, and its action is not used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, chunks, fill_value
from jepa_ray.data.formats import torch_files
from jepa_ray.data.formats.hdf5 import DatasetColumn, open_file
from jepa_ray.data.formats.ogbench import check_end_marks
from jepa_ray.data.formats.peek import Peek
from jepa_ray.data.recording import Recording
from jepa_ray.errors import DataError

STATES = ("state", "next_state")
# The first pair that exists is the observation.
PAIRS = (("observation", "next_observation"), ("obs", "next_obs"), STATES)
ENDS = ("done", "terminal", "terminated", "truncated")
EPISODES = ("episode_id", "episode")
ACTION_COLUMNS = ("action", "reward")  # belong to a transition, so an episode's last row has no value
READ_NAMES = frozenset((*ENDS, *EPISODES, *ACTION_COLUMNS, *(name for pair in PAIRS for name in pair)))


class Transitions:
    """Each row is one transition."""

    name = "transitions"

    def recognises(self, seen: Peek) -> bool:
        # The names in a torch file are unknown until it is loaded; no other format is a single torch file.
        if seen.kind == "torch":
            return True
        pair = any(seen.has(*pair) for pair in PAIRS)
        return seen.kind == "hdf5" and seen.has("action") and pair and not seen.has("ep_len")

    def files(self, path: Path) -> list[Path]:
        return [path]

    @contextmanager
    def open(self, path: Path) -> Iterator[Recording]:
        if h5py.is_hdf5(path):
            with open_file(path) as file:
                table = {
                    n: DatasetColumn(d, path)
                    for n, d in file.items()
                    if n in READ_NAMES and isinstance(d, h5py.Dataset)
                }
                yield self._recording(path, table, sorted(file))
            return
        loaded = torch_files.load(path)
        if not isinstance(loaded, dict):
            raise DataError(f"{path}: contains a {type(loaded).__name__}, but must contain a dict of tensors")
        arrays = {str(n): torch_files.array(v, path, str(n)) for n, v in loaded.items() if n in READ_NAMES}
        yield self._recording(path, arrays, sorted(map(str, loaded)))

    def _recording(self, path: Path, table: Mapping[str, Column], names: list[str]) -> Recording:
        """The transitions of `table` as episodes; `names` are all names in the file, for messages."""
        if "action" not in table:
            raise DataError(f"{path}: lacks action (it has {', '.join(names) or 'nothing'})")
        pairs = {pair: (table[pair[0]], table[pair[1]]) for pair in PAIRS if pair[0] in table and pair[1] in table}
        if not pairs:
            raise DataError(f"{path}: lacks state and next_state (it has {', '.join(names)})")
        for pair, (now, after) in pairs.items():
            _check_pair(path, pair, now, after)
        now, after = next(iter(pairs.values()))
        for name, column in table.items():
            if column.shape[:1] != now.shape[:1]:
                raise DataError(f"{path}: {name} has shape {column.shape}, but must have {now.shape[0]} rows")
        ends = _find_ends(path, table, now, after)
        lengths = np.diff(np.flatnonzero(ends), prepend=-1) + 1  # T transitions are T + 1 rows
        columns: dict[str, Column] = {n: _Rows(table[n], None, lengths) for n in ACTION_COLUMNS if n in table}
        columns["pixels" if len(now.shape) == 4 else "observation"] = _Rows(now, after, lengths)
        if STATES in pairs and len(pairs[STATES][0].shape) == 2:
            columns["state"] = _Rows(*pairs[STATES], lengths)
        return Recording.consecutive(str(path), self.name, columns, lengths, notes=_make_notes(ends, names))


class _Rows:
    """Transitions (N, ...) as rows (N + E, ...): the rows of `now`, plus one last row per episode.

    The last row is that of the last transition in `after`; without `after` it is NaN, or 0 for integers.
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
        before = np.searchsorted(self._lasts, row)  # number of episodes that end before each row
        last = self._lasts[before] == row
        source = row - before - last  # index of the transition of each row
        block = slice(int(source[0]), int(source[-1]) + 1)
        out = np.array(self._now[block][source - source[0]])
        if last.any():
            out[last] = fill_value(self.dtype) if self._after is None else self._after[block][source[last] - source[0]]
        return out


def _check_pair(path: Path, names: tuple[str, str], now: Column, after: Column) -> None:
    """Raise `DataError` unless both columns have the same shape and dtype, and are vectors or pixels."""
    known = len(now.shape) == 2 or (len(now.shape) == 4 and now.dtype == np.uint8)
    if now.shape != after.shape or now.dtype != after.dtype or not known or not now.shape[0]:
        raise DataError(
            f"{path}: {names[0]} is {now.dtype} {now.shape} and {names[1]} is {after.dtype} {after.shape}, but both"
            " must have the same dtype and shape: (N, D), or (N, H, W, C) of uint8, with N at least 1"
        )


def _make_notes(ends: NDArray[np.bool_], names: list[str]) -> tuple[str, ...]:
    notes = []
    if len(ends) > 1 and ends.all():
        notes.append(
            "no transition continues the one before (the buffer may be shuffled), so each transition is read as a"
            " separate episode"
        )
    unread = [name for name in names if name not in READ_NAMES]
    if unread:
        notes.append(f"not read: {', '.join(unread[:8])}")
    return tuple(notes)


def _find_ends(path: Path, table: Mapping[str, Column], now: Column, after: Column) -> NDArray[np.bool_]:
    """(N,) whether a transition ends its episode, by end marks, episode numbers, or the next transition."""
    ends = np.zeros(now.shape[0], bool)
    for name in ENDS:
        if name in table:
            check_end_marks(table[name], path, name)
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
