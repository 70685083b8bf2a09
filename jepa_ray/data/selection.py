"""Turns a recording into the trajectories that a config trains on: selects columns, aligns actions, prepares frames.

All operations along time (alignment, frameskip, subset) are one index of rows; all operations within a row (resize,
grayscale, one-hot) are functions of blocks. Data is read only when the cache copies it, chunk by chunk.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from jepa_ray.config import DataConfig
from jepa_ray.data.alignment import determine_alignment
from jepa_ray.data.columns import Column, Gathered, Mapped, chunks
from jepa_ray.data.recording import Recording
from jepa_ray.data.trajectories import Trajectories, check_shapes, check_values
from jepa_ray.errors import DataError

Index = NDArray[np.int64]

MAX_ONE_HOT = 4096  # maximum width of one-hot encoded actions


@dataclass(frozen=True)
class Selection:
    """The trajectories to train on, and the episode that each of them belongs to."""

    trajectories: Trajectories
    episode: Index  # (E,)
    held_out: NDArray[np.bool_] | None  # (E,) trajectories that the dataset itself reserves for validation


def select(recording: Recording, config: DataConfig) -> Selection:
    """Select, check and prepare the trajectories of a recording as `config` says. Raises `DataError`."""
    chosen = choose_columns(recording, config.observation)
    check_shapes(chosen)
    data = align_actions(recording, chosen, config.action_alignment)
    check_values(data)
    return _prepare(data, recording.held_out, config)


def choose_columns(recording: Recording, observation: str | None) -> Trajectories:
    """Choose the observation, action and state columns, unchecked. Raises `DataError` for a missing column."""
    columns = recording.columns
    name = observation or ("pixels" if "pixels" in columns else "observation")
    for wanted in (name, "action"):
        if wanted not in columns:
            has = ", ".join(sorted(columns)) or "nothing"
            raise DataError(f"{recording.source}: lacks the column {wanted} (it has {has})")
    return Trajectories(
        recording.source,
        columns[name],
        columns["action"],
        columns.get("state"),
        recording.lengths,
        recording.offsets,
        name,
    )


def align_actions(
    recording: Recording, chosen: Trajectories, setting: Literal["auto", "next", "previous"]
) -> Trajectories:
    """`chosen` with its actions aligned as `next`. Raises `DataError` as `determine_alignment` does."""
    if determine_alignment(recording, chosen.action, chosen.state_or_observation, setting) == "next":
        return chosen
    return replace(chosen, action=Gathered(chosen.action, _next_rows(chosen)))


def _next_rows(data: Trajectories) -> Index:
    """(N,) the row that stores the action of each row if actions are stored as `previous`: the row after it.

    For the last row of an episode, whose action is not used, it is the row itself.
    """
    rows = np.arange(1, data.action.shape[0] + 1)
    rows[data.last_rows()] -= 1
    return rows


def _prepare(data: Trajectories, held_out: NDArray[np.bool_] | None, config: DataConfig) -> Selection:
    observation, action, state = data.observation, _one_hot(data.action, config.frameskip, data.source), data.state
    lengths, offsets = data.lengths, data.offsets
    episode = np.arange(len(lengths))
    if config.max_trajectories is not None and config.max_trajectories < len(episode):
        episode = np.linspace(0, len(episode) - 1, config.max_trajectories).astype(np.int64)
    if config.frameskip > 1 or len(episode) < len(lengths):
        pieces = Pieces.of(data.offsets, data.lengths, episode, config.frameskip, phases=config.frameskip)
        observation = Gathered(observation, pieces.rows)
        action = Gathered(action, pieces.actions if config.frameskip > 1 else pieces.rows)
        state = None if state is None else Gathered(state, pieces.rows)
        episode, lengths = pieces.episode, pieces.lengths
        offsets = np.cumsum(lengths) - lengths
    if (lengths[_first_pieces(episode)] >= 2).sum() < 2:
        raise DataError(
            f"{data.source}: data.frameskip {config.frameskip} and data.max_trajectories {config.max_trajectories}"
            " leave fewer than 2 trajectories of 2 rows or more, but training and validation need one each: lower"
            " data.frameskip or raise data.max_trajectories"
        )
    if (config.resize is not None or config.grayscale) and len(observation.shape) != 4:
        key = "data.grayscale" if config.resize is None else "data.resize"
        width = observation.shape[1]
        raise DataError(
            f"{data.source}: {key} needs pixels, but the observation is a vector of {width} values: remove {key}"
        )
    frames = prepare_frames(observation, config.resize, config.grayscale, data.source)
    prepared = Trajectories(data.source, frames, action, state, lengths, offsets)
    return Selection(prepared, episode, None if held_out is None else held_out[episode])


@dataclass(frozen=True)
class Pieces:
    """Episodes split into pieces that contain every `skip`th row."""

    rows: Index  # (N,) row of each frame
    actions: Index  # (N, F) rows of the actions from one frame to the next; the last row repeats past the end
    lengths: Index  # (E,)
    episode: Index  # (E,)

    @classmethod
    def of(cls, offsets: Index, lengths: Index, episodes: Index, skip: int, *, phases: int) -> Pieces:
        """Every `skip`th row of `episodes`, from each of their first `phases` rows; `skip` phases keep all rows."""
        rows, actions, owner = [], [], []
        for episode in episodes:
            start, length = int(offsets[episode]), int(lengths[episode])
            for phase in range(min(phases, length)):
                frames = np.arange(start + phase, start + length, skip)
                rows.append(frames)
                actions.append(np.minimum(frames[:, None] + np.arange(skip), start + length - 1))
                owner.append(episode)
        counts = np.array([len(frames) for frames in rows])
        return cls(np.concatenate(rows), np.concatenate(actions), counts, np.array(owner))


def _first_pieces(episode: Index) -> Index:
    """Indices of each episode's first piece, which begins at the episode's first row."""
    return np.flatnonzero(np.diff(episode, prepend=-1) != 0)


def as_matrix(action: Column) -> Column:
    """Actions as (N, A); single discrete actions (N,) become (N, 1)."""
    return action if len(action.shape) == 2 else Mapped(action, lambda block: block[:, None], (1,), action.dtype)


def _one_hot(action: Column, frameskip: int, source: str) -> Column:
    """Concatenated one-hot vectors for several discrete actions per step; other actions unchanged."""
    if not np.issubdtype(action.dtype, np.integer) or (len(action.shape) == 1 and frameskip == 1):
        return action
    columns = as_matrix(action)
    highest = np.max([columns[rows].max(axis=0) for rows in chunks(columns)], axis=0)
    ends = np.cumsum(highest.astype(np.int64) + 1)
    width = int(ends[-1])
    if width > MAX_ONE_HOT:
        raise DataError(
            f"{source}: discrete actions have {width} values in total, but at most {MAX_ONE_HOT} can be one-hot encoded"
            + (": set data.frameskip to 1" if len(action.shape) == 1 else "")
        )
    starts = ends - highest - 1

    def encode(block: NDArray[np.generic]) -> NDArray[np.float32]:
        out = np.zeros((len(block), width), np.float32)
        np.put_along_axis(out, block.astype(np.int64) + starts, 1.0, axis=1)
        return out

    return Mapped(columns, encode, (width,), np.dtype(np.float32))


def prepare_frames(frames: Column, resize: tuple[int, int] | None, grayscale: bool, source: str) -> Column:
    """Convert frames (N, H, W, C) to grayscale and resize them, as requested. Raises `DataError`."""
    if grayscale:
        frames = _to_gray(frames, source)
    return frames if resize is None else _resized(frames, resize)


def _to_gray(frames: Column, source: str) -> Column:
    """(N, H, W, 1) luma of RGB frames (ITU-R 601-2, as Pillow's `L`). Raises `DataError` unless C is 1 or 3."""
    height, width, channels = frames.shape[1:]
    if channels not in (1, 3):
        raise DataError(
            f"{source}: grayscale needs frames with 1 or 3 channels, but they have {channels}: leave out grayscale"
        )
    if channels == 1:
        return frames

    def luma(block: NDArray[np.generic]) -> NDArray[np.uint8]:
        weighted = np.full(block.shape[:3], 0x8000, np.uint32)
        for channel, weight in enumerate((19595, 38470, 7471)):  # in units of 1/65536, as in Pillow
            weighted += np.multiply(block[..., channel], weight, dtype=np.uint32)
        return (weighted >> 16).astype(np.uint8)[..., None]

    return Mapped(frames, luma, (height, width, 1), np.dtype(np.uint8))


def _resized(frames: Column, size: tuple[int, int]) -> Column:
    """Frames resized to (N, *size, C), bilinear with antialiasing."""
    import torch
    from torch.nn.functional import interpolate

    def resize(block: NDArray[np.generic]) -> NDArray[np.uint8]:
        pixels = torch.from_numpy(np.ascontiguousarray(block)).movedim(-1, 1)
        return interpolate(pixels, size, mode="bilinear", antialias=True).movedim(1, -1).numpy()

    return Mapped(frames, resize, (*size, frames.shape[3]), np.dtype(np.uint8))
