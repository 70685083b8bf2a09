"""What MLflow is told of a dataset and of a model: plain values, made where they are known."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class TensorShape:
    """One tensor by name; -1 where it has any length."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class DatasetCard:
    """A dataset as MLflow lists it."""

    name: str
    digest: str  # the fingerprint of what is trained on: source and preparation
    source: str  # path, or the name of a built-in dataset
    builtin: bool
    profile: Mapping[str, Any]  # trajectories, rows and the like
    columns: tuple[TensorShape, ...]

    def entity(self) -> Any:
        """As `mlflow.entities.DatasetInput`."""
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
    """A trained model as the registry gets it."""

    name: str  # registered model
    key: str  # the same key is the same model: it gets one version, however often it is told
    run: str  # id of the MLflow run that trained it
    files: tuple[Path, ...]  # that `jepa_ray.pyfunc` loads: weights, and the config beside them
    inputs: tuple[TensorShape, ...]
    outputs: tuple[TensorShape, ...]
    example: Mapping[str, Any]  # one input, arrays by name
    description: str  # Markdown
    tags: Mapping[str, str] = field(default_factory=dict)
    params: Mapping[str, str] = field(default_factory=dict)


def schema(tensors: tuple[TensorShape, ...]) -> Any:
    """As `mlflow.types.Schema`."""
    import numpy as np
    from mlflow.types import Schema, TensorSpec

    return Schema([TensorSpec(np.dtype(t.dtype), t.shape, t.name) for t in tensors])
