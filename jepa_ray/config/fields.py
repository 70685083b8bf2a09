"""Types that the sections of all configs share: their base class, and the types of names, URIs and secrets."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    TypeAdapter,
    ValidationError,
)
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from jepa_ray import secrets
from jepa_ray.errors import ConfigError


class Section(BaseModel):
    """Base class of all sections of a config: instances are immutable, and unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
    takes_secrets: ClassVar[tuple[str, ...]] = ()  # dotted keys whose value may contain ${env:NAME}

    @classmethod
    def add_defaults(cls, document: dict[str, Any]) -> dict[str, Any]:
        """A stored document with the defaults of the keys that it lacks, which an earlier version did not have.

        A document that is no longer valid is returned unchanged.
        """
        try:
            return cls.model_validate(document).model_dump(mode="json", by_alias=True)
        except ValidationError:
            return document


@dataclass(frozen=True)
class Matching:
    """Annotation of a text that must match a regular expression.

    Errors and the reference of config keys show the rule, never the expression.
    """

    expression: str
    rule: str  # completes "must be ..."

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return {**handler(schema), "rule": self.rule}

    def _check(self, text: str) -> str:
        if not re.fullmatch(self.expression, text):
            raise PydanticCustomError("rule", "Input should be {rule}", {"rule": self.rule})
        return text


MAX_COUNT = 10**6  # trials of a sweep, or epochs of a run

_SCHEME = r"[a-z][a-z0-9+.-]+://"
Uri = Annotated[str, Matching(rf"(?s:{_SCHEME}.*)", "a URI, such as s3://bucket/data.h5")]


def is_uri(place: str) -> bool:
    """Whether a text names a place by a URI. `file:///folder` counts as a path."""
    return bool(re.match(_SCHEME, place)) and not place.startswith("file://")


UriWithSecrets = Annotated[str, AfterValidator(secrets.check)]  # a URI whose credentials are written as ${env:NAME}
OneLine = Annotated[  # short enough for a column of MLflow's database
    str, Field(max_length=250), Matching(r"[^\x00-\x1f\x7f]+", "one line without control characters")
]
ModelName = Annotated[
    str,
    Field(min_length=1, max_length=250),
    Matching(
        r"[^/:'\"`\\\x00-\x1f\x7f]*[^/:'\"`\\\x00-\x1f\x7f.]",
        "a name without / : ' \" ` \\ and control characters, and without a dot at the end",
    ),
]

# Names that Windows reserves for devices.
DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{i}" for port in ("COM", "LPT") for i in range(10))}


def _refuse_device(name: str) -> str:
    """Refuse the names of Windows devices: a name becomes a folder, possibly on a share that Windows opens too."""
    if name.partition(".")[0].upper() in DEVICES:
        raise ValueError(f"is {name}, but must not be the name of a Windows device, which no folder can have")
    return name


MAX_NAME_LENGTH = 100
_NAME_RULE = "letters, digits, _, - and dots, without a dot or - at the start and without a dot at the end"
Name = Annotated[
    str,
    Field(max_length=MAX_NAME_LENGTH),
    Matching(r"[A-Za-z0-9_]([A-Za-z0-9_.-]*[A-Za-z0-9_-])?", _NAME_RULE),
    AfterValidator(_refuse_device),
]


def check_name(name: str) -> str:
    """A name from the command line, if it can be the name of a run or sweep. Raises `ConfigError`."""
    try:
        return TypeAdapter(Name).validate_python(name)
    except ValidationError:
        raise ConfigError(
            f"the name is {name!r}, but must be {_NAME_RULE}, at most {MAX_NAME_LENGTH} characters long, and not a"
            " Windows device"
        ) from None


def lookup(node: Any, dotted: str) -> Any:
    """The value of a dotted key in a config."""
    for part in dotted.split("."):
        node = getattr(node, part)
    return node
