"""The dimensions of a search space, as a spec describes them: choices or a range, and a condition.

The space as Optuna's samplers see it is in `jepa_ray.sweep.search.space`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    Tag,
    field_validator,
    model_serializer,
    model_validator,
)

MAX_VALUES = 10**6  # values of a range with steps, which are listed one by one
MAX_CHOICES = 2000
MAX_CONTEXTS = 10_000  # combinations of other keys' values under which a dimension exists


class _WithCondition(BaseModel):
    """A dimension that is written as a mapping, and so can have a condition."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {},
        description="Condition: a mapping from other swept keys to the value, or list of values, that each of them must"
        " have for this key to be swept. In all other trials, the key has its value of the base config.",
    )

    @field_validator("when", mode="before")
    @classmethod
    def _as_lists(cls, when: Any) -> Any:
        if not isinstance(when, Mapping):
            return when
        return {key: value if isinstance(value, list) else [value] for key, value in when.items()}

    @model_serializer(mode="wrap")
    def _without_empty_when(self, handler: Callable[[Any], dict[str, Any]]) -> dict[str, Any]:
        values = handler(self)
        return values if self.when else {key: value for key, value in values.items() if key != "when"}


class Range(_WithCondition):
    """A numeric dimension: `low` and `high`, optionally with `log`, `step` and `int`."""

    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    log: bool = Field(False, description="Sample uniformly in the logarithm.")
    step: float | None = Field(
        None, gt=0, description="Sample only low, low + step, low + 2 step, ...; null: all values."
    )
    integer: bool = Field(False, alias="int", description="Sample only whole numbers.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, but must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, but a log range must start above 0")
        if self.integer and any(v is not None and v != int(v) for v in (self.low, self.high, self.step)):
            raise ValueError(f"int is true, but low {self.low:g}, high {self.high:g} and step must be whole numbers")
        if self.log and self.step is not None:
            raise ValueError("log and step cannot be combined: leave out one of them")
        step = self.step or (1 if self.integer else None)
        if step and (self.high - self.low) / step > MAX_VALUES:
            raise ValueError(
                f"low {self.low:g} to high {self.high:g} has more than {MAX_VALUES:,} values: set a larger step, or"
                " leave out int and step"
            )
        return self

    def ends(self) -> tuple[float, float] | tuple[int, int]:
        """`low` and `high`, as ints if the range is one of whole numbers."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def values(self) -> list[float] | list[int] | None:
        """All values in ascending order; None if the range is continuous."""
        if self.integer:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return [min(self.low + i * self.step, self.high) for i in range(count)]
        return None

    def __str__(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")


class Choices(_WithCondition):
    """A list of choices with a condition. Choices without a condition are a plain list."""

    choices: list[Any] = Field(min_length=1, max_length=MAX_CHOICES, description="The values to choose from.")


def _kind(value: Any) -> str:
    if isinstance(value, Range) or (isinstance(value, Mapping) and {"low", "high"} & value.keys()):
        return "range"
    return "conditional" if isinstance(value, (Mapping, Choices)) else "choices"


Dimension = Annotated[
    Annotated[Range, Tag("range")]
    | Annotated[Choices, Tag("conditional")]
    | Annotated[list[Any], Field(min_length=1, max_length=MAX_CHOICES), Tag("choices")],
    Discriminator(_kind),
]
TAGS = ("range", "conditional", "choices")  # pydantic inserts them into the locations of its errors

Params = dict[str, Any]  # a configuration: dotted key -> value
Space = Mapping[str, Dimension]


def conditions(dimension: Dimension) -> Mapping[str, list[Any]]:
    """The condition of a dimension: other key -> its allowed values. Empty if the dimension always exists."""
    return {} if isinstance(dimension, list) else dimension.when


def values(dimension: Dimension) -> list[Any] | None:
    """The values of a dimension, in order; None if it is continuous."""
    if isinstance(dimension, Range):
        return dimension.values()
    return dimension.choices if isinstance(dimension, Choices) else dimension


def samples(dimension: Dimension) -> list[Any]:
    """The values to check a dimension with: all choices, or both ends of a range."""
    return list(dimension.ends()) if isinstance(dimension, Range) else values(dimension) or []


def resolve(dimension: Dimension, value: Any) -> Any:
    """The value of the dimension that equals `value`. Raises `ValueError`, with the allowed values, if none does."""
    known = values(dimension)
    if known is None and _is_number(value) and dimension.low <= value <= dimension.high:  # type: ignore[union-attr]
        return float(value)
    matches = [own for own in known or [] if _same(own, value)]
    if not matches:
        raise ValueError(f"is {value}, but must be {dimension if isinstance(dimension, Range) else f'one of {known}'}")
    return matches[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    """Whether two values are equal: numbers up to rounding errors, and a boolean only to a boolean."""
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def ordered(space: Space) -> list[str]:
    """The keys of a space, each after the keys of its condition. Raises `ValueError` for a cycle of conditions."""
    left, placed = list(space), []
    while left:
        ready = next((key for key in left if not conditions(space[key]).keys() & set(left)), None)
        if ready is None:
            raise ValueError(f"the conditions of {', '.join(left)} form a cycle: remove one of them")
        left.remove(ready)
        placed.append(ready)
    return placed


def contexts(space: Space, key: str) -> Iterator[dict[str, Any]]:
    """All combinations of other keys' values under which `key` exists, by its condition and those of its parents."""
    parents = conditions(space[key])
    for allowed in itertools.product(*parents.values()):
        here = dict(zip(parents, allowed, strict=True))
        for uppers in itertools.product(*(list(contexts(space, parent)) for parent in parents)):
            merged = _merge((*uppers, here))
            if merged is not None:
                yield merged


def _merge(parts: Iterable[Mapping[str, Any]]) -> dict[str, Any] | None:
    """The union of mappings; None if two of them have different values for a key."""
    merged: dict[str, Any] = {}
    for part in parts:
        for name, value in part.items():
            if name in merged and not _same(merged[name], value):
                return None
            merged.setdefault(name, value)
    return merged


def check_conditions(space: Space) -> None:
    """Raise `ValueError` for a condition with an unknown key or value, and for one that never holds."""
    for key, dimension in space.items():
        for parent, allowed in conditions(dimension).items():
            place = f"space.{key}.when"
            if parent not in space:
                raise ValueError(f"{place} names {parent}, but must name another swept key: {', '.join(space)}")
            if values(space[parent]) is None:
                raise ValueError(
                    f"{place} names {parent}, but must name a key with choices or steps, not a continuous range"
                )
            for value in allowed:
                try:
                    resolve(space[parent], value)
                except ValueError as error:
                    raise ValueError(f"{place}: {parent} {error}") from None
    counts: dict[str, int] = {}  # upper bounds of the numbers of contexts
    for key in ordered(space):
        when = conditions(space[key])
        counts[key] = math.prod(len(allowed) * counts[parent] for parent, allowed in when.items())
        if counts[key] > MAX_CONTEXTS:
            raise ValueError(
                f"space.{key} exists under more than {MAX_CONTEXTS:,} combinations of other keys' values: simplify"
                " its conditions"
            )
        if next(contexts(space, key), None) is None:
            raise ValueError(f"space.{key} never exists: its conditions contradict each other")
