"""Secrets: a config names them as `${env:NAME}`, and what is shown or stored names them so, too.

`resolve` gives the value where it is used, and nowhere earlier; from then on `mask` knows it, and takes it out of
whatever leaves this process: errors, logs, the books, MLflow. A config never holds the value itself.
"""

from __future__ import annotations

import html
import json
import os
import re
from functools import cache
from typing import TextIO
from urllib.parse import quote, quote_plus, unquote

from jepa_ray.errors import ConfigError

# As a secret, less than 4 characters are none, and taking them out of every text would leave nothing to read;
# short ones are taken out where they stand as a word.
SHORTEST, SHORT = 4, 8
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
_TOKEN_LENGTH = 16  # a user's name of that length, alone before the @, is a token

_known: dict[str, str] = {}  # value -> the name of its variable


def check(text: str) -> str:
    """`text`, if what is secret in it is a template and well written. Raises `ValueError`, which says the remedy."""
    bare = _TEMPLATE.sub("", text)
    if _BEGUN.search(bare):
        raise ValueError("holds a secret that cannot be read: it must be written ${env:NAME}")
    for user in _USER.finditer(text):
        name, colon, password = _split(user[2])
        if colon and _TEMPLATE.sub("", password):
            raise ValueError("holds a password: write ${env:NAME} in its place")
        if not colon and len(_TEMPLATE.sub("", name)) >= _TOKEN_LENGTH:
            raise ValueError("holds a token: write ${env:NAME} in its place")
    for pair in _QUERY.finditer(text):
        if _TEMPLATE.sub("", pair[2]):
            raise ValueError(f"holds the value of {pair[1].strip('?&;=')}: write ${{env:NAME}} in its place")
    return text


def has_template(text: str) -> bool:
    """Whether there is a `${env:...}` in it, well written or not."""
    return bool(_BEGUN.search(text))


def resolve(text: str, key: str = "") -> str:
    """`text` with each `${env:NAME}` replaced by that variable, whose value is masked from now on.

    In the userinfo and the query of a URI the value is quoted, so a variable holds it as it is. Raises `ConfigError`,
    which names the `key` of the config.
    """
    at = f"{key}: " if key else ""
    if _BEGUN.search(_TEMPLATE.sub("", text)):
        raise ConfigError(f"{at}{mask(text)} holds a secret that cannot be read: it must be written ${{env:NAME}}")
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
    """Where a value would end its part of the URI, if it were not quoted."""
    user, query = _USER.match(text), text.find("?")
    parts = [range(*user.span(2))] if user else []
    return parts + ([range(query, len(text))] if query >= 0 else [])


def remember(name: str, value: str) -> None:
    """Mask this value from now on, as that of the variable `name`."""
    if len(value.strip()) >= SHORTEST:
        _known[value.strip()] = name
        _pattern.cache_clear()


def mask(text: str) -> str:
    """`text` without secrets: known values as `${env:NAME}`, passwords of any URI as `***`."""
    if _known:
        found = _pattern()
        text = found[0].sub(lambda match: f"${{env:{found[1][match[0]]}}}", text)
    return _QUERY.sub(_masked_pair, _USER.sub(_masked_user, text))


@cache
def _pattern() -> tuple[re.Pattern[str], dict[str, str]]:
    """What finds every form of every known value, the longest first, and whose form it is."""
    names: dict[str, str] = {}
    for value, name in dict(_known).items():
        names.update(dict.fromkeys(_forms(value), name))
    parts = [
        re.escape(form) if len(form) >= SHORT else rf"(?<!\w){re.escape(form)}(?!\w)"
        for form in sorted(names, key=len, reverse=True)
    ]
    return re.compile("|".join(parts)), names


def _forms(value: str) -> set[str]:
    """A value as URIs, JSON, HTML and Python's `repr` write it."""
    forms = {value, quote(value), quote(value, safe=""), quote_plus(value), unquote(value)}
    forms |= {json.dumps(value)[1:-1], repr(value)[1:-1], html.escape(value)}
    return {form for form in forms if len(form) >= SHORTEST}


def _masked_user(match: re.Match[str]) -> str:
    scheme, user = match[1], match[2]
    if not _TEMPLATE.sub("", user).strip(":"):
        return match[0]
    name, colon, password = _split(user)
    if colon:
        return f"{scheme}{name}:{password if not _TEMPLATE.sub('', password) else HIDDEN}@"
    return f"{scheme}{HIDDEN}@" if len(name) >= _TOKEN_LENGTH and not has_template(name) else match[0]


def _split(user: str) -> tuple[str, str, str]:
    """Name, colon and password; the colon of a template is none."""
    hidden = _TEMPLATE.sub(lambda match: "\0" * len(match[0]), user)
    at = hidden.find(":")
    return (user, "", "") if at < 0 else (user[:at], ":", user[at + 1 :])


def _masked_pair(match: re.Match[str]) -> str:
    return match[0] if not _TEMPLATE.sub("", match[2]) else f"{match[1]}{HIDDEN}"


class Masked:
    """A text stream that masks what is written to it: each write by itself, as lines are written whole."""

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
