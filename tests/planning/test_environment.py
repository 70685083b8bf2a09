"""Planning tasks on Two Rooms: starts, goals and dynamics."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from jepa_ray.config import DataConfig, TwoRoomsConfig
from jepa_ray.data.two_rooms import MARGIN, MAX_STEP, SIDE, simulate
from jepa_ray.errors import ConfigError
from jepa_ray.planning.environment import Floats, TwoRooms, environment_of

CONFIG = TwoRoomsConfig(trajectories=6, steps=30)


def tasks(config: TwoRoomsConfig = CONFIG, ahead: int = 25, episodes: int = 200, seed: int = 0) -> TwoRooms:
    return TwoRooms.sample(config, ahead, episodes, seed)


def inside(states: Floats) -> set[tuple[float, ...]]:
    """Positions away from the borders; positions at borders and in corners occur in every dataset."""
    free = ((states > MARGIN + 0.01) & (states < SIDE - MARGIN - 0.01)).all(1)
    return {tuple(state) for state in states[free].tolist()}


def test_tolerance_is_the_common_one_scaled_to_this_frame() -> None:
    assert tasks(episodes=1).tolerance == pytest.approx(32 * 16 / 224)


@pytest.mark.parametrize("wall", ["fixed", "random"])
@pytest.mark.parametrize("ahead", [1, 25, 40])  # 40: longer than the dataset's episodes
def test_no_start_satisfies_its_goal_and_no_task_is_missing(wall: str, ahead: int) -> None:
    made = tasks(CONFIG.model_copy(update={"wall": wall}), ahead)
    assert made.start.shape == made.goal.shape == (200, 2)
    assert (made.distance(made.start) > made.tolerance).all()
    assert (made.distance(made.goal) == 0).all()


def test_goals_are_the_given_number_of_policy_steps_ahead() -> None:
    """One step moves each coordinate by at most MAX_STEP; 25 steps of a random walk go further, but not 25 times."""
    one, many = tasks(ahead=1), tasks(ahead=25)
    assert np.abs(one.goal - one.start).max() <= MAX_STEP + 1e-4
    assert 2 < many.distance(many.start).mean() / one.distance(one.start).mean() < 10


def test_starts_are_also_from_the_middle_of_episodes() -> None:
    """Episodes start outside the doorway; later rows can be inside."""
    made = tasks(episodes=2000, ahead=1)
    assert (np.abs(made.start[:, 0] - SIDE / 2) < 0.5).any()


def test_tasks_depend_on_the_seed_and_seeds_share_no_task() -> None:
    assert np.array_equal(tasks(seed=1).start, tasks(seed=1).start)
    assert not inside(tasks(seed=1).start) & inside(tasks(seed=2).start)


@pytest.mark.parametrize("wall", ["fixed", "random"])
def test_tasks_differ_from_the_dataset_with_the_same_seed(wall: str) -> None:
    config = TwoRoomsConfig(trajectories=200, steps=30, wall=wall, seed=0)
    dataset = inside(simulate(config).state.reshape(-1, 2))
    made = tasks(config, seed=0)
    assert len(dataset) > 1000
    assert not dataset & inside(made.start)


def test_random_walls_are_drawn_for_every_task() -> None:
    made = tasks(CONFIG.model_copy(update={"wall": "random"}))
    assert len(np.unique(made.rooms.wall_x)) == len(made.rooms.wall_x) == 200


def test_observations_equal_those_of_the_dataset() -> None:
    config = TwoRoomsConfig(trajectories=6, steps=3, image_size=24, dot_std=1.5)
    made, episodes = tasks(config, ahead=1, episodes=6), simulate(config)
    seen = made.observe(episodes.state[:, 2])
    assert seen.dtype == torch.uint8
    assert np.array_equal(seen.permute(0, 2, 3, 1).numpy(), episodes.pixels[:, 2])


def test_steps_equal_those_of_the_simulation() -> None:
    made, episodes = tasks(episodes=6), simulate(CONFIG)
    np.testing.assert_array_equal(made.step(episodes.state[:, 4], episodes.action[:, 4]), episodes.state[:, 5])


def test_a_file_has_no_environment() -> None:
    with pytest.raises(ConfigError, match=r"data\.path is d\.h5.*data\.builtin: two_rooms"):
        environment_of(DataConfig(path=Path("d.h5")), 25, 5, 0)
