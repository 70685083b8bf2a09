"""Validation of configs with overrides, and error messages of one line made from pydantic's errors."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping
from typing import Any, TypeVar, get_args

from pydantic import BaseModel, ValidationError

from jepa_ray import secrets
from jepa_ray.config import dimensions
from jepa_ray.config.dimensions import Range
from jepa_ray.config.fields import Section
from jepa_ray.errors import ConfigError


def override(values: dict[str, Any], overrides: Mapping[str, Any], source: str) -> dict[str, Any]:
    """A copy of `values` with dotted keys replaced. Raises `ConfigError` for a key below one that is not a section."""
    result: dict[str, Any] = _copy_dicts(values)
    for dotted, value in overrides.items():
        # The keys of a sweep's space are dotted themselves: everything after `space.` is one key.
        head, _, rest = dotted.partition(".")
        *parents, leaf = [head, rest] if head == "space" and rest else dotted.split(".")
        node = result
        for parent in parents:
            node = node.setdefault(parent, {})
            if not isinstance(node, dict):
                raise ConfigError(f"{source}: {dotted}: {parent} is a value, not a section")
        node[leaf] = value
    return result


def _copy_dicts(value: Any) -> Any:
    return {k: _copy_dicts(v) for k, v in value.items()} if isinstance(value, dict) else value


M = TypeVar("M", bound=Section)


def validate(model: type[M], values: dict[str, Any], source: str) -> M:
    """The config with these values. Raises `ConfigError`, which names the source, the key and the rule."""
    _refuse_secrets_elsewhere(model, values, source)
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{source}: {_explain(model, error)}") from None


# Pydantic inserts these names of a union's alternatives into the locations of its errors.
_TAGS = (*dimensions.TAGS, "one", "several")


def _refuse_secrets_elsewhere(model: type[Section], values: dict[str, Any], source: str) -> None:
    """Raise `ConfigError` for `${env:NAME}` in a key whose secrets are never filled in."""
    for key, value in _texts(values):
        if key not in model.takes_secrets and secrets.has_template(value):
            allowed = f"only {', '.join(model.takes_secrets)}" if model.takes_secrets else "no key here"
            raise ConfigError(
                f"{source}: {shortened(key)} contains ${{env:...}}, but {allowed} may contain a secret: it would not be"
                " filled in here"
            )


def _texts(value: Any, key: str = "") -> Iterator[tuple[str, str]]:
    """All texts of a document with their dotted keys. The keys themselves are texts too."""
    if isinstance(value, str):
        yield key, value
    elif isinstance(value, Mapping):
        for name, part in value.items():
            dotted = f"{key}.{name}".lstrip(".")
            yield from _texts(name if isinstance(name, str) else "", f"a key of {key or 'the document'}")
            yield from _texts(part, dotted)
    elif isinstance(value, (list, tuple)):
        for part in value:
            yield from _texts(part, key)


def shortened(text: str, limit: int = 200) -> str:
    """A text for an error message, cut off after `limit` characters."""
    return text if len(text) <= limit else f"{text[:limit]}... ({len(text):,} characters)"


def _explain(model: type[BaseModel], error: ValidationError) -> str:
    """The first problem in one line, with its key, value and rule, and the number of further problems."""
    problems = error.errors(include_url=False)
    first, rest = problems[0], len({p["loc"] for p in problems}) - 1
    loc = tuple(part for i, part in enumerate(first["loc"]) if not (i in (1, 2) and part in _TAGS))
    key = shortened(".".join(str(part) for part in loc))
    if first["type"] == "extra_forbidden":
        text = f"unknown key {key}{_nearest(model, loc)}"
    elif first["type"] == "missing":
        text = f"{key} is missing"
    elif first["type"] == "value_error":
        text = (f"{key}: " if key else "") + str(first["ctx"]["error"])
    else:
        rule = first["msg"][0].lower() + first["msg"][1:]
        text = f"{key} is {shortened(repr(first['input']))}, but {rule.replace('input should', 'must')}"
    return text + (f" (and {rest} more)" if rest > 0 else "")


def _nearest(model: type[BaseModel], loc: tuple[int | str, ...]) -> str:
    """A suggestion of the known key that is most similar to the last part of `loc`; empty without one."""
    names = list(_fields(_model_at(model, loc)))
    close = difflib.get_close_matches(str(loc[-1]), names, n=1, cutoff=0.0)
    return f": did you mean {'.'.join(map(str, (*loc[:-1], close[0])))}?" if close else ""


def _model_at(model: type[BaseModel], loc: tuple[int | str, ...]) -> Any:
    """The model that has the last part of `loc` as a key; None if there is no such model."""
    if "space" in model.model_fields and loc[0] == "space" and len(loc) == 3:
        return Range
    node: Any = model
    for part in (part for part in loc[:-1] if isinstance(part, str)):
        fields = _fields(node)
        node = _first_model(fields[part].annotation) if part in fields else None
    return node


def _fields(model: Any) -> dict[str, Any]:
    """The fields of a model by their keys in YAML; empty for anything else."""
    return {field.alias or name: field for name, field in getattr(model, "model_fields", {}).items()}


def _first_model(annotation: Any) -> Any:
    """The model that an annotation is, or the first model inside it; None without a model."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return annotation
    return next((found for part in get_args(annotation) if (found := _first_model(part))), None)
