"""Two Rooms: a dot in a square with a wall and a door, moved by 2-d actions.

The standard first environment of JEPA planning papers (PLDM, Sobal et al. 2025): it is simulated in a second, but a
model must learn the position of the dot and that walls stop it. All episodes are simulated at once. Positions and
speeds are in pixels of a 32-px frame, for every frame size.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from jepa_ray.config import TwoRoomsConfig
from jepa_ray.data.columns import Column
from jepa_ray.data.recording import Recording

SIDE = 32.0  # side of the arena, in pixels of a 32-px frame
MARGIN = 2.0  # minimum distance of the dot's centre from the border
MAX_STEP = 3.0  # displacement by an action component of 1
DOOR_HALF = 3.0  # half the height of the door
WALL_HALF = 1.0  # half the thickness of the wall
MOMENTUM = 0.8  # correlation of successive actions of the behaviour policy

Floats = NDArray[np.float32]


@dataclass(frozen=True)
class Rooms:
    """Layouts of E episodes: wall column x and door centre y, both (E,)."""

    wall_x: Floats
    door_y: Floats

    @classmethod
    def sample(cls, episodes: int, wall: str, rng: np.random.Generator) -> Rooms:
        """A wall in the middle for all (`fixed`), or one drawn per episode (`random`)."""
        if wall == "fixed":
            return cls(np.full(episodes, SIDE / 2, np.float32), np.full(episodes, SIDE * 0.3, np.float32))
        return cls(
            rng.uniform(SIDE * 0.3, SIDE * 0.7, episodes).astype(np.float32),
            rng.uniform(MARGIN + DOOR_HALF, SIDE - MARGIN - DOOR_HALF, episodes).astype(np.float32),
        )

    def starts(self, rng: np.random.Generator) -> Floats:
        """Uniform positions (E, 2) outside the walls."""
        position = rng.uniform(MARGIN, SIDE - MARGIN, (len(self.wall_x), 2)).astype(np.float32)
        offset = position[:, 0] - self.wall_x
        inside = np.abs(offset) < WALL_HALF
        position[inside, 0] += np.where(offset[inside] < 0, -2 * WALL_HALF, 2 * WALL_HALF)
        return position

    def step(self, position: Floats, action: Floats) -> Floats:
        """Positions (E, 2) after actions (E, 2) in [-1, 1]: x moves before y; border, wall and jambs stop the dot."""
        target = np.clip(position + MAX_STEP * action, MARGIN, SIDE - MARGIN)
        x, (next_x, next_y) = position[:, 0], target.T  # views: writing to them changes `target`
        face = self.wall_x + np.where(x < self.wall_x, -WALL_HALF, WALL_HALF)  # side of the wall that faces the dot
        meets = np.where(x < self.wall_x, next_x > face, next_x < face)
        closed = np.abs(position[:, 1] - self.door_y) > DOOR_HALF
        next_x[:] = np.where(meets & closed, face, next_x)
        in_doorway = np.abs(next_x - self.wall_x) < WALL_HALF
        jambs = np.clip(next_y, self.door_y - DOOR_HALF, self.door_y + DOOR_HALF)
        next_y[:] = np.where(in_doorway, jambs, next_y)
        return target.astype(np.float32)

    def render(self, position: Floats, size: int, dot_std: float) -> NDArray[np.uint8]:
        """Frames (E, size, size, 3): red dot, green wall, and an empty blue channel for tools that expect RGB."""
        grid = (np.arange(size, dtype=np.float32) + 0.5) * (SIDE / size)
        dx, dy = grid - position[:, :1], grid - position[:, 1:]
        bump = -0.5 / dot_std**2
        dot = np.exp(bump * dy**2)[:, :, None] * np.exp(bump * dx**2)[:, None, :]
        wall = np.abs(grid - self.wall_x[:, None]) <= WALL_HALF
        closed = np.abs(grid - self.door_y[:, None]) > DOOR_HALF
        frames = np.zeros((len(position), size, size, 3), np.uint8)
        frames[..., 0] = np.round(255 * dot)
        frames[..., 1] = 255 * (closed[:, :, None] & wall[:, None, :])
        return frames


@dataclass(frozen=True)
class TwoRoomsEpisodes:
    """E simulated episodes of L = steps + 1 rows."""

    pixels: NDArray[np.uint8]  # (E, L, H, W, 3)
    action: Floats  # (E, L, 2); the last action of an episode is NaN, because it is not used
    state: Floats  # (E, L, 2), position (x, y)


def simulate(config: TwoRoomsConfig) -> TwoRoomsEpisodes:
    """Simulate random-walk episodes whose actions have momentum; the same config gives the same bytes."""
    rng = np.random.default_rng(config.seed)
    episodes, rows, size = config.trajectories, config.steps + 1, config.image_size
    rooms = Rooms.sample(episodes, config.wall, rng)
    action, state = walk(rooms, config.steps, rng)
    pixels = np.empty((episodes, rows, size, size, 3), np.uint8)
    for t in range(rows):
        pixels[:, t] = rooms.render(state[:, t], size, config.dot_std)
    return TwoRoomsEpisodes(pixels, action, state)


def as_recording(config: TwoRoomsConfig) -> Recording:
    """Simulated episodes as a recording, like the result of a reader."""
    episodes = simulate(config)
    columns: dict[str, Column] = {
        "pixels": episodes.pixels.reshape(-1, *episodes.pixels.shape[2:]),
        "action": episodes.action.reshape(-1, 2),
        "state": episodes.state.reshape(-1, 2),
    }
    lengths = np.full(config.trajectories, config.steps + 1)
    return Recording.consecutive("two_rooms", "built-in Two Rooms", columns, lengths)


def walk(rooms: Rooms, steps: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    """Actions and positions, both (E, steps + 1, 2), of the behaviour policy; an episode's last action is NaN."""
    episodes = len(rooms.wall_x)
    position = rooms.starts(rng)
    push = rng.uniform(-1, 1, (episodes, 2))
    action = np.full((episodes, steps + 1, 2), np.nan, np.float32)
    state = np.empty((episodes, steps + 1, 2), np.float32)
    state[:, 0] = position
    for t in range(steps):
        push = MOMENTUM * push + np.sqrt(1 - MOMENTUM**2) * rng.normal(0, 0.6, (episodes, 2))
        action[:, t] = np.clip(push, -1, 1)
        state[:, t + 1] = position = rooms.step(position, action[:, t])
    return action, state
