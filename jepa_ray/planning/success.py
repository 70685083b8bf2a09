"""The success rate of planning with a world model: the protocol, and its results."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from jepa_ray.config import PlanningConfig, TrainConfig
from jepa_ray.errors import ConfigError
from jepa_ray.model.jepa import JEPA
from jepa_ray.planning.environment import Environment, Floats, environment_of
from jepa_ray.planning.goal import World, goal_cost
from jepa_ray.planning.planners import CEM, MPPI, Box, Planner, shifted

# Tasks for the random policy: they are cheap, and its success rate is then known to within 3 percentage points.
RANDOM_EPISODES = 1000
RANDOM_STREAM = 0x72616E64  # first part of the random policy's seed: its stream differs from that of the tasks
Z_95 = 1.959964  # quantile of the normal distribution for a 95 % interval

# Actions for the unfinished episodes, given by index: (states (E, S), index (M,)) -> actions (M, T, A), T >= 1 steps
Policy = Callable[[Floats, NDArray[np.intp]], Floats]


@dataclass(frozen=True)
class Rate:
    """Successes out of independent episodes."""

    successes: int
    episodes: int

    @property
    def value(self) -> float:
        """The success rate, in [0, 1]."""
        return self.successes / self.episodes

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % score interval of Wilson (1927), which is accurate for few episodes and for rates near 0 and 1."""
        n, p, z2 = self.episodes, self.value, Z_95**2
        centre = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z_95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, centre - half), min(1.0, centre + half)

    def __str__(self) -> str:
        low, high = self.interval
        return f"{self.value:.0%} [{low:.0%}, {high:.0%}] of {self.episodes}"


@dataclass(frozen=True)
class Outcome:
    """The end of one episode."""

    success: bool
    steps: int | None  # environment steps until the goal was reached, None if it never was
    distance: float  # to the goal at the end of the episode: on success, or when the budget was used up


@dataclass(frozen=True)
class EpisodeRecording:
    """The frames and the path of one episode, for pictures."""

    outcome: Outcome
    frames: NDArray[np.uint8]  # (steps + 1, H, W, C)
    path: Floats  # (steps + 1, 2), x and y as fractions of the frame
    goal: Floats  # (2,)


@dataclass(frozen=True)
class PlanningResult:
    """Success of a world model under a protocol. Equal seeds give equal results, except for the times."""

    success: Rate
    random: Rate  # of uniformly random actions under the same protocol, on more tasks from the same distribution
    outcomes: tuple[Outcome, ...]  # one per episode
    seconds_per_planning_step: float = field(compare=False)  # mean; all unfinished episodes are planned in one step
    recordings: tuple[EpisodeRecording, ...] = field(compare=False, repr=False)


def plan_success(
    model: JEPA,
    train_config: TrainConfig,
    planning_config: PlanningConfig,
    *,
    device: torch.device | str = "cpu",
    record: int = 0,
) -> PlanningResult:
    """Plan with a trained model in the environment of its data, and count the goals that it reaches.

    Args:
        model: the model; it is put in eval mode and moved to `device`, and stays so.
        train_config: its data determines the environment; the tasks are new, none is from the dataset.
        planning_config: planner and protocol.
        device: the device to plan on.
        record: the number of episodes to record for pictures.

    Raises:
        ConfigError: the data has no environment for planning, or its actions are discrete.
    """
    if isinstance(model.action_encoder, nn.Embedding):
        raise ConfigError("planning: the model's actions are discrete, but cem and mppi plan continuous actions only")
    config = planning_config
    environment, random_environment = (
        environment_of(train_config.data, config.goal_ahead, episodes, config.seed)
        for episodes in (config.episodes, RANDOM_EPISODES)
    )
    world = model.to(device).eval()
    return evaluate_planning(world, environment, random_environment, config, device=device, record=record)


def evaluate_planning(
    world: World,
    environment: Environment,
    random_environment: Environment,
    config: PlanningConfig,
    *,
    device: torch.device | str = "cpu",
    record: int = 0,
) -> PlanningResult:
    """As `plan_success`, for any world model and environment.

    The random policy has an environment of its own, with more tasks from the same distribution.
    """
    controller = Controller(world, environment, config, torch.device(device))
    episodes = run_episodes(environment, controller, config.budget)
    random_episodes = run_episodes(random_environment, random_policy(random_environment, config.seed), config.budget)
    return PlanningResult(
        success=_rate(episodes.outcomes),
        random=_rate(random_episodes.outcomes),
        outcomes=episodes.outcomes,
        seconds_per_planning_step=controller.seconds / controller.planning_steps,
        recordings=_recordings(environment, episodes, record),
    )


def _rate(outcomes: tuple[Outcome, ...]) -> Rate:
    return Rate(sum(outcome.success for outcome in outcomes), len(outcomes))


# ------------------------------------------------------------------------------------- episodes


