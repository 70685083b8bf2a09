"""The cost of a plan: the distance to the goal's embedding that the world model predicts."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from jepa_ray.planning.planners import Cost

# Roll-outs computed together on a CPU: enough to outweigh the call's overhead, few enough to fit in the CPU's cache.
CHUNK = 1024


class World(Protocol):
    """The interface of a world model for planning, such as a `JEPA`. Its methods are called without gradients."""

    def encode(self, observation: Tensor) -> Tensor:
        """Embeddings (B, D) of raw observations (B, ...)."""
        ...

    def rollout(self, state: Tensor, actions: Tensor) -> Tensor:
        """Embeddings (B, K, D) 1 to K steps after embeddings (B, D) under raw actions (B, K, A)."""
        ...


def goal_cost(world: World, state: Tensor, goal: Tensor, action_block: int) -> Cost:
    """Squared distance to the goal's embedding, averaged over dimensions, at the step that is closest to it.

    A plan only has to pass the goal, not to end there, since later actions are planned again. Large latent distances
    are uninformative, and the closest step has the smallest one. With the distance of the last step, or the average of
    all steps, fewer episodes succeed (EXPERIMENTS.md).

    Args:
        world: the world model that rolls the plans out.
        state: (E, D), embeddings of the current observations.
        goal: (E, D), embeddings of the goals.
        action_block: the number of environment steps for which each planned action is repeated.
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
