"""A whole sweep with a secret in its tracking URI, and every byte that it leaves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.running import run, write

from jepa_ray.config import TrainConfig

pytestmark = [pytest.mark.ray, pytest.mark.timeout(600)]

PLACE, TOKEN = "vault-4711-kestrel", "0123456789abcdef-token-of-the-cluster"


def test_a_sweep_leaves_neither_its_secret_nor_rays_token(
    tmp_path: Path, train_config: TrainConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The secret is a part of the database's path: that file exists, so the value was used."""
    database = tmp_path / PLACE
    monkeypatch.setenv("JEPA_TEST_PLACE", str(database))
    monkeypatch.setenv("RAY_AUTH_MODE", "token")
    monkeypatch.setenv("RAY_AUTH_TOKEN", TOKEN)
    spec: dict[str, Any] = {
        "name": "unit",
        "base": train_config.to_dict(),
        "space": {"training.learning_rate": [1e-3]},
        "search": {"algorithm": "grid", "num_trials": 1},
        "early_stopping": {"enabled": False, "max_epochs": 2},
        "resources": {"max_concurrent": 1},
        "tracking": {"uri": "sqlite:///${env:JEPA_TEST_PLACE}", "registered_model": None},
    }
    out = tmp_path / "out"
    printed = run(write(spec, tmp_path), out)
    assert database.is_file()
    assert "mlflow ui --backend-store-uri sqlite:///${env:JEPA_TEST_PLACE}" in printed
    assert "its token is in the environment's RAY_AUTH_TOKEN" in printed
    left = {str(path): path.read_bytes() for path in out.rglob("*") if path.is_file()} | {"printed": printed.encode()}
    assert any(name.endswith("ray.log") for name in left)
    assert any(name.endswith("report.html") for name in left)
    for name, content in left.items():
        assert PLACE.encode() not in content, name
        assert TOKEN.encode() not in content, name
