"""The cost of a plan, compared with a computation by hand."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from jepa_ray.planning import goal as goal_module
from jepa_ray.planning.goal import goal_cost


class Adder:
    """A world model whose embeddings are positions and whose actions are displacements."""

    def encode(self, observation: Tensor) -> Tensor:
        return observation

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        return state[:, None] + actions.cumsum(1)


def random(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape)))


def by_hand(state: Tensor, goal: Tensor, plans: Tensor, block: int) -> Tensor:
    """The same cost, one candidate and one step at a time."""
    costs = torch.zeros(plans.shape[:2])
    for e in range(plans.shape[0]):
        for n in range(plans.shape[1]):
            position, distances = state[e], []
            for action in plans[e, n]:
                for _ in range(block):
                    position = position + action
                    distances.append(((position - goal[e]) ** 2).mean())
            costs[e, n] = torch.stack(distances).min()
    return costs


@pytest.mark.parametrize("block", [1, 3])
@pytest.mark.parametrize("chunk", [1024, 5])  # 5 divides neither the episodes nor the candidates
def test_is_the_distance_of_the_closest_step(monkeypatch: pytest.MonkeyPatch, block: int, chunk: int) -> None:
    monkeypatch.setattr(goal_module, "CHUNK", chunk)
    state, goal, plans = random(3, 2), random(4, 3, 2)[0], random(3, 4, 2, 2)
    cost = goal_cost(Adder(), state, goal, block)(plans)
    torch.testing.assert_close(cost, by_hand(state, goal, plans, block))


def test_passing_the_goal_is_as_good_as_ending_there() -> None:
    ends, passes, misses = torch.tensor([[[0.5], [0.5]], [[1.0], [3.0]], [[0.4], [0.4]]])
    cost = goal_cost(Adder(), torch.zeros(1, 1), torch.ones(1, 1), 1)(torch.stack([ends, passes, misses])[None])
    torch.testing.assert_close(cost, torch.tensor([[0.0, 0.0, 0.04]]))
