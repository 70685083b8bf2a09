"""One undisturbed sweep, which several tests of this folder inspect or compare with: a sweep takes a minute."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from helpers.reference_sweep import Swept, reference_spec
from helpers.running import run, write

from jepa_ray.config import TrainConfig


@pytest.fixture(scope="session")
def swept(train_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory) -> Swept:
    """The reference sweep on two groups, from its start to its end without any disturbance."""
    folder = tmp_path_factory.mktemp("swept")
    spec = reference_spec(train_config) | {"resources": {"max_concurrent": 2}}
    path = write(spec, folder)
    return Swept(spec, path, folder / "out", run(path, folder / "out"))


@pytest.fixture
def reference(train_config: TrainConfig) -> dict[str, Any]:
    """The spec of the reference sweep on one group, to be changed."""
    return copy.deepcopy(reference_spec(train_config))
