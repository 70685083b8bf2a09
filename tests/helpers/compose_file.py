"""docker/compose.yaml as docker reads it: with its settings filled in, and services in their starting order."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

DOCKER = Path(__file__).parents[2] / "docker"
SETTING = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")


def load(env: Mapping[str, str] | None = None, path: Path = DOCKER / "compose.yaml") -> dict[str, Any]:
    """The file with `${NAME:-default}` filled in from `env`."""

    def fill(value: Any) -> Any:
        if isinstance(value, str):
            return SETTING.sub(lambda found: (env or {}).get(found[1]) or found[2] or "", value)
        if isinstance(value, dict):
            return {key: fill(each) for key, each in value.items()}
        return [fill(each) for each in value] if isinstance(value, list) else value

    return fill(yaml.safe_load(path.read_text()))


def start_order(services: Mapping[str, Any]) -> list[str]:
    """The services' names, each after those that it depends on."""
    order: list[str] = []

    def add(name: str, waiting: tuple[str, ...] = ()) -> None:
        assert name not in waiting, f"circular dependency: {waiting}"
        for needed in services[name].get("depends_on", {}):
            add(needed, (*waiting, name))
        if name not in order:
            order.append(name)

    for name in services:
        add(name)
    return order
