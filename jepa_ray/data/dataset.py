"""Windows in memory: the split into training and validation trajectories, and batches gathered by index.

There is no DataLoader and no Python code per sample: a batch is two `index_select` calls on tensors that are views of
the shared memory map (CPU) or copies on the GPU (if they fit).
"""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import CachedTrajectories, load_trajectories
from jepa_ray.data.spec import DataSpec

MOMENT_ROWS = 2048  # training rows from which the mean and std for normalisation are computed
DEFAULT_VAL_FRACTION = 0.1  # used if neither the config nor the dataset defines a validation set
DEVICE_SHARE = 0.5  # a column is copied to the GPU if it takes at most this share of the free GPU memory


@dataclass(frozen=True)
class Batch:
    """B windows of K transitions, as input of the model. Time is the first axis, so frames are contiguous in memory."""

    observations: Tensor  # (K + 1, B, C, H, W) uint8, or (K + 1, B, D) float
    actions: Tensor  # (K, B, A) float, or (K, B) int64


class TrajectoryDataset:
    """All rows of a dataset, and the split of its transitions and trajectories into training and validation.

    `train_index` (M,) and `val_index` (V,) hold the rows t of transitions t -> t + 1; no transition crosses
    the end of an episode. The split is by episode, so no episode has windows on both sides.
    """

    def __init__(self, data: CachedTrajectories, config: DataConfig, device: torch.device) -> None:
        self.device = device
        self._observation = _as_tensor(data.observation, device)
        self._action = _as_tensor(data.action, device)
        self._state = None if data.state is None else _as_tensor(data.state, device)
        self._stack = config.frame_stack
        if self._stack > 1:
            # (N,) first row of each row's trajectory.
            self._first_row = torch.from_numpy(np.repeat(data.offsets, data.lengths))
        train, val = _split(data, config)
        self.val_offsets = torch.from_numpy(data.offsets[val])  # (Ev,)
        self.val_lengths = torch.from_numpy(data.lengths[val])  # (Ev,)
        self._train_episodes = data.offsets[train], data.lengths[train]
        self.train_index = self.train_windows(1)
        self.val_index = _window_starts(self.val_offsets.numpy(), self.val_lengths.numpy(), 1)
        self.spec = _describe_data(data, self.train_index.numpy(), config)
        self._observation_ids: dict[int, Tensor] = {}

    @classmethod
    def from_config(cls, config: DataConfig, device: torch.device) -> TrajectoryDataset:
        """Load the dataset of a config through its cache. Raises `DataError`."""
        return cls(load_trajectories(config), config, device)

    @property
    def has_states(self) -> bool:
        """Whether rows have state labels, which the probe metric needs."""
        return self._state is not None

    def train_windows(self, steps: int) -> Tensor:
        """First rows (M,) of all windows of `steps` training transitions that stay within one trajectory."""
        return _window_starts(*self._train_episodes, steps)

    def val_observation_ids(self, trajectories: int) -> Tensor:
        """An ID for each row of the first `trajectories` validation trajectories; equal observations have equal IDs."""
        if trajectories not in self._observation_ids:
            seen: dict[bytes, int] = {}
            numbers = []
            for offset, length in zip(self.val_offsets[:trajectories], self.val_lengths[:trajectories], strict=True):
                for observation in self.observations(torch.arange(int(offset), int(offset + length))).cpu().numpy():
                    digest = hashlib.blake2b(observation.tobytes(), digest_size=16).digest()
                    numbers.append(seen.setdefault(digest, len(seen)))
            self._observation_ids[trajectories] = torch.tensor(numbers)
        return self._observation_ids[trajectories]

    def batch(self, rows: Tensor, steps: int = 1) -> Batch:
        """Gather the windows of `steps` transitions that start at `rows` (B,) int64, on the dataset's device."""
        times = rows + torch.arange(steps + 1)[:, None]  # (K + 1, B)
        observations = self.observations(times.flatten()).unflatten(0, times.shape)
        return Batch(observations, self.actions(times[:-1].flatten()).unflatten(0, (steps, -1)))

    def observations(self, rows: Tensor) -> Tensor:
        """Observations (B, C, H, W) uint8 or (B, D) float at `rows` (B,); the model normalises them.

        With a frame stack of S, the frames are concatenated along C or D, oldest first; the first row of a trajectory
        is repeated for the missing rows before it.
        """
        if self._stack > 1:
            back = torch.arange(self._stack - 1, -1, -1)
            rows = torch.maximum(rows[:, None] - back, self._first_row[rows][:, None]).flatten()  # (B * S,)
        picked = self._observation.index_select(0, rows.to(self._observation.device))
        if self.spec.is_pixels:
            picked = picked.permute(0, 3, 1, 2)
        return picked.reshape(-1, *self.spec.observation_shape).to(self.device, non_blocking=True)

    def actions(self, rows: Tensor) -> Tensor:
        """Actions (B, A) float or (B,) int64 at `rows` (B,)."""
        return self._action.index_select(0, rows.to(self._action.device)).to(self.device, non_blocking=True)

    def states(self, rows: Tensor) -> Tensor:
        """State labels (B, S) float at `rows` (B,); the data must have them (see `has_states`)."""
        assert self._state is not None, "states were requested, but the dataset has no state labels"
        return self._state.index_select(0, rows.to(self._state.device)).to(self.device, non_blocking=True)


