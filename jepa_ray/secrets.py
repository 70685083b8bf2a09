"""Secrets, which configs contain only as templates: `${env:NAME}` stands for the environment variable NAME.

`resolve` fills in the value at the place where it is used. From then on, `mask` replaces the value by its template in
everything that leaves this process: errors, logs, the study and MLflow.
"""

from __future__ import annotations

import html
import json
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TextIO
from urllib.parse import quote, quote_plus, unquote

from jepa_ray.errors import ConfigError, first_line

MIN_LENGTH = 4  # shorter values are not masked, since they occur in too many other words
MIN_LENGTH_IN_WORDS = 8  # shorter values are masked only where they are a whole word
HIDDEN = "***"

_TEMPLATE = re.compile(r"\$\{env:([A-Za-z_][A-Za-z0-9_]*)\}")
_BEGUN = re.compile(r"\$\{\s*env\b", re.IGNORECASE)
_SCHEME = r"[A-Za-z][A-Za-z0-9+.-]*://"
_USER = re.compile(rf"({_SCHEME})([^\s/?#'\"<>]+)@")
_QUERY_KEYS = (
    "access_?key(?:_?id)?|aws_access_key_id|aws_secret_access_key|secret|secret_?key|session_?token|token|access_?token"
    "|password|passwd|pwd|api_?key|account_?key|sas|sas_?token|sig|signature|credentials?"
    "|x-amz-(?:signature|credential|security-token)"
)
_QUERY = re.compile(rf"([?&;](?:{_QUERY_KEYS})=)([^&;\s'\"#<>]+)", re.IGNORECASE)
_TOKEN_LENGTH = 16  # a user name of at least this length without a password is taken for a token

_known: dict[str, str] = {}  # value of a secret -> name of its environment variable


def check(text: str) -> str:
    """Return `text` if all secrets in it are valid templates. Raises `ValueError`, with the remedy, otherwise."""
    bare = _TEMPLATE.sub("", text)
    if _BEGUN.search(bare):
        raise ValueError("contains a malformed secret: write it as ${env:NAME}")
    for user in _USER.finditer(text):
        name, colon, password = _split(user[2])
        if colon and _TEMPLATE.sub("", password):
            raise ValueError("contains a password: write ${env:NAME} instead")
        if not colon and len(_TEMPLATE.sub("", name)) >= _TOKEN_LENGTH:
            raise ValueError("contains a token: write ${env:NAME} instead")
    for pair in _QUERY.finditer(text):
        if _TEMPLATE.sub("", pair[2]):
            raise ValueError(f"contains the value of {pair[1].strip('?&;=')}: write ${{env:NAME}} instead")
    return text


def has_template(text: str) -> bool:
    """Whether `text` contains a template `${env:...}`, valid or not."""
    return bool(_BEGUN.search(text))


def resolve(text: str, key: str = "") -> str:
    """`text` with each `${env:NAME}` replaced by the value of that variable, which is masked from now on.

    In the userinfo and the query of a URI, the value is quoted, so the variable contains it unquoted. Raises
    `ConfigError`, which names the `key` of the config.
    """
    at = f"{key}: " if key else ""
    if _BEGUN.search(_TEMPLATE.sub("", text)):
        raise ConfigError(f"{at}{mask(text)} contains a malformed secret: write it as ${{env:NAME}}")
    quoted = _quoted_parts(text)

    def value(template: re.Match[str]) -> str:
        found = os.environ.get(template[1])
        if not found:
            state = "is not set" if found is None else "is empty"
            raise ConfigError(f"{at}{template[0]} cannot be filled in: the environment variable {template[1]} {state}")
        remember(template[1], found)
        return quote(found, safe="") if any(template.start() in part for part in quoted) else found

    return _TEMPLATE.sub(value, text)


def _quoted_parts(text: str) -> list[range]:
    """The ranges of a URI, userinfo and query, in which an unquoted value could end its part."""
    user, query = _USER.match(text), text.find("?")
    parts = [range(*user.span(2))] if user else []
    return parts + ([range(query, len(text))] if query >= 0 else [])


def remember(name: str, value: str) -> None:
    """Mask this value of the variable `name` from now on, unless it is shorter than `MIN_LENGTH` characters."""
    if len(value.strip()) >= MIN_LENGTH:
        _known[value.strip()] = name
        _pattern.cache_clear()


def mask(text: str) -> str:
    """`text` with known values replaced by `${env:NAME}`, and with the credentials of all URIs replaced by `***`."""
    if _known:
        found = _pattern()
        text = found[0].sub(lambda match: f"${{env:{found[1][match[0]]}}}", text)
    return _QUERY.sub(_masked_pair, _USER.sub(_masked_user, text))


