"""The search space of a spec in terms of Optuna. No torch, no Ray: `--dry-run` uses it.

Optuna stores choices that are numbers, strings, booleans or null. A choice that is a list is stored as JSON text, and
`decode` turns it back. A point has no value for a key whose condition does not hold: the base config's value applies.
"""

from __future__ import annotations

import functools
import json
import math
import operator
import random
from collections.abc import Iterable, Iterator
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from jepa_ray.config import SweepConfig, dimensions
from jepa_ray.config.dimensions import Dimension, Params, Range, Space


def distributions(space: Space) -> dict[str, BaseDistribution]:
    """One Optuna distribution per dotted key; a key comes after the keys that its condition names."""
    return {key: _distribution(space[key]) for key in dimensions.ordered(space)}


def _distribution(dimension: Dimension) -> BaseDistribution:
    if not isinstance(dimension, Range):
        return CategoricalDistribution(_labels(dimension))
    if dimension.integer:
        step = int(dimension.step) if dimension.step else 1
        return IntDistribution(int(dimension.low), int(dimension.high), log=dimension.log, step=step)
    return FloatDistribution(dimension.low, dimension.high, log=dimension.log, step=dimension.step)


def _label(choice: Any) -> Any:
    return json.dumps(choice) if isinstance(choice, list) else choice


def _labels(dimension: Dimension) -> list[Any]:
    return [_label(value) for value in dimensions.values(dimension) or []]


def active(dimension: Dimension, params: Params) -> bool:
    """Whether a dimension's condition holds, given Optuna's parameters of the keys before it."""
    return all(
        parent in params and _rounded(params[parent]) in [_rounded(_label(value)) for value in allowed]
        for parent, allowed in dimensions.conditions(dimension).items()
    )


def decode(space: Space, params: Params) -> Params:
    """Turn Optuna's parameters into the overrides of a train config."""
    lists = {key: {_label(c): c for c in dimensions.values(d) or [] if isinstance(c, list)} for key, d in space.items()}
    return {key: lists.get(key, {}).get(value, value) for key, value in params.items()}


def encode(space: Space, params: Params) -> Params:
    """Turn overrides of a train config into Optuna's parameters. Raises `ValueError` for a value outside the space."""
    return {key: _label(dimensions.resolve(space[key], value)) for key, value in params.items()}


def project(space: Space, values: Params) -> Params | None:
    """The point of the space that has these values; further values are ignored. None if the space has no such point."""
    point: Params = {}
    try:
        for key in dimensions.ordered(space):
            if active(space[key], point):
                point |= encode(space, {key: values[key]})
    except (KeyError, ValueError):
        return None
    return point


def base_point(spec: SweepConfig) -> Params | None:
    """The point of the space that has the base config's values; None if the space has no such point."""
    base = spec.trial_config({}).to_dict()
    values = {key: functools.reduce(operator.getitem, key.split("."), base) for key in spec.space}
    return project(spec.space, values)


def _rounded(value: Any) -> Any:
    """Floats rounded to 12 digits, since the last digits of a sampler's float may differ."""
    return float(f"{value:.12g}") if isinstance(value, float) else value


def identity(params: Params) -> tuple[Any, ...]:
    """A key that two points, in Optuna's parameters, share if and only if they are the same point."""
    return tuple(sorted((key, _rounded(value)) for key, value in params.items()))


def size(space: Space) -> int | None:
    """Number of points of a finite space; None if a dimension is continuous."""
    counts = {key: len(values) for key, d in space.items() if (values := dimensions.values(d))}
    if len(counts) < len(space):
        return None
    # Only the keys that conditions name are enumerated. The others do not affect which keys exist, so they are counted.
    deciding = {parent for dimension in space.values() for parent in dimensions.conditions(dimension)}
    return sum(
        math.prod(counts[key] for key, d in space.items() if key not in deciding and active(d, point))
        for point in points({key: d for key, d in space.items() if key in deciding})
    )


def points(space: Space) -> Iterator[Params]:
    """Every point of a finite space in Optuna's parameters, the last key varying fastest."""
    return _extensions({}, dimensions.ordered(space), space)


def draw(space: Space, rng: random.Random) -> Params:
    """A random point of a finite space, in Optuna's parameters."""
    point: Params = {}
    for key in dimensions.ordered(space):
        if active(space[key], point):
            point[key] = rng.choice(_labels(space[key]))
    return point


def _extensions(point: Params, keys: list[str], space: Space) -> Iterator[Params]:
    """All points that extend a partial point by values of `keys`; a key comes after those that its condition names."""
    if not keys:
        yield point
        return
    key, *rest = keys
    exists = active(space[key], point)
    steps: Iterable[Params] = ({**point, key: label} for label in _labels(space[key])) if exists else [point]
    for step in steps:
        yield from _extensions(step, rest, space)
