"""Loading of untrusted YAML: one small document of plain values.

Documents that would fill the memory or take very long to read are refused before anything is built from them: aliases
that multiply, deep nesting, numbers with millions of digits, and endless files. Every error is one line.
"""

from __future__ import annotations

import os
import re
import stat
from pathlib import Path
from typing import Any

import yaml

from jepa_ray.errors import ConfigError

MAX_BYTES = 1 << 20  # of a file
MAX_VALUES = 20_000  # keys and values, with repetitions by aliases and merge keys
MAX_DEPTH = 40  # levels of nesting
MAX_NUMBER_LENGTH = 100  # characters
MAX_INTEGER = 2**63  # absolute values from here on do not fit into a 64-bit integer

_NUMBERS = ("tag:yaml.org,2002:int", "tag:yaml.org,2002:float")


class _Loader(yaml.SafeLoader):
    """A SafeLoader with limits, which reads 1e-4 as a number, like YAML 1.2 (in YAML 1.1 it is a string).

    Each node is measured when it is complete. An alias refers to a node that has been measured, unless the alias is
    inside that node, which is refused.
    """

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = 0
        self._values = 0
        self._measured: dict[yaml.Node, tuple[int, int]] = {}  # number of values and levels of each node

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        is_alias = self.check_event(yaml.AliasEvent)
        self._depth += 1
        self._values += 1
        if self._depth > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels of nesting")
        if self._values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values")
        node = super().compose_node(parent, index)
        self._depth -= 1
        if node is None:
            return None
        if is_alias and node not in self._measured:
            raise yaml.YAMLError("an alias is inside the node that it refers to")
        if node not in self._measured:
            self._measured[node] = self._measure(node)
        return node

    def _measure(self, node: yaml.Node) -> tuple[int, int]:
        if isinstance(node, yaml.ScalarNode):
            _check_scalar(node)
            return 1, 0
        if isinstance(node, yaml.MappingNode):
            _check_keys(node)
            children = [child for pair in node.value for child in pair]
        else:
            children = list(node.value)
        measured = [self._measured[child] for child in children]
        values = 1 + sum(count for count, _ in measured)
        levels = 1 + max((below for _, below in measured), default=0)
        if values > MAX_VALUES:
            raise yaml.YAMLError(f"more than {MAX_VALUES:,} values, including repetitions by aliases")
        if levels > MAX_DEPTH:
            raise yaml.YAMLError(f"more than {MAX_DEPTH} levels of nesting, including those inside aliases")
        return values, levels


_Loader.yaml_implicit_resolvers = {k: list(v) for k, v in yaml.SafeLoader.yaml_implicit_resolvers.items()}
_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9][0-9_]*(\.[0-9_]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def _check_scalar(node: yaml.ScalarNode) -> None:
    if node.tag in _NUMBERS and len(node.value) > MAX_NUMBER_LENGTH:
        raise yaml.YAMLError(f"a number with {len(node.value):,} characters, line {node.start_mark.line + 1}")


def _check_keys(node: yaml.MappingNode) -> None:
    """Refuse duplicate keys of a mapping, which YAML forbids but PyYAML accepts."""
    seen: set[tuple[str, str]] = set()
    for key, _ in node.value:
        if isinstance(key, yaml.ScalarNode):
            if (key.tag, key.value) in seen:
                raise yaml.YAMLError(f"duplicate key {key.value[:100]!r}, line {key.start_mark.line + 1}")
            seen.add((key.tag, key.value))


def parse(text: str) -> Any:
    """The plain values of a YAML text. Raises `ValueError` with the problem and its line."""
    try:
        values = yaml.load(text, _Loader)  # noqa: S506  # a SafeLoader
    except yaml.MarkedYAMLError as error:
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark else ""
        raise ValueError(f"{error.problem}{line}") from None
    except yaml.reader.ReaderError as error:
        raise ValueError(f"{error.reason}, character {error.position + 1}") from None
    except (yaml.YAMLError, ValueError, OverflowError) as error:  # ValueError: a date that does not exist
        raise ValueError(" ".join(str(error).split())) from None
    _check_integers(values)
    return values


def _check_integers(values: Any) -> None:
    if isinstance(values, int) and abs(values) >= MAX_INTEGER:
        raise ValueError(f"the number {values:.3e} does not fit into a 64-bit integer")
    if isinstance(values, (dict, list, set)):
        for part in [*values, *values.values()] if isinstance(values, dict) else values:
            _check_integers(part)


def read(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file. Raises `ConfigError`."""
    try:
        text = content(path).decode("utf-8")
    except (OSError, ValueError) as error:  # ValueError: a path with a zero byte, or bytes that are not UTF-8
        if isinstance(error, UnicodeDecodeError):
            raise ConfigError(f"{path}: is not UTF-8 text") from None
        raise ConfigError(f"{path}: cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        values = parse(text.removeprefix("\ufeff"))
    except ValueError as error:
        raise ConfigError(f"{path}: is not valid YAML ({error})") from None
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must contain a mapping of sections, not {type(values).__name__}")
    return values


def content(path: Path) -> bytes:
    """The bytes of a small regular file. Raises `ConfigError`, or `OSError`.

    Devices and pipes are refused, since reading them may never end.
    """
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0))
    try:
        mode = os.fstat(descriptor).st_mode
        if not stat.S_ISREG(mode):
            raise ConfigError(
                f"{path}: cannot be read (it is {'a folder' if stat.S_ISDIR(mode) else 'not a regular file'})"
            )
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            data = file.read(MAX_BYTES + 1)
    finally:
        os.close(descriptor)
    if len(data) > MAX_BYTES:
        raise ConfigError(f"{path}: is larger than {MAX_BYTES // 1024:,} KiB, the limit for a config")
    return data
