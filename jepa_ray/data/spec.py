"""The shapes and units of a dataset that a model needs; contains no code to read data."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """Shapes and statistics of the data from which a model is built; plain values, stored in checkpoints."""

    observation_shape: tuple[int, ...]  # (C, H, W) pixels, or (D,)
    action_dim: int  # width of a continuous action; 0 for discrete actions
    num_actions: int  # number of discrete actions; 0 for continuous actions
    mean: tuple[float, ...]  # (C,) per channel or (D,) per dimension, over training rows, in raw units (0..255)
    std: tuple[float, ...]  # same shape and units as mean; 1 where a channel is constant
    action_std: tuple[float, ...] = ()  # (A,) per dimension of a continuous action, over training rows
    action_shift: tuple[float, ...] = ()  # (A,) the model subtracts it from a raw action; empty without normalisation
    action_scale: tuple[float, ...] = ()  # (A,) the model then divides by it; empty without normalisation

    @property
    def is_pixels(self) -> bool:
        return len(self.observation_shape) == 3
