"""The search space of a spec, as Optuna sees it. No torch, no Ray: `--dry-run` uses it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jepa_ray.config import Dimension, Range

Params = dict[str, Any]  # dotted key -> value


def distributions(space: dict[str, Dimension]) -> dict[str, BaseDistribution]:
    """One Optuna distribution per dotted key."""
    return {key: _distribution(dimension) for key, dimension in space.items()}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution([_hashable(choice) for choice in dimension])
    if dimension.integer:
        step = int(dimension.step) if dimension.step else 1
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _hashable(choice: Any) -> Any:
    return tuple(choice) if isinstance(choice, list) else choice


def size(space: dict[str, Dimension]) -> int | None:
    """Number of points of a finite space; None if a dimension is continuous."""
    counts = [len(values) if (values := _values(dimension)) else None for dimension in space.values()]
    return None if None in counts else math.prod(c for c in counts if c)


def points(space: dict[str, Dimension]) -> Iterator[Params]:
    """Every point of a finite space, the last key varying fastest."""
    axes = [_values(dimension) or [] for dimension in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*axes))


def _values(dimension: Dimension) -> list[Any] | None:
    """The values of a finite dimension, in order; None for a continuous one."""
    if not isinstance(dimension, Range):
        return [_hashable(choice) for choice in dimension]
    if dimension.integer and not dimension.log:
        return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))
    if dimension.integer:
        return list(range(int(dimension.low), int(dimension.high) + 1))
    if dimension.step:
        count = math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
        return [dimension.low + i * dimension.step for i in range(count)]
    return None