def mask_error(error: BaseException) -> str:
    """The first line of an error's message without secrets, or the error's class name if it has no message."""
    return first_line(mask(str(error))) or type(error).__name__


@cache
def _pattern() -> tuple[re.Pattern[str], dict[str, str]]:
    """A pattern that finds all forms of all known values, longest first, and the variable of each form."""
    names: dict[str, str] = {}
    for value, name in dict(_known).items():
        names.update(dict.fromkeys(_forms(value), name))
    parts = [
        re.escape(form) if len(form) >= MIN_LENGTH_IN_WORDS else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(names, key=len, reverse=True)
    ]
    return re.compile("|".join(parts)), names


def _forms(value: str) -> set[str]:
    """A value as it appears in URIs, JSON, HTML and Python's `repr`."""
    forms = {value, quote(value), quote(value, safe=""), quote_plus(value), unquote(value)}
    forms |= {json.dumps(value)[1:-1], repr(value)[1:-1], html.escape(value)}
    return {form for form in forms if len(form) >= MIN_LENGTH}


def _masked_user(match: re.Match[str]) -> str:
    scheme, user = match[1], match[2]
    if not _TEMPLATE.sub("", user).strip(":"):
        return match[0]
    name, colon, password = _split(user)
    if colon:
        return f"{scheme}{name}:{password if not _TEMPLATE.sub('', password) else HIDDEN}@"
    return f"{scheme}{HIDDEN}@" if len(name) >= _TOKEN_LENGTH and not has_template(name) else match[0]


def _split(user: str) -> tuple[str, str, str]:
    """The user name, the colon and the password. The colon inside a template is not a separator."""
    hidden = _TEMPLATE.sub(lambda match: "\0" * len(match[0]), user)
    at = hidden.find(":")
    return (user, "", "") if at < 0 else (user[:at], ":", user[at + 1 :])


def _masked_pair(match: re.Match[str]) -> str:
    return match[0] if not _TEMPLATE.sub("", match[2]) else f"{match[1]}{HIDDEN}"


# ------------------------------------------------------------------------------- secrets in files


def read_secret_file(path: Path, name: str) -> str:
    """The text of a secret's file without white space around it. Raises `ConfigError`, which begins with `name`."""
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not text"
        raise ConfigError(f"{name}: {path} cannot be read ({reason})") from None
    if not text:
        raise ConfigError(f"{name}: {path} is empty, but must hold a secret")
    return text


@dataclass(frozen=True)
class RayToken:
    """The authentication token of a Ray cluster."""

    value: str = field(repr=False)
    source: str  # RAY_AUTH_TOKEN, or the path of the file that holds it


def find_ray_token(env: Mapping[str, str] = os.environ) -> RayToken | None:
    """The token that Ray uses, whose value is masked from now on; None if there is no token.

    In Ray's order: the variable RAY_AUTH_TOKEN, the file that RAY_AUTH_TOKEN_PATH names, ~/.ray/auth_token.
    RAY_AUTH_MODE is not read: each caller decides in which modes it needs a token. An empty ~/.ray/auth_token counts as
    no token. Raises `ConfigError` if a file cannot be read, if the named file is empty, or if the token is not one line
    of printable ASCII characters.
    """
    named, default = env.get("RAY_AUTH_TOKEN_PATH"), default_ray_token_path(env)
    if value := env.get("RAY_AUTH_TOKEN", "").strip():
        token = RayToken(value, "RAY_AUTH_TOKEN")
    elif named:
        token = RayToken(read_secret_file(Path(named), "RAY_AUTH_TOKEN_PATH"), named)
    elif default.is_file() and not _is_empty(default):
        token = RayToken(read_secret_file(default, "Ray's token"), str(default))
    else:
        return None
    if not (token.value.isascii() and token.value.isprintable()):
        raise ConfigError(f"{token.source}: the token must be one line of printable ASCII characters")
    remember("RAY_AUTH_TOKEN", token.value)
    return token


def _is_empty(path: Path) -> bool:
    """Whether a file contains only white space. False if it cannot be read, which `read_secret_file` reports."""
    try:
        return not path.read_bytes().strip()
    except OSError:
        return False


def default_ray_token_path(env: Mapping[str, str] = os.environ) -> Path:
    """The file in which Ray looks for a token if no variable names one."""
    return Path(env.get("HOME") or Path.home()) / ".ray" / "auth_token"


class Masked:
    """A text stream that masks all texts written to it. A secret is not found if it is split over two writes."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(mask(text))
        return len(text)

    def writelines(self, lines: list[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> object:
        return getattr(self._stream, name)
