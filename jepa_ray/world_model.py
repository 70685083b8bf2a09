"""A trained model as a library object, as `jepa_ray.load` returns it.

Observations and actions are passed as they are stored in datasets; channel order, dtype and device are converted here.
No Ray, no MLflow, no Optuna.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_ray.config import TrainConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.errors import DataError
from jepa_ray.model.jepa import JEPA
from jepa_ray.train.checkpoint import data_spec, read_checkpoint, rebuild

ENCODE_ROWS = 1024  # observations encoded at once, which bounds the memory of long inputs

Array = NDArray[Any] | Tensor


class WorldModel:
    """A frozen JEPA that encodes observations, and predicts and rolls out their embeddings.

    The model is in eval mode, and its parameters have no gradients. Gradients are computed only for inputs with
    `requires_grad`, so planners can optimise actions by gradient, and other callers pay nothing for it.
    """

    def __init__(self, model: JEPA, config: TrainConfig, spec: DataSpec, device: torch.device | str = "cpu") -> None:
        self.config, self.device = config, torch.device(device)
        self._spec = spec
        self._model = model.to(self.device).eval().requires_grad_(False)

    @property
    def latent_dim(self) -> int:
        """D, the width of an embedding."""
        return self.config.model.latent_dim_state

    @property
    def action_dim(self) -> int:
        """A, the width of a continuous action; 0 if actions are discrete."""
        return self._spec.action_dim

    @property
    def num_actions(self) -> int:
        """The number of discrete actions, which are numbered from 0; 0 if actions are continuous."""
        return self._spec.num_actions

    @property
    def observation_shape(self) -> tuple[int, ...]:
        """The shape of one observation as `encode` takes it: (H, W, C) pixels, or (D_obs,)."""
        shape = self._spec.observation_shape
        return (*shape[1:], shape[0]) if self._spec.is_pixels else shape

    def encode(self, observations: Array) -> Tensor:
        """Embeddings (B, D) float32 of observations.

        Args:
            observations: (B, H, W, C) uint8 pixels in 0..255, or (B, D_obs) float vectors in the data's units.

        Raises:
            DataError: the shape is different, or pixels are not uint8.
        """
        rows = self._checked(observations)
        return torch.cat([self._encode(part) for part in torch.split(rows, ENCODE_ROWS)])

    def predict(self, state: Tensor, action: Array) -> Tensor:
        """Embeddings (B, D) one step after embeddings (B, D), under raw actions (B, A) float or (B,) int."""
        return self.rollout(state, _tensor(action)[:, None])[:, 0]

    def rollout(self, state: Tensor, actions: Array) -> Tensor:
        """Open-loop predictions (B, K, D), 1 to K steps after embeddings (B, D).

        Args:
            state: (B, D), from `encode` or an earlier prediction.
            actions: (B, K, A) float or (B, K) int, in the data's units; action k leads from prediction k - 1 to k.

        Raises:
            DataError: the actions differ in shape or kind from those that the model was trained with.
        """
        state, steps = state.to(self.device), self._actions(actions)
        if torch.is_grad_enabled() and (state.requires_grad or steps.requires_grad):
            return self._model.unroll(state, steps.transpose(0, 1)).transpose(0, 1)
        return self._model.rollout(state, steps)

    def _encode(self, rows: Tensor) -> Tensor:
        rows = rows.to(self.device)
        return self._model.encode(rows.movedim(-1, 1) if self._spec.is_pixels else rows.float())

    def _checked(self, observations: Array) -> Tensor:
        rows = _tensor(observations)
        if rows.shape[1:] != self.observation_shape or not len(rows):
            expected = ", ".join(map(str, self.observation_shape))
            raise DataError(f"observations have shape {tuple(rows.shape)}, but this model encodes (B, {expected})")
        if self._spec.is_pixels and rows.dtype != torch.uint8:
            raise DataError(f"observations have dtype {rows.dtype}, but pixels must be uint8 in 0..255")
        return rows

    def _actions(self, actions: Array) -> Tensor:
        steps = _tensor(actions)
        if self.num_actions:
            return self._discrete_actions(steps).to(self.device)
        if steps.ndim != 3 or steps.shape[2] != self.action_dim:
            raise DataError(
                f"actions have shape {tuple(steps.shape)}, but this model takes (B, K, {self.action_dim}):"
                f" {self.action_dim} numbers per step"
            )
        return steps.to(self.device).float()

    def _discrete_actions(self, steps: Tensor) -> Tensor:
        """Discrete actions (B, K) as int64. Raises `DataError` for any other shape, dtype or value."""
        takes = f"this model takes one whole number from 0 to {self.num_actions - 1} per step"
        if steps.ndim != 2 or steps.is_floating_point():
            raise DataError(f"actions have shape {tuple(steps.shape)} and dtype {steps.dtype}, but {takes}")
        steps = steps.long()
        outside = steps[(steps < 0) | (steps >= self.num_actions)]
        if len(outside):
            raise DataError(f"actions contain {int(outside[0])}, but {takes}")
        return steps


def load(checkpoint: Path, device: torch.device | str = "cpu") -> WorldModel:
    """Load the model of a checkpoint file, on `device`. Raises `DataError` if the file is not a valid checkpoint."""
    stored = read_checkpoint(checkpoint)
    model, config = rebuild(stored, str(checkpoint))
    return WorldModel(model, config, data_spec(stored), device)


def _tensor(values: Array) -> Tensor:
    """A tensor of `values`. Arrays are copied, since those of a memory map may be read-only."""
    return values if isinstance(values, Tensor) else torch.from_numpy(np.array(values))
