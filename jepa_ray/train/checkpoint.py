"""Checkpoints: plain dicts of tensors and values that `torch.load(weights_only=True)` reads.

Every checkpoint carries the config and the data's shapes, so it rebuilds its own model. Two kinds share
the layout: a *model* (`best_jepa_model.pt`) and a *training* checkpoint, which adds what resuming takes.
"""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path
from typing import Any

import torch

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


def from_bytes(data: bytes) -> Checkpoint:
    """The inverse of `to_bytes`; never unpickles code."""
    return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint file of either kind. Raises `DataError` if it is none."""
    try:
        checkpoint = from_bytes(path.read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    except Exception as error:  # torch raises many kinds for damaged or hostile files
        raise DataError(
            f"{path}: is not a checkpoint that loads without unpickling code ({type(error).__name__})"
        ) from None
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
        config = TrainConfig.model_validate(checkpoint["config"])
        spec = DataSpec(**checkpoint["data_spec"])
        model = build_jepa(config.model, spec, ema_target=config.training.objective == "jepa")
        model.load_state_dict(checkpoint["model"])
    except (KeyError, TypeError, ValueError, RuntimeError, ConfigError) as error:
        raise DataError(f"{source}: does not rebuild its model ({error})") from None
    return model.eval(), config
