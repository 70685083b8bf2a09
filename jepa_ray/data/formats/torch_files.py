"""Tensors from torch.save as arrays. Nothing is unpickled beyond tensors, and files are mapped, not read."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from jepa_ray.errors import DataError


def load(path: Path) -> Any:
    """What torch.save wrote, on the CPU. Raises `DataError` for a missing file, or one that holds more than tensors."""
    import torch  # here, since looking for a dataset's format should not wait for it

    if not path.is_file():
        raise DataError(f"{path}: does not exist")
    try:
        return torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except pickle.UnpicklingError:
        raise DataError(
            f"{path}: holds more than tensors, which can run code when it is read, or is damaged; where you trust it,"
            " load it with torch.load(..., weights_only=False) and torch.save the tensors alone"
        ) from None
    except (RuntimeError, EOFError) as error:
        reason = str(error).strip().split("\n", 1)[0][:150]
        raise DataError(f"{path}: is not a readable torch file ({reason})") from None


def tensor(path: Path) -> NDArray[Any]:
    """The one tensor of a file, as an array that is mapped from disk."""
    return array(load(path), path, "it")


def array(value: object, path: Path, name: str) -> NDArray[Any]:
    """A dense CPU tensor as an array that shares its memory. Raises `DataError` for anything else."""
    import torch

    if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_meta:
        raise DataError(f"{path}: {name} is a {type(value).__name__}, but must be a dense tensor")
    if value.dtype == torch.bfloat16:
        raise DataError(f"{path}: {name} is bfloat16, but must be a type that numpy has: convert it to float32")
    if value.nbytes > value.untyped_storage().nbytes():  # a stride of 0 makes any size of a few bytes
        raise DataError(f"{path}: {name} repeats its rows in memory: torch.save its .contiguous() copy instead")
    return np.asarray(value.detach().numpy())
