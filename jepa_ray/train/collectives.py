"""The collective operations that the training loop needs. They have no effect in a single process."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel


@dataclass(frozen=True)
class Communicator:
    """The number `rank` of this process among the `world` DDP workers, and their collective operations."""

    rank: int = 0
    world: int = 1

    @classmethod
    def current(cls) -> Communicator:
        """That of torch's process group; a single process if no group is initialized."""
        return cls(dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else cls()

    def wrap(self, model: nn.Module) -> nn.Module:
        """`model` with gradients averaged over ranks. The parameters must be equal on all ranks at the start."""
        return DistributedDataParallel(model) if self.world > 1 else model

    def sum(self, values: Tensor) -> Tensor:
        """Sum of `values` over ranks, on every rank; `values` may be changed in place."""
        if self.world > 1:
            dist.all_reduce(values)
        return values

    def average(self, statistic: Tensor) -> Tensor:
        """Mean of a batch statistic over ranks, with gradients.

        This is the statistic of the whole batch if it is a mean over samples, since all ranks have equal shares.
        """
        return _AverageOverRanks.apply(statistic) if self.world > 1 else statistic

    def share(self, count: int) -> slice:
        """This rank's contiguous part of `count` items. Each item belongs to exactly one rank."""
        return slice(self.rank * count // self.world, (self.rank + 1) * count // self.world)

    def gather(self, part: Tensor, count: int) -> Tensor:
        """The whole (count, ...) tensor on every rank; `part` has the rows of this rank's `share`."""
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
    """An all-reduce whose backward pass is an all-reduce, too.

    With a plain `all_reduce` each rank would keep only its own gradient: the loss would be right, the gradient wrong,
    and no error would be raised.
    """

    @staticmethod
    def forward(ctx: Any, statistic: Tensor) -> Tensor:
        return _mean(statistic)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        # All ranks differentiate the same loss, each through its own part, and DDP averages these gradients.
        return _mean(gradient)


def _mean(values: Tensor) -> Tensor:
    total = values.clone(memory_format=torch.contiguous_format)
    dist.all_reduce(total)
    return total / dist.get_world_size()
