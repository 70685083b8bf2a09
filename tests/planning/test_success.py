"""The planning protocol, with a perfect and a collapsed world model, and the published interval."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from torch import Tensor

from jepa_ray.config import PlanningConfig, TrainConfig, TwoRoomsConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.data.two_rooms import Rooms
from jepa_ray.errors import ConfigError
from jepa_ray.model.jepa import build_jepa
from jepa_ray.planning.environment import Floats, TwoRooms
from jepa_ray.planning.success import PlanningResult, Rate, evaluate_planning, plan_success, random_policy, run_episodes

PIXELS = DataSpec(observation_shape=(3, 32, 32), action_dim=2, num_actions=0, mean=(0.0,) * 3, std=(255.0,) * 3)
FAST: dict[str, Any] = {"samples": 32, "iterations": 2, "elites": 4, "episodes": 20, "budget": 30}


class Positions(TwoRooms):
    """Two Rooms with positions as observations, instead of frames."""

    def observe(self, state: Floats) -> Tensor:
        return torch.from_numpy(state)


@dataclass
class Truth:
    """A perfect world model: embeddings are positions, and predictions follow the true dynamics."""

    encoded: list[int] = field(default_factory=list)

    def encode(self, observation: Tensor) -> Tensor:
        self.encoded.append(len(observation))
        return observation

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        fixed = Rooms.sample(len(state), "fixed", np.random.default_rng(0))
        position, predictions = state.numpy(), []
        for action in actions.unbind(1):
            position = fixed.step(position, action.numpy())
            predictions.append(torch.from_numpy(position))
        return torch.stack(predictions, dim=1)


class Collapsed:
    """A collapsed world model, with loss 0 and cosine similarity 1."""

    def encode(self, observation: Tensor) -> Tensor:
        return torch.ones(len(observation), 4)

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        return torch.ones(*actions.shape[:2], 4)


def measure(world: Any, **settings: Any) -> PlanningResult:
    config = PlanningConfig(**FAST | settings)
    environment, floor = (
        Positions.sample(TwoRoomsConfig(), config.goal_ahead, n, config.seed) for n in (config.episodes, 200)
    )
    return evaluate_planning(world, environment, floor, config)


# ------------------------------------------------------------------------------- measurement


@pytest.mark.parametrize("planner", ["cem", "mppi"])
def test_a_perfect_model_reaches_its_goals(planner: str) -> None:
    assert measure(Truth(), planner=planner, samples=64, budget=50).success.successes >= 19


def test_a_collapsed_model_is_no_better_than_chance() -> None:
    result = measure(Collapsed(), episodes=60)
    assert result.success.interval[0] <= result.random.interval[1]
    assert result.success.value < 0.5


def test_random_actions_succeed_as_often_as_in_papers() -> None:
    """Papers report about 26 % for random actions on Two Rooms, with goals 25 steps ahead and a budget of 50."""
    floor = TwoRooms.sample(TwoRoomsConfig(), 25, 1000, 0)
    outcomes = run_episodes(floor, random_policy(floor, 0), 50).outcomes
    assert 0.2 < sum(outcome.success for outcome in outcomes) / 1000 < 0.35


def test_same_seed_same_result() -> None:
    first, same, other = measure(Truth()), measure(Truth()), measure(Truth(), seed=1)
    assert first == same
    assert first.outcomes != other.outcomes


def test_observations_are_encoded_once_a_step_and_goals_once() -> None:
    """Only unfinished episodes are encoded, so the number falls."""
    world = Truth()
    measure(world)
    goals, *steps = world.encoded
    assert goals == steps[0] == 20
    assert len(steps) <= 30
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] < 20


@pytest.mark.parametrize(("replan", "calls"), [(1, 10), (4, 3)])
def test_plans_are_made_again_after_the_given_number_of_steps(replan: int, calls: int) -> None:
    """10 steps; the goal is out of reach, so the episode does not end early."""
    world = Truth()
    config = PlanningConfig(**FAST | {"replan_every": replan, "budget": 10, "episodes": 1})
    far = Positions(
        Rooms(np.full(1, 16, np.float32), np.full(1, 9.6, np.float32)),
        np.full((1, 2), 2, np.float32),
        np.full((1, 2), 300, np.float32),
        32,
        2.0,
    )
    result = evaluate_planning(world, far, far, config)
    assert len(world.encoded) - 1 == calls
    assert result.outcomes[0].steps is None


class TestEpisodes:
    """In one dimension: an action moves x to the right; the goal is at a known distance."""

    @staticmethod
    def walk(distances: list[float], budget: int, push: float = 1.0) -> Any:
        count = len(distances)
        start = np.full((count, 2), 3, np.float32)
        goal = start + np.array([[d, 0] for d in distances], np.float32)
        rooms = Rooms(np.full(count, 31, np.float32), np.full(count, 9.6, np.float32))
        environment = TwoRooms(rooms, start, goal, 32, 2.0)
        return run_episodes(
            environment, lambda state, active: np.full((len(active), 7, 2), [push, 0], np.float32), budget
        )

    def test_success_is_the_first_step_within_tolerance(self) -> None:
        """3 px a step, tolerance 16 / 7 px: a goal 12 px ahead is reached at 12 - 9 = 3 > 2.29, so in the 4th step."""
        outcome = self.walk([12.0], 20).outcomes[0]
        assert (outcome.success, outcome.steps, outcome.distance) == (True, 4, 0.0)

    def test_an_episode_that_has_succeeded_stays_where_it_is(self) -> None:
        episodes = self.walk([6.0, 24.0], 20)
        assert [o.steps for o in episodes.outcomes] == [2, 8]
        assert episodes.states[-1, 0].tolist() == [9.0, 3.0]

    def test_the_budget_ends_it(self) -> None:
        episodes = self.walk([24.0], 5)
        assert len(episodes.states) == 6
        assert episodes.outcomes[0].steps is None
        assert episodes.outcomes[0].distance == pytest.approx(24 - 5 * 3)

    def test_the_last_step_of_the_budget_counts(self) -> None:
        assert [self.walk([12.0], budget).outcomes[0].success for budget in (3, 4)] == [False, True]


# ---------------------------------------------------------------------------------- the interval


@pytest.mark.parametrize(
    ("successes", "episodes", "low", "high"),
    [  # Newcombe (1998), table I, method 3; and the closed forms z^2 / (n + z^2) at the ends
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
        (50, 50, 0.92865, 1.0),
    ],
)
def test_wilson_interval_equals_published_values(successes: int, episodes: int, low: float, high: float) -> None:
    assert Rate(successes, episodes).interval == pytest.approx((low, high), abs=5e-5)


# ----------------------------------------------------------------------------- trained models


@pytest.fixture(scope="module")
def pixels_config() -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "model": {
                "encoder_type": "cnn",
                "latent_dim_state": 8,
                "transition_depth": 1,
                "transition_heads": 2,
                "cnn": {"channels": [4, 8]},
            },
            "data": {"builtin": "two_rooms"},
        }
    )


def test_plan_success_plans_with_a_jepa_and_records_episodes(pixels_config: TrainConfig) -> None:
    model = build_jepa(pixels_config.model, PIXELS)
    config = PlanningConfig(samples=8, iterations=1, elites=2, episodes=3, budget=4)
    result = plan_success(model, pixels_config, config, record=2)
    assert result.random.episodes == 1000
    assert len(result.recordings) == 2
    for recording, outcome in zip(result.recordings, result.outcomes, strict=False):
        steps = outcome.steps or 4
        assert recording.outcome == outcome
        assert recording.frames.shape == (steps + 1, 32, 32, 3)
        assert recording.path.shape == (steps + 1, 2)
        assert np.linalg.norm(32 * (recording.path[-1] - recording.goal)) == pytest.approx(outcome.distance, abs=1e-3)
    assert result == plan_success(model, pixels_config, config)


def test_discrete_actions_are_refused(pixels_config: TrainConfig) -> None:
    discrete = DataSpec(PIXELS.observation_shape, action_dim=0, num_actions=4, mean=PIXELS.mean, std=PIXELS.std)
    with pytest.raises(ConfigError, match=r"discrete.*continuous actions only"):
        plan_success(build_jepa(pixels_config.model, discrete), pixels_config, PlanningConfig())


def test_data_from_a_file_is_refused(pixels_config: TrainConfig) -> None:
    elsewhere = pixels_config.with_overrides({"data.builtin": None, "data.path": "d.h5"})
    with pytest.raises(ConfigError, match="no environment to plan in"):
        plan_success(build_jepa(pixels_config.model, PIXELS), elsewhere, PlanningConfig())


# --------------------------------------------------------------------------------------- config


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 10, "elites": 11}, r"elites is 11, but must not exceed samples \(10\)"),
        ({"horizon": 2, "action_block": 3, "replan_every": 7}, r"replan_every is 7.*\(2 x 3 = 6\)"),
        ({"planner": "random"}, "cem"),
        ({"temperature": 0}, "greater than 0"),
        ({"preset": "papers"}, "preset is papers, but must be one of: paper"),
        ({"horizons": 3}, "horizons"),
    ],
)
def test_bad_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        PlanningConfig.model_validate(settings)


def test_mppi_needs_no_elites() -> None:
    assert PlanningConfig(planner="mppi", samples=4).samples == 4


def test_the_paper_preset_is_the_common_protocol() -> None:
    paper = PlanningConfig.model_validate({"preset": "paper"})
    assert (paper.planner, paper.samples, paper.iterations, paper.elites) == ("cem", 300, 30, 30)
    assert (paper.horizon, paper.action_block, paper.episodes) == (5, 5, 50)
    assert (paper.goal_ahead, paper.budget) == (25, 50)


def test_given_values_take_precedence_over_the_preset() -> None:
    paper = PlanningConfig.model_validate({"preset": "paper", "samples": 100})
    assert (paper.samples, paper.iterations) == (100, 30)
    assert PlanningConfig.model_validate(paper.model_dump()) == paper
