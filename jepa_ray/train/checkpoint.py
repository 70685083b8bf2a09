"""Checkpoints: plain dicts of tensors and values that `torch.load(weights_only=True)` reads.

Every checkpoint contains the config and the shapes of the data, so its model can be rebuilt from the file alone. There
are two kinds with one layout: a *model* checkpoint (`best_jepa_model.pt`), and a *training* checkpoint, which adds
everything that resuming needs.
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
from jepa_ray.errors import ConfigError, DataError, first_line
from jepa_ray.model.jepa import JEPA, build_jepa

FORMAT = 1

Checkpoint = dict[str, Any]


def describe(config: TrainConfig, spec: DataSpec) -> Checkpoint:
    """The part that all checkpoints share: format, config and data spec, as plain values."""
    return {"format": FORMAT, "config": config.to_dict(), "data_spec": dataclasses.asdict(spec)}


def to_bytes(checkpoint: Checkpoint) -> bytes:
    """A checkpoint as the bytes that `torch.save` writes."""
    buffer = io.BytesIO()
    torch.save(checkpoint, buffer)
    return buffer.getvalue()


def from_bytes(data: bytes, source: str = "the checkpoint") -> Checkpoint:
    """The inverse of `to_bytes`; never unpickles code. Raises `DataError`, which names `source`."""
    try:
        _check_archive(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many types of errors for damaged or hostile files
        raise DataError(
            f"{source}: is not a checkpoint that loads without unpickling code ({type(error).__name__})"
        ) from None


def _check_archive(data: bytes) -> None:
    """Raise `ValueError` for an archive that could expand to more memory than the file has bytes.

    torch writes its parts uncompressed and one after another.
    """
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        parts = archive.infolist()
    if any(part.compress_type != zipfile.ZIP_STORED for part in parts):
        raise ValueError("compressed")
    if sum(part.file_size for part in parts) > len(data):
        raise ValueError("overlapping parts")


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint file of either kind. Raises `DataError` if it is not a valid checkpoint."""
    try:
        if path.exists() and not path.is_file():  # a device or a pipe could be endless
            raise DataError(f"{path}: cannot be read (it is not a regular file)")
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    checkpoint = from_bytes(data, str(path))
    if not isinstance(checkpoint, dict) or checkpoint.get("format") != FORMAT:
        raise DataError(f"{path}: is not a jepa-ray checkpoint of format {FORMAT}")
    return checkpoint


def best_model(checkpoint: Checkpoint) -> Checkpoint:
    """The model checkpoint of a training checkpoint's best epoch: weights, epoch number and metrics.

    Raises `DataError` if no epoch is finished.
    """
    best = checkpoint["best"]
    if best is None:
        raise DataError("the checkpoint has no best epoch yet")
    return {key: checkpoint[key] for key in ("format", "config", "data_spec")} | best


def epoch_model(checkpoint: Checkpoint) -> Checkpoint:
    """The model checkpoint of a training checkpoint's last epoch, with the same keys as `best_model`."""
    return {key: checkpoint[key] for key in ("format", "config", "data_spec", "epoch", "metrics", "model")}


def load_model(path: Path) -> tuple[JEPA, TrainConfig]:
    """Rebuild the model of a checkpoint file, in eval mode on the CPU. Raises `DataError`."""
    return rebuild(read_checkpoint(path), str(path))


def rebuild(checkpoint: Checkpoint, source: str) -> tuple[JEPA, TrainConfig]:
    """A checkpoint's model, in eval mode on the CPU, and its config. Raises `DataError`, which names `source`."""
    try:
        config = TrainConfig.model_validate(_plain(checkpoint["config"]))
        spec = data_spec(checkpoint)
        with torch.device("meta"):  # allocates no memory
            expected = _build(config, spec)
        _check_tensors(expected.state_dict(), checkpoint["model"])
        model = _build(config, spec)
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, ArithmeticError, RuntimeError, ConfigError) as error:
        raise DataError(f"{source}: its model cannot be rebuilt ({first_line(error)})") from None
    return model.eval(), config


def data_spec(checkpoint: Checkpoint) -> DataSpec:
    """The shapes of the data, validated. Raises `ValueError`, `KeyError` or `TypeError`."""
    spec = TypeAdapter(DataSpec).validate_python(_plain(checkpoint["data_spec"]))
    sizes = (*spec.observation_shape, spec.action_dim, spec.num_actions)
    if not spec.observation_shape or any(not 0 <= size <= MAX_SIZE for size in sizes):
        raise ValueError(f"data_spec: {sizes} are not valid sizes, which are 0 to {MAX_SIZE}")
    return spec


def _build(config: TrainConfig, spec: DataSpec) -> JEPA:
    return build_jepa(config.model, spec, ema_target=config.training.objective == "jepa")


MAX_SIZE = 1 << 24  # of one dimension of an observation or action
MAX_VALUES = 10_000  # of a config, and characters of one value


def _plain(value: Any) -> Any:
    """Return `value` if it has only the types of a config, and not too many values. Raises `ValueError`."""
    unchecked, checked = [value], 0
    while unchecked:
        part, checked = unchecked.pop(), checked + 1
        if isinstance(part, dict):
            unchecked += [*part.keys(), *part.values()]
        elif isinstance(part, (list, tuple)):
            unchecked += part
        elif not isinstance(part, (str, int, float, type(None))) or len(str(part)) > MAX_VALUES:
            raise ValueError(f"its config contains a {type(part).__name__}, or a text that is too long")
        if checked + len(unchecked) > MAX_VALUES:
            raise ValueError(f"its config has more than {MAX_VALUES:,} values")
    return value


def _check_tensors(expected: dict[str, Tensor], stored: Any) -> None:
    """Raise `ValueError` unless the stored weights have the expected names and shapes, and all elements are stored.

    A tensor with stride 0 can claim any size with one stored element, so this check comes before the model's memory
    is allocated.
    """
    if not isinstance(stored, dict) or expected.keys() != stored.keys():
        raise ValueError("the names of its weights differ from those of the model that its config describes")
    for name, tensor in stored.items():
        shape = tuple(expected[name].shape)
        if not isinstance(tensor, Tensor) or tuple(tensor.shape) != shape:
            raise ValueError(f"{name} is not a tensor of shape {shape}, as its config requires")
        if tensor.layout is not torch.strided or tensor.untyped_storage().nbytes() < tensor.numel():
            raise ValueError(f"{name} claims more elements than the file contains")
