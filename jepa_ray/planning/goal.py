"""What a plan costs: how far from the goal's embedding the world model says it leads."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from jepa_ray.planning.planners import Cost

# Roll-outs computed together on a CPU: enough to pay for a call, few enough for their activations to stay in its cache.
CHUNK = 1024


class World(Protocol):
    """What planning needs of a world model: a `JEPA`, or anything that predicts embeddings. It takes no gradients."""

    def encode(self, observation: Tensor) -> Tensor:
        """Embeddings (B, D) of raw observations (B, ...)."""
        ...

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """Embeddings (B, K, D) 1 to K steps after embeddings (B, D) under raw actions (B, K, A)."""
        ...


def goal_cost(world: World, state: Tensor, goal: Tensor, action_block: int) -> Cost:
    """Squared distance to the goal's embedding, averaged over dimensions, at the step that comes closest.

    A plan needs to pass the goal, not to end there: what follows is planned anew. Distances to far states say little,
    and at the closest step it is the least. With the last step's distance, or the average of all, fewer plans
    succeed (EXPERIMENTS.md).

    Args:
        world: what rolls the plans out.
        state: (E, D), embeddings of what is seen now.
        goal: (E, D), embeddings of the goals; both are computed once per planning step.
        action_block: steps that each planned action is held for.
    """

    def cost(plans: Tensor) -> Tensor:  # (E, N, H, A) -> (E, N)
        samples = plans.shape[1]
        actions = plans.flatten(0, 1).repeat_interleave(action_block, dim=1)  # (E * N, T, A)
        starts, goals = (x.repeat_interleave(samples, dim=0) for x in (state, goal))  # (E * N, D)
        size = CHUNK if plans.device.type == "cpu" else len(actions)
        distances = [
            (world.rollout(start, taken) - wanted[:, None]).square_().mean(2).amin(1)
            for start, taken, wanted in zip(starts.split(size), actions.split(size), goals.split(size), strict=True)
        ]
        return torch.cat(distances).unflatten(0, (-1, samples))

    return cost