def _as_tensor(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor: a view of the memory map, or a copy on the GPU if it fits."""
    with warnings.catch_warnings():
        # The memory map is read-only, which torch cannot express; this module never writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        view = torch.from_numpy(array)
    fits = device.type == "cuda" and array.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return view.to(device) if fits else view


def _window_starts(offsets: np.ndarray, lengths: np.ndarray, steps: int) -> Tensor:
    """First rows of all windows of `steps` transitions that fit into the given episodes."""
    rows = [np.arange(o, o + max(0, n - steps)) for o, n in zip(offsets, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(rows))


def _split(data: CachedTrajectories, config: DataConfig) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the training and of the validation trajectories; all parts of an episode are on one side.

    Only the first part of an episode is used for validation: the other parts show nearly the same frames, and would be
    near duplicates among the candidates that predictions are ranked against.
    """
    first = np.diff(data.episode, prepend=-1) != 0
    usable = np.flatnonzero(first & (data.lengths >= 2))
    own = None if data.held_out is None else data.held_out[usable]
    if config.val_fraction is None and own is not None and own.any() and not own.all():
        val = usable[own]
    else:
        order = np.random.default_rng(config.split_seed).permutation(usable)
        fraction = DEFAULT_VAL_FRACTION if config.val_fraction is None else config.val_fraction
        held_out = min(max(1, round(fraction * len(order))), len(order) - 1)
        val = np.sort(order[:held_out])
    train = ~np.isin(data.episode, data.episode[val]) & (data.lengths >= 2)
    return np.flatnonzero(train), val


def _describe_data(data: CachedTrajectories, train_rows: np.ndarray, config: DataConfig) -> DataSpec:
    shape = data.observation.shape[1:]
    depth = shape[-1] * config.frame_stack
    discrete = data.action.ndim == 1
    mean, std = _moments(data.observation, train_rows)
    shift, scale = _action_units(data.action, train_rows, config)
    return DataSpec(
        observation_shape=(depth, *shape[:-1]),
        action_dim=0 if discrete else data.action.shape[1],
        num_actions=int(data.action.max()) + 1 if discrete else 0,
        mean=mean * config.frame_stack,
        std=std * config.frame_stack,
        action_std=() if discrete else _moments(data.action, train_rows)[1],
        action_shift=shift,
        action_scale=scale,
    )


def _action_units(action: np.ndarray, train_rows: np.ndarray, config: DataConfig) -> tuple[tuple[float, ...], ...]:
    """Shift and scale that normalise continuous actions: mean and std, or centre and half of the range; else empty."""
    if action.ndim == 1 or config.action_normalisation == "none":
        return (), ()
    if config.action_normalisation == "zscore":
        return _moments(action, train_rows)
    used = action[train_rows].astype(np.float64)
    low, high = used.min(0), used.max(0)
    half = (high - low) / 2
    return tuple(((low + high) / 2).tolist()), tuple(np.where(half > 1e-6, half, 1.0).tolist())


def _moments(column: np.ndarray, train_rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std over the last axis, from at most MOMENT_ROWS evenly spaced training rows."""
    stride = -(-len(train_rows) // MOMENT_ROWS)
    sample = column[train_rows[::stride]].reshape(-1, column.shape[-1]).astype(np.float64)
    std = sample.std(0)
    return tuple(sample.mean(0).tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())
