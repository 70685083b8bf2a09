"""A cost model for the planners of stable-worldmodel: its solvers and its evaluation, with our model inside.

    policy = swm.policy.WorldModelPolicy(solver=swm.solver.CEMSolver(model=CostModel(world_model)), config=...)

The protocol (stable-worldmodel 0.1.1, `solver.Costable`): a solver calls `get_cost(info, candidates)` once an
iteration, with the same `info` dict throughout one planning problem, every value repeated for each of S candidates.
Give `WorldModelPolicy` neither `process` nor `transform`: our models take pixels and actions as the environment has
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jepa_ray.errors import DataError
from jepa_ray.world_model import WorldModel

ROLLOUT_ROWS = 4096  # candidates rolled out at once, which bounds the memory of a plan for many environments

Criterion = Callable[[Tensor, Tensor], Tensor]


def final_distance(predicted: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance (B,) of the last of predictions (B, K, D) to the goal (B, D)."""
    return (predicted[:, -1] - goal).square().mean(-1)


def path_distance(predicted: Tensor, goal: Tensor) -> Tensor:
    """As `final_distance`, averaged over the steps: a plan that comes near early is better than one that does late."""
    return (predicted - goal[:, None]).square().mean((1, 2))


class CostModel:
    """How far from the goal's embedding each candidate plan leads, by the model's open-loop roll-out.

    A candidate step may hold a block of several environment steps' actions. A model trained with as large a frameskip
    (actions side by side) predicts a block at a time, one trained on single steps an action at a time.

    Args:
        model: Trained on the environment's actions in their own units.
        criterion: Cost (B,) of predictions (B, K, D) and goal embeddings (B, D).
        action_bounds: (low, high) the environment clips actions to; candidates are clipped alike before the roll-out.
        observation: Key of the current observations in `info`, (B, S, T, H, W, C) uint8 pixels or (B, S, T, D_obs).
        goal: Key of the goal observations, of the same shape.
    """

    def __init__(
        self,
        model: WorldModel,
        *,
        criterion: Criterion = final_distance,
        action_bounds: tuple[float, float] | None = None,
        observation: str = "pixels",
        goal: str = "goal",
    ) -> None:
        self.model, self.criterion = model, criterion
        self._bounds, self._keys = action_bounds, (observation, goal)

    def get_cost(self, info_dict: dict[str, Any], action_candidates: Tensor) -> Tensor:
        """Costs (B, S), smaller is better, of candidates (B, S, H, block * A) for B planning problems.

        The observation and the goal are encoded at the first call for a problem; the embeddings stay in `info_dict`.
        Gradients flow into candidates that ask for them. Raises `DataError` where shapes don't fit the model.
        """
        problems, samples = action_candidates.shape[:2]
        start, goal = (
            self._embedding(info_dict, key)[:, None].expand(-1, samples, -1).flatten(0, 1) for key in self._keys
        )
        actions = self._actions(action_candidates.flatten(0, 1))
        parts = zip(*(torch.split(rows, ROLLOUT_ROWS) for rows in (start, actions, goal)), strict=True)
        costs = torch.cat([self.criterion(self.model.rollout(state, plan), target) for state, plan, target in parts])
        return costs.view(problems, samples).to(action_candidates.device)

    def _embedding(self, info: dict[str, Any], key: str) -> Tensor:
        """(B, D) of the latest frame under `key`, the same for every candidate; kept in `info`."""
        kept = f"jepa_ray.{key}"
        if kept not in info:
            if key not in info:
                raise DataError(f"info has no {key}, only {', '.join(sorted(info))}")
            info[kept] = self.model.encode(info[key][:, 0, -1])
        embedding: Tensor = info[kept]
        return embedding

    def _actions(self, candidates: Tensor) -> Tensor:
        """(B, H, block * A) as the model's own steps (B, K, A), or (B, K) of one-hot discrete actions."""
        width = self.model.num_actions or self.model.action_dim
        if candidates.shape[-1] % width:
            raise DataError(
                f"candidates have {candidates.shape[-1]} numbers a step, but the model takes {width}: the planner's"
                " action_block must be a multiple of the frameskip that the model was trained with"
            )
        steps = candidates.reshape(len(candidates), -1, width)  # (B, K, A)
        if self.model.num_actions:
            return steps.argmax(-1)
        return steps if self._bounds is None else steps.clamp(*self._bounds)
