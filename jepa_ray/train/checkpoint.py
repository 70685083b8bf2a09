"""Checkpoints: plain dicts of tensors and values that `torch.load(weights_only=True)` reads.

Every checkpoint carries the config and the data's shapes, so it rebuilds its own model. Two kinds share
the layout: a *model* (`best_jepa_model.pt`) and a *training* checkpoint, which adds what resuming takes.
"""

from __future__ import annotations

import dataclasses
import io
import zipfile
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from jepa_ray.config import TrainConfig
from jepa_ray.data.spec import DataSpec
from jepa_ray.errors import ConfigError, DataError
from jepa_ray.model.jepa import JEPA, build_jepa

FORMAT = 1

Checkpoint = dict[str, Any]


def describe(config: TrainConfig, spec: DataSpec) -> Checkpoint:
    """The part every checkpoint has: format, config and data spec, as plain values."""
    return {"format": FORMAT, "config": config.to_dict(), "data_spec": dataclasses.asdict(spec)}


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """Serialised with `torch.save`."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, source: str = "the checkpoint") -> Checkpoint:
    """The inverse of `to_bytes`; never unpickles code. Raises `DataError`, which names the source."""
    try:
        _check_archive(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for damaged or hostile files
        raise DataError(
            f"{source}: is not a checkpoint that loads without unpickling code ({type(error).__name__})"
        ) from None


def _check_archive(data: bytes) -> None:
    """What torch writes is not compressed; a small file whose parts are could fill the memory."""
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("compressed")
    if sum(part.file_size for part in parts) > len(data):
        raise ValueError("parts that overlap")


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file of either kind. Raises `DataError` if it is none."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe: it may have no end
            raise DataError(f"{path}: cannot be read (it is no file)")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    checkpoint = from_bytes(data, str(path))
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise DataError(f"{path}: is not a jepa-ray checkpoint of format {FORMAT}")
    return checkpoint


def best_model(checkpoint: Checkpoint) -> Checkpoint:
    """The model checkpoint of a training checkpoint's best epoch: weights, epoch and its metrics."""
    best = checkpoint["best"]
    if best is None:
        raise DataError("the checkpoint has no best epoch yet")
    return {key: checkpoint[key] for key in ("format", "config", "data_spec")} | best


def load_model(path: Path) -> tuple[JEPA, TrainConfig]:
    """Rebuild the model of a checkpoint file, in eval mode on the CPU. Raises `DataError`."""
    return rebuild(read_checkpoint(path), str(path))


def rebuild(checkpoint: Checkpoint, source: str) -> tuple[JEPA, TrainConfig]:
    """The model of a checkpoint and its config, in eval mode on the CPU. Raises `DataError`, which names the source."""
    try:
        config = TrainConfig.model_validate(_plain(checkpoint["config"]))
        spec = data_spec(checkpoint)
        with torch.device("meta"):  # which takes no memory
            planned = _build(config, spec)
        _check_tensors(planned.state_dict(), checkpoint["model"])
        model = _build(config, spec)
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, ConfigError) as error:
        raise DataError(f"{source}: does not rebuild its model ({_first_line(error)})") from None
    return model.eval(), config


def data_spec(checkpoint: Checkpoint) -> DataSpec:
    """The data's shapes, checked. Raises `ValueError`, `KeyError` or `TypeError`."""
    spec = TypeAdapter(DataSpec).validate_python(_plain(checkpoint["data_spec"]))
    sizes = (*spec.observation_shape, spec.action_dim, spec.num_actions)
    if not spec.observation_shape or any(not 0 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"data_spec: {sizes} are no sizes of data")
    return spec


def _build(config: TrainConfig, spec: DataSpec) -> JEPA:
    return build_jepa(config.model, spec, ema_target=config.training.objective == "jepa")


MAX_SIZE = 1 << 24  # of an observation's or action's dimensions
MAX_VALUES = 10_000  # in a config


def _plain(value: Any) -> Any:
    """`value`, if it is made of a config's kinds of values, and of no more than a config has. Raises `ValueError`."""
    waiting, seen = [value], 0
    while waiting:
        part, seen = waiting.pop(), seen + 1
        if isinstance(part, dict):
            waiting += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            waiting += part
        elif not isinstance(part, (str, int, float, type(None))) or len(str(part)) > MAX_VALUES:
            raise ValueError(f"a config holds a {type(part).__name__}")
        if seen + len(waiting) > MAX_VALUES:
            raise ValueError(f"more than {MAX_VALUES:,} values in a config")
    return value


def _check_tensors(planned: dict[str, Tensor], stored: Any) -> None:
    """Raise `ValueError` unless the weights are those of the planned model, every element of them in the file.

    A tensor whose elements are one and the same may claim any size; memory for the model is taken only after this.
    """
    if not isinstance(stored, dict) or planned.keys() != stored.keys():
        raise ValueError("its weights have other names than the model of its config")
    for name, tensor in stored.items():
        shape = tuple(planned[name].shape)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is no tensor of shape {shape}, as its config says")
        if tensor.layout is not torch.strided or tensor.untyped_storage().nbytes() < tensor.numel():
            raise ValueError(f"{name} has more elements than the file")


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)
