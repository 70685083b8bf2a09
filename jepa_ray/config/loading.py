"""Loading configs from YAML files and from the command line, and writing them as YAML."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from jepa_ray.config import shipped, yaml_loader
from jepa_ray.config.data import TwoRoomsConfig
from jepa_ray.config.fields import is_uri
from jepa_ray.config.sweep import SweepConfig
from jepa_ray.config.train import TrainConfig
from jepa_ray.config.validation import override, shortened, validate
from jepa_ray.errors import ConfigError


def load_train_config(path: Path, sets: Iterable[str] = ()) -> TrainConfig:
    """Read and check a train config.

    Args:
        path: a YAML file, or the name of a shipped config. A relative `data.path` in it is relative to its folder.
        sets: `dotted.key=value` from the command line. A relative `data.path` is relative to the working directory.

    Raises `ConfigError`.
    """
    file, place = shipped.find(path, "configs")
    return validate(TrainConfig, override(_read_train(file, place), _prepare_sets(sets, ""), "--set"), str(file))


def load_sweep_config(path: Path, sets: Iterable[str] = ()) -> SweepConfig:
    """Read and check a sweep spec and its `base`, which is a path relative to the spec, or a train config inside it.

    Args:
        path: a YAML file, or the name of a shipped spec.
        sets: `dotted.key=value` from the command line; the keys of the base begin with `base.`.

    Raises `ConfigError`.
    """
    file, place = shipped.find(path, "sweeps")
    spec = yaml_loader.read(file)
    base = spec.get("base")
    if isinstance(base, str):
        spec["base"] = _read_train(
            _beside(file.parent, base, f"{file}: base"), _beside(place.parent, base, f"{file}: base")
        )
    elif isinstance(base, dict):
        _anchor_data_path(base, place, "base.data.path")
    return validate(SweepConfig, override(spec, _prepare_sets(sets, "base."), "--set"), str(file))


def two_rooms_config(overrides: Mapping[str, Any]) -> TwoRoomsConfig:
    """The config `data.two_rooms` with these keys changed from their defaults. Raises `ConfigError`."""
    return validate(TwoRoomsConfig, dict(overrides), "--set")


MAX_KEY_DEPTH = 20  # dots in a dotted key; no config is nested as deeply


def parse_sets(sets: Iterable[str]) -> dict[str, Any]:
    """Parse overrides, whose values are YAML: `["a.b=1e-3"]` -> `{"a.b": 0.001}`. Raises `ConfigError`."""
    parsed = {}
    for item in sets:
        key, equals, value = item.partition("=")
        if not equals or not key or key.count(".") > MAX_KEY_DEPTH:
            raise ConfigError(f"--set {shortened(item)}: must have the form dotted.key=value")
        try:
            parsed[key] = yaml_loader.parse(value)
        except ValueError as error:
            raise ConfigError(f"--set {shortened(item)}: the value is not valid YAML ({error})") from None
    return parsed


def resolve_data_path(name: str, source: str) -> str:
    """A `data.path` from the command line: a URI as it is, or a path made absolute from the working directory.

    Raises `ConfigError`, which names `source`.
    """
    return _beside_unless_uri(Path(), name, source)


def dump_yaml(values: Mapping[str, Any]) -> str:
    """`values` as YAML, with the keys in their order."""
    return yaml.safe_dump(dict(values), sort_keys=False, default_flow_style=None, width=100)


def _read_train(path: Path, place: Path) -> dict[str, Any]:
    values = yaml_loader.read(path)
    _anchor_data_path(values, place, "data.path")
    return values


def _anchor_data_path(values: dict[str, Any], config: Path, key: str) -> None:
    data = values.get("data")
    if isinstance(data, dict) and isinstance(data.get("path"), str):
        data["path"] = _beside_unless_uri(config.parent, data["path"], f"{config}: {key}")


def _prepare_sets(sets: Iterable[str], prefix: str) -> dict[str, Any]:
    """The overrides of `--set`, with a data source that takes the place of the config's own.

    A relative `data.path` becomes absolute, since the config is saved and read again from another folder. Setting one
    of `data.path` and `data.builtin` sets the other one to null, unless it is set as well.
    """
    overrides = parse_sets(sets)
    path, builtin = f"{prefix}data.path", f"{prefix}data.builtin"
    if isinstance(overrides.get(path), str):
        overrides[path] = resolve_data_path(overrides[path], f"--set {path}")
    for key, other in ((path, builtin), (builtin, path)):
        if overrides.get(key) is not None:
            overrides.setdefault(other, None)
    return overrides


def _beside_unless_uri(folder: Path, name: str, source: str) -> str:
    return name if is_uri(name) else str(_beside(folder, name.removeprefix("file://"), source))


def _beside(folder: Path, name: str, source: str) -> Path:
    """The absolute path of a name that is relative to a folder. Raises `ConfigError`, which names `source`."""
    if "\0" in name:
        raise ConfigError(f"{source}: {shortened(repr(name))} is not a valid path: it contains a zero byte")
    # Path.expanduser and Path.resolve raise for unknown users and for cycles of links; these functions do not.
    return Path(os.path.realpath(folder / os.path.expanduser(name)))  # noqa: PTH111
