"""The few collectives the loop needs, which do nothing in a single process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Communicator:
    """This process among `world` DDP workers."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Communicator:
        """From torch's process group, or a single process where there is none."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over ranks; parameters must start equal on all ranks."""
        return DistributedDataParallel(model) if self.world > 1 else model

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over ranks, on every rank."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def average(self, statistic: Tensor) -> Tensor:
        """Mean of a statistic over ranks, with gradients: that of the whole batch, as ranks hold equal shares."""
        return _AverageOverRanks.apply(statistic) if self.world > 1 else statistic

    def share(self, count: int) -> slice:
        """This rank's contiguous part of `count` items; the parts of all ranks make up the whole."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def gather(self, part: Tensor, count: int) -> Tensor:
        """The (count, ...) tensor of which each rank holds the rows of its `share`."""
        if self.world == 1:
            return part
        longest = -(-count // self.world)
        padded = part.new_zeros(longest, *part.shape[1:])
        padded[: len(part)] = part
        parts = [torch.empty_like(padded) for _ in range(self.world)]
        dist.all_gather(parts, padded)
        sizes = [s.stop - s.start for s in (Communicator(r, self.world).share(count) for r in range(self.world))]
        return torch.cat([p[:size] for p, size in zip(parts, sizes, strict=True)])


class _AverageOverRanks(torch.autograd.Function):
    """All-reduce whose backward all-reduces too.

    A plain `all_reduce` leaves each rank with its own gradient: right loss, wrong gradient, no error.
    """

    @staticmethod
    def forward(ctx: Any, statistic: Tensor) -> Tensor:
        return _mean(statistic)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # All ranks differentiate the same loss, each through its own part, and DDP averages what they find.
        return _mean(gradient)


def _mean(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
