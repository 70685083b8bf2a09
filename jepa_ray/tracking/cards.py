"""Descriptions of a dataset and of a model for MLflow: plain values, without MLflow's classes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorShape:
    """Name, type and shape of a tensor; -1 stands for a dimension of any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DatasetCard:
    """Description of a dataset."""

    name: str
    digest: str  # fingerprint of the training data: source and preparation
    source: str  # path, or the name of a built-in dataset
    builtin: bool
    profile: Mapping[str, Any]  # numbers of trajectories, rows and others
    columns: tuple[TensorShape, ...]

    def entity(self) -> Any:
        """The description as `mlflow.entities.DatasetInput`."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        source = {"tags": {"builtin": self.source}} if self.builtin else {"uri": self.source}
        dataset = Dataset(
            name=self.name,
            digest=self.digest,
            source_type="code" if self.builtin else "local",
            source=json.dumps(source),
            schema=json.dumps({"mlflow_tensorspec": {"features": schema(self.columns).to_json(), "targets": None}}),
            profile=json.dumps(dict(self.profile)),
        )
        return DatasetInput(dataset, [InputTag("mlflow.data.context", "training")])


@dataclass(frozen=True)
class ModelCard:
    """Description of a trained model that is to be registered."""

    name: str  # of the registered model
    key: str  # identifies the model: registering the same key again makes no further version
    run: str  # id of the MLflow run that trained it
    files: tuple[Path, ...]  # weights and config, as `jepa_ray.adapters.pyfunc` loads them
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    example: Mapping[str, Any]  # one input, arrays by name
    description: str  # Markdown
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


def schema(tensors: tuple[TensorShape, ...]) -> Any:
    """The tensors as `mlflow.types.Schema`."""
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(t.dtype), t.shape, t.name) for t in tensors])
