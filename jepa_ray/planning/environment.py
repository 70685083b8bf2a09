"""Where plans are carried out: a batched environment with a start and a goal for every episode."""

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

# 16 of 224 px in stable-worldmodel's TwoRoom: 2.3 px of the 32-px frame here.
TOLERANCE = 16 / 224 * SIDE
# Begins the seed of the tasks' random stream, so that it is the stream of no dataset, whatever the two seeds are.
TASKS = 0x7461736B


class Environment(Protocol):
    """E episodes that move at once. It remembers no state: states (E, S) go in and come out."""

    @property
    def start(self) -> Floats:
        """States (E, S) the episodes start from."""
        ...

    @property
    def goal(self) -> Floats:
        """States (E, S) to reach."""
        ...

    @property
    def bounds(self) -> tuple[Floats, Floats]:
        """Least and largest continuous action, each (A,)."""
        ...

    @property
    def tolerance(self) -> float:
        """An episode succeeds at this distance to its goal, or less."""
        ...

    def observe(self, state: Floats) -> Tensor:
        """Observations of states (E, S), as the model takes them: (E, C, H, W) uint8 or (E, D_obs) float."""
        ...

    def step(self, state: Floats, action: Floats) -> Floats:
        """States (E, S) after actions (E, A)."""
        ...

    def distance(self, state: Floats) -> Floats:
        """Distances (E,) of states (E, S) to the goals."""
        ...

    def locate(self, state: Floats) -> Floats:
        """Where in its frame a state (E, S) is, for pictures: (E, 2), x and y as fractions of the frame."""
        ...


@dataclass(frozen=True)
class TwoRooms:
    """Two Rooms with a task per episode, taken from the behaviour policy. Lengths are in pixels of a 32-px frame."""

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
        """Tasks from fresh episodes, none of a dataset's: start = row t, goal = row t + goal_ahead, t uniform.

        An episode whose goal is already satisfied at its start is not a task: another one takes its place.
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
    """The environment that a dataset comes from, with fresh tasks. Raises `ConfigError` if there is none."""
    check_environment(data)
    return TwoRooms.sample(data.two_rooms, goal_ahead, episodes, seed)


def check_environment(data: DataConfig) -> None:
    """Raise `ConfigError` unless there is an environment to plan in."""
    if data.builtin != "two_rooms":
        raise ConfigError(
            f"data.path is {data.path}, but a file has no environment to plan in: planning needs"
            " data.builtin: two_rooms"
        )
    if key := data.preparation:
        raise ConfigError(f"{NO_PLANNING_WITH} data.{key}")
