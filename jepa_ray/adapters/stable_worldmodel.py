"""A cost model for stable-worldmodel: its solvers and its evaluation then plan with a model of this package.

    policy = swm.policy.WorldModelPolicy(solver=swm.solver.CEMSolver(model=CostModel(world_model)), config=...)

The protocol (stable-worldmodel 0.1.1, `solver.Costable`): a solver calls `get_cost(info, candidates)` once per
iteration. The `info` dict stays the same during one planning problem, and repeats every value for each of S candidates.
Do not pass `process` or `transform` to `WorldModelPolicy`: the models take pixels and actions as the environment has
them.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from jepa_ray.errors import DataError
from jepa_ray.world_model import WorldModel

ROLLOUT_ROWS = 4096  # candidates rolled out at once, which limits the memory for many environments

Criterion = Callable[[Tensor, Tensor], Tensor]


def final_distance(predicted: Tensor, goal: Tensor) -> Tensor:
    """Mean squared distance (B,) of the last prediction of (B, K, D) to the goal (B, D)."""
    return (predicted[:, -1] - goal).square().mean(-1)


def path_distance(predicted: Tensor, goal: Tensor) -> Tensor:
    """As `final_distance`, averaged over the steps: reaching the goal earlier costs less."""
    return (predicted - goal[:, None]).square().mean((1, 2))


class CostModel:
    """The distance to the goal's embedding that each candidate plan leads to, by the model's open-loop roll-out.

    A candidate step may be a block with the actions of several environment steps. A model that was trained with a
    frameskip of the same size predicts one block at a time; a model of single steps predicts one action at a time.

    Args:
        model: a model that was trained on the environment's actions, in their own units.
        criterion: cost (B,) of predictions (B, K, D) and goal embeddings (B, D).
        action_bounds: (low, high) to which the environment clips actions; candidates are clipped in the same way.
        observation: key of the current observations in `info`, (B, S, T, H, W, C) uint8 pixels or (B, S, T, D_obs).
        goal: key of the goal observations, of the same shape.
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

        Observation and goal are encoded in the first call for a problem; their embeddings are stored in `info_dict`.
        Gradients flow to candidates with `requires_grad`. Raises `DataError` if shapes do not fit the model.
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
        """The embedding (B, D) of the latest frame under `key`, the same for all candidates; it is stored in `info`."""
        stored = f"jepa_ray.{key}"
        if stored not in info:
            if key not in info:
                raise DataError(f"info has no {key}, only {', '.join(sorted(info))}")
            info[stored] = self.model.encode(info[key][:, 0, -1])
        embedding: Tensor = info[stored]
        return embedding

    def _actions(self, candidates: Tensor) -> Tensor:
        """Candidates (B, H, block * A) as the model's own steps: (B, K, A), or (B, K) for one-hot discrete actions."""
        width = self.model.num_actions or self.model.action_dim
        if candidates.shape[-1] % width:
            raise DataError(
                f"candidates have {candidates.shape[-1]} numbers per step, but the model takes {width}: the planner's"
                " action_block must be a multiple of the frameskip that the model was trained with"
            )
        steps = candidates.reshape(len(candidates), -1, width)  # (B, K, A)
        if self.model.num_actions:
            return steps.argmax(-1)
        return steps if self._bounds is None else steps.clamp(*self._bounds)
