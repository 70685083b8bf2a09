"""The shapes and units of a dataset: all that a model must know of it, without a way to read any."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class DataSpec:
    """What a model must know of the data to be built; plain values, stored in checkpoints."""

    observation_shape: tuple[int, ...]  # (C, H, W) pixels, or (D,)
    action_dim: int  # width of a continuous action; 0 for discrete ones
    num_actions: int  # number of discrete actions; 0 for continuous ones
    mean: tuple[float, ...]  # (C,) per channel or (D,) per dimension, over training rows, in raw units (0..255)
    std: tuple[float, ...]  # as mean; 1 where a channel is constant
    action_std: tuple[float, ...] = ()  # (A,) per dimension of a continuous action, over training rows
    action_shift: tuple[float, ...] = ()  # (A,) what the model takes from a raw action,
    action_scale: tuple[float, ...] = ()  # (A,) and divides it by; both empty where actions are taken as they are

    @property
    def is_pixels(self) -> bool:
        return len(self.observation_shape) == 3
