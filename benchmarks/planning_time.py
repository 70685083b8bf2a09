"""Time of one planning step: the package, with all episodes at once, compared with a simple loop over episodes.

    python benchmarks/planning_time.py [--config configs/two_rooms.yaml] [--episodes 50] [--rounds 3] [--threads 1]

A and B plan the same tasks of Two Rooms with the same model (its weights do not affect the time), the same CEM (300
samples x 30 iterations, 30 elites, horizon 5), the same cost and the same number of threads. The rounds are A B C A B
C ..., so that a ratio compares steps of the same minute. The first round is a warm-up.

- A, package: `CEM` and `goal_cost` as `plan_success` uses them.
- B, loop: for each episode and iteration, encode observation and goal, roll the candidates out step by step with
  `model.predict`, and refit. The candidates of an iteration are one batch, and no gradients are computed.
- C, package with the default settings of `PlanningConfig`, which succeed as often (EXPERIMENTS.md).

The mean cost of the plans of A and B is printed too. It must be equal up to the noise of the search.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from spread import Spread, paired_ratios, show
from torch import Tensor

from jepa_ray import cli
from jepa_ray.config import PlanningConfig, load_train_config
from jepa_ray.data.spec import DataSpec
from jepa_ray.model.jepa import JEPA, build_jepa
from jepa_ray.planning.environment import TwoRooms
from jepa_ray.planning.goal import goal_cost
from jepa_ray.planning.planners import Box
from jepa_ray.planning.success import make_planner

CONFIG = Path(__file__).parents[1] / "configs/two_rooms.yaml"
SAMPLES, ITERATIONS, ELITES, HORIZON = 300, 30, 30, 5
LEAST_STD = 0.05

Side = Callable[[], Tensor]  # plans for all episodes (E, H, A)


def main(
    config: Annotated[Path, typer.Option(help="Train config of the model.")] = CONFIG,
    episodes: Annotated[int, typer.Option(min=1, help="Episodes that are planned in one step.")] = 50,
    rounds: Annotated[int, typer.Option(min=1, help="Counted steps of each side.")] = 3,
    threads: Annotated[int, typer.Option(min=1, help="Threads of torch, for all sides.")] = 1,
) -> None:
    """Measure the sides and print seconds, ratios and the costs of the plans."""
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    console = cli.console()
    train = load_train_config(config)
    size = train.data.two_rooms.image_size
    spec = DataSpec((3, size, size), action_dim=2, num_actions=0, mean=(10.0,) * 3, std=(30.0,) * 3)
    model = build_jepa(train.model, spec).eval()
    tasks = TwoRooms.sample(train.data.two_rooms, 25, episodes, 0)
    observation, goal = tasks.observe(tasks.start), tasks.observe(tasks.goal)
    same = PlanningConfig(samples=SAMPLES, iterations=ITERATIONS, elites=ELITES, horizon=HORIZON, action_block=1)
    sides: dict[str, Side] = {
        "A package": lambda: package(model, observation, goal, same),
        "B loop": lambda: loop(model, observation, goal),
        "C package, default settings": lambda: package(model, observation, goal, PlanningConfig()),
    }
    seconds = in_rounds(sides, rounds, console)
    report(console, f"{episodes} episodes, {threads} thread(s), {config.name}", seconds)
    for name in ("A package", "B loop"):
        console.print(f"mean cost of the plans, {name}: {mean_cost(model, observation, goal, sides[name]()):.5f}")


def in_rounds(sides: dict[str, Side], rounds: int, console: Console) -> dict[str, list[float]]:
    """Seconds of every side and round, without the warm-up in round 0."""
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    for number in range(rounds + 1):
        for name, run in sides.items():
            started = time.perf_counter()
            run()
            seconds[name].append(time.perf_counter() - started)
        seen = "  ".join(f"{name} {values[-1]:.2f}" for name, values in seconds.items())
        console.print(f"round {number}{'' if number else ' (warm-up)'}: {seen} s", highlight=False)
    return {name: values[1:] for name, values in seconds.items()}


def report(console: Console, title: str, seconds: dict[str, list[float]]) -> None:
    show(console, f"one planning step, seconds: {title}", {k: Spread.of(v) for k, v in seconds.items()})
    package_, loop_, default = seconds.values()
    show(console, "ratio per round", {"B / A": paired_ratios(loop_, package_), "B / C": paired_ratios(loop_, default)})


@torch.inference_mode()
def mean_cost(model: JEPA, observation: Tensor, goal: Tensor, plans: Tensor) -> float:
    cost = goal_cost(model, model.encode(observation), model.encode(goal), 1)
    return float(cost(plans[:, None]).mean())


@torch.inference_mode()
def package(model: JEPA, observation: Tensor, goal: Tensor, config: PlanningConfig) -> Tensor:
    box = Box(-torch.ones(2), torch.ones(2))
    cost = goal_cost(model, model.encode(observation), model.encode(goal), config.action_block)
    plan = torch.zeros(len(observation), config.horizon, 2)
    return make_planner(config)(cost, plan, box, torch.Generator().manual_seed(0))


@torch.no_grad()
def loop(model: JEPA, observation: Tensor, goal: Tensor) -> Tensor:
    """The simple implementation: a loop over episodes and steps."""
    plans = []
    for e in range(len(observation)):
        mean, std = torch.zeros(HORIZON, 2), torch.ones(HORIZON, 2)
        for _ in range(ITERATIONS):
            state = model.encode(observation[e : e + 1]).expand(SAMPLES, -1)
            wanted = model.encode(goal[e : e + 1])
            candidates = (mean + std * torch.randn(SAMPLES, HORIZON, 2)).clamp(-1, 1)
            distances = []
            for step in range(HORIZON):
                state = model.predict(state, candidates[:, step])
                distances.append((state - wanted).square().mean(1))
            costs = torch.stack(distances).amin(0)
            elites = candidates[costs.topk(ELITES, largest=False).indices]
            mean, std = elites.mean(0), elites.std(0).clamp_min(LEAST_STD)
        plans.append(mean)
    return torch.stack(plans)


if __name__ == "__main__":
    typer.run(main)
