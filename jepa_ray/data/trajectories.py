"""The one in-between form: validated trajectories, flat over time, that every format reads into."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from jepa_ray.errors import DataError

CHUNK_BYTES = 64 << 20  # how much of a column is in memory at once while it is checked or copied


class Column(Protocol):
    """An array on disk or in memory: shape, dtype and slicing along time."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    @property
    def dtype(self) -> np.dtype[Any]: ...
    def __getitem__(self, rows: slice, /) -> NDArray[Any]: ...


@dataclass(frozen=True)
class Trajectories:
    """E episodes as N rows, one after another; checked by `validate`."""

    source: str  # for messages: the file, or the name of a built-in dataset
    observation: Column  # (N, H, W, C) uint8, or (N, D) float
    action: Column  # (N, A) float, or (N,) int
    state: Column | None  # (N, S) float labels, where the data has them
    lengths: NDArray[np.int64]  # (E,) rows per episode
    offsets: NDArray[np.int64]  # (E,) first row of each episode

    def columns(self) -> Mapping[str, Column]:
        """The per-row columns that exist, by name."""
        named = {"observation": self.observation, "action": self.action, "state": self.state}
        return {name: column for name, column in named.items() if column is not None}


def chunks(column: Column) -> list[slice]:
    """Slices along time of about `CHUNK_BYTES` each."""
    row_bytes = max(1, int(np.prod(column.shape[1:])) * column.dtype.itemsize)
    rows = max(1, CHUNK_BYTES // row_bytes)
    return [slice(start, min(start + rows, column.shape[0])) for start in range(0, column.shape[0], rows)]


def validate(data: Trajectories) -> None:
    """Raise `DataError` unless every rule of the canonical layout holds; reads each column once."""
    _check_episodes(data)
    _check_observation(data)
    _check_action(data)
    if data.state is not None:
        _check_state(data.source, data.state)


def _check_episodes(data: Trajectories) -> None:
    lengths, offsets, source = data.lengths, data.offsets, data.source
    rows = data.observation.shape[0] if data.observation.shape else 0
    for name, column in data.columns().items():
        if not column.shape or column.shape[0] != rows:
            raise DataError(f"{source}: {name} has shape {tuple(column.shape)}, but observation has {rows} rows")
    if lengths.shape != offsets.shape or lengths.ndim != 1:
        raise DataError(
            f"{source}: ep_len has shape {lengths.shape} and ep_offset {offsets.shape}, but both must be (episodes,)"
        )
    if not len(lengths):
        raise DataError(f"{source}: holds no episodes")
    if (lengths < 1).any():
        bad = int(np.argmax(lengths < 1))
        raise DataError(f"{source}: ep_len[{bad}] is {lengths[bad]}, but an episode has at least one row")
    expected = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if (offsets != expected).any():
        bad = int(np.argmax(offsets != expected))
        raise DataError(
            f"{source}: ep_offset[{bad}] is {offsets[bad]}, but the lengths before it add up to {expected[bad]}"
        )
    if lengths.sum() != rows:
        raise DataError(f"{source}: ep_len adds up to {lengths.sum()} rows, but the columns have {rows}")
    if (lengths >= 2).sum() < 2:
        raise DataError(
            f"{source}: needs at least 2 episodes of 2 rows or more, to train on one and validate on another"
        )


def _check_observation(data: Trajectories) -> None:
    shape, dtype = data.observation.shape, data.observation.dtype
    pixels = len(shape) == 4 and dtype == np.uint8
    vector = len(shape) == 2 and np.issubdtype(dtype, np.floating)
    if not (pixels or vector) or 0 in shape:
        raise DataError(
            f"{data.source}: observation has shape {tuple(shape)} and dtype {dtype}, but must be"
            " pixels (N, H, W, C) uint8 or vectors (N, D) float, with no empty axis"
        )
    if vector:
        _check_finite(data.source, "observation", data.observation)


def _check_action(data: Trajectories) -> None:
    shape, dtype = data.action.shape, data.action.dtype
    if len(shape) == 1 and np.issubdtype(dtype, np.integer):
        lowest = min((int(data.action[rows].min()) for rows in chunks(data.action)), default=0)
        if lowest < 0:
            raise DataError(f"{data.source}: action holds {lowest}, but discrete actions count from 0")
        return
    if len(shape) != 2 or not np.issubdtype(dtype, np.floating) or shape[1] == 0:
        raise DataError(
            f"{data.source}: action has shape {tuple(shape)} and dtype {dtype}, but must be"
            " continuous (N, A) float or discrete (N,) int"
        )
    used = np.ones(shape[0], bool)
    used[data.offsets + data.lengths - 1] = False  # an episode's last action leads nowhere and may be NaN
    finite = np.concatenate([np.isfinite(data.action[rows]).all(axis=1) for rows in chunks(data.action)])
    bad = used & ~finite
    if bad.any():
        row = int(np.argmax(bad))
        episode = int(np.searchsorted(data.offsets, row, side="right")) - 1
        hint = ""
        first = data.offsets[data.lengths > 1]
        if bad[first].all() and bad.sum() == len(first):
            hint = "; every first action is NaN: the file stores the previous action, shift it by one row"
        raise DataError(
            f"{data.source}: action is not finite at row {row} (episode {episode}, step"
            f" {row - data.offsets[episode]}); only an episode's last action may be NaN{hint}"
        )


def _check_state(source: str, state: Column) -> None:
    if not np.issubdtype(state.dtype, np.number) or len(state.shape) != 2:
        raise DataError(
            f"{source}: state has shape {tuple(state.shape)} and dtype {state.dtype}, but must be (N, S) numbers"
        )
    _check_finite(source, "state", state)


def _check_finite(source: str, name: str, column: Column) -> None:
    for rows in chunks(column):
        finite = np.isfinite(column[rows])
        if not finite.all():
            row = rows.start + int(np.argmax(~finite.reshape(len(finite), -1).all(axis=1)))
            raise DataError(f"{source}: {name} is not finite (NaN or inf) at row {row}")


def existing_file(path: Path) -> Path:
    """`path`, or a `DataError` that says why it is no readable file."""
    try:
        with path.open("rb"):
            return path
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
