"""Reading configs from YAML files and the command line, and writing them."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from jepa_ray.config import yaml_loader
from jepa_ray.config.data import TwoRoomsConfig
from jepa_ray.config.fields import is_uri
from jepa_ray.config.sweep import SweepConfig
from jepa_ray.config.train import TrainConfig
from jepa_ray.config.validation import override, shortened, validate
from jepa_ray.errors import ConfigError


def load_train_config(path: Path, sets: Iterable[str] = ()) -> TrainConfig:
    """Read and check a train config; `sets` are `dotted.key=value` from the command line.

    A relative `data.path` is taken from the folder of the file, one of `sets` from the working directory. Raises
    `ConfigError`.
    """
    return validate(TrainConfig, override(_read_train(path), _anchored(parse_sets(sets)), "--set"), str(path))


def load_sweep_config(path: Path, sets: Iterable[str] = ()) -> SweepConfig:
    """Read and check a sweep spec, its `base` resolved (a path beside the spec, or inline).

    `sets` may name any key of the spec, `base.` keys included. Raises `ConfigError`.
    """
    spec = yaml_loader.read(path)
    base = spec.get("base")
    if isinstance(base, str):
        spec["base"] = _read_train(_beside(path, base))
    elif isinstance(base, dict):
        _anchor_data_path(base, path)
    return validate(SweepConfig, override(spec, _anchored(parse_sets(sets)), "--set"), str(path))


def two_rooms_config(overrides: Mapping[str, Any]) -> TwoRoomsConfig:
    """The simulation that the keys of `data.two_rooms` describe. Raises `ConfigError`."""
    return validate(TwoRoomsConfig, dict(overrides), "--set")


MAX_KEY_DEPTH = 20  # dots of a dotted key: more than any config has


def parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    """`["a.b=1e-3"]` -> `{"a.b": 0.001}`; values are YAML. Raises `ConfigError`."""
    parsed = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals or not key or key.count(".") > MAX_KEY_DEPTH:
            raise ConfigError(f"--set {shortened(item)}: must read dotted.key=value")
        try:
            parsed[key] = yaml_loader.parse(value)
        except ValueError:
            raise ConfigError(f"--set {item}: the value is not valid YAML") from None
    return parsed


def dump_yaml(values: Mapping[str, Any]) -> str:
    """`values` as block-style YAML, keys in their own order."""
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=100)


def _read_train(path: Path) -> dict[str, Any]:
    values = yaml_loader.read(path)
    _anchor_data_path(values, path)
    return values


def _anchor_data_path(values: dict[str, Any], config: Path) -> None:
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _beside_unless_uri(config, data["path"])


def _anchored(sets: dict[str, Any]) -> dict[str, Any]:
    """`sets` with their data paths made absolute: the config is saved, and read again from elsewhere."""
    paths = {key: sets[key] for key in ("data.path", "base.data.path") if isinstance(sets.get(key), str)}
    return sets | {key: _beside_unless_uri(Path("config"), name) for key, name in paths.items()}


def _beside_unless_uri(config: Path, name: str) -> str:
    return name if is_uri(name) else str(_beside(config, name.removeprefix("file://")))


def _beside(config: Path, name: str) -> Path:
    if "\0" in name:
        raise ConfigError(f"{config}: {shortened(repr(name))} is no path: it holds a zero byte")
    # not Path's own expanduser and resolve: they raise for users and circles of links that are not there
    return Path(os.path.realpath(config.parent / os.path.expanduser(name)))  # noqa: PTH111
