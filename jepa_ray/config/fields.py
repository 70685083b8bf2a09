"""What the sections of every config share: the frozen base model, and the types of names, URIs and secrets."""

from __future__ import annotations

import re
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from jepa_ray import secrets
from jepa_ray.errors import ConfigError


class Section(BaseModel):
    """Frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    takes_secrets: ClassVar[tuple[str, ...]] = ()  # dotted keys whose value may hold ${env:NAME}


MAX_COUNT = 10**6  # of what is counted one by one: trials, epochs

_SCHEME = r"^[a-z][a-z0-9+.-]+://"
Uri = Annotated[str, Field(pattern=_SCHEME)]


def is_uri(place: str) -> bool:
    """Whether a place is named by a URI; `file:///shared` is a path as well."""
    return bool(re.match(_SCHEME, place)) and not place.startswith("file://")


UriWithSecrets = Annotated[str, AfterValidator(secrets.check)]  # a URI, whose credentials are written ${env:NAME}
OneLine = Annotated[str, Field(pattern=r"^[^\x00-\x1f\x7f]+$", max_length=250)]  # one line that a database can hold


def _is_a_folder_anywhere(name: str) -> str:
    """A folder of that name may lie on a share that Windows opens, too."""
    if name.partition(".")[0].upper() in DEVICES:
        raise ValueError(f"is {name}, but no folder can have the name of a device of Windows")
    return name


DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}
# A name becomes a folder: no separators, no dot at either end.
Name = Annotated[
    str,
    Field(pattern=r"^[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?$", max_length=100),
    AfterValidator(_is_a_folder_anywhere),
]


def check_name(name: str) -> str:
    """A name from the command line, if it can be that of a run or sweep. Raises `ConfigError`."""
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        rule = "must be letters, digits, _, - and dots, 100 at most, begin with no dot or - and end with no dot"
        raise ConfigError(f"the name is {name!r}, but {rule}") from None


def lookup(node: Any, dotted: str) -> Any:
    """The value of a dotted key in a config."""
    for part in dotted.split("."):
        node = getattr(node, part)
    return node
