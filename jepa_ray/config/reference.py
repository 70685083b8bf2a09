"""The reference of all config keys: `python -m jepa_ray config KEY`, and the pages of the docs.

It is generated from the pydantic models. The metrics are described in `jepa_ray.config.catalogue`.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any

import typer
from pydantic import BaseModel

from jepa_ray.config import SET_BY_SPEC, SweepConfig, TrainConfig
from jepa_ray.errors import ConfigError
from jepa_ray.formatting import format_number

Schema = Mapping[str, Any]

LIMITS = {
    "minimum": "≥ {}",
    "exclusiveMinimum": "> {}",
    "maximum": "≤ {}",
    "exclusiveMaximum": "< {}",
    "maxLength": "at most {} characters",
}


@dataclass(frozen=True)
class Key:
    """A config key, or a section of them."""

    name: str  # the dotted key, as in `--set`
    kind: str  # the type of its value, such as "whole number"
    limits: str  # such as "≥ 0 and < 1"; empty without limits
    default: str | None  # as YAML; None: the key is required
    description: str
    is_section: bool = False

    @property
    def constraints(self) -> str:
        """The kind, limits and default in one line."""
        default = "must be given" if self.default is None else f"default {self.default}"
        return ", ".join(filter(None, [self.kind, self.limits, "" if self.is_section else default]))


def train_keys() -> list[Key]:
    """All keys of a train config, each section before its keys."""
    return list(_keys(TrainConfig))


def sweep_keys() -> list[Key]:
    """All keys of a sweep spec except those of `base`, which is a train config. KEY stands for a swept key."""
    return list(_keys(SweepConfig, skip=("base",)))


def _keys(model: type[BaseModel], skip: tuple[str, ...] = ()) -> Iterator[Key]:
    schema = model.model_json_schema(by_alias=True)
    seen = set()
    for key in _properties(schema, "", schema["$defs"], skip):
        if key.name not in seen:  # a key that two kinds of mappings have, such as `when`
            seen.add(key.name)
            yield key


def _properties(schema: Schema, prefix: str, defs: Schema, skip: tuple[str, ...]) -> Iterator[Key]:
    for part, field in schema["properties"].items():
        name = prefix + part
        inner = [] if name in skip else list(_sections(field, name, defs))
        description = field.get("description") or "".join(section["description"] for _, section in inner[:1])
        if name in SET_BY_SPEC:
            description += f" In a sweep, `{SET_BY_SPEC[name]}` sets it."
        default = json.dumps(field["default"], ensure_ascii=False).replace('"', "") if "default" in field else None
        is_section = "$ref" in field and name not in skip
        yield Key(name, _kind(field), _limits(field), default, " ".join(description.split()), is_section)
        for inside, section in inner:
            yield from _properties(section, f"{inside}.", defs, skip)


def _sections(field: Schema, name: str, defs: Schema) -> Iterator[tuple[str, Schema]]:
    """The models that a field's value can be or contain, each with the dotted key that leads to it."""
    if "$ref" in field:
        yield name, defs[field["$ref"].rpartition("/")[2]]
    for option in (*field.get("oneOf", ()), *field.get("anyOf", ())):
        yield from _sections(option, name, defs)
    for holder, part in (("items", ""), ("additionalProperties", ".KEY")):
        if isinstance(field.get(holder), Mapping):
            yield from _sections(field[holder], name + part, defs)


TYPE_NAMES = {
    "integer": "whole number",
    "number": "number",
    "boolean": "true or false",
    "object": "mapping",
    "null": "null",
}


def _kind(field: Schema) -> str:
    if options := field.get("oneOf") or field.get("anyOf"):
        return " or ".join(dict.fromkeys(_kind(option) for option in options))
    if "$ref" in field:
        return "mapping"
    if "const" in field:
        return str(field["const"])
    if "enum" in field:
        return "one of " + ", ".join(field["enum"])
    if field.get("type") == "string":
        return "path" if field.get("format") == "path" else "text"
    if "prefixItems" in field:
        return f"list of {len(field['prefixItems'])} {_kind(field['prefixItems'][0])}s"
    if field.get("type") == "array":
        items = _kind(field["items"])
        return f"list of {items}s" if items else "list"
    return TYPE_NAMES.get(field.get("type", ""), "")


def _limits(field: Schema) -> str:
    limits = [field["rule"]] if "rule" in field else []  # of a `Matching` type
    limits += [rule.format(format_number(float(field[limit]))) for limit, rule in LIMITS.items() if limit in field]
    within = [*field.get("oneOf", ()), *field.get("anyOf", ()), *field.get("prefixItems", ())[:1]]
    limits += [_limits(option) for option in within]
    if isinstance(field.get("items"), Mapping) and (each := _limits(field["items"])):
        limits.append(f"each {each}")
    return " and ".join(dict.fromkeys(filter(None, limits)))


def find(name: str | None) -> list[Key]:
    """The key `name`, or the keys of the section `name`; all keys for None. Raises `ConfigError` if it is unknown."""
    keys = [*train_keys(), *sweep_keys()]
    if name is None:
        return keys
    wanted = name.removeprefix("base.")
    matches = [key for key in keys if key.name == wanted or key.name.startswith(f"{wanted}.")]
    if not matches:
        near = difflib.get_close_matches(wanted, [key.name for key in keys], n=1, cutoff=0.0)
        raise ConfigError(f"{name} is not a key of a train config or sweep spec: did you mean {near[0]}?")
    return matches


def config(
    key: Annotated[
        str | None,
        typer.Argument(metavar="[KEY]", help="A dotted key or a section; without it, all keys are explained."),
    ] = None,
) -> None:
    """Explain config keys: their meaning, kind, limits and default."""
    for match in find(key):
        print(f"{match.name}\n    {match.description}\n    {match.constraints}")
