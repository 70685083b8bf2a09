"""The dimensions of a sweep's space as a spec writes them: choices, ranges, and where each of them exists.

No Optuna here: what a sampler sees of a space is in `jepa_ray.sweep.search.space`.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Mapping
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

MAX_VALUES = 10**6  # of a range that is gone through one by one
MAX_CHOICES = 2000
MAX_CONTEXTS = 10_000  # combinations of other keys' values that a condition may allow


class _Mapping(BaseModel):
    """A dimension written as a mapping, which may have conditions."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    when: dict[str, Annotated[list[Any], Field(min_length=1)]] = Field(
        {},
        description="Another swept key -> the value, or the list of values, that it must have for this key to be"
        " swept; elsewhere the base config's value stays. Several keys: all of them.",
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


class Range(_Mapping):
    """A numeric dimension: `{low, high}` plus `log` or `step`; `int: true` for whole numbers."""

    low: float = Field(description="Smallest value.")
    high: float = Field(description="Largest value.")
    log: bool = Field(False, description="Uniform in the logarithm.")
    step: float | None = Field(None, gt=0, description="Only low, low + step, ...; null: any value (int: every one).")
    integer: bool = Field(False, alias="int", description="Whole numbers only.")

    @model_validator(mode="after")
    def _ordered(self) -> Range:
        if not self.low < self.high:
            raise ValueError(f"low is {self.low}, but must be below high ({self.high})")
        if self.log and self.low <= 0:
            raise ValueError(f"low is {self.low}, but a log range must start above 0")
        if self.integer and any(v is not None and v != int(v) for v in (self.low, self.high, self.step)):
            raise ValueError(f"int is true, but low {self.low:g}, high {self.high:g} and step must be whole numbers")
        if self.log and self.step is not None:
            raise ValueError("log and step cannot be combined")
        step = self.step or (1 if self.integer else None)
        if step and (self.high - self.low) / step > MAX_VALUES:
            raise ValueError(
                f"low {self.low:g} to high {self.high:g} are more than {MAX_VALUES:,} values: set a larger step, or"
                " leave int and step out"
            )
        return self

    def ends(self) -> tuple[float, float] | tuple[int, int]:
        """(low, high), as ints for an integer range."""
        return (int(self.low), int(self.high)) if self.integer else (self.low, self.high)

    def values(self) -> list[float] | list[int] | None:
        """All values in order; None of a continuous range."""
        if self.integer:
            return list(range(int(self.low), int(self.high) + 1, int(self.step or 1)))
        if self.step:
            count = math.floor((self.high - self.low) / self.step + 1e-9) + 1
            return [min(self.low + i * self.step, self.high) for i in range(count)]
        return None

    def __str__(self) -> str:
        kind = "a whole number" if self.integer else "a number"
        return f"{kind} from {self.low:g} to {self.high:g}" + (f" in steps of {self.step:g}" if self.step else "")


class Choices(_Mapping):
    """A list of choices with a condition: `{choices: [...], when: {...}}`; a plain list has none."""

    choices: list[Any] = Field(min_length=1, max_length=MAX_CHOICES, description="The values, any of them.")


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
TAGS = ("range", "conditional", "choices")  # pydantic names them in the places of its errors

Space = Mapping[str, Dimension]


def conditions(dimension: Dimension) -> Mapping[str, list[Any]]:
    """Other key -> its values with which the dimension exists; empty if it always does."""
    return {} if isinstance(dimension, list) else dimension.when


def values(dimension: Dimension) -> list[Any] | None:
    """The values of a finite dimension, in order; None of a continuous one."""
    if isinstance(dimension, Range):
        return dimension.values()
    return dimension.choices if isinstance(dimension, Choices) else dimension


def samples(dimension: Dimension) -> list[Any]:
    """The values that stand for all others in a check: every choice, or the ends of a range."""
    return list(dimension.ends()) if isinstance(dimension, Range) else values(dimension) or []


def resolve(dimension: Dimension, value: Any) -> Any:
    """The dimension's own value that `value` means. Raises `ValueError`, which says what it must be."""
    known = values(dimension)
    if known is None and _is_number(value) and dimension.low <= value <= dimension.high:  # type: ignore[union-attr]
        return float(value)
    found = [own for own in known or [] if _same(own, value)]
    if not found:
        raise ValueError(f"is {value}, but must be {dimension if isinstance(dimension, Range) else f'one of {known}'}")
    return found[0]


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def _same(a: Any, b: Any) -> bool:
    """Equal; numbers to 12 digits, as steps are added up with rounding, and never a number and a truth value."""
    if _is_number(a) and _is_number(b):
        return math.isclose(a, b, rel_tol=1e-12, abs_tol=1e-15)
    return bool(a == b) and isinstance(a, bool) == isinstance(b, bool)


def ordered(space: Space) -> list[str]:
    """The keys of a space, each after those that its conditions name. Raises `ValueError` for a circle."""
    left, placed = list(space), []
    while left:
        ready = next((key for key in left if not conditions(space[key]).keys() & set(left)), None)
        if ready is None:
            raise ValueError(f"the conditions of {', '.join(left)} go in a circle: each would exist because of another")
        left.remove(ready)
        placed.append(ready)
    return placed


def contexts(space: Space, key: str) -> Iterator[dict[str, Any]]:
    """The values of other keys with which `key` exists: every one that its conditions, and theirs in turn, allow."""
    parents = conditions(space[key])
    for allowed in itertools.product(*parents.values()):
        here = dict(zip(parents, allowed, strict=True))
        for uppers in itertools.product(*(list(contexts(space, parent)) for parent in parents)):
            merged: dict[str, Any] = {}
            for upper in (*uppers, here):
                if any(not _same(merged.setdefault(name, value), value) for name, value in upper.items()):
                    break
            else:
                yield merged


def check_conditions(space: Space) -> None:
    """Raise `ValueError` for a condition that names no swept key or no value of it, or that never holds."""
    for key, dimension in space.items():
        for parent, allowed in conditions(dimension).items():
            place = f"space.{key}.when"
            if parent not in space:
                raise ValueError(f"{place} names {parent}, but must name another swept key: {', '.join(space)}")
            if values(space[parent]) is None:
                raise ValueError(f"{place} names {parent}, a continuous range, which hardly ever has one certain value")
            for value in allowed:
                try:
                    resolve(space[parent], value)
                except ValueError as error:
                    raise ValueError(f"{place}: {parent} {error}") from None
    counts: dict[str, int] = {}  # of contexts, at most
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
