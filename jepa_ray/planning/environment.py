"""Environments in which plans are carried out: batched, with a start and a goal for every episode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from jepa_ray.config import NO_PLANNING_WITH, DataConfig, TwoRoomsConfig
from jepa_ray.data.two_rooms import SIDE, Rooms, walk
from jepa_ray.errors import ConfigError

Floats = NDArray[np.float32]

# Distance to the goal at which an episode succeeds: 16 of 224 px in stable-worldmodel, so 2.3 px of the 32-px frame.
TOLERANCE = 16 / 224 * SIDE
# First part of the seed of the tasks' random stream: it differs from every dataset's stream, also with the same seed.
TASKS = 0x7461736B


class Environment(Protocol):
    """E episodes that are stepped together. The environment is stateless: states (E, S) are passed in and returned."""

    @property
    def start(self) -> Floats:
        """Initial states (E, S) of the episodes."""
        ...

    @property
    def goal(self) -> Floats:
        """Goal states (E, S)."""
        ...

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """Lower and upper bound of a continuous action, each (A,)."""
        ...

    @property
    def tolerance(self) -> float:
        """The largest distance to the goal at which an episode succeeds."""
        ...

    def observe(self, state: Floats) -> Tensor:
        """Observations of states (E, S) as a model encodes them: (E, C, H, W) uint8 or (E, D_obs) float."""
        ...

    def step(self, state: Floats, action: Floats) -> Floats:
        """States (E, S) after actions (E, A)."""
        ...

    def distance(self, state: Floats) -> Floats:
        """Distances (E,) of states (E, S) to the goals."""
        ...

    def locate(self, state: Floats) -> Floats:
        """Positions (E, 2) of states (E, S) in the frame, for pictures: x and y as fractions of the frame."""
        ...


@dataclass(frozen=True)
class TwoRooms:
    """Two Rooms with one task per episode, sampled from the behaviour policy. Lengths are pixels of a 32-px frame."""

    rooms: Rooms
    start: Floats  # (E, 2)
    goal: Floats  # (E, 2)
    image_size: int
    dot_std: float
    tolerance: float = TOLERANCE

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        return -np.ones(2, np.float32), np.ones(2, np.float32)

    @classmethod
    def sample(cls, config: TwoRoomsConfig, goal_ahead: int, episodes: int, seed: int) -> TwoRooms:
        """Tasks from new episodes that are in no dataset: start = row t, goal = row t + goal_ahead, t uniform.

        An episode that starts within the tolerance of its goal is not a task, and is replaced by another one.
        """
        rng = np.random.default_rng([TASKS, seed])
        steps, pool = max(config.steps, goal_ahead), 2 * episodes
        while True:
            rooms = Rooms.sample(pool, config.wall, rng)
            _, state = walk(rooms, steps, rng)
            t = rng.integers(0, steps - goal_ahead, pool, endpoint=True)
            start, goal = state[np.arange(pool), t], state[np.arange(pool), t + goal_ahead]
            apart = np.flatnonzero(np.linalg.norm(goal - start, axis=1) > TOLERANCE)[:episodes]
            if len(apart) == episodes:
                layouts = Rooms(rooms.wall_x[apart], rooms.door_y[apart])
                return cls(layouts, start[apart], goal[apart], config.image_size, config.dot_std)
            pool *= 2

    def observe(self, state: Floats) -> Tensor:
        frames = self.rooms.render(state, self.image_size, self.dot_std)
        return torch.from_numpy(frames).permute(0, 3, 1, 2)

    def step(self, state: Floats, action: Floats) -> Floats:
        return self.rooms.step(state, action)

    def distance(self, state: Floats) -> Floats:
        return np.linalg.norm(state - self.goal, axis=1)

    def locate(self, state: Floats) -> Floats:
        return state / np.float32(SIDE)


def environment_of(data: DataConfig, goal_ahead: int, episodes: int, seed: int) -> Environment:
    """The environment of a dataset, with new tasks. Raises `ConfigError` if the dataset has no environment."""
    check_environment(data)
    return TwoRooms.sample(data.two_rooms, goal_ahead, episodes, seed)


def check_environment(data: DataConfig) -> None:
    """Raise `ConfigError` unless the dataset has an environment for planning."""
    if data.builtin != "two_rooms":
        raise ConfigError(
            f"data.path is {data.path}, but a file has no environment to plan in: planning needs"
            " data.builtin: two_rooms"
        )
    if key := data.first_preparation_key:
        raise ConfigError(f"{NO_PLANNING_WITH} data.{key}")
