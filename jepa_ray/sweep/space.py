"""The search space of a spec, as Optuna sees it. No torch, no Ray: `--dry-run` uses it.

Optuna stores choices that are numbers, strings, booleans or null; a choice that is a list goes in as its JSON text and
comes out through `decode`.
"""

from __future__ import annotations

import itertools
import json
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
        return CategoricalDistribution([_label(choice) for choice in dimension])
    if dimension.integer:
        step = int(dimension.step) if dimension.step else 1
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _label(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list) else choice


def decode(space: dict[str, Dimension], params: Params) -> Params:
    """Parameters as a config takes them, from Optuna's."""
    lists = {
        key: {_label(c): c for c in d if isinstance(c, list)} for key, d in space.items() if not isinstance(d, Range)
    }
    return {key: lists.get(key, {}).get(value, value) for key, value in params.items()}


def identity(params: Params) -> tuple[Any, ...]:
    """What tells two points apart: Optuna's parameters, floats to 12 digits, since samplers round the last ones."""
    rounded = {key: float(f"{value:.12g}") if isinstance(value, float) else value for key, value in params.items()}
    return tuple(sorted(rounded.items()))


def size(space: dict[str, Dimension]) -> int | None:
    """Number of points of a finite space; None if a dimension is continuous."""
    counts = [len(values) if (values := _values(dimension)) else None for dimension in space.values()]
    return None if None in counts else math.prod(c for c in counts if c)


def points(space: dict[str, Dimension]) -> Iterator[Params]:
    """Every point of a finite space in Optuna's parameters, the last key varying fastest."""
    axes = [_values(dimension) or [] for dimension in space.values()]
    return (dict(zip(space, point, strict=True)) for point in itertools.product(*axes))


def _values(dimension: Dimension) -> list[Any] | None:
    """The values of a finite dimension, in order; None for a continuous one."""
    if not isinstance(dimension, Range):
        return [_label(choice) for choice in dimension]
    if dimension.integer and not dimension.log:
        return list(range(int(dimension.low), int(dimension.high) + 1, int(dimension.step or 1)))
    if dimension.integer:
        return list(range(int(dimension.low), int(dimension.high) + 1))
    if dimension.step:
        count = math.floor((dimension.high - dimension.low) / dimension.step + 1e-9) + 1
        return [min(dimension.low + i * dimension.step, dimension.high) for i in range(count)]
    return None
