"""Windows in memory: the split by trajectory, and batches gathered by index.

No DataLoader and no per-sample Python: a batch is two `index_select`s on tensors that are views of the shared
memory map (CPU) or live on the device (GPU, where they fit).
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from jepa_ray.config import DataConfig
from jepa_ray.data.cache import CachedTrajectories, load_trajectories

MOMENT_ROWS = 2048  # training rows that the normalisation's mean and std are taken from
DEVICE_SHARE = 0.5  # a dataset is held on the GPU if it takes at most this share of its free memory


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data to be built; plain values, stored in checkpoints."""

    observation_shape: tuple[int, ...]  # (C, H, W) pixels, or (D,)
    action_dim: int  # width of a continuous action; 0 for discrete ones
    num_actions: int  # number of discrete actions; 0 for continuous ones
    mean: tuple[float, ...]  # (C,) per channel or (D,) per dimension, over training rows, in raw units (0..255)
    std: tuple[float, ...]  # as mean; 1 where a channel is constant
    action_std: tuple[float, ...] = ()  # (A,) per dimension of a continuous action, over training rows

    @property
    def is_pixels(self) -> bool:
        return len(self.observation_shape) == 3


@dataclass(frozen=True)
class Batch:
    """B windows of K transitions, ready for the model; time first, so that each frame is one block of memory."""

    observations: Tensor  # (K + 1, B, C, H, W) uint8, or (K + 1, B, D) float
    actions: Tensor  # (K, B, A) float, or (K, B) int64


class TrajectoryDataset:
    """All rows of a dataset, and which transitions and trajectories train and validate.

    `train_index` (M,) and `val_index` (V,) hold the rows t of transitions t -> t + 1; none crosses an episode's
    end. The split is by trajectory, so no trajectory has windows on both sides.
    """

    def __init__(self, data: CachedTrajectories, config: DataConfig, device: torch.device) -> None:
        self.device = device
        self._observation = _hold(data.observation, device)
        self._action = _hold(data.action, device)
        self._state = None if data.state is None else _hold(data.state, device)
        rng = np.random.default_rng(config.split_seed)
        order = rng.permutation(np.flatnonzero(data.lengths >= 2))
        held_out = min(max(1, round(config.val_fraction * len(order))), len(order) - 1)
        self.val_offsets = torch.from_numpy(data.offsets[np.sort(order[:held_out])])  # (Ev,)
        self.val_lengths = torch.from_numpy(data.lengths[np.sort(order[:held_out])])  # (Ev,)
        train = np.sort(order[held_out:])
        self._train_episodes = data.offsets[train], data.lengths[train]
        self.train_index = self.train_windows(1)
        self.val_index = _windows(self.val_offsets.numpy(), self.val_lengths.numpy(), 1)
        self.spec = _spec(data, self.train_index.numpy())

    @classmethod
    def from_config(cls, config: DataConfig, device: torch.device) -> TrajectoryDataset:
        """The dataset a config names, through its cache. Raises `DataError`."""
        return cls(load_trajectories(config), config, device)

    @property
    def has_states(self) -> bool:
        """Whether rows carry state labels, which probes and planning are scored on."""
        return self._state is not None

    def train_windows(self, steps: int) -> Tensor:
        """Rows (M,) at which a window of `steps` training transitions begins that stays in its trajectory."""
        return _windows(*self._train_episodes, steps)

    def batch(self, rows: Tensor, steps: int = 1) -> Batch:
        """The windows of `steps` transitions that start at `rows` (B,) int64, on the dataset's device."""
        times = rows + torch.arange(steps + 1)[:, None]  # (K + 1, B)
        observations = self.observations(times.flatten()).unflatten(0, times.shape)
        return Batch(observations, self.actions(times[:-1].flatten()).unflatten(0, (steps, -1)))

    def observations(self, rows: Tensor) -> Tensor:
        """Observations (B, C, H, W) uint8 or (B, D) float at `rows` (B,); the model normalises them."""
        picked = self._observation.index_select(0, rows.to(self._observation.device))
        return (picked.permute(0, 3, 1, 2) if self.spec.is_pixels else picked).to(self.device, non_blocking=True)

    def actions(self, rows: Tensor) -> Tensor:
        """Actions (B, A) float or (B,) int64 at `rows` (B,)."""
        return self._action.index_select(0, rows.to(self._action.device)).to(self.device, non_blocking=True)

    def states(self, rows: Tensor) -> Tensor:
        """State labels (B, S) float at `rows` (B,), where the data has them."""
        assert self._state is not None, "asked for states of data without labels"
        return self._state.index_select(0, rows.to(self._state.device)).to(self.device, non_blocking=True)


def _hold(array: np.ndarray, device: torch.device) -> Tensor:
    """The array as a tensor: a view of the memory map, or a copy on the GPU if there is room."""
    with warnings.catch_warnings():
        # The map is read-only, which torch cannot express; nothing here writes to it.
        warnings.filterwarnings("ignore", message="The given NumPy array is not writable")
        view = torch.from_numpy(array)
    fits = device.type == "cuda" and array.nbytes <= DEVICE_SHARE * torch.cuda.mem_get_info(device)[0]
    return view.to(device) if fits else view


def _windows(offsets: np.ndarray, lengths: np.ndarray, steps: int) -> Tensor:
    """First rows of the windows of `steps` transitions that fit into the given episodes."""
    rows = [np.arange(o, o + max(0, n - steps)) for o, n in zip(offsets, lengths, strict=True)]
    return torch.from_numpy(np.concatenate(rows))


def _spec(data: CachedTrajectories, train_rows: np.ndarray) -> DataSpec:
    shape = data.observation.shape[1:]
    discrete = data.action.ndim == 1
    mean, std = _moments(data.observation, train_rows)
    return DataSpec(
        observation_shape=(shape[2], shape[0], shape[1]) if len(shape) == 3 else (shape[0],),
        action_dim=0 if discrete else data.action.shape[1],
        num_actions=int(data.action.max()) + 1 if discrete else 0,
        mean=mean,
        std=std,
        action_std=() if discrete else _moments(data.action, train_rows)[1],
    )


def _moments(column: np.ndarray, train_rows: np.ndarray) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and std over the last axis, from at most MOMENT_ROWS evenly spaced training rows."""
    stride = -(-len(train_rows) // MOMENT_ROWS)
    sample = column[train_rows[::stride]].reshape(-1, column.shape[-1]).astype(np.float64)
    std = sample.std(0)
    return tuple(sample.mean(0).tolist()), tuple(np.where(std > 1e-6, std, 1.0).tolist())