@dataclass(frozen=True)
class Episodes:
    """The episodes of one policy."""

    outcomes: tuple[Outcome, ...]
    states: Floats  # (steps + 1, E, S); an episode that has succeeded stays where it is


def run_episodes(environment: Environment, policy: Policy, budget: int) -> Episodes:
    """Run all episodes from their starts until they succeed, at any step, or have used `budget` steps."""
    state = environment.start
    states = [state]
    reached = np.zeros(len(state), np.intp)  # step at which an episode succeeded; 0: not yet
    while len(states) <= budget and not reached.all():
        active = np.flatnonzero(reached == 0)
        for action in policy(state, active).swapaxes(0, 1)[: budget + 1 - len(states)]:
            state = _advance(environment, state, action, active, reached == 0)
            reached[(reached == 0) & (environment.distance(state) <= environment.tolerance)] = len(states)
            states.append(state)
    distance = environment.distance(state)
    outcomes = tuple(Outcome(bool(n), int(n) or None, float(d)) for n, d in zip(reached, distance, strict=True))
    return Episodes(outcomes, np.stack(states))


def _advance(
    environment: Environment, state: Floats, action: Floats, active: NDArray[np.intp], moving: NDArray[np.bool_]
) -> Floats:
    """States (E, S) after one step of the `moving` episodes; `action` (M, A) belongs to the `active` ones."""
    actions = np.zeros((len(state), action.shape[1]), np.float32)
    actions[active] = action
    return np.where(moving[:, None], environment.step(state, actions), state)


def random_policy(environment: Environment, seed: int) -> Policy:
    """A policy whose actions are drawn uniformly from the bounds at every step."""
    rng = np.random.default_rng([RANDOM_STREAM, seed])
    low, high = environment.bounds

    def policy(state: Floats, active: NDArray[np.intp]) -> Floats:
        return rng.uniform(low, high, (len(state), 1, len(low))).astype(np.float32)[active]

    return policy


class Controller:
    """Model-predictive control: plan from the observation, take the first actions, then plan again."""

    def __init__(self, world: World, environment: Environment, config: PlanningConfig, device: torch.device) -> None:
        self._world, self._environment, self._config, self._device = world, environment, config, device
        self._planner = make_planner(config)
        self._box = Box(*(torch.from_numpy(bound).to(device) for bound in environment.bounds))
        self._generator = torch.Generator(device).manual_seed(config.seed)
        self._plan = self._box.centre.expand(len(environment.start), config.horizon, -1)  # (E, H, A)
        with torch.inference_mode():
            self._goal = world.encode(environment.observe(environment.goal).to(device))  # (E, D)
        self.seconds = 0.0  # spent on planning
        self.planning_steps = 0

    @torch.inference_mode()
    def __call__(self, state: Floats, active: NDArray[np.intp]) -> Floats:
        """The next `replan_every` actions (M, T, A) of the active episodes (M,)."""
        seen = self._environment.observe(state)[torch.from_numpy(active)].to(self._device)
        started = time.perf_counter()
        actions = self._next_actions(seen, torch.from_numpy(active).to(self._device)).cpu()
        self.seconds += time.perf_counter() - started
        self.planning_steps += 1
        return actions.numpy()

    def _next_actions(self, seen: Tensor, active: Tensor) -> Tensor:
        block, steps = self._config.action_block, self._config.replan_every
        cost = goal_cost(self._world, self._world.encode(seen), self._goal[active], block)
        plan = self._planner(cost, self._plan[active], self._box, self._generator)
        self._plan = self._plan.index_copy(0, active, shifted(plan, steps, block, self._box.centre))
        return plan.repeat_interleave(block, dim=1)[:, :steps]


def make_planner(config: PlanningConfig) -> Planner:
    """The planner that a config describes."""
    if config.planner == "cem":
        return CEM(config.samples, config.iterations, config.elites)
    return MPPI(config.samples, config.iterations, config.temperature)


def _recordings(environment: Environment, episodes: Episodes, count: int) -> tuple[EpisodeRecording, ...]:
    """Recordings of the first `count` episodes."""
    if not count:
        return ()
    frames = np.stack([_frames(environment, state, count) for state in episodes.states], 1)  # (count, steps + 1, ...)
    paths = np.stack([environment.locate(state)[:count] for state in episodes.states], 1)  # (count, steps + 1, 2)
    goals = environment.locate(environment.goal)
    ends = [(outcome.steps or len(episodes.states) - 1) + 1 for outcome in episodes.outcomes]
    return tuple(
        EpisodeRecording(outcome, frames[e, : ends[e]], paths[e, : ends[e]], goals[e])
        for e, outcome in enumerate(episodes.outcomes[:count])
    )


def _frames(environment: Environment, state: Floats, count: int) -> NDArray[np.uint8]:
    return environment.observe(state)[:count].permute(0, 2, 3, 1).numpy()
