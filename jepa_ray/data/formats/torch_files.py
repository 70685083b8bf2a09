"""Tensors from torch.save as arrays. Only tensors are unpickled, and files are memory-mapped instead of read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.data.formats.peek import short_reason
from jepa_ray.errors import DataError


def load(path: Path) -> Any:
    """Load a file of torch.save on the CPU. Raises `DataError` if it is missing, or contains more than tensors."""
    import torch  # imported here, because detecting the format of a dataset should not wait for it

    if not path.is_file():
        raise DataError(f"{path}: is missing, or is a broken link")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: contains more than tensors, which can run code when it is read, or is damaged: if you trust it,"
            " load it with torch.load(..., weights_only=False) and save only the tensors with torch.save"
        ) from None
    except (RuntimeError, EOFError) as error:
        raise DataError(f"{path}: is not a readable torch file ({short_reason(error)})") from None


def tensor(path: Path) -> NDArray[Any]:
    """The single tensor of a file, as a memory-mapped array."""
    return array(load(path), path, "its content")


def array(value: object, path: Path, name: str) -> NDArray[Any]:
    """A dense CPU tensor as an array that shares its memory. Raises `DataError` for any other value."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta:
        raise DataError(f"{path}: {name} is a {type(value).__name__}, but must be a dense tensor")
    if value.dtype == torch.bfloat16:
        raise DataError(
            f"{path}: {name} has dtype bfloat16, but must have a dtype that numpy supports: convert it to float32"
        )
    if value.nbytes > value.untyped_storage().nbytes():  # a stride of 0 gives a few bytes any shape
        raise DataError(
            f"{path}: {name} repeats its rows in memory, but must store each row: save tensor.contiguous() instead"
        )
    return np.asarray(value.detach().numpy())
