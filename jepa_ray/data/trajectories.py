"""Trajectories, flat over time, with selected columns; and the checks of the rules that all data must satisfy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.columns import Column, chunks
from jepa_ray.errors import DataError

MAX_CHANNELS = 4  # up to this size, a frame's first axis is taken for channels in the check for channels first


@dataclass(frozen=True)
class Trajectories:
    """E trajectories as N consecutive rows; `action[t]` leads from row t to row t + 1."""

    source: str  # for messages: the file, or the name of a built-in dataset
    observation: Column  # (N, H, W, C) uint8, or (N, D) float
    action: Column  # (N, A) float, (N,) int, or (N, A) int for several discrete actions per step
    state: Column | None  # (N, S) float labels; None if the data has none
    lengths: NDArray[np.int64]  # (E,) rows per trajectory
    offsets: NDArray[np.int64]  # (E,) first row of each trajectory
    observation_name: str = "observation"  # for messages: the name of the observation column in the dataset

    def columns(self) -> Mapping[str, Column]:
        """The per-row columns that exist, by name."""
        named = {"observation": self.observation, "action": self.action, "state": self.state}
        return {name: column for name, column in named.items() if column is not None}

    @property
    def state_or_observation(self) -> Column:
        """The column that shows the effect of actions: the state labels, or the observation without labels."""
        return self.observation if self.state is None else self.state

    def last_rows(self) -> NDArray[np.int64]:
        """(E,) the last row of each trajectory, whose action is not used."""
        return self.offsets + self.lengths - 1


def check_shapes(data: Trajectories) -> None:
    """Raise `DataError` unless shapes, dtypes and episodes are consistent; reads no data."""
    _check_episodes(data)
    _check_observation(data)
    _check_action(data)
    _check_state(data)


def check_values(data: Trajectories) -> None:
    """Raise `DataError` unless all values can be trained on; reads each column except pixels once."""
    if len(data.observation.shape) == 2:
        _check_finite(data.source, data.observation_name, data.observation)
    if np.issubdtype(data.action.dtype, np.integer):
        _check_discrete_actions(data)
    else:
        _check_continuous_actions(data)
    if data.state is not None:
        _check_finite(data.source, "state", data.state)


def _check_episodes(data: Trajectories) -> None:
    lengths, offsets, source = data.lengths, data.offsets, data.source
    if not data.observation.shape:
        raise DataError(f"{source}: {data.observation_name} has shape (), but must have rows")
    rows = data.observation.shape[0]
    for name, column in data.columns().items():
        if not column.shape or column.shape[0] != rows:
            name = data.observation_name if name == "observation" else name
            raise DataError(
                f"{source}: {name} has shape {tuple(column.shape)}, but {data.observation_name} has {rows} rows"
            )
    if lengths.shape != offsets.shape or lengths.ndim != 1:
        raise DataError(
            f"{source}: ep_len has shape {lengths.shape} and ep_offset has shape {offsets.shape},"
            " but both must be (episodes,)"
        )
    if not len(lengths):
        raise DataError(f"{source}: contains no episodes, but must have at least 2")
    if (lengths < 1).any():
        bad = int(np.argmax(lengths < 1))
        raise DataError(f"{source}: ep_len[{bad}] is {lengths[bad]}, but an episode must have at least one row")
    if (lengths > rows).any():  # checked before the sum, because large values overflow
        bad = int(np.argmax(lengths > rows))
        raise DataError(f"{source}: ep_len[{bad}] is {lengths[bad]}, but the columns have {rows} rows")
    expected = np.concatenate([[0], np.cumsum(lengths)[:-1]])
    if (offsets != expected).any():
        bad = int(np.argmax(offsets != expected))
        raise DataError(
            f"{source}: ep_offset[{bad}] is {offsets[bad]}, but must be {expected[bad]}: the sum of the lengths before"
        )
    if lengths.sum() != rows:
        raise DataError(f"{source}: ep_len adds up to {lengths.sum()} rows, but the columns have {rows}")
    if (lengths >= 2).sum() < 2:
        raise DataError(
            f"{source}: must have at least 2 episodes of 2 rows or more, one for training and one for validation"
        )


def _check_observation(data: Trajectories) -> None:
    shape, dtype = data.observation.shape, data.observation.dtype
    pixels = len(shape) == 4 and dtype == np.uint8
    vector = len(shape) == 2 and np.issubdtype(dtype, np.floating)
    if not (pixels or vector) or 0 in shape:
        raise DataError(
            f"{data.source}: {data.observation_name} has shape {tuple(shape)} and dtype {dtype}, but must be"
            " pixels (N, H, W, C) uint8 or vectors (N, D) float, with no empty axis"
        )
    if pixels and shape[1] <= MAX_CHANNELS < shape[3]:
        raise DataError(
            f"{data.source}: {data.observation_name} has shape {tuple(shape)}, which looks like channels first"
            " (N, C, H, W), but must be (N, H, W, C)"
        )


def _check_action(data: Trajectories) -> None:
    shape, dtype = data.action.shape, data.action.dtype
    discrete = len(shape) in (1, 2) and np.issubdtype(dtype, np.integer)
    continuous = len(shape) == 2 and np.issubdtype(dtype, np.floating)
    if not (discrete or continuous) or 0 in shape:
        raise DataError(
            f"{data.source}: action has shape {tuple(shape)} and dtype {dtype}, but must be"
            " continuous (N, A) float or discrete (N,) or (N, A) int"
        )


def _check_state(data: Trajectories) -> None:
    state = data.state
    if state is not None and (not np.issubdtype(state.dtype, np.number) or len(state.shape) != 2):
        raise DataError(
            f"{data.source}: state has shape {tuple(state.shape)} and dtype {state.dtype}, but must be (N, S) numbers"
        )


def _check_discrete_actions(data: Trajectories) -> None:
    lowest = min(int(data.action[rows].min()) for rows in chunks(data.action))
    if lowest < 0:
        raise DataError(f"{data.source}: action has the value {lowest}, but discrete actions must be numbered from 0")


def _check_continuous_actions(data: Trajectories) -> None:
    bad = np.concatenate([~np.isfinite(data.action[rows]).all(axis=1) for rows in chunks(data.action)])
    bad[data.last_rows()] = False  # the last action of an episode is not used and may be NaN
    if bad.any():
        row = int(np.argmax(bad))
        episode = int(np.searchsorted(data.offsets, row, side="right")) - 1
        raise DataError(
            f"{data.source}: action is not finite at row {row} (episode {episode}, step"
            f" {row - data.offsets[episode]}); only an episode's last action, which is not used, may be NaN"
        )


def _check_finite(source: str, name: str, column: Column) -> None:
    for rows in chunks(column):
        finite = np.isfinite(column[rows])
        if not finite.all():
            row = rows.start + int(np.argmax(~finite.reshape(len(finite), -1).all(axis=1)))
            raise DataError(f"{source}: {name} is not finite (NaN or inf) at row {row}")
