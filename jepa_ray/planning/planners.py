"""Planners: they search for the cheapest action sequence, for all episodes at once, with any cost function."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

Cost = Callable[[Tensor], Tensor]  # candidates (E, N, H, A) -> costs (E, N), lower is better


@dataclass(frozen=True)
class Box:
    """Bounds of continuous actions, each (A,)."""

    low: Tensor
    high: Tensor

    @property
    def centre(self) -> Tensor:
        return (self.low + self.high) / 2

    @property
    def half_range(self) -> Tensor:
        return (self.high - self.low) / 2


class Planner(Protocol):
    """The interface of a planner."""

    def __call__(self, cost: Cost, plan: Tensor, box: Box, generator: torch.Generator) -> Tensor:
        """The best plans (E, H, A) in `box` from a search that starts around `plan` (E, H, A)."""
        ...


@dataclass(frozen=True)
class CEM:
    """Cross-entropy method (Rubinstein 1999): refit a diagonal Gaussian to the `elites` cheapest of `samples` plans.

    Spreads are in units of half the action range. The result is the last mean, as in PlaNet (Hafner et al. 2019).
    """

    samples: int
    iterations: int
    elites: int
    spread: float = 1.0  # standard deviation of the first iteration
    least_spread: float = 0.05  # lower bound, so that the search does not stop too early

    def __call__(self, cost: Cost, plan: Tensor, box: Box, generator: torch.Generator) -> Tensor:
        mean, std = plan, (self.spread * box.half_range).expand_as(plan)
        for _ in range(self.iterations):
            candidates = _around(mean, std, self.samples, box, generator)  # (E, N, H, A)
            cheapest = cost(candidates).topk(self.elites, dim=1, largest=False).indices  # (E, elites)
            elites = candidates.take_along_dim(cheapest[..., None, None], dim=1)
            mean = elites.mean(1)
            std = elites.std(1, correction=0).maximum(self.least_spread * box.half_range)
        return mean


@dataclass(frozen=True)
class MPPI:
    """Model-predictive path integral control (Williams et al. 2017): the mean of all plans, weighted by exp(-cost).

    Costs are first standardised over an episode's candidates, so that `temperature` does not depend on the scale of the
    latent space: with 0.1, a plan that is one standard deviation more expensive has a weight e^-10 times as large.
    """

    samples: int
    iterations: int
    temperature: float
    spread: float = 0.5  # standard deviation of the samples, in units of half the action range

    def __call__(self, cost: Cost, plan: Tensor, box: Box, generator: torch.Generator) -> Tensor:
        std = (self.spread * box.half_range).expand_as(plan)
        for _ in range(self.iterations):
            candidates = _around(plan, std, self.samples, box, generator)  # (E, N, H, A)
            costs = cost(candidates)  # (E, N)
            scale = costs.std(1, keepdim=True, correction=0).clamp_min(torch.finfo(costs.dtype).tiny)
            weights = torch.softmax(-costs / scale / self.temperature, dim=1)
            plan = torch.einsum("en,enha->eha", weights, candidates)
        return plan


def _around(mean: Tensor, std: Tensor, samples: int, box: Box, generator: torch.Generator) -> Tensor:
    """Gaussian candidates (E, N, H, A), clipped to the box; the first one is the mean itself.

    All episodes share the same noise, so an episode's plan does not depend on the other episodes of the batch.
    """
    noise = torch.randn(samples, *mean.shape[1:], generator=generator, device=mean.device)
    noise[0] = 0
    return (mean[:, None] + std[:, None] * noise).clamp(box.low, box.high)


def shifted(plan: Tensor, steps: int, block: int, rest: Tensor) -> Tensor:
    """The rest of plans (E, H, A) after `steps` steps, with each planned action repeated for `block` steps.

    The end is filled with `rest` (A,). If `steps` is not a multiple of `block`, neighbouring actions are averaged.
    """
    primitive = plan.repeat_interleave(block, dim=1)  # (E, T, A)
    left = torch.cat([primitive[:, steps:], rest.expand_as(primitive[:, :steps])], dim=1)
    return left.unflatten(1, (-1, block)).mean(2)
